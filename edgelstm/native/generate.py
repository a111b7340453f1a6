"""The C of a model: one C99 file that holds its weights and the engine, and a header for those who call it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from edgelstm import __version__
from edgelstm.contract import Array, ModelContract
from edgelstm.errors import ModelError, printable
from edgelstm.native.scheme import EXP2, FACTORS, Layer, Scheme

BLOCK = 16
"""Units that stand side by side: as many as the widest vector holds."""
GATES = 4
GROUP = 4
"""Columns that are multiplied at once."""
MAX_LINE = 116
MAX_NUMBERS = 2**21
"""A compiler takes half a minute and a gigabyte for so many."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


@dataclass(frozen=True)
class CSource:
    """What is written for a model."""

    name: str
    code: str
    """The .c file: all that is needed."""
    header: str
    """The .h file: what the .c file also holds, for other files that call it."""
    constant_bytes: int
    """Of all constants, on machines without x86's vectors."""
    state_bytes: int
    """sizeof of the state."""
    stack_bytes: int
    """What a call takes, about, on a processor without vectors: its arrays, and 150 bytes beside them."""


def check_c(scheme: Scheme, name: str) -> None:
    """Raise ModelError if ``name`` cannot begin a name in C, or the model is too large for a compiler."""
    if not _NAME.fullmatch(name):
        expected = "a letter, then letters, digits and underscores, at most 41 in all"
        raise ModelError("C functions cannot have this name", found=printable(name), expected=expected)
    if (n := _n_numbers(scheme)) > MAX_NUMBERS:
        found, most = f"{n:,} weights and blank states", f"at most {MAX_NUMBERS:,}"
        raise ModelError("the model is too large for C", found=found, expected=most, fix="run it in onnxruntime")


def c_source(scheme: Scheme, contract: ModelContract, *, name: str, model_sha256: str, accuracy: str = "") -> CSource:
    """The C of ``scheme``; every public name begins with ``name``, and the same model gives the same text.

    ``accuracy`` is said in the comment. Raises what `check_c` raises.
    """
    check_c(scheme, name)
    config = scheme.config
    tags = {scheme.precision, "values" if config.is_values else "pixels"}
    n_constant = constant_bytes(scheme)
    state_bytes = config.n_layers * padded(config.hidden_size) * (5 if scheme.precision == "int8" else 8)
    texts = {
        "MODEL": _in_comment(contract.name), "ACCURACY": _in_comment(accuracy), "SHA256": model_sha256,
        "CLASS_NAMES": ", ".join(map(_c_string, config.class_names)),
        "TEMPERATURE": _float(np.float32(contract.temperature)),
    }  # fmt: skip

    def written(text: str) -> str:
        """Our names first: what comes from the model stays as it is."""
        ours = {"model_": f"{name}_", "MODEL_": f"{name.upper()}_"}
        text = re.sub("model_|MODEL_", lambda match: ours[match[0]], text)
        return re.sub(r"@(\w+)@", lambda match: texts[match[1]], text)

    header = _header(scheme)
    parts = [
        _comment(scheme, n_constant, state_bytes, with_accuracy=bool(accuracy)),
        header,
        "#include <stddef.h>\n#include <string.h>\n",
        f"#define MODEL_MAX_UNITS {padded(config.hidden_size)}\n",
        engine(tags),
        _arrays(scheme),
        _functions(scheme),
    ]
    return CSource(name, written("\n".join(parts)), written(header), n_constant, state_bytes, _stack_bytes(scheme))


def _stack_bytes(scheme: Scheme) -> int:
    """The arrays of model_push and model_layer where there are no vectors, and 150 bytes beside them."""
    config, units, inputs = scheme.config, padded(scheme.config.hidden_size), padded(scheme.config.step_size)
    which = 0 if config.is_values else inputs // 2
    if scheme.precision == "fp32":
        return 150 + 4 * inputs + which + 4 * units
    high, below = (2 * inputs if config.is_values else 0), (2 * units if config.n_layers > 1 else 0)
    return 150 + 2 * inputs + high + which + 3 * units + below


def padded(n: int) -> int:
    """The next multiple of four."""
    return -(-n // GROUP) * GROUP


def engine(tags: set[str]) -> str:
    """engine.h with the parts that ``tags`` name, int8 or fp32 and pixels or values, and its constants filled in."""
    constants = {f"EXP2_{i}": _float(c) for i, c in enumerate(EXP2)}
    constants |= {"FACTOR": _float(np.float32(FACTORS[0])), "TANH_FACTOR": _float(np.float32(FACTORS[3]))}
    text = (files("edgelstm.native") / "engine.h").read_text(encoding="utf-8")
    lines, kept = [], [True]
    for line in text.splitlines():
        if line.startswith("@IF "):
            kept.append(kept[-1] and line.split()[1] in tags)
        elif line == "@END":
            kept.pop()
        elif kept[-1]:
            lines.append(line)
    filled = re.sub(r"@(\w+)@", lambda match: constants[match[1]], "\n".join(lines) + "\n")
    return re.sub(r"\n{3,}", "\n\n", filled)


# --- weights ----------------------------------------------------------------------------------------


def blocks(array: Array) -> list[Array]:
    """(4, H, ...) -> the same for each block of units, H padded with zeros to a multiple of four."""
    padding = [(0, 0), (0, padded(array.shape[1]) - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
    array = np.pad(array, padding)
    return [array[:, at : at + BLOCK] for at in range(0, array.shape[1], BLOCK)]


def layer_arrays(layer: Layer, *, signed_input: bool) -> dict[str, Array]:
    """A layer's weights, scales and shifts (of fp32 weights and bias) as the engine reads them, each in one row."""
    weights = [_by_columns(array) for array in (layer.w, layer.r)]
    if layer.w_scale is None:
        return {
            "weights": _by_blocks(weights, lambda block: block.transpose(2, 0, 1)),
            "bias": _by_blocks([layer.bias]),
        }
    shifted = ([layer.w] if signed_input else []) + [layer.r]
    return {
        # (4, U, K) -> (K / 4, 4, U, 4)
        "weights": _by_blocks(weights, lambda block: block.reshape(*block.shape[:2], -1, GROUP).transpose(2, 0, 1, 3)),
        "scales": _by_blocks([layer.w_scale, layer.r_scale, layer.bias]),
        "shifts": _by_blocks([-128 * array.sum(axis=2, dtype=np.int32) for array in shifted]),
    }


def _by_blocks(arrays: list[Array], turned: Callable[[Array], Array] = lambda block: block) -> Array:
    """Of each block of units in turn all of the arrays, in one row."""
    parts = zip(*map(blocks, arrays), strict=True)
    return np.concatenate([turned(part).ravel() for of_block in parts for part in of_block])


def head_arrays(scheme: Scheme) -> dict[str, Array]:
    """The classes' weights: int8 (classes, H padded), its scales and bias; fp32 (H, classes), and the bias."""
    if scheme.head_scale is None:
        return {"weights": scheme.head.T.ravel(), "bias": scheme.head_bias}
    width = padded(scheme.head.shape[1]) - scheme.head.shape[1]
    weights = np.pad(scheme.head, ((0, 0), (0, width)))
    return {"weights": weights.ravel(), "scales": scheme.head_scale, "bias": scheme.head_bias}


def _by_columns(weights: Array) -> Array:
    return np.pad(weights, ((0, 0), (0, 0), (0, padded(weights.shape[2]) - weights.shape[2])))


def _n_numbers(scheme: Scheme) -> int:
    """How many numbers the text holds, padding and the states of blank pictures too."""
    config, units = scheme.config, padded(scheme.config.hidden_size)
    inputs = [padded(config.step_size), *[units] * (config.n_layers - 1)]
    states = 0 if config.is_values else 2 * config.n_layers * units * (1 + config.n_steps // BLANK_PART)
    return sum(4 * units * (width + units) for width in inputs) + config.n_classes * units + states


def constant_bytes(scheme: Scheme) -> int:
    """Of all arrays, but for the shifts, which only x86 has."""
    return sum(array.nbytes for name, array in _named_arrays(scheme).items() if not name.startswith("shifts"))


def _named_arrays(scheme: Scheme) -> dict[str, Array]:
    named: dict[str, Array] = {}
    for number, layer in enumerate(scheme.layers):
        arrays = layer_arrays(layer, signed_input=number > 0 or scheme.config.is_values)
        named |= {f"{key}_{number}": array for key, array in arrays.items()}
    named |= {f"head_{key}": array for key, array in head_arrays(scheme).items()}
    if scheme.mean is not None and scheme.scale is not None:
        named |= {"mean": scheme.mean, "scale": scheme.scale}
    return named


def _arrays(scheme: Scheme) -> str:
    """The definitions of all arrays."""
    lines = ["/* ---- The weights. ---- */\n"]
    for key, array in _named_arrays(scheme).items():
        text = _array(f"model_{key}", array)
        if key.startswith("shifts"):
            text = f"#if MODEL_SHIFT\n{text}#else\n#define model_{key} ((const int32_t *)0)\n#endif\n"
        lines.append(text)
    return "\n".join(lines)


def _array(name: str, array: Array) -> str:
    kind = {"int8": "int8_t", "int32": "int32_t", "float32": "float"}[array.dtype.name]
    numbers = [_float(value) for value in array] if kind == "float" else map(str, array.tolist())
    return f"static const {kind} {name}[{array.size}] MODEL_ALIGNED = {{\n{_wrapped(numbers)}}};\n"


def _wrapped(items: Iterable[str]) -> str:
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) + 2 > MAX_LINE:
            lines.append(line)
            line = ""
        line += f"{item}, " if line else f"  {item}, "
    return "\n".join([*lines, line]).replace(" \n", "\n").rstrip() + "\n"


def _float(value: np.float32) -> str:
    """The shortest decimals that are this number again."""
    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


# --- text -------------------------------------------------------------------------------------------


def _c_string(text: str) -> str:
    """A string literal that any compiler reads the same: bytes of UTF-8, nothing that could be a trigraph."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{plain}"'


def _in_comment(text: str) -> str:
    """A foreign text that cannot end a comment."""
    return printable(text).replace("*/", "* /").replace("/*", "/ *")


def _comment(scheme: Scheme, n_constant: int, state_bytes: int, *, with_accuracy: bool) -> str:
    config = scheme.config
    rows = "any number of rows" if config.variable_length else f"{config.rows} rows"
    what = "values (float)" if config.is_values else "pixels (uint8_t, 0 background, 255 ink)"
    given = "values, n_rows" if config.variable_length else "values" if config.is_values else "pixels"
    layers = f"{config.n_layers} LSTM layer{'s' * (config.n_layers > 1)} of {config.hidden_size} units"
    lines = [
        f"The edgelstm model @MODEL@ as C99, {scheme.precision}; written by edgelstm {__version__} compile.",
        "",
        f"Reads {rows} of {config.cols} {what}, {config.rows_per_step} a step;",
        f"{layers}, {config.n_classes} classes.",
        *(["Accuracy: @ACCURACY@."] if with_accuracy else []),
        "Made from the ONNX file with sha256",
        "@SHA256@.",
        f"Constants {n_constant:,} bytes, state {state_bytes:,} bytes. No heap, no libraries, no writable globals:",
        "any number of states may be used side by side, by any threads.",
        "",
        "All at once:",
        "    float logits[MODEL_CLASSES];",
        f"    int best = model_classify({given}, logits);",
        "As the rows come:",
        "    model_state state;",
        "    model_reset(&state);",
        "    model_push(&state, rows);           again and again, MODEL_ROWS_PER_STEP rows",
        "    model_logits(&state, logits);       after the steps so far",
        "",
        "Every compiler, processor and optimisation level gives the same logits, bit for bit, and",
        "model_self_test() is 1 where they are right. Vectors are used where the compiler knows of them:",
        "    cc -std=c99 -O3 -march=native -c model_.c",
        "Never -ffast-math. It compiles as C++ too.",
    ]
    return "/* " + "\n * ".join(lines).replace(" \n", "\n").replace("model_.c", "FILE.c") + "\n */\n"


def _header(scheme: Scheme) -> str:
    config = scheme.config
    kind, given = ("float", "values") if config.is_values else ("uint8_t", "pixels")
    units, h = padded(config.hidden_size), "int8_t" if scheme.precision == "int8" else "float"
    n_rows = ", int n_rows" if config.variable_length else ""
    longest = " /* of the longest sequence that it was trained on */" if config.variable_length else ""
    return f"""\
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_ROWS {config.rows}{longest}
#define MODEL_COLS {config.cols}
#define MODEL_ROWS_PER_STEP {config.rows_per_step}
#define MODEL_CLASSES {config.n_classes}
#define MODEL_CLASS_NAMES {{@CLASS_NAMES@}}
/* The probability of class k is exp(logits[k] / MODEL_TEMPERATURE) over the sum of those of all. */
#define MODEL_TEMPERATURE @TEMPERATURE@

#ifdef __cplusplus
extern "C" {{
#endif

typedef struct {{
  float c[{config.n_layers}][{units}];
  {h} h[{config.n_layers}][{units}];
}} model_state;

/* Before the first row of a sequence. */
void model_reset(model_state *state);
/* The next step: MODEL_ROWS_PER_STEP rows of MODEL_COLS. */
void model_push(model_state *state, const {kind} *rows);
/* MODEL_CLASSES logits, after the steps so far. */
void model_logits(const model_state *state, float *logits);
/* A whole sequence; returns the index of the largest logit, of equal ones the first. */
int model_classify(const {kind} *{given}{n_rows}, float *logits);
/* 1 if this compiler and machine give the very bits that edgelstm gives, else 0. */
int model_self_test(void);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _functions(scheme: Scheme) -> str:
    config = scheme.config
    kind, given = ("float", "values") if config.is_values else ("uint8_t", "pixels")
    n_rows = ", int n_rows" if config.variable_length else ""
    rows = "n_rows" if config.variable_length else "MODEL_ROWS"
    scales = "model_head_scales, " if scheme.precision == "int8" else ""
    units = padded(config.hidden_size) if scheme.precision == "int8" else config.hidden_size
    blank, skip = ("", "  model_reset(&state);\n") if config.is_values else (_blank_states(scheme), _SKIP)
    sample = "model_mean[at % MODEL_COLS] + ((float)byte - 128.0f) * 0.015625f / model_scale[at % MODEL_COLS]"
    return f"""\
/* ---- What is called. ---- */

void model_reset(model_state *state) {{ memset(state, 0, sizeof *state); }}

void model_push(model_state *state, const {kind} *rows) {{
{_push(scheme)}}}

void model_logits(const model_state *state, float *logits) {{
  model_head(logits, model_head_weights, {scales}model_head_bias, state->h[{config.n_layers - 1}], {units}, \
MODEL_CLASSES);
}}

{blank}int model_classify(const {kind} *{given}{n_rows}, float *logits) {{
  model_state state;
  int row = 0, k, best = 0;
{skip}  for (; row < {rows}; row += MODEL_ROWS_PER_STEP) model_push(&state, {given} + (size_t)row * MODEL_COLS);
  model_logits(&state, logits);
  for (k = 1; k < MODEL_CLASSES; k++)
    if (logits[k] > logits[best]) best = k;
  return best;
}}

/* A checksum of bits (FNV-1a), on and on. */
static uint32_t model_mixed(uint32_t sum, const float *values, int n) {{
  int i;
  for (i = 0; i < n; i++) {{
    uint32_t bits;
    memcpy(&bits, values + i, 4);
    sum = (sum ^ bits) * 16777619u;
  }}
  return sum;
}}

int model_self_test(void) {{
  {kind} rows[MODEL_ROWS_PER_STEP * MODEL_COLS];
  float logits[MODEL_CLASSES];
  model_state state;
  uint32_t random = 1, sum = 2166136261u;
  int step, at, layer;
  model_reset(&state);
  for (step = 0; step < {SELF_TEST_STEPS}; step++) {{
    for (at = 0; at < MODEL_ROWS_PER_STEP * MODEL_COLS; at++) {{
      int byte;
      random = random * 1664525u + 1013904223u;
      byte = (int)(random >> 24);
      rows[at] = {sample if config.is_values else "(uint8_t)(byte & 128 ? byte : 0)"};
    }}
    model_push(&state, rows);
  }}
  model_logits(&state, logits);
  for (layer = 0; layer < {config.n_layers}; layer++) sum = model_mixed(sum, state.c[layer], {config.hidden_size});
  return model_mixed(sum, logits, MODEL_CLASSES) == {self_test_sum(scheme)}u;
}}
"""


_SKIP = """\
#if MODEL_LANES > 1
  int blank = 0;
  while (blank < MODEL_MAX_BLANK && !model_is_inked(pixels + (size_t)row * MODEL_COLS)) {
    blank++;
    row += MODEL_ROWS_PER_STEP;
  }
  state = model_blank[blank];
#else
  model_reset(&state);
#endif
"""


def _blank_states(scheme: Scheme) -> str:
    """The states after the first steps of a picture, as long as they are blank: they are the same for all pictures."""
    config, state = scheme.config, scheme.start(1)
    blank = np.zeros((1, config.rows_per_step, config.cols), np.uint8)
    states = []
    for _ in range(1 + config.n_steps // BLANK_PART):
        width = [(0, 0), (0, padded(config.hidden_size) - config.hidden_size)]
        padded_states = [[np.pad(array, width)[0] for array in layer] for layer in state]
        c = "".join(f"{{\n{_wrapped(map(_float, c))}}},\n" for _, c in padded_states)
        numbers = [map(str, h.tolist()) if h.dtype == np.int8 else map(_float, h) for h, _ in padded_states]
        h = "".join(f"{{\n{_wrapped(each)}}},\n" for each in numbers)
        states.append(f"{{{{{c}}}, {{{h}}}}},\n")
        state = scheme.step(blank, state)
    return f"""\
#if MODEL_LANES > 1
/* The states after the first steps, as long as they are blank: not worth their bytes on a small chip. */
#define MODEL_MAX_BLANK {len(states) - 1}
static const model_state model_blank[MODEL_MAX_BLANK + 1] = {{
{"".join(states)}}};

MODEL_INLINE int model_is_inked(const uint8_t *pixels) {{
  unsigned any = 0;
  int at;
  for (at = 0; at < MODEL_ROWS_PER_STEP * MODEL_COLS; at++) any |= pixels[at];
  return any != 0;
}}
#endif

"""


SELF_TEST_STEPS = 8
BLANK_PART = 3
"""A digit as MNIST has it begins in the upper third: states are kept for so many blank steps."""


def self_test_sum(scheme: Scheme) -> int:
    """The checksum of c and of the logits that the engine must make of the numbers that model_self_test gives it.

    int8 logits alone would not show every wrong bit: most are rounded away with h.
    """
    config, random, state = scheme.config, 1, scheme.start(1)
    for _ in range(SELF_TEST_STEPS):
        row = []
        for _ in range(config.step_size):
            random = (random * 1664525 + 1013904223) % 2**32
            row.append(random >> 24)
        numbers = np.array(row, np.uint8).reshape(1, config.rows_per_step, config.cols)
        if scheme.mean is not None and scheme.scale is not None:
            steps = (numbers.astype(np.float32) - np.float32(128)) * np.float32(0.015625)
            with np.errstate(all="ignore"):  # a scale of 0 makes numbers that are none, and the same in C
                values = scheme.mean + steps / scheme.scale
            state = scheme.step(values, state)
        else:
            state = scheme.step(np.where(numbers & 128, numbers, 0).astype(np.uint8), state)
    found, total = [*(c[0] for _, c in state), scheme.head_logits(state[-1][0])[0]], 2166136261
    for bits in np.concatenate(found).view(np.uint32).tolist():
        total = (total ^ bits) * 16777619 % 2**32
    return total


def _push(scheme: Scheme) -> str:
    """The body of model_push."""
    config = scheme.config
    int8, inputs, units = scheme.precision == "int8", padded(config.step_size), padded(config.hidden_size)
    plain = "model_plain" if int8 else "float"
    lines = [f"{plain} x[{inputs}];"]
    weights = "model_weights_{0}, model_scales_{0}, model_shifts_{0}" if int8 else "model_weights_{0}, model_bias_{0}"
    state = "state->c[{0}], state->h[{0}]);"
    if config.is_values:
        lines += [f"model_signed high[{inputs}];"] if int8 else []
        high = "high, " if int8 else ""
        read = f"model_read_values(x, {high}rows, model_mean, model_scale, MODEL_ROWS_PER_STEP, MODEL_COLS);"
        which = f"(const uint16_t *)0, {inputs // GROUP}"
    else:
        lines += [f"uint16_t which[{inputs // GROUP}];"]
        high = "(const model_signed *)0, " if int8 else ""
        read = f"const int count = model_read_pixels(x, which, rows, {config.step_size});"
        which = "which, count"
    lines += ["model_signed below[MODEL_MAX_UNITS];"] if int8 and config.n_layers > 1 else []
    lines += [read, f"model_layer({weights.format(0)}, {inputs // GROUP}, {units}, x, {which}, {high}{state.format(0)}"]
    for number in range(1, config.n_layers):
        below = f"state->h[{number - 1}]"
        sizes = f"{units // GROUP}, {units}"
        if int8:
            lines.append(f"model_read_h(below, {below}, {units});")
            nothing = "(const model_plain *)0, (const uint16_t *)0, 0, below, "
        else:
            nothing = f"{below}, (const uint16_t *)0, {units // GROUP}, "
        lines.append(f"model_layer({weights.format(number)}, {sizes}, {nothing}{state.format(number)}")
    return "".join(f"  {line}\n" for line in lines)
