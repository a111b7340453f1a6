"""tools/in_c.py: what is compiled and called through ctypes has onnxruntime's logits, and what is missing is said."""

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgelstm.config import shipped_dir
from edgelstm.data.dataset import Part
from edgelstm.runtime.runner import OrtRunner
from edgelstm.training.checkpoint import Checkpoint, load_checkpoint

TOOLS = Path(__file__).resolve().parent.parent / "tools"
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def in_c(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("in_c")


@pytest.fixture(scope="module")
def nano() -> Checkpoint:
    return load_checkpoint(shipped_dir() / "nano.safetensors")


@needs_cc
@pytest.mark.parametrize("n", [1, 3])
def test_the_empty_function_is_called_and_writes(in_c: ModuleType, nano: Checkpoint, sample: Part, n: int) -> None:
    logits = in_c.load_nothing(nano, 1)(sample.sequences[:n].copy())
    assert ((n, 10), 0) == (logits.shape, logits[0, 0])


@needs_cc
def test_what_the_compiler_says_is_the_reason(in_c: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)compiler ended with 1: .*#error broken"):
        in_c.compiled("#error broken")


def test_what_is_missing_is_an_import_error_with_what_to_do(
    in_c: ModuleType, nano: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONNXRUNTIME_INCLUDE", raising=False)
    monkeypatch.setattr(in_c, "INCLUDES", ())
    with pytest.raises(ImportError, match=r"onnxruntime_header\.sh"):
        in_c.onnxruntime_in_c()(nano, 1)
    monkeypatch.setattr(in_c.shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match="no C compiler"):
        in_c.load_nothing(nano, 1)


@needs_cc
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("n", [1, 3])
def test_onnxruntime_in_c_has_the_bits_that_it_has_in_python(
    in_c: ModuleType, nano: Checkpoint, sample: Part, precision: str, n: int
) -> None:
    try:
        call = in_c.onnxruntime_in_c(precision)(nano, 1)
    except ImportError as error:
        pytest.skip(str(error))
    pixels = sample.sequences[:n].copy()
    expected = OrtRunner(in_c.our_onnx(nano, precision), provider="cpu").logits(pixels)
    np.testing.assert_array_equal(expected, call(pixels))


@needs_cc
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-4), ("int8", 0.3)])
def test_emx_onnx_cgen_takes_our_files_and_answers_as_onnxruntime_does(
    in_c: ModuleType, nano: Checkpoint, sample: Part, precision: str, atol: float
) -> None:
    """int8 too, for whose operator the file itself says the shapes."""
    pytest.importorskip("emx_onnx_cgen", reason="no emx-onnx-cgen: tools/peers.txt is an environment that has it")
    call, pixels = in_c.emx_onnx_cgen(precision)(nano, 1), sample.sequences[:100].copy()
    runner = OrtRunner(in_c.our_onnx(nano, precision), provider="cpu")
    expected = np.concatenate([runner.logits(pixels[at : at + 1]) for at in range(len(pixels))])
    found = np.concatenate([call(pixels[at : at + 1]).copy() for at in range(len(pixels))])
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
