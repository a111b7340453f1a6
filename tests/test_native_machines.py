"""One model, one answer: the C gives NumPy's bits on every processor, compiler and optimisation level that is here.

`tools/same_bits.py` asks the same of all shipped models and all test digits. EDGELSTM_REQUIRE=x86,aarch64 makes a
missing compiler or emulator for these a failure instead of a skip.
"""

import os
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from conftest import exported, random_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from same_bits import MACHINES, expected_numbers, numbers_on, same_bits, source_of

from edgelstm.config import ModelConfig
from edgelstm.contract import MEAN_NAME, SCALE_NAME
from edgelstm.native.generate import c_source
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import open_model

BY_NAME = {machine.name: machine for machine in MACHINES}
OTHERS = {"plain C, clang", "AVX2 and VNNI, clang", "AVX-512 VNNI, clang", "clang -O1", "clang -O2", "SSE2, gcc with",
          "AVX2, gcc with", "dotprod, clang", "riscv64, clang"}  # fmt: skip
"""Left to the tool: each differs from one that is tested here by one option only."""
TESTED = [machine for machine in MACHINES if not any(part in machine.name for part in OTHERS)]
FEW = [
    BY_NAME[name]
    for name in (
        "x86-64, plain C, gcc -O3", "x86-64, SSE2, gcc -O3", "x86-64, all it has, clang -O3", "aarch64, gcc -O3, qemu",
        "riscv64, gcc -O3, qemu", "Cortex-M0+, gcc -Os, qemu", "Cortex-M4, gcc -Os, qemu",
    )
]  # fmt: skip
ANY = [machine for machine in MACHINES if not machine.chip and re.search("-O3|sanitizers", machine.name)]
"""Those that differ in their inner product, and those that find what is read beyond its end."""
N_EXAMPLES = int(os.environ.get("EDGELSTM_EXAMPLES", "10"))
SIZES = st.sampled_from([0.0, 1e-45, 1e-20, 1e-3, 1.0, 1.0, 1.0, 30.0, 1e10, 1e30])
"""What random weights are multiplied with."""
ENDS = np.array([0.0, -0.0, 1e-45, -1e-40, 1e-30, 127.998, -128.1, 1e6, 3e38, -3e38], np.float32)
"""Values at both ends of float32, of int8's integers, and of what a processor may take for zero."""


def available(machine):
    """Skips, saying why, what cannot run here; what EDGELSTM_REQUIRE names must not be missing."""
    if missing := machine.missing():
        if machine.family in os.environ.get("EDGELSTM_REQUIRE", "").split(","):
            pytest.fail(f"{machine.name} {missing}, and EDGELSTM_REQUIRE wants {machine.family}")
        pytest.skip(missing)
    if lacking := machine.lacking():
        pytest.skip(lacking)


@cache
def expected(model, precision, n):
    """Of the first digits: an answer depends on no others."""
    return expected_numbers(scheme_of(open_model(model), precision), sample()[:n])


@cache
def sample():
    from edgelstm.data.mnist import sample_digits

    return sample_digits().sequences


def check(machine, model, precision, n):
    available(machine)
    found = numbers_on(machine, source_of(model, precision), open_model(model).contract.config, sample()[:n])
    assert_same(found, expected(model, precision, n))


def assert_same(found, right):
    np.testing.assert_array_equal(found, right[:, : found.shape[1]])
    assert same_bits(found, right), "zeros of another sign"


def n_digits(machine, most):
    return 5 if machine.chip else 100 if machine.emulator or "sanitizers" in machine.name else most


@pytest.mark.parametrize("machine", TESTED, ids=lambda machine: machine.name)
def test_int8_is_the_same_bits(machine):
    check(machine, "nano", "int8", n_digits(machine, 1000))


@pytest.mark.parametrize("machine", FEW, ids=lambda machine: machine.name)
def test_fp32_is_the_same_bits(machine):
    check(machine, "nano", "fp32", n_digits(machine, 1000))


@pytest.mark.parametrize(("model", "precision", "n"), [("small", "int8", 1000), ("base", "int8", 300),
                                                       ("small", "fp32", 300), ("base", "fp32", 50)])  # fmt: skip
def test_larger_models_are_the_same_bits(model, precision, n):
    check(BY_NAME["x86-64, all it has, gcc -O3"], model, precision, n)


def test_a_compiler_that_fuses_operations_whatever_it_is_told_is_noticed():
    machine = BY_NAME["x86-64, AVX2, clang -O3"]
    available(replace(machine, needs=("avx2", "fma")))
    fusing = replace(machine, flags=(*machine.flags, "-mfma", "-ffp-contract=fast"))
    with pytest.raises(RuntimeError, match="ended with 3"):
        numbers_on(fusing, source_of("nano"), ModelConfig(), sample()[:0])


@st.composite
def models(draw):
    """A configuration, and the seed and sizes of its weights."""
    values = draw(st.booleans())
    unequal = values and draw(st.booleans())
    rows_per_step = 1 if unequal else draw(st.integers(1, 4))
    config = ModelConfig(
        rows=rows_per_step * draw(st.integers(1, 9 // rows_per_step)), cols=draw(st.integers(1, 40)),
        rows_per_step=rows_per_step, hidden_size=draw(st.integers(1, 40)), n_layers=draw(st.integers(1, 3)),
        class_names=tuple(f"class {k}" for k in range(draw(st.integers(1, 12)))),
        preparation="values" if values else "plain", variable_length=unequal,
    )  # fmt: skip
    return config, draw(st.integers(0, 2**32 - 1)), draw(st.lists(SIZES, min_size=1, max_size=7))


def random_file(config, seed, sizes):
    """A model file with weights of these sizes, in turn; of every second one all are at the ends of int8."""
    file = open_model(exported(random_checkpoint(config, 1.0, seed)))
    weights = file.graph.initializers
    for at, (name, array) in enumerate(weights.items()):
        if array.dtype == np.float32 and name not in (MEAN_NAME, SCALE_NAME):
            weights[name] = (np.sign(array) if seed % 2 else array) * np.float32(sizes[at % len(sizes)])
    return file


def random_sequences(config, seed, n=7):
    random = np.random.default_rng(seed)
    shape = (n, config.rows, config.cols)
    lengths = random.integers(1, config.rows + 1, n).astype(np.int32) if config.variable_length else None
    if config.is_values:
        values = random.normal(0, 2, shape).astype(np.float32)
        return np.where(random.random(shape) < 0.2, random.choice(ENDS, shape), values), lengths
    ink = random.choice(np.array([1, 127, 128, 255], np.uint8), shape)
    return np.where(random.random(shape) < random.random((n, 1, 1)), ink, 0).astype(np.uint8), lengths


@settings(max_examples=N_EXAMPLES, deadline=None, derandomize=N_EXAMPLES == 10)
@given(models(), st.sampled_from(["int8", "fp32"]), st.sampled_from(ANY))
def test_any_model_is_the_same_bits_on_any_machine(model, precision, machine):
    if machine.missing() or machine.lacking():
        machine = BY_NAME["x86-64, plain C, gcc -O3"]
        available(machine)
    config, seed, sizes = model
    file = random_file(config, seed, sizes)
    scheme = scheme_of(file, precision)
    sequences, lengths = random_sequences(config, seed)
    source = c_source(scheme, file.contract, name="digit", model_sha256="")
    right = expected_numbers(scheme, sequences, lengths)
    np.testing.assert_array_equal(right[:, : config.n_classes], scheme.logits(sequences, lengths))
    assert np.isfinite(right).all()
    assert_same(numbers_on(machine, source, config, sequences, lengths), right)


@pytest.mark.parametrize(("changed", "status"), [("", 0), ("0.693147f", "1 differ")])
def test_the_tool_shows_the_sha256_of_each_machine_and_fails_if_one_differs(monkeypatch, capsys, changed, status):
    import same_bits

    available(BY_NAME["x86-64, SSE2, gcc -O3"])
    right = source_of("nano", "fp32")
    monkeypatch.setattr(same_bits, "source_of", lambda *_: replace(right, code=right.code.replace(changed, "0.7f"))
                        if changed else right)  # fmt: skip
    monkeypatch.setattr(same_bits, "PRECISIONS", ("fp32",))
    monkeypatch.setattr("sys.argv", ["same_bits.py", "nano", "--digits", "5", "--only", "SSE2, gcc -O3"])
    with pytest.raises(SystemExit) as ended:
        same_bits.main()
    numpy, found = capsys.readouterr().out.splitlines()[2:]
    assert status == ended.value.code
    assert (numpy.split()[-1] == found.split()[-1]) is not bool(changed)
