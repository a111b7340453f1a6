"""What peers.py measures in C: each is compiled here and called through ctypes.

What ctypes and the wrapper around it take is in all of them alike; `load_nothing` is the row that shows it.

TFLite Micro's own MNIST LSTM (``trained_lstm_int8.tflite``, 9,530 parameters) is no row. Its file stands in that
project's repository only: the tflite-micro wheel, which could run it, holds a sine. Its weights are others, too.
"""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from runtimes import Call, for_each_batch_size, one_thread_only, our_onnx, run_tool

from edgelstm.contract import Logits, Pixels, Precision
from edgelstm.runtime.session import import_onnxruntime
from edgelstm.training.checkpoint import Checkpoint

INCLUDES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/local/include")
Load = Callable[[Checkpoint, int], Call]


def compiled(code: str, *options: str) -> ctypes.CDLL:
    """A library of this C99, as fast as the system's compiler makes it for this machine."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise ImportError("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "code.c"), Path(folder, "code.so")
        source.write_text(code, encoding="utf-8")
        flags = ["-std=gnu99", "-O3", "-march=native", "-shared", "-fPIC", *options]
        run_tool([compiler, *flags, str(source), "-o", str(library), "-lm"])
        return ctypes.CDLL(str(library))


def _through_ctypes(checkpoint: Checkpoint, n: int, function: Callable[[Any, int], object]) -> Call:
    """A call of ``function`` with the addresses of ``n`` pictures and of their logits, which are always the same."""
    logits = np.empty((n, checkpoint.config.n_classes), np.float32)
    target = logits.ctypes.data

    def call(pixels: Pixels) -> Logits:
        function(ctypes.byref(ctypes.c_char.from_buffer(pixels)), target)  # in half the time of pixels.ctypes
        return logits

    return call


def _function(library: ctypes.CDLL, name: str, *types: Any) -> Any:
    function = getattr(library, name)
    function.argtypes = types
    return function


def load_nothing(checkpoint: Checkpoint, threads: int) -> Call:
    """A function that does nothing: what all the others pay for being called from Python."""
    one_thread_only(threads)
    empty = compiled("void run(const unsigned char *pixels, float *logits) { (void)pixels; *logits = 0; }")
    run = _function(empty, "run", ctypes.c_void_p, ctypes.c_void_p)
    return for_each_batch_size(lambda pixels: _through_ctypes(checkpoint, len(pixels), run))


def emx_onnx_cgen(precision: Precision = "fp32") -> Load:
    """The C that emx-onnx-cgen makes of our file."""

    def load(checkpoint: Checkpoint, threads: int) -> Call:
        one_thread_only(threads)  # plain loops
        import emx_onnx_cgen  # noqa: F401 - only whether it is there: it works in a process of its own

        def build(pixels: Pixels) -> Call:
            with tempfile.TemporaryDirectory() as folder:
                model, code = Path(folder, "model.onnx"), Path(folder, "model.c")
                model.write_bytes(our_onnx(checkpoint, precision))
                # its fastest form: the batch known, no malloc in the call, the weights inside
                options = ["--input-dim", f"batch={len(pixels)}", "--large-temp-threshold", "0"]
                options += ["--large-weight-threshold", "0", "--model-name", "model"]
                run_tool([sys.executable, "-m", "emx_onnx_cgen", "compile", str(model), str(code), *options])
                library = compiled(code.read_text(encoding="utf-8"))
            run = _function(library, "model", ctypes.c_void_p, ctypes.c_void_p)
            return _through_ctypes(checkpoint, len(pixels), run)

        return for_each_batch_size(build)

    return load


def onnxruntime_in_c(precision: Precision = "fp32") -> Load:
    """onnxruntime without Python between it and the caller; ONNXRUNTIME_INCLUDE is the folder of its header."""

    def load(checkpoint: Checkpoint, threads: int) -> Call:
        library, base = _onnxruntime()
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        run = _function(library, "run", pointer, pointer, number, pointer, pointer)
        opened = _function(library, "open_model", pointer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, pointer)
        opened.restype = run.restype = ctypes.c_char_p
        model, session = our_onnx(checkpoint, precision), pointer()
        _raise(opened(base, model, len(model), threads, ctypes.byref(session)))

        def build(pixels: Pixels) -> Call:
            shape = (number * 3)(*pixels.shape)

            def function(source: Any, target: int) -> None:
                _raise(run(session, shape, checkpoint.config.n_classes, source, target))

            return _through_ctypes(checkpoint, len(pixels), function)

        return for_each_batch_size(build)

    return load


def _onnxruntime() -> tuple[ctypes.CDLL, int]:
    """onnxruntime_call.c, and where the installed wheel's library begins: the address of its OrtApiBase."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE"), *INCLUDES]
    include = next((place for place in places if place and Path(place, "onnxruntime_c_api.h").is_file()), None)
    if include is None:
        raise ImportError("no onnxruntime_c_api.h: run tools/onnxruntime_header.sh DIR, set ONNXRUNTIME_INCLUDE=DIR")
    found = sorted(Path(import_onnxruntime().__file__ or "").parent.glob("capi/libonnxruntime.so.*"))
    if not found:
        raise ImportError("the installed onnxruntime has no shared library")
    base = ctypes.CDLL(str(found[-1])).OrtGetApiBase
    base.restype = ctypes.c_void_p
    code = Path(__file__).with_name("onnxruntime_call.c").read_text(encoding="utf-8")
    return compiled(code, "-I", include), base()


def _raise(message: bytes | None) -> None:
    if message is not None:
        raise RuntimeError(message.decode())
