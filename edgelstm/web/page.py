"""The demo page as files: its own sources, a model, and onnxruntime-web to run it in the browser."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from edgelstm.config import cache_dir
from edgelstm.data.npm import PinnedFile, Report, cached_files
from edgelstm.errors import ModelError, OutputError
from edgelstm.files import write_bytes
from edgelstm.onnx_file import ModelFile
from edgelstm.runtime.stream import stateful_form

PACKAGE = "onnxruntime-web@1.30.0"
"""The npm package, fetched once: its WebAssembly is larger than everything else of edgelstm together."""
RUNTIME_FILES = (
    PinnedFile(
        "ort.wasm.bundle.min.mjs", "dist/ort.wasm.bundle.min.mjs", 73_054,
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    PinnedFile(
        "ort-wasm-simd-threaded.wasm", "dist/ort-wasm-simd-threaded.wasm", 14_239_897,
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
)  # fmt: skip
"""Its smallest build: WebAssembly on the CPU, without WebGL, WebGPU and WebNN. It has LSTM and DynamicQuantizeLSTM."""
SOURCES = Path(__file__).with_name("static")
"""The page's own files."""
ROWS, COLS = 28, 28
"""Pixels of a drawn digit, as in MNIST."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Nothing from elsewhere, and nothing to elsewhere. Compiling WebAssembly needs its own word."""


def build_page(model: ModelFile) -> dict[str, bytes]:
    """The page with any exported ``model``, relative address -> content; what ``ensure_runtime`` gives comes beside it.

    Raises ModelError if the model does not read pictures of digits of 28x28 pixels.
    """
    config = model.contract.config
    if (config.rows, config.cols, config.preparation) != (ROWS, COLS, "digit"):
        kind = {"digit": "pixels", "plain": "pixels as they are", "values": "values"}[config.preparation]
        found = f"a model of {config.rows}x{config.cols} {kind}"
        expected = f"a picture model of {ROWS}x{COLS} pixels, prepared as digits"
        raise ModelError(
            f"{model.source} cannot read what is drawn on the page", found=found, expected=expected,
            fix="choose another with --model",
        )  # fmt: skip
    files = {path.name: path.read_bytes() for path in SOURCES.iterdir()}
    files["index.html"] = files["index.html"].replace(b"{{csp}}", CONTENT_SECURITY_POLICY.encode())
    content = stateful_form(model)
    # the browser's runtime does not show a file's metadata
    about = {**asdict(model.contract), "n_parameters": config.n_parameters, "n_bytes": len(content)}
    return {**files, "model.onnx": content, "model.json": json.dumps(about, indent=2, allow_nan=False).encode()}


def export_page(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the page for any web server; each file whole or not at all.

    Raises OutputError if ``folder`` cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write the page into {folder}", found="a file", fix="choose another folder")
    for name, content in files.items():
        write_bytes(folder / name, content)


def ensure_runtime(folder: Path | None = None, report: Report = lambda line: None) -> dict[str, bytes]:
    """onnxruntime-web's files under their names in the page, out of the cache folder, fetched if not there.

    Raises DataError if npm cannot fetch them; OutputError if the folder cannot be written.
    """
    folder = folder or cache_dir() / PACKAGE.replace("@", "-")
    found = cached_files(PACKAGE, RUNTIME_FILES, folder, report)
    # .js: not every web server knows what .mjs is, and browsers run no script of unknown type
    return {name.replace(".mjs", ".js"): content for name, content in found.items()}
