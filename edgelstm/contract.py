"""The model contract: what every exported file promises, and the protocol of whatever runs one."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgelstm.config import ModelConfig, model_config_from
from edgelstm.errors import ModelError

CONTRACT_VERSION = 1
"""Of a model that reads a whole picture."""
STREAM_CONTRACT_VERSION = 1
"""Of a streaming model, which reads rows as they come."""
OPSET = 18
"""onnxruntime's CUDA LSTM is registered for the LSTM of opset 14 to 21; 18 is inside with room."""
INPUT_NAME = "pixels"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"

# A streaming model: row uint8 (batch, rows, cols), h and c float32 (layers, batch, hidden)
#   -> logits float32 (batch, classes) after the last of these rows, h_out and c_out for the next call.
# rows is any multiple of rows_per_step: one step a call, or several. h and c are zeros before the first row.
ROW_NAME = "row"
STATE_NAMES = ("h", "c")
NEXT_STATE_NAMES = ("h_out", "c_out")
ROWS_AXIS = "rows"

Kind = Literal["picture", "stream"]
CONTRACT_VERSIONS: dict[str, int] = {"picture": CONTRACT_VERSION, "stream": STREAM_CONTRACT_VERSION}
Precision = Literal["fp32", "fp16", "int8"]
Pixels = npt.NDArray[np.uint8]
"""(batch, rows, cols), 0 = background, 255 = ink."""
Logits = npt.NDArray[np.float32]
"""(batch, classes)."""

_PREFIX = "edgelstm."


class Runner(Protocol):
    """Anything that turns pixels into logits: torch, onnxruntime, NumPy."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32."""
        ...


@dataclass(frozen=True)
class Score:
    """Right answers out of all."""

    n_right: int
    n: int

    def __post_init__(self) -> None:
        if type(self.n_right) is not int or type(self.n) is not int or not 0 <= self.n_right <= self.n or not self.n:
            raise ValueError(f"a score of {self.n_right!r} out of {self.n!r}")

    @classmethod
    def of(cls, logits: Logits, labels: npt.NDArray[np.uint8]) -> "Score":
        """Count (N, classes) logits whose largest is the label of (N,)."""
        return cls(int((logits.argmax(1) == labels).sum()), len(labels))

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.n_right / self.n

    def __str__(self) -> str:
        return f"{self.n_right:,}/{self.n:,} ({100 * self.accuracy:.2f} %)"


@dataclass(frozen=True)
class EarlyRule:
    """When a streaming model's answer is settled, so that the rows still to come need not be read."""

    confidence: float
    """Smallest probability of the first class, 0 to 1."""
    n_stable: int
    """Steps in a row with the same first class and at least that probability."""
    mean_rows: float | None = None
    """Rows read until then, on average over the validation images that chose the rule."""
    validation: Score | None = None
    """Right answers by the rule on those images."""

    def __post_init__(self) -> None:
        if not isinstance(self.confidence, float) or not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence: found {self.confidence!r}, expected a probability")
        if type(self.n_stable) is not int or self.n_stable < 1:
            raise ValueError(f"n_stable: found {self.n_stable!r}, expected a whole number of at least 1")
        if self.mean_rows is not None and not isinstance(self.mean_rows, float):
            raise ValueError(f"mean_rows: found {self.mean_rows!r}, expected a number of rows")

    def __str__(self) -> str:
        steps = "1 step" if self.n_stable == 1 else f"{self.n_stable} steps"
        return f"probability of at least {self.confidence:g} for {steps}"


@dataclass(frozen=True)
class ModelContract:
    """What an exported model says of itself in its ONNX metadata."""

    config: ModelConfig
    name: str = "model"
    """Family member or run name."""
    precision: Precision = "fp32"
    recipe: str | None = None
    seed: int | None = None
    weights_sha256: str | None = None
    """sha256 of the checkpoint's tensors, whatever else its file holds."""
    data_sha256: str | None = None
    """sha256 of the training images file."""
    validation: Score | None = None
    test: Score | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Library versions that trained and exported it."""
    temperature: float = 1.0
    """What logits are divided by before softmax, so that confidence means what it says; 1 is not written down."""
    version: int = CONTRACT_VERSION
    kind: Kind = "picture"
    """Reads a whole picture, or a stream of rows."""
    early: EarlyRule | None = None
    """When a stream's answer is settled; None if nothing is known of that."""

    def __post_init__(self) -> None:
        texts = (self.name, *self.versions.keys(), *self.versions.values())
        optional = (self.recipe, self.weights_sha256, self.data_sha256)
        if not all(isinstance(text, str) for text in (*texts, *(text for text in optional if text is not None))):
            raise ValueError("found something else where text is expected")
        if self.precision not in ("fp32", "fp16", "int8"):
            raise ValueError(f"precision: found {self.precision!r}, expected fp32, fp16 or int8")
        if self.seed is not None and type(self.seed) is not int:
            raise ValueError(f"seed: found {self.seed!r}, expected a whole number")
        check_temperature(self.temperature)

    def to_metadata(self) -> dict[str, str]:
        """String keys and values for ONNX ``metadata_props``, sorted: equal contracts, equal bytes."""
        values = asdict(self)
        if self.temperature == 1:  # as in files from before there was one
            del values["temperature"]
        if self.kind == "picture":  # says nothing of streams, as before there were any
            del values["kind"], values["early"]
        return {_PREFIX + key: json.dumps(values[key], sort_keys=True) for key in sorted(values)}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], source: str = "the model", kind: Kind = "picture"
    ) -> "ModelContract":
        """Read it back. Raises ModelError if it is missing, of another kind, newer, or says nonsense."""
        values = {key.removeprefix(_PREFIX): text for key, text in metadata.items() if key.startswith(_PREFIX)}
        if "version" not in values:
            raise ModelError(
                f"{source} is not an edgelstm model",
                found="no edgelstm contract in its metadata",
                expected="a file written by `edgelstm export`",
                fix="export it again with `edgelstm export CHECKPOINT`",
            )
        try:
            read: dict[str, Any] = {key: json.loads(text) for key, text in values.items()}
            if read.get("kind", "picture") != kind:
                raise _other_kind(source, kind)
            if read["version"] != CONTRACT_VERSIONS[kind]:
                raise ModelError(
                    f"{source} keeps another version of the model contract",
                    found=repr(read["version"]),
                    expected=repr(CONTRACT_VERSIONS[kind]),
                    fix="install a matching edgelstm, or export the checkpoint again",
                )
            for key in ("validation", "test"):
                read[key] = Score(**read[key]) if read[key] else None
            read["config"] = model_config_from(read["config"])
            if early := read.get("early"):
                validation = Score(**early["validation"]) if early["validation"] else None
                read["early"] = EarlyRule(**{**early, "validation": validation})
            return cls(**read)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{source} has a damaged model contract",
                found=f"{type(error).__name__}: {error}",
                expected=f"the metadata of contract version {CONTRACT_VERSIONS[kind]}",
                fix="export the checkpoint again",
            ) from error


def check_temperature(temperature: object) -> None:
    """Raise ValueError unless it is a float that logits can be divided by."""
    if type(temperature) is not float or not 0.01 <= temperature <= 100:
        raise ValueError(f"temperature: found {temperature!r}, expected a number from 0.01 to 100")


def _other_kind(source: str, kind: Kind) -> ModelError:
    if kind == "picture":
        return ModelError(
            f"{source} reads a picture row by row", expected="a model of whole pictures",
            fix="run it with `edgelstm stream` or edgelstm.Stream, or export without --streaming",
        )  # fmt: skip
    return ModelError(
        f"{source} reads whole pictures", expected="a streaming model",
        fix="write one with `edgelstm export --streaming`",
    )  # fmt: skip


def in_batches(runner: Runner, pixels: Pixels, batch_size: int) -> Logits:
    """(N, rows, cols) -> (N, classes), the runner called with ``batch_size`` images at a time."""
    return np.concatenate([runner.logits(pixels[at : at + batch_size]) for at in range(0, len(pixels), batch_size)])


def check_pixels(pixels: object, config: ModelConfig) -> Pixels:
    """The array itself if it is (batch, rows, cols) uint8; ValueError with found and expected if not."""
    expected = f"uint8 (batch, {config.rows}, {config.cols})"
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"pixels: found {type(pixels).__name__}, expected a NumPy array {expected}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (config.rows, config.cols):
        raise ValueError(f"pixels: found {pixels.dtype} {pixels.shape}, expected {expected}")
    return pixels
