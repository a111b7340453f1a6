"""Prove that an exported file decides as its checkpoint does: torch, torch's exporter, NumPy, providers."""

import contextlib
import dataclasses
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

from edgelstm.contract import INPUT_NAME, OPSET, OUTPUT_NAME, Logits, ModelContract, Runner, Score, in_batches
from edgelstm.data.mnist import Digits
from edgelstm.errors import EdgeLstmError, ModelError, ProviderError
from edgelstm.export.export import MAX_LOSS
from edgelstm.export.graph import build_model, contract_of, probe_pixels
from edgelstm.runtime.parity import ATOL, ParityReport, compare, mcnemar
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner, Provider, read_model
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import TorchRunner

BATCH_SIZES = (1, 2, 7, 64, 1000)
KERNEL_BATCH_SIZES = (7, 32)
"""At most the runner's chunk: an int8 image is rounded in the company of its chunk."""
INT8_ATOL = 0.1
"""Where a state lies on the edge of two of its 256 levels, float32 and float64 may round it to different ones;
the logits then move by up to a few hundredths."""
INT8_SAME_SHARE = 0.8
"""Most digits meet no such tie."""
FP16_CUDA_ATOL = 0.05
"""CUDA computes in float16, 11 bits, through all steps; a CPU only reads its weights. Not measured: no GPU yet."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One question with its answer."""

    question: str
    passed: bool
    answer: str
    parity: ParityReport | None = None


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """All questions, in order."""

    model: str
    checkpoint: str
    digits: str
    """Which real digits were compared, and how many."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True only if every check passed."""
        return all(check.passed for check in self.checks)


def verify(
    checkpoint: Checkpoint,
    model: Path,
    digits: Digits,
    *,
    providers: tuple[Provider, ...] = ("auto",),
    checkpoint_name: str = "the checkpoint",
) -> VerifyReport:
    """Ask whether names, shapes, weights, values and decisions are the checkpoint's.

    The reference is eager torch. Raises ModelError if the file cannot be loaded at all, and
    ProviderError if a provider that was asked for by name does not run the LSTM.
    """
    content = read_model(model)
    checks = list(_checks(checkpoint, content, str(model), digits, providers))
    return VerifyReport(str(model), checkpoint_name, f"{len(digits):,} digits ({digits.source})", tuple(checks))


def _checks(
    checkpoint: Checkpoint, content: bytes, source: str, digits: Digits, providers: tuple[Provider, ...]
) -> Iterator[Check]:
    try:
        runners = [OrtRunner(content, provider=provider, source=source) for provider in providers]
    except ProviderError:
        raise
    except ModelError as error:
        yield Check("same names and shapes", False, str(error))
        return
    runners = list({runner.provider_used: runner for runner in runners}.values())
    yield _contract_check(checkpoint, runners[0])
    if runners[0].contract.config != checkpoint.config:
        return  # other shapes: nothing further can be compared
    yield weights_check(build_model(checkpoint, runners[0].contract.precision), content)
    if runners[0].contract.precision != "fp32":
        yield from _reduced_checks(checkpoint, content, runners, digits)
        return
    noise = probe_pixels(checkpoint.config)
    torch_runner = TorchRunner(checkpoint.model())
    reference = (in_batches(torch_runner, digits.images, 1000), torch_runner.logits(noise))
    others: list[tuple[Callable[[], Runner], tuple[int, ...]]] = [
        (lambda: NumpyRunner(content), (1000,)),
        (lambda: torch_exported_runner(checkpoint), (1000,)),
    ]
    others += [(lambda runner=runner: runner, BATCH_SIZES) for runner in runners]  # type: ignore[misc]
    for load, batch_sizes in others:
        try:
            runner = load()
            for batch_size in batch_sizes:
                found = in_batches(runner, digits.images, batch_size), in_batches(runner, noise, batch_size)
                yield parity_check(f"{runner.name}, batch {batch_size}", found, reference)
        except EdgeLstmError as error:
            yield Check("same values and decisions", False, str(error))
    contract = runners[0].contract
    yield claims_check(contract_of(checkpoint, contract.precision, contract.test), contract)
    yield score_check(contract, Score.of(reference[0], digits.labels))


def _contract_check(checkpoint: Checkpoint, runner: OrtRunner) -> Check:
    """The session itself has confirmed names, dtypes and shapes; what is left is whose they are."""
    found, expected = runner.contract.config, checkpoint.config
    answer = (
        f"{INPUT_NAME} uint8 (batch, {found.rows}, {found.cols}) -> {OUTPUT_NAME} float32 (batch, {found.n_classes})"
    )
    if found != expected:
        answer = f"found {found}, expected {expected}"
    return Check("same names and shapes", found == expected, answer)


def _reduced_checks(
    checkpoint: Checkpoint, content: bytes, runners: list[OrtRunner], digits: Digits
) -> Iterator[Check]:
    """int8 and fp16 are other functions than fp32: their kernel must be NumPy's, their accuracy that of torch."""
    reference = in_batches(TorchRunner(checkpoint.model()), digits.images, 1000)
    numpy_runner = NumpyRunner(content)
    for batch_size in KERNEL_BATCH_SIZES:
        expected = in_batches(numpy_runner, digits.images, batch_size)
        for runner in runners:
            yield _kernel_check(runner, batch_size, expected, in_batches(runner, digits.images, batch_size))
    right, expected_score = reference.argmax(1) == digits.labels, Score.of(reference, digits.labels)
    scores: dict[tuple[OrtRunner, int], Score] = {}
    for runner in runners:
        for batch_size in BATCH_SIZES:
            found = in_batches(runner, digits.images, batch_size)
            score = Score.of(found, digits.labels)
            test, parity = mcnemar(right, found.argmax(1) == digits.labels), compare(reference, found)
            lost = (test.n_lost - test.n_won) / len(digits)
            answer = (
                f"{score} instead of {expected_score}: {test.n_lost} lost, {test.n_won} won, "
                f"McNemar p = {test.p_value:.2g}; {parity.n_same:,}/{parity.n:,} same decisions"
            )
            passed = bool(np.isfinite(found).all()) and lost <= MAX_LOSS
            yield Check(f"same accuracy: {runner.name}, batch {batch_size}", passed, answer, parity)
            scores[runner, batch_size] = score
    contract = runners[0].contract
    yield claims_check(contract_of(checkpoint, contract.precision, contract.test), contract)
    yield score_check(contract, scores[runners[0], 1])


def _kernel_check(runner: OrtRunner, batch_size: int, expected: Logits, found: Logits) -> Check:
    """The logits (N, classes) are those of the NumPy model of the kernel, rounding ties apart."""
    int8 = runner.contract.precision == "int8"
    atol = INT8_ATOL if int8 else FP16_CUDA_ATOL if runner.provider_used == "cuda" else ATOL
    parity = compare(expected, found, atol=atol)
    answer = f"{parity.n_same:,}/{parity.n:,} digits decided alike, largest difference {parity.max_difference:.1e}"
    # two that differ in decision must be near ties of at most two such differences
    passed = parity.values_passed and all(one.margin <= 2 * atol for one in parity.disagreements)
    if int8:
        same = np.isclose(found, expected, atol=1e-4).all(axis=1).mean()
        answer += f" (a tie rounded the other way); {same:.1%} of them have the same logits to 1e-4"
        passed = passed and bool(same >= INT8_SAME_SHARE)
    return Check(f"same values: {runner.name} and NumPy, batch {batch_size}", passed, answer, parity)


def weights_check(fresh: onnx.ModelProto, content: bytes) -> Check:
    """Every initializer equal, bit for bit, to a fresh export of the checkpoint."""
    wanted = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in fresh.graph.initializer}
    graph = onnx.load_model_from_string(content).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    wrong = sorted(wanted.keys() ^ found.keys())
    wrong += [name for name in sorted(wanted.keys() & found.keys()) if wanted[name].tobytes() != found[name].tobytes()]
    return Check(
        "same weights", not wrong,
        f"differ: {', '.join(wrong)}" if wrong else f"{len(wanted)} initializers bit for bit",
    )  # fmt: skip


def parity_check(how: str, found: tuple[Logits, Logits], reference: tuple[Logits, Logits]) -> Check:
    """Values and decisions on the digits and on random pixels, against the reference's."""
    on_digits, on_noise = compare(reference[0], found[0]), compare(reference[1], found[1])
    both = compare(np.concatenate(reference), np.concatenate(found))
    answer = (
        f"{on_digits.n_same:,}/{on_digits.n:,} digits and {on_noise.n_same}/{on_noise.n} random decided alike, "
        f"largest difference {both.max_difference:.1e}"
    )
    if not both.values_passed:
        answer += f", needs atol {both.tolerance_needed:.1e} instead of {both.atol:.0e}"
    for one in on_digits.disagreements[:5]:
        answer += f"; image {one.index}: {one.reference} became {one.found} (margin {one.margin:.2g})"
    return Check(f"same values and decisions: {how}", both.passed, answer, both)


def claims_check(expected: ModelContract, found: ModelContract) -> Check:
    """All that the file says of itself, but for library versions, is what the checkpoint says.

    The own score of int8 or fp16 is no checkpoint's: only counting it again can show that it is so.
    """
    names = [field.name for field in dataclasses.fields(found) if field.name != "versions"]
    wrong = [name for name in names if getattr(found, name) != getattr(expected, name)]
    answer = "; ".join(f"{name} is {getattr(found, name)}, not {getattr(expected, name)}" for name in wrong)
    return Check("same claims", not wrong, answer or ", ".join(names))


def score_check(contract: ModelContract, score: Score) -> Check:
    """The accuracy that the file claims, counted again; the sample can only be counted, not compared."""
    claimed = contract.test
    if claimed is None or claimed.n != score.n:
        return Check(
            "claimed accuracy",
            True,
            f"{score} of these digits; the file's claim is not about them: {claimed}",
        )
    return Check("claimed accuracy", claimed == score, f"counted {score}, the file says {claimed}")


def torch_exported_runner(checkpoint: Checkpoint) -> OrtRunner:
    """The same weights through ``torch.onnx.export`` (dynamo), in onnxruntime on the CPU."""
    content = torch_exported_model(checkpoint).SerializeToString()
    return OrtRunner(content, provider="cpu", name="torch.onnx.export")


def torch_exported_model(checkpoint: Checkpoint) -> onnx.ModelProto:
    """torch's own export, with our contract in its metadata so that the runner takes it."""
    config = checkpoint.config
    pixels = torch.zeros(2, config.rows, config.cols, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            checkpoint.model(), (pixels,), path, input_names=[INPUT_NAME], output_names=[OUTPUT_NAME],
            opset_version=OPSET, dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
        )  # fmt: skip
        model = onnx.load_model(path)
    onnx.helper.set_model_props(model, contract_of(checkpoint).to_metadata())
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter talks on stdout, warns about its own insides and logs; the user asked for none of it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
