"""Tests of the generated C: the same text each time, whatever stands in the model, and clean under strict compilers."""

import ctypes
import re
import subprocess
from dataclasses import replace
from shutil import which

import numpy as np
import pytest
from sequences import SEQUENCES

from edgelstm.config import ModelConfig
from edgelstm.errors import ModelError
from edgelstm.native.generate import c_source, constant_bytes, padded
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import open_model

STRICT = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-shared")
needs_a_compiler = pytest.mark.skipif(not which("cc"), reason="needs cc, a C compiler")
FOREIGN = ("*/ #error", 'a "b" \\', "??/", "@SHA256@", "model_a", "é\u2028", "%d", "")


@pytest.fixture
def source_of(checkpoint_of, model_bytes_of):
    def make(config, precision="int8", name="digit", called="random"):
        file = open_model(model_bytes_of(checkpoint_of(config)))
        contract = replace(file.contract, name=called)
        return c_source(scheme_of(file, precision), contract, name=name, model_sha256="5" * 64, accuracy="9/10 of */ x")

    return make


def built(folder, text, *flags):
    (folder / "digit.c").write_text(text)
    command = ["cc", *STRICT, *flags, str(folder / "digit.c"), "-o", str(folder / "digit.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return ctypes.CDLL(str(folder / "digit.so"))


def test_the_same_model_gives_the_same_text(source_of):
    assert source_of(ModelConfig(hidden_size=6)) == source_of(ModelConfig(hidden_size=6))


@needs_a_compiler
@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("config", SEQUENCES.values(), ids=SEQUENCES)
def test_any_model_compiles_without_a_warning_and_has_the_right_bits(source_of, config, precision, tmp_path):
    library = built(tmp_path, source_of(config, precision).code)
    assert library.digit_self_test() == 1


@needs_a_compiler
def test_foreign_texts_stay_texts(source_of, tmp_path):
    config = ModelConfig(hidden_size=5, class_names=FOREIGN)
    source = source_of(config, name="model", called="*/ int evil; /*")
    text = source.code + (
        "const char *class_name(int k);\nconst char *class_name(int k) {\n"
        "  static const char *const names[] = MODEL_CLASS_NAMES;\n  return names[k];\n}\n"
    )
    library = built(tmp_path, text)
    library.class_name.restype = ctypes.c_char_p
    assert list(FOREIGN) == [library.class_name(k).decode() for k in range(len(FOREIGN))]
    assert "int evil" not in text.split("*/")[1]


@needs_a_compiler
def test_a_vectorizer_that_fuses_alternating_sums_is_not_let(tmp_path, checkpoint_of, model_bytes_of):
    """gcc 12 makes vfmaddsub of the classes' biases where their signs alternate, whatever -ffp-contract says."""
    config = ModelConfig(rows=8, cols=3, hidden_size=5, preparation="values", class_names=tuple("abcd"))
    checkpoint = checkpoint_of(config)
    checkpoint.weights["head.bias"].abs_()[1::2] *= -1
    file = open_model(model_bytes_of(checkpoint))
    scheme = scheme_of(file, "int8")
    text = c_source(scheme, file.contract, name="digit", model_sha256="").code
    library = built(tmp_path, text, "-O3", "-march=native", "-fno-semantic-interposition")
    values = np.random.default_rng(1).normal(size=(60, 8, 3)).astype(np.float32)
    found = np.zeros((60, 4), np.float32)
    for i, one in enumerate(values):
        library.digit_classify(ctypes.c_void_p(one.ctypes.data), ctypes.c_void_p(found[i].ctypes.data))
    np.testing.assert_array_equal(found.view(np.uint32), scheme.logits(values).view(np.uint32))


@needs_a_compiler
def test_changed_weights_are_noticed_by_the_self_test(source_of, tmp_path):
    source = source_of(ModelConfig(hidden_size=5))
    at = source.code.index("digit_head_bias[")
    begin = source.code.index("{\n", at) + 2
    changed = source.code[:begin] + "  1e3f, " + source.code[begin:].split(", ", 1)[1]
    assert built(tmp_path, changed).digit_self_test() == 0


@needs_a_compiler
def test_two_models_live_in_one_program_and_the_header_may_stand_beside_the_code(source_of, tmp_path):
    one, other = source_of(ModelConfig(hidden_size=5)), source_of(ModelConfig(hidden_size=6), "fp32", name="other")
    (tmp_path / "other.h").write_text(other.header)
    main = '#include "other.h"\nint both(void);\nint both(void) { return digit_self_test() + other_self_test(); }\n'
    assert built(tmp_path, one.code + main + other.code).both() == 2


@needs_a_compiler
def test_fast_math_is_refused(source_of, tmp_path):
    (tmp_path / "digit.c").write_text(source_of(ModelConfig(hidden_size=5)).code)
    command = ["cc", "-ffast-math", "-c", str(tmp_path / "digit.c"), "-o", str(tmp_path / "digit.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "compile without -ffast-math: it would change the answers" in done.stderr


@needs_a_compiler
@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("hidden", [4, 7, 16, 30])
def test_the_sizes_that_are_told_are_those_of_the_c(source_of, precision, hidden, tmp_path):
    source = source_of(ModelConfig(hidden_size=hidden, n_layers=2), precision)
    size = "#include <stddef.h>\nsize_t state_bytes(void);\nsize_t state_bytes(void) { return sizeof(digit_state); }\n"
    assert source.state_bytes == built(tmp_path, source.code + size).state_bytes()
    assert padded(hidden) % 4 == 0


def test_constants_are_counted_as_they_are_packed(checkpoint_of, model_bytes_of):
    scheme = scheme_of(open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=16)))), "int8")
    weights, floats, head = 64 * (28 + 16), 3 * 64 * 4, 10 * 16 + 2 * 10 * 4
    assert weights + floats + head == constant_bytes(scheme)


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "é", "a" * 42, "_a", "a\n"])
def test_a_name_that_c_cannot_have_is_refused(source_of, name):
    with pytest.raises(ModelError, match="C functions cannot have this name"):
        source_of(ModelConfig(hidden_size=5), name=name)


def test_a_model_that_no_compiler_should_be_asked_to_take_is_refused(source_of, monkeypatch):
    n = 4 * 12 * (28 + 12) + 10 * 12 + (1 + 28 // 3) * 2 * 12  # 9 units take the room of 12
    monkeypatch.setattr("edgelstm.native.generate.MAX_NUMBERS", n)
    code = source_of(ModelConfig(hidden_size=9)).code
    monkeypatch.setattr("edgelstm.native.generate.MAX_NUMBERS", n - 1)
    with pytest.raises(ModelError, match=f"too large for C: found {n:,} weights and blank states, expected at most"):
        source_of(ModelConfig(hidden_size=9))
    weights = [int(size) for size in re.findall(r"_(?:weights_0|head_weights)\[(\d+)\]", code)]
    assert len(weights) == 2
    assert sum(weights) == n - (1 + 28 // 3) * 2 * 12


@pytest.mark.parametrize(
    ("config", "precision", "expected"),
    [
        (ModelConfig(hidden_size=9), "int8", 150 + 2 * 28 + 28 // 2 + 3 * 12),
        (ModelConfig(hidden_size=9, n_layers=2), "int8", 150 + 2 * 28 + 28 // 2 + 5 * 12),
        (ModelConfig(cols=600, rows=2, hidden_size=9, preparation="values"), "int8", 150 + 4 * 600 + 3 * 12),
        (ModelConfig(cols=600, rows=2, hidden_size=9, preparation="values"), "fp32", 150 + 4 * 600 + 4 * 12),
    ],
)
def test_the_stack_holds_a_step_and_the_states_beside_it(source_of, config, precision, expected):
    assert source_of(config, precision).stack_bytes == expected


def test_numbers_are_written_so_that_they_are_read_as_the_same(source_of, checkpoint_of, model_bytes_of):
    file = open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=5))))
    scheme = scheme_of(file, "fp32")
    code = source_of(ModelConfig(hidden_size=5), "fp32").code
    text = code[code.index("digit_head_bias[") :].split("{\n", 1)[1].split("}", 1)[0]
    numbers = np.array([float(number.strip().removesuffix("f")) for number in text.split(",") if number.strip()])
    np.testing.assert_array_equal(numbers.astype(np.float32), scheme.head_bias)
