"""The single questions of verify: each compares two things and says what it found."""

import dataclasses

import numpy as np
import onnx

from edgelstm.contract import EarlyRule, Labels, Lengths, Logits, ModelContract, Score, Sequences
from edgelstm.data.dataset import Part
from edgelstm.exporting.export import choose_early_rule
from edgelstm.exporting.graph import contract_of
from edgelstm.onnx_file import ModelFile, OnnxGraph, encode
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.early_exit import StepLogits, evaluate
from edgelstm.runtime.parity import ParityReport, compare, costs_accuracy, mcnemar
from edgelstm.runtime.runner import AnyRunner
from edgelstm.runtime.stream import Stream
from edgelstm.training.checkpoint import Checkpoint

INT8_ATOL = 0.1
"""Where a state lies on the edge of two of its 256 levels, float32 and float64 may round it to different ones;
the logits then move by up to a few hundredths."""
INT8_SAME_SHARE = 0.8
"""Most sequences meet no such tie."""
FP16_CUDA_ATOL = 0.05
"""CUDA computes in float16, 11 bits, through all steps; a CPU only reads its weights. Not measured: no GPU yet."""
FP16_VALUES_ATOL = 0.05
"""Values of 11 bits instead of 24: random models of 12 to 19 rows were off by up to 0.0005."""
INT8_STREAM_ATOL = 0.25
"""int8 scales its input over one call: over a row here, over all rows there, so the pixels of a pale row are
rounded otherwise. On the validation images that moved a logit by up to 0.06 with one stream and 0.11 with 32
(the scale is over all of them too), where int8 itself moves them by up to 0.45 against fp32."""
NEAR_TIE = 2.0
"""Two classes whose logits differ by less than so many tolerances may change places by rounding alone."""
MAX_CONFIDENCE_SHIFT = 0.01
"""Mean difference of the confidences of a reduced precision and of torch. The shipped int8 models: 0.0005 to 0.002."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One question with its answer."""

    question: str
    passed: bool | None
    """None: it could not be asked here; the answer says why."""
    answer: str
    parity: ParityReport | None = None


def graph_check(fresh: OnnxGraph, file: ModelFile) -> Check:
    """The whole file but its metadata, byte for byte that of a fresh export, as onnx reads and writes it.

    An int8 file from before they were written has no shapes between its nodes.
    """

    def without_metadata(content: bytes) -> onnx.ModelProto:
        model = onnx.load_model_from_string(content)
        del model.metadata_props[:]
        model.producer_version = ""
        return model

    expected = fresh if file.graph.values else dataclasses.replace(fresh, values=())
    wanted, found = (without_metadata(content) for content in (encode(expected), file.content))
    same = wanted.SerializeToString(deterministic=True) == found.SerializeToString(deterministic=True)
    answer = f"{len(wanted.graph.node)} nodes, {len(wanted.graph.initializer)} initializers bit for bit"
    if not same:
        weights = [
            {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer} for model in (wanted, found)
        ]
        differ = [name for name in sorted(weights[0] | weights[1]) if weights[0].get(name) != weights[1].get(name)]
        answer = f"differ: {', '.join(differ) or 'nodes, inputs or outputs'}"
    return Check("same graph", same, answer)


def kernel_check(how: str, expected: Logits, found: Logits, atol: float, *, int8: bool) -> Check:
    """The logits (N, classes) are those of the NumPy model of the kernel, rounding ties apart."""
    parity = compare(expected, found, atol=atol, rtol=0.0)
    answer, passed = parity_answer(parity), near_parity(parity)
    if int8:
        same = float(np.isclose(found, expected, atol=1e-4).all(axis=1).mean())
        answer += f" (a tie rounded the other way); {same:.1%} of them have the same logits to 1e-4"
        passed = passed and same >= INT8_SAME_SHARE
    return Check(f"same values as NumPy: {how}", passed, answer, parity)


def near_check(how: str, expected: Logits, found: Logits, atol: float, why: str) -> Check:
    """A reduced precision's logits row by row are near those of whole sequences; ``why`` they may differ at all."""
    parity = compare(expected, found, atol=atol, rtol=0.0)
    answer = f"{parity_answer(parity)} (at most {atol:.2g}: {why})"
    return Check(f"near the whole sequences, {how}", near_parity(parity), answer, parity)


def accuracy_check(how: str, reference: Logits, found: Logits, labels: Labels) -> Check:
    test = mcnemar(reference.argmax(1) == labels, found.argmax(1) == labels)
    parity = compare(reference, found)
    answer = (
        f"{Score.of(found, labels)} instead of {Score.of(reference, labels)}: {test.n_lost} lost, {test.n_won} won, "
        f"McNemar p = {test.p_value:.2g}; {parity.n_same:,}/{parity.n:,} same decisions"
    )
    passed = bool(np.isfinite(found).all()) and not costs_accuracy(test, len(labels))
    return Check(f"same accuracy: {how}", passed, answer, parity)


def confidence_check(how: str, reference: Logits, found: Logits, temperature: float) -> Check:
    """Accuracy does not see a change that leaves the order of the classes alone; confidence does."""
    shares = [probabilities(logits, temperature).max(1) for logits in (reference, found)]
    shift = np.abs(shares[1] - shares[0])
    answer = f"{shift.mean():.4f} from torch's in the mean, {shift.max():.4f} at most"
    return Check(f"same confidence: {how}", bool(shift.mean() <= MAX_CONFIDENCE_SHIFT), answer)


def parity_check(how: str, found: tuple[Logits, Logits], reference: tuple[Logits, Logits], tolerance: float) -> Check:
    """Values and decisions on the evaluation sequences and on random ones, against the reference's."""
    on_real, on_noise, both = (
        compare(one, other, atol=tolerance, rtol=0.0)
        for one, other in (
            (reference[0], found[0]), (reference[1], found[1]), (np.concatenate(reference), np.concatenate(found))
        )
    )  # fmt: skip
    answer = (
        f"{on_real.n_same:,}/{on_real.n:,} sequences and {on_noise.n_same}/{on_noise.n} random ones decided alike, "
        f"largest difference {both.max_difference:.1e} "
        f"({'at most' if both.values_passed else 'MORE THAN'} {tolerance:.0e}, which rounding explains)"
    )
    for one in on_real.disagreements[:5]:
        answer += f"; sequence {one.index}: {one.reference} became {one.found} (margin {one.margin:.2g})"
    return Check(f"same values and decisions: {how}", near_parity(both), answer, both)


def claims_check(checkpoint: Checkpoint, found: ModelContract) -> Check:
    """All that the file says of itself, but for library versions, is what the checkpoint says.

    A reduced precision's own score and the rule for early exit are no checkpoint's: they are counted again elsewhere.
    """
    expected = contract_of(
        checkpoint, found.precision, test=found.test, early=found.early, kind=found.kind, version=found.version
    )  # fmt: skip
    names = [field.name for field in dataclasses.fields(found) if field.name != "versions"]
    wrong = [name for name in names if getattr(found, name) != getattr(expected, name)]
    answer = "; ".join(f"{name} is {getattr(found, name)}, not {getattr(expected, name)}" for name in wrong)
    return Check("same claims", not wrong, answer or ", ".join(names))


def score_check(question: str, claimed: Score | None, logits: Logits, labels: Labels) -> Check:
    """A score that the file claims, counted again on (N, classes) logits.

    The shipped sample is the first of the test images, so a claim about fewer is counted on the first ones. Fewer
    than were claimed can only refute the claim: they may hold no more wrong answers than all.
    """
    score = Score.of(logits, labels)
    if claimed is None:
        return Check(question, None, f"{score} of these sequences; the file claims none")
    if claimed.n <= score.n:
        score = Score.of(logits[: claimed.n], labels[: claimed.n])
        return Check(question, claimed == score, f"counted {score}, the file says {claimed}")
    n_wrong, claimed_wrong = score.n - score.n_right, claimed.n - claimed.n_right
    answer = f"{score} of these sequences; the file claims {claimed}, and the others are not on this machine"
    if n_wrong > claimed_wrong:
        return Check(question, False, f"{answer}, but no more than {claimed_wrong} may be wrong")
    return Check(question, None, answer)


def rule_check(file: ModelFile, rule: EarlyRule, validation: Part | None) -> Check:
    """The file's rule for early exit is the one that its own data chooses."""
    question = "rule for early exit"
    if validation is None:
        return Check(question, None, f"a {rule}: the sequences that chose it are not on this machine")
    # its own temperature: files of earlier versions have rules of temperature 1
    chosen = choose_early_rule(file, validation, rule.temperature)
    answer = f"a {rule}" if chosen == rule else f"the file says {rule!r}, validation chooses {chosen!r}"
    return Check(question, chosen == rule, answer)


def early_check(rule: EarlyRule, logits: StepLogits, labels: Labels, rows_per_step: int) -> Check:
    """On (N, steps, classes) logits of the evaluation sequences the rule loses nothing measurable."""
    report = evaluate(logits, labels, rule, rows_per_step)
    test = report.mcnemar
    answer = (
        f"{report.mean_rows:.1f} of {report.rows} rows ({report.mean_rows / report.rows:.1%}), {report.early} "
        f"instead of {report.full}: {test.n_lost} lost, {test.n_won} won, McNemar p = {test.p_value:.2g}"
    )
    return Check("early exit", report.passed, answer)


def restored_check(file: ModelFile, sequences: Sequences) -> Check:
    """A state that is saved in the middle of a sequence and restored elsewhere goes on to the same bits."""
    part, config = sequences[:100], file.contract.config
    n_steps = part.shape[1] // config.rows_per_step
    one, other = Stream(file, n_streams=len(part)), Stream(file, n_streams=len(part))
    middle = n_steps // 2
    steps = np.split(part, n_steps, axis=1)
    for step in steps[:middle]:
        one.push(step)
    other.restore(one.save())
    same = all(np.array_equal(one.push(step), other.push(step)) for step in steps[middle:])
    answer = f"{len(part)} streams saved after row {middle * config.rows_per_step}, restored in another Stream"
    return Check("same bits from a saved state", same, f"{answer}: {'the same bits' if same else 'other logits'}")


def padding_check(runners: list[AnyRunner], sequences: Sequences, lengths: Lengths) -> Check:
    """What lies behind a sequence's end changes no bit of its logits."""
    behind = np.arange(sequences.shape[1]) >= lengths[:, None]
    filled = sequences.copy()
    filled[behind] = np.random.default_rng(0).normal(0, 1e3, (int(behind.sum()), sequences.shape[2]))
    same = all(np.array_equal(one.logits(sequences, lengths), one.logits(filled, lengths)) for one in runners)
    answer = f"random values behind the end of {int(behind.any(1).sum()):,} of {len(lengths):,} sequences"
    return Check("same bits whatever the padding", same, f"{answer}: {'the same bits' if same else 'other logits'}")


def near_parity(parity: ParityReport) -> bool:
    """Values within the tolerance; two that differ in decision must be near ties."""
    return parity.values_passed and all(one.margin <= NEAR_TIE * parity.atol for one in parity.disagreements)


def parity_answer(parity: ParityReport) -> str:
    return f"{parity.n_same:,}/{parity.n:,} sequences decided alike, largest difference {parity.max_difference:.1e}"


def bits_check(how: str, expected: Logits, found: Logits) -> Check:
    """The C engine's logits are those of its definition in NumPy, bit for bit."""
    same = int((expected.view(np.uint32) == found.view(np.uint32)).all(axis=1).sum())
    return Check(f"same bits as NumPy: {how}", same == len(expected), f"{same:,} of {len(expected):,} sequences")
