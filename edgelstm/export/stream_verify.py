"""Prove that a streaming file, fed row by row, ends with the answers of the whole picture."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgelstm.contract import (
    NEXT_STATE_NAMES,
    OUTPUT_NAME,
    ROW_NAME,
    STATE_NAMES,
    Logits,
    Pixels,
    Score,
    in_batches,
)
from edgelstm.data.mnist import Digits
from edgelstm.errors import ModelError
from edgelstm.export.export import MAX_LOSS
from edgelstm.export.graph import build_model, probe_pixels
from edgelstm.export.stream_graph import build_stream_model, stream_contract_of
from edgelstm.export.verify import (
    INT8_ATOL,
    INT8_SAME_SHARE,
    Check,
    VerifyReport,
    claims_check,
    parity_check,
    score_check,
    weights_check,
)
from edgelstm.runtime.early_exit import StepLogits, evaluate
from edgelstm.runtime.parity import ParityReport, compare, mcnemar
from edgelstm.runtime.reference import NumpyRunner
from edgelstm.runtime.runner import OrtRunner, read_model
from edgelstm.runtime.stream import Stream
from edgelstm.runtime.stream_runner import logits_by_step
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import TorchRunner

BATCH_SIZES = (1, 7, 64, 1000)
"""Streams side by side; each reads one step a call."""
N_RANDOM_SPLITS = 3
SPLIT_STREAMS = 1000
INT8_NUMPY_STREAMS = 32
INT8_BATCH_SIZES = (1, 7, 32)
"""At most the whole-picture runner's chunk: an int8 picture is rounded in the company of its chunk."""
INT8_STREAM_ATOL = 0.25
"""int8 scales its input over one call: over a row here, over all rows there, so the pixels of a pale row are
rounded otherwise. On the validation images that moved a logit by up to 0.06 with one stream and 0.11 with 32
(the scale is over all of them too), where int8 itself moves them by up to 0.45 against fp32."""


def verify_stream(
    checkpoint: Checkpoint, model: Path, digits: Digits, *, checkpoint_name: str = "the checkpoint"
) -> VerifyReport:
    """Ask whether names, shapes, weights, values, decisions and the early rule's claims are the checkpoint's.

    Raises ModelError if the file cannot be read at all.
    """
    checks = tuple(_checks(checkpoint, read_model(model), str(model), digits))
    return VerifyReport(str(model), checkpoint_name, f"{len(digits):,} digits ({digits.source})", checks)


def _checks(checkpoint: Checkpoint, content: bytes, source: str, digits: Digits) -> Iterator[Check]:
    try:
        stream = Stream(content, source=source)
    except ModelError as error:
        yield Check("same names and shapes", False, str(error))
        return
    contract, config = stream.contract, checkpoint.config
    if contract.config != config:
        yield Check("same names and shapes", False, f"found {contract.config}, expected {config}")
        return
    yield Check(
        "same names and shapes", True,
        f"{ROW_NAME} uint8 (batch, rows, {config.cols}), {' and '.join(STATE_NAMES)} float32 ({config.n_layers}, "
        f"batch, {config.hidden_size}) -> {OUTPUT_NAME} float32 (batch, {config.n_classes}), "
        f"{' and '.join(NEXT_STATE_NAMES)}",
    )  # fmt: skip
    yield weights_check(build_stream_model(checkpoint, contract.precision), content)
    alone = logits_by_step(stream, digits.images)
    values = _int8_values if contract.precision == "int8" else _fp32_values
    yield from values(checkpoint, content, digits, alone[:, -1])
    yield _restored_check(content, digits.images)
    yield claims_check(stream_contract_of(checkpoint, contract.precision, contract.test, contract.early), contract)
    yield score_check(contract, Score.of(alone[:, -1], digits.labels))
    yield _early_check(stream, alone, digits)


def _fp32_values(checkpoint: Checkpoint, content: bytes, digits: Digits, alone: Logits) -> Iterator[Check]:
    """Against eager torch on whole pictures, and against the whole-picture ONNX model."""
    noise = probe_pixels(checkpoint.config)
    torch_runner = TorchRunner(checkpoint.model())
    reference = in_batches(torch_runner, digits.images, 1000), torch_runner.logits(noise)

    def check(how: str, found: Logits, on_noise: Logits) -> Check:
        return parity_check(how, (found, on_noise), reference)

    for n in BATCH_SIZES:
        stream = Stream(content, n_streams=n)
        found = alone if n == 1 else logits_by_step(stream, digits.images)[:, -1]
        yield check(f"one step a call, batch {n}", found, logits_by_step(stream, noise)[:, -1])
    for name, sizes in splits(checkpoint.config.n_steps):
        fed = (_fed(content, pixels, sizes, checkpoint.config.rows_per_step) for pixels in (digits.images, noise))
        yield check(f"{name}, batch {SPLIT_STREAMS}", *fed)
    yield check("NumPy, one step a call", *(_numpy_fed(content, pixels, 1000) for pixels in (digits.images, noise)))
    whole = OrtRunner(build_model(checkpoint).SerializeToString(), provider="cpu")
    parity = compare(whole.logits(digits.images), alone)
    yield Check("same as the whole-picture ONNX model", parity.passed, _answer(parity), parity)


def _int8_values(checkpoint: Checkpoint, content: bytes, digits: Digits, alone: Logits) -> Iterator[Check]:
    """Against the whole-picture int8 model, a NumPy model of the kernel, and torch's accuracy."""
    whole = OrtRunner(build_model(checkpoint, "int8").SerializeToString(), provider="cpu")
    torch_logits = in_batches(TorchRunner(checkpoint.model()), digits.images, 1000)
    right, expected_score = torch_logits.argmax(1) == digits.labels, Score.of(torch_logits, digits.labels)
    for n in sorted({*INT8_BATCH_SIZES, *BATCH_SIZES}):
        found = alone if n == 1 else logits_by_step(Stream(content, n_streams=n), digits.images)[:, -1]
        if n in INT8_BATCH_SIZES:
            parity = compare(in_batches(whole, digits.images, n), found, atol=INT8_STREAM_ATOL)
            answer = f"{_answer(parity)} (at most {INT8_STREAM_ATOL:g}: a row is scaled by itself)"
            yield Check(f"near the whole-picture int8 model, batch {n}", _near(parity), answer, parity)
        test = mcnemar(right, found.argmax(1) == digits.labels)
        answer = (
            f"{Score.of(found, digits.labels)} instead of {expected_score}: {test.n_lost} lost, {test.n_won} won, "
            f"McNemar p = {test.p_value:.2g}"
        )
        lost = (test.n_lost - test.n_won) / len(digits)
        yield Check(f"same accuracy, batch {n}", bool(np.isfinite(found).all()) and lost <= MAX_LOSS, answer)
    expected = _numpy_fed(content, digits.images, INT8_NUMPY_STREAMS)
    found = logits_by_step(Stream(content, n_streams=INT8_NUMPY_STREAMS), digits.images)[:, -1]
    parity = compare(expected, found, atol=INT8_ATOL)
    same = float(np.isclose(found, expected, atol=1e-4).all(axis=1).mean())
    answer = f"{_answer(parity)}, {same:.1%} of them with the same logits to 1e-4"
    passed = _near(parity) and same >= INT8_SAME_SHARE
    yield Check(f"same values: NumPy, batch {INT8_NUMPY_STREAMS}", passed, answer, parity)


def splits(n_steps: int) -> list[tuple[str, list[int]]]:
    """Ways to cut a picture's steps into calls: a name, and the steps of each call."""
    found = [("all steps in one call", [n_steps])]
    draw = np.random.default_rng(0)
    for _ in range(N_RANDOM_SPLITS if n_steps > 2 else 0):
        cuts = np.sort(draw.choice(np.arange(1, n_steps), draw.integers(1, n_steps - 1), replace=False))
        sizes = np.diff([0, *cuts, n_steps]).tolist()
        found.append((f"{len(sizes)} calls of {min(sizes)} to {max(sizes)} steps", sizes))
    return found


def _fed(content: bytes, pixels: Pixels, steps_of_calls: list[int], rows_per_step: int) -> Logits:
    """The logits after the last row, so many steps in each call."""
    ends = np.cumsum(steps_of_calls)[:-1] * rows_per_step

    def feed(part: Pixels) -> Logits:
        stream = Stream(content, n_streams=len(part))
        logits = [stream.push(np.ascontiguousarray(rows)) for rows in np.split(part, ends, axis=1)]
        return logits[-1]

    return _by_parts(feed, pixels, SPLIT_STREAMS)


def _numpy_fed(content: bytes, pixels: Pixels, batch_size: int) -> Logits:
    """The same by the NumPy reference, one step a call."""
    runner, config = NumpyRunner(content), Stream(content).contract.config

    def feed(part: Pixels) -> Logits:
        state = [np.zeros((config.n_layers, len(part), config.hidden_size)) for _ in STATE_NAMES]
        values = {}
        for step in np.split(part, config.n_steps, axis=1):
            values = runner.run({ROW_NAME: step, **dict(zip(STATE_NAMES, state, strict=True))})
            state = [values[name] for name in NEXT_STATE_NAMES]
        return values[OUTPUT_NAME].astype(np.float32)

    return _by_parts(feed, pixels, batch_size)


def _by_parts(feed: Callable[[Pixels], Logits], pixels: Pixels, size: int) -> Logits:
    return np.concatenate([feed(pixels[at : at + size]) for at in range(0, len(pixels), size)])


def _restored_check(content: bytes, images: Pixels) -> Check:
    """A state that is saved in the middle of a picture and restored elsewhere goes on to the same bits."""
    part = images[: min(100, len(images))]
    one, other = Stream(content, n_streams=len(part)), Stream(content, n_streams=len(part))
    step = one.contract.config.rows_per_step
    middle = one.contract.config.n_steps // 2 * step
    for at in range(0, middle, step):
        one.push(part[:, at : at + step])
    other.restore(one.save())
    same = all(
        np.array_equal(one.push(rows), other.push(rows))
        for rows in (part[:, at : at + step] for at in range(middle, part.shape[1], step))
    )
    answer = f"{len(part)} streams saved after row {middle}, restored in another Stream"
    return Check("same bits from a saved state", same, f"{answer}: {'the same bits' if same else 'other logits'}")


def _early_check(stream: Stream, alone: StepLogits, digits: Digits) -> Check:
    """The rule was chosen on other digits: on these it must lose nothing measurable."""
    rule, config = stream.contract.early, stream.contract.config
    if rule is None:
        return Check("deciding early", True, "the file has no rule for it")
    report = evaluate(alone, digits.labels, rule, config.rows_per_step)
    test = report.mcnemar
    answer = (
        f"a {rule}: {report.mean_rows:.1f} of {report.rows} rows ({report.mean_rows / report.rows:.1%}), "
        f"{report.early} instead of {report.full}: {test.n_lost} lost, {test.n_won} won, McNemar p = {test.p_value:.2g}"
    )
    return Check("deciding early", report.passed, answer)


def _near(parity: ParityReport) -> bool:
    """Values within the tolerance; two that differ in decision must be near ties of at most two such differences."""
    return parity.values_passed and all(one.margin <= 2 * parity.atol for one in parity.disagreements)


def _answer(parity: ParityReport) -> str:
    return (
        f"{parity.n_same:,}/{parity.n:,} digits decided alike, largest difference {parity.max_difference:.1e}"
    )  # fmt: skip
