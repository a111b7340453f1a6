"""The one home of every default: the model family, the training recipes, the places on disk."""

import dataclasses
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgelstm.errors import printable

DIGITS = tuple(str(digit) for digit in range(10))

# Sizes come from files of strangers too. The limits are far above any model for an edge device, and small enough
# that no file can ask for more time or memory than a machine has. Two ints bound a whole number, floats any number.
Ranges = dict[str, tuple[int, int] | tuple[float, float]]
MODEL_RANGES: Ranges = {
    "rows": (1, 4096), "cols": (1, 4096), "rows_per_step": (1, 4096), "hidden_size": (1, 4096), "n_layers": (1, 16),
}  # fmt: skip
AUGMENT_RANGES: Ranges = {
    "rotate_deg": (0.0, 180.0), "scale": (0.0, 1.0), "shear": (0.0, 10.0), "shift_px": (0.0, 4096.0),
    "elastic_px": (0.0, 4096.0), "noise": (0.0, 100.0), "column_scale": (0.0, 10.0), "column_offset": (0.0, 100.0),
    "hands": (0.0, 1.0), "worn": (0.0, 0.33), "noise_levels": (0.0, 255.0), "blur_px": (0.0, 100.0),
    "faint": (0.0, 1.0), "thick_px": (0.0, 1.0), "cut_px": (0.0, 4096.0),
}  # fmt: skip
MAX_EPOCHS = 1_000_000
FLOAT32_MAX = 3e38
TRAIN_RANGES: Ranges = {
    "epochs": (1, MAX_EPOCHS), "n_samples": (1, 2**53), "batch_size": (1, 2**20), "log_every": (1, 2**20),
    "teacher_copies": (1, 10_000), "passes": (1, 2**20), "seed": (0, 2**32 - 1), "threads": (1, 1024),
    "shards": (1, 1024), "learning_rate": (0.0, FLOAT32_MAX), "weight_decay": (0.0, FLOAT32_MAX),
    "clip_norm": (0.0, FLOAT32_MAX), "label_smoothing": (0.0, 1.0), "step_loss": (0.0, 1.0), "ema_decay": (0.0, 1.0),
    "forget_bias": (-1000.0, 1000.0),
    "temperature": (0.01, 100.0),
}  # fmt: skip
Preparation = Literal["digit", "plain", "values"]
"""How an input becomes a sequence: ``digit`` finds the digit of a picture as MNIST would have it, ``plain`` fits the
grey picture into the rows and columns as it is, ``values`` takes float32 columns as they are."""
MAX_VALUES = 2**20
"""Rows x columns of one sequence: a picture of 1,024 x 1,024, or 4,096 time steps of 256 channels."""
MAX_PARAMETERS = 2**26
"""256 MiB of float32 weights; an ONNX file ends at 2 GiB."""
MAX_CLASSES = 1000
MAX_NAME = 100
"""Characters of the name of a class or of a model: it stands in one line of a terminal."""


def _check_ranges(config: object, ranges: Ranges) -> None:
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is None and getattr(type(config), name, 0) is None:  # its default: not limited
            continue
        whole = isinstance(most, int)
        if type(value) not in ((int,) if whole else (int, float)) or not least <= value <= most:
            kind, shown = ("a whole number", f"{most:,}") if whole else ("a number", f"{most:g}")
            raise ValueError(f"{name}: found {_shown(value)}, expected {kind} from {least} to {shown}")


def _check_texts(name: str, texts: Iterable[object]) -> None:
    for text in texts:
        if not is_text(text):
            raise ValueError(f"{name}: found {_shown(text)}, expected text of at most {MAX_NAME} characters")


def is_text(value: object) -> bool:
    """Whether it is a text of at most MAX_NAME characters that UTF-8 can hold: no lone surrogates."""
    return isinstance(value, str) and len(value) <= MAX_NAME and not any("\ud800" <= c <= "\udfff" for c in value)


def _shown(value: object) -> str:
    try:
        return printable(repr(value))
    except (RecursionError, ValueError):  # nested without end, or a number of thousands of digits
        return f"a {type(value).__name__} too large to show"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a row-sequence LSTM classifier. The defaults are the digit task."""

    rows: int = 28
    """Rows of a sequence: of a picture, or time steps; with ``variable_length`` of the longest trained on."""
    cols: int = 28
    """Columns of a row: pixels, or channels."""
    rows_per_step: int = 1
    """Rows that the LSTM reads at each time step; divides ``rows``."""
    hidden_size: int = 128
    """LSTM units of each layer."""
    n_layers: int = 1
    """LSTM layers, each reading the outputs of the one before."""
    class_names: tuple[str, ...] = DIGITS
    """What each logit stands for, in order."""
    preparation: Preparation = "digit"
    """What a sequence is made of; says also whether it is uint8 pixels or float32 values."""
    variable_length: bool = False
    """Whether sequences may end after any row, so that the model must be told where."""

    def __post_init__(self) -> None:
        _check_ranges(self, MODEL_RANGES)
        if self.rows % self.rows_per_step:
            raise ValueError(f"rows_per_step {self.rows_per_step} does not divide the {self.rows} rows")
        if self.rows * self.cols > MAX_VALUES:
            raise ValueError(f"found {self.rows} rows x {self.cols} columns, expected at most {MAX_VALUES:,} values")
        names = self.class_names
        if not isinstance(names, tuple) or not 1 <= len(names) <= MAX_CLASSES:
            found = f"{len(names)} names" if isinstance(names, tuple) else _shown(names)
            raise ValueError(f"class_names: found {found}, expected a tuple of 1 to {MAX_CLASSES}")
        _check_texts("class_names", names)
        if self.preparation not in get_args(Preparation):
            raise ValueError(f"preparation: found {_shown(self.preparation)}, expected digit, plain or values")
        if not isinstance(self.variable_length, bool):
            raise ValueError(f"variable_length: found {_shown(self.variable_length)}, expected true or false")
        if self.variable_length and (self.rows_per_step > 1 or self.preparation != "values"):
            raise ValueError("variable_length goes with values, read one row at each step")
        if self.n_parameters > MAX_PARAMETERS:
            raise ValueError(f"found a model of {self.n_parameters:,} parameters, expected at most {MAX_PARAMETERS:,}")

    @property
    def is_values(self) -> bool:
        """Whether sequences are float32 values; else they are uint8 pixels."""
        return self.preparation == "values"

    @property
    def n_steps(self) -> int:
        """Time steps of one sequence, of the longest if they differ."""
        return self.rows // self.rows_per_step

    @property
    def step_size(self) -> int:
        """Pixels or values read at one time step."""
        return self.rows_per_step * self.cols

    @property
    def n_classes(self) -> int:
        """Logits per sequence."""
        return len(self.class_names)

    @property
    def n_parameters(self) -> int:
        """Trained numbers, both LSTM biases counted, as in torch and in ONNX."""
        hidden = self.hidden_size
        return sum(4 * hidden * (inputs + hidden + 2) for inputs in self._inputs) + (hidden + 1) * self.n_classes

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products for one sequence, 2 per multiply-add."""
        hidden = self.hidden_size
        per_step = sum(4 * hidden * (inputs + hidden) for inputs in self._inputs)
        return 2 * (self.n_steps * per_step + hidden * self.n_classes)

    @property
    def _inputs(self) -> list[int]:
        """What each LSTM layer reads at one time step: so many values."""
        return [self.step_size] + [self.hidden_size] * (self.n_layers - 1)


FAMILY = {
    "base": ModelConfig(),
    "small": ModelConfig(hidden_size=64, rows_per_step=2),
    "nano": ModelConfig(hidden_size=32, rows_per_step=2),
}


@dataclass(frozen=True)
class AugmentConfig:
    """How far a training sequence may be moved from the original, for each sample anew.

    The first five move pictures, the next three values, in standard deviations of each column of the training split.
    The others change prepared digits alone, a share of them each.
    """

    rotate_deg: float = 15.0
    """Largest rotation either way, degrees."""
    scale: float = 0.15
    """Largest relative change of size, for each axis apart."""
    shear: float = 0.2
    """Largest horizontal shear, pixels sideways per pixel down."""
    shift_px: float = 2.0
    """Largest shift on each axis, pixels."""
    elastic_px: float = 1.0
    """Standard deviation of the smooth random displacement, pixels; 0 leaves it out."""
    noise: float = 0.0
    """Of the noise on each value; of a plain picture, on each pixel, for its largest one."""
    column_scale: float = 0.0
    """Of the relative change of a column's distance from its mean, one for the whole sequence."""
    column_offset: float = 0.0
    """Of a shift of a column, one for the whole sequence."""
    hands: float = 0.0
    """Share of the 1s, 2s, 4s, 7s and 9s that are drawn as other hands write them: see `edgelstm.training.strokes`."""
    worn: float = 0.0
    """Share of the digits that get noise; as many others are blurred, as many faint. Of all of them, the same share
    gets thicker or thinner strokes, and the same share loses an edge."""
    noise_levels: float = 0.0
    """Largest standard deviation of the noise on each pixel, of 255 levels."""
    blur_px: float = 0.0
    """Largest standard deviation of the blur, pixels."""
    faint: float = 0.0
    """Largest share of the ink's strength that is lost."""
    thick_px: float = 0.0
    """Most that strokes become thicker on each side, pixels; they become thinner by half of it at most."""
    cut_px: float = 0.0
    """Most rows or columns of ink that are lost at one edge."""

    def __post_init__(self) -> None:
        _check_ranges(self, AUGMENT_RANGES)


@dataclass(frozen=True)
class TrainConfig:
    """One training recipe. The seed fixes the weights, the order and the augmentation."""

    recipe: str
    """The name of the recipe."""
    epochs: int
    """Each ends with a look at validation and a checkpoint."""
    n_samples: int | None = None
    """Stop after so many training sequences in all; None: after the epochs."""
    batch_size: int = 128
    """Sequences of one optimizer step."""
    passes: int = 1
    """Passes over the training sequences in one epoch: few sequences are soon seen."""
    learning_rate: float = 1e-3
    """The largest learning rate of the schedule."""
    schedule: Literal["constant", "onecycle"] = "constant"
    """``onecycle`` warms up over the first fifth and falls to zero along a cosine."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay; 0 is plain Adam."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    step_loss: float = 0.0
    """Share of the loss that is the mean over all steps; 0: only the answer after the last row counts."""
    clip_norm: float | None = None
    """Largest norm of the gradient; None: not clipped."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights per step; 0 keeps the plain weights."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate."""
    head_init: Literal["uniform", "normal"] = "uniform"
    """``normal`` is the classic exercise's N(0, 1) linear layer; ``uniform`` is torch's."""
    augment: AugmentConfig | None = None
    """Random changes to each training sequence; None: the sequences as they are."""
    teachers: tuple[str, ...] = ()
    """sha256 of each model whose mean logits are the targets instead of the labels; none: the labels."""
    temperature: float = 2.0
    """What the teachers' and the student's logits are divided by before they are compared."""
    teacher_copies: int = 40
    """Augmented copies of the training images whose teacher logits are kept; the epochs take them in turn."""
    bf16: bool = False
    """Multiply in bfloat16, keep weights and sums in float32; twice as fast where the CPU has the instructions."""
    log_every: int = 10
    """Steps between two reports of loss and training accuracy."""
    seed: int = 0
    """Seed of everything random."""
    threads: int | None = None
    """CPU threads; None: as many as torch takes. Another number splits sums elsewhere, so it rounds otherwise."""
    shards: int = 1
    """Parts of a batch whose gradients are computed apart and summed in order, by as many processes or fewer."""

    def __post_init__(self) -> None:
        _check_ranges(self, TRAIN_RANGES)
        if self.shards > self.batch_size:
            raise ValueError(f"shards: found {self.shards}, expected at most the batch of {self.batch_size} sequences")
        for name, choices in (("schedule", ("constant", "onecycle")), ("head_init", ("uniform", "normal"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: found {_shown(getattr(self, name))}, expected {' or '.join(choices)}")
        if not isinstance(self.bf16, bool):
            raise ValueError(f"bf16: found {_shown(self.bf16)}, expected true or false")
        _check_texts("recipe or teachers", (self.recipe, *self.teachers))


OTHER_HANDS = AugmentConfig(
    hands=0.3, worn=0.12, noise_levels=60.0, blur_px=1.7, faint=0.8, thick_px=1.0, cut_px=3.0
)  # fmt: skip
"""Digits as MNIST's writers did not write them, or not as well: chosen on validation, see models/EXPERIMENTS.md."""
_BEST = TrainConfig(
    recipe="best", epochs=120, learning_rate=3e-3, schedule="onecycle", weight_decay=0.01, clip_norm=1.0,
    ema_decay=0.999, augment=OTHER_HANDS, teacher_copies=60,
)  # fmt: skip
_OWN = TrainConfig(
    recipe="own", epochs=1, schedule="onecycle", weight_decay=0.01, clip_norm=1.0, ema_decay=0.99,
)  # fmt: skip
RECIPES = {
    # The classic exercise: 100,000 samples, Adam 0.001, normal-initialised linear layer.
    "tutorial": TrainConfig(recipe="tutorial", epochs=2, n_samples=100_000, head_init="normal"),
    # About a minute on two cores.
    "fast": TrainConfig(
        recipe="fast", epochs=7, learning_rate=4e-3, schedule="onecycle", clip_norm=1.0, ema_decay=0.99,
        label_smoothing=0.05,
    ),
    # The shipped models (with --teacher) and, with fewer epochs, their teachers.
    "best": _BEST,
    # To decide before the last row: the answer after every row is trained, not only the last.
    "early": dataclasses.replace(_BEST, recipe="early", step_loss=0.5),
}  # fmt: skip


# One's own data: chosen by cross-validation inside the training parts of six sets, see models/EXPERIMENTS.md.
VALUES_AUGMENT = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, noise=0.3, column_scale=0.1, column_offset=0.1)
PLAIN_AUGMENT = AugmentConfig(8.0, 0.08, 0.1, shift_px=0.05, elastic_px=0.02, noise=0.1)
"""For pictures as they are: shifts and elastic displacements for each row of a picture, noise for its largest pixel."""
MIN_STEPS, MAX_STEPS, MIN_EPOCHS = 600, 3_000, {"best": 40, "early": 40}
"""Optimizer steps are 40 times the root of the number of sequences, within these, and twice that for ``best``; but each
sequence is passed over MIN_EPOCHS times, or 4 times."""
STEPS_PER_EPOCH = 50
"""At least: few sequences are passed over several times before validation is looked at and a checkpoint written."""
MAX_STACKED, MIN_STACKED, MAX_STEP_SIZE = 32, 8, 96
"""Values of one length are read so many rows at a time that the LSTM takes at most 32 steps and at least 8, but never
more than 96 values at a time: an LSTM of 64 units then has 41,472 weights."""


def recipe_for(model: str, recipe: str) -> TrainConfig:
    """The training recipe of that name for a member of the family. Raises KeyError for an unknown recipe."""
    if (model, recipe) == ("nano", "best"):
        # A model that cannot follow its teachers everywhere does better on their sharper answers, and takes longer;
        # chosen on the validation images.
        return dataclasses.replace(_BEST, epochs=240, learning_rate=8e-3, temperature=1.0)
    if (model, recipe) == ("small", "best"):
        return dataclasses.replace(_BEST, epochs=160)
    return RECIPES[recipe]


def recipe_for_data(recipe: str, config: ModelConfig, n: int) -> TrainConfig:
    """The recipe for ``n`` training sequences of one's own. Raises KeyError for an unknown recipe."""
    chosen, root = RECIPES[recipe], math.sqrt(n)
    batch_size = min(n, max(16, min(128, 2 ** round(math.log2(2 * root)))))
    steps, in_a_pass = min(MAX_STEPS, max(MIN_STEPS, 40 * root)), n // batch_size
    if recipe in ("best", "early"):
        steps *= 2
    steps = max(steps, MIN_EPOCHS.get(recipe, 4) * in_a_pass)
    passes = math.ceil(STEPS_PER_EPOCH / in_a_pass)
    augment, rate, smoothing = VALUES_AUGMENT, 3e-3, 0.1
    if not config.is_values:
        augment, rate, smoothing = PLAIN_AUGMENT, 6e-3, 0.0
        if config.preparation == "digit":
            augment = AugmentConfig()
        else:
            augment = dataclasses.replace(
                augment, shift_px=min(2.0, augment.shift_px * config.rows),
                elastic_px=min(1.0, augment.elastic_px * config.rows),
            )  # fmt: skip
    return dataclasses.replace(
        _OWN, recipe=recipe, step_loss=chosen.step_loss, epochs=math.ceil(steps / (in_a_pass * passes)),
        batch_size=batch_size, passes=passes, learning_rate=rate, label_smoothing=smoothing, augment=augment,
    )  # fmt: skip


def rows_per_step_for(rows: int, cols: int) -> int:
    """How many rows of values of one length are read at a time: a divisor of ``rows``, or 1 if none fits."""
    fitting = [
        n for n in range(1, rows + 1) if rows % n == 0 and rows // n >= MIN_STACKED and n * cols <= MAX_STEP_SIZE
    ]
    few = [n for n in fitting if rows // n <= MAX_STACKED]
    return 1 if rows <= MAX_STACKED else few[0] if few else fitting[-1] if fitting else 1


N_VALIDATION = 5_000
"""The last training images, held out to choose by; the test images choose nothing."""
DEFAULT_MODEL = "base"
OWN_MODEL = "small"
"""What is trained on one's own data where no model is named."""
DEFAULT_RECIPE = "fast"
RUNS_DIR = "runs"
"""Where ``edgelstm train`` puts its runs, below the current folder."""


def n_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def data_dir() -> Path:
    """The folder of the MNIST files: ``EDGELSTM_DATA``, or the user's cache folder."""
    chosen = os.environ.get("EDGELSTM_DATA")
    return Path(chosen) if chosen else cache_dir() / "mnist"


def cache_dir() -> Path:
    """The user's cache folder for what edgelstm fetches."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgelstm"


def shipped_dir() -> Path:
    """The folder of the shipped models: inside the wheel, or at the top of a source checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def model_config_from(values: dict[str, Any]) -> ModelConfig:
    """A ModelConfig from JSON values. Raises ValueError if a field is unknown, missing or out of its range.

    What files of contract 1 do not say was so when they were written: digits, all of one length.
    """
    if isinstance(values, dict):
        since_contract_2: dict[str, Any] = {"preparation": "digit", "variable_length": False}
        values = since_contract_2 | values
    _check_fields(ModelConfig, values)
    return ModelConfig(**values | {"class_names": _tuple_of(values, "class_names")})


_LATER_AUGMENTS = [field.name for field in dataclasses.fields(AugmentConfig)][5:]
"""What files may lack: a change that was not there was not made."""


def train_config_from(values: dict[str, Any]) -> TrainConfig:
    """A TrainConfig from JSON values. Raises ValueError if a field is unknown, missing or out of its range.

    A field that is younger than the checkpoint has its default, which is what was done before it was there.
    """
    if isinstance(values, dict):
        optional = (field for field in dataclasses.fields(TrainConfig) if field.name not in ("recipe", "epochs"))
        values = {field.name: field.default for field in optional} | values
        if "n_lessons" in values:  # its name in checkpoints that lie around
            values["teacher_copies"] = values.pop("n_lessons")
    _check_fields(TrainConfig, values)
    augment = values["augment"]
    if augment is not None:
        if isinstance(augment, dict):  # older than the changes of values, or than those of digits
            augment = dict.fromkeys(_LATER_AUGMENTS, 0.0) | augment
        _check_fields(AugmentConfig, augment)
        augment = AugmentConfig(**augment)
    return TrainConfig(**values | {"augment": augment, "teachers": _tuple_of(values, "teachers")})


def _tuple_of(values: dict[str, Any], name: str) -> tuple[Any, ...]:
    if not isinstance(values[name], list | tuple):
        raise ValueError(f"{name}: found {_shown(values[name])}, expected a list")
    return tuple(values[name])


def _check_fields(kind: type, values: object) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__}: found {type(values).__name__}, expected an object")
    expected = {field.name for field in dataclasses.fields(kind)}
    if expected != set(values):
        missing, unexpected = sorted(expected - set(values)), sorted(set(values) - expected)
        raise ValueError(f"{kind.__name__}: missing {missing}, unexpected {_shown(unexpected)}")
