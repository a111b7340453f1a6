"""The demo page as files: its own sources, a streaming model, and onnxruntime-web to run it in the browser."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgelstm import __version__
from edgelstm.config import cache_dir
from edgelstm.contract import ModelContract
from edgelstm.data.npm import package_files
from edgelstm.errors import DataError, EdgeLstmError, OutputError
from edgelstm.files import sha256_of, write_bytes
from edgelstm.onnx_file import check_weights, read_metadata

PACKAGE = "onnxruntime-web@1.30.0"
"""The npm package, fetched once: its WebAssembly is larger than everything else of edgelstm together."""
WEB = Path(__file__).with_name("static")
"""The page's own sources."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Nothing from elsewhere, and nothing to elsewhere. Compiling WebAssembly needs its own word."""
MODEL_FILE, ABOUT_FILE = "model.onnx", "model.json"

Report = Callable[[str], None]
"""Called with a line of progress for the user."""


@dataclass(frozen=True)
class RuntimeFile:
    """A file of onnxruntime-web, and how to know it is undamaged."""

    name: str
    """In the package's folder ``dist``."""
    page_name: str
    """In the page's folder: not every web server knows what .mjs is, and browsers run no script of unknown type."""
    n_bytes: int
    sha256: str


RUNTIME_FILES = (
    RuntimeFile(
        "ort.wasm.bundle.min.mjs", "ort.wasm.bundle.min.js", 73_054,
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    RuntimeFile(
        "ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.wasm", 14_239_897,
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
)  # fmt: skip
"""Its smallest build: WebAssembly on the CPU, without WebGL, WebGPU and WebNN. It has LSTM and DynamicQuantizeLSTM."""


@dataclass(frozen=True)
class Site:
    """The whole page: relative address -> content. There is nothing else to serve."""

    files: dict[str, bytes]

    def sizes(self) -> dict[str, int]:
        """Bytes of each part: the page's own files, the model, and each file of onnxruntime-web."""
        runtime = {file.page_name for file in RUNTIME_FILES}
        parts = {"page": 0, "model": 0, **dict.fromkeys(sorted(runtime), 0)}
        for name, content in self.files.items():
            part = name if name in runtime else "model" if name in (MODEL_FILE, ABOUT_FILE) else "page"
            parts[part] += len(content)
        return parts


def build_site(model: bytes, source: str, runtime: dict[str, bytes]) -> Site:
    """The page with a streaming ``model`` and the ``runtime`` that ``ensure_runtime`` gave.

    ``source`` names the model in errors. Raises ModelError if it is damaged or is no streaming model.
    """
    files = {path.relative_to(WEB).as_posix(): path.read_bytes() for path in WEB.rglob("*.*") if path.is_file()}
    page = files["index.html"].decode()
    files["index.html"] = page.replace("{{csp}}", CONTENT_SECURITY_POLICY).encode()
    about = json.dumps(_about(model, source), indent=2).encode()
    return Site({**files, MODEL_FILE: model, ABOUT_FILE: about, **runtime})


def _about(model: bytes, source: str) -> dict[str, object]:
    """What the page has to know of its model: the browser's runtime does not show a file's metadata."""
    check_weights(model, source)
    contract = ModelContract.from_metadata(read_metadata(model), source, kind="stream")
    return {
        "edgelstm": __version__,
        "name": contract.name,
        "precision": contract.precision,
        "config": asdict(contract.config),
        "temperature": contract.temperature,
        "n_parameters": contract.config.n_parameters,
        "n_bytes": len(model),
        "sha256": sha256_of(model),
        "test": asdict(contract.test) if contract.test else None,
        "early": asdict(contract.early) if contract.early else None,
    }


def export_site(site: Site, folder: Path) -> None:
    """Write the page as static files for any web server; each whole or not at all.

    Raises OutputError if ``folder`` cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write the page into {folder}", found="a file", fix="choose another folder")
    for name, content in site.files.items():
        write_bytes(folder / name, content)


def ensure_runtime(folder: Path | None = None, report: Report = lambda line: None) -> dict[str, bytes]:
    """onnxruntime-web's files under their names in the page, out of the cache folder, fetched if not there.

    Raises DataError if npm cannot fetch them; OutputError if the folder cannot be written.
    """
    folder = folder or cache_dir() / PACKAGE.replace("@", "-")
    try:
        found = {file: (folder / file.name).read_bytes() for file in RUNTIME_FILES}
        if all(_is_whole(file, content) for file, content in found.items()):
            return {file.page_name: content for file, content in found.items()}
    except OSError:
        pass  # not there, or not to be read: fetched anew
    report(f"fetching {PACKAGE} (33 MB, once) from the npm registry into {folder}")
    fetched = _fetch_runtime(folder)
    report("checksums right; from now on no network is needed")
    return fetched


def _fetch_runtime(folder: Path) -> dict[str, bytes]:
    fetched = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
            contents = package_files(PACKAGE, [f"dist/{file.name}" for file in RUNTIME_FILES], Path(work))
            for file, content in zip(RUNTIME_FILES, contents, strict=True):
                if not _is_whole(file, content):
                    raise DataError(
                        f"the fetched {file.name} is not the original",
                        found=f"{len(content):,} bytes, sha256 {sha256_of(content)}", expected=file.sha256,
                    )  # fmt: skip
                write_bytes(folder / file.name, content)
                fetched[file.page_name] = content
    except OutputError:
        raise
    except EdgeLstmError as error:
        names = " and ".join(file.name for file in RUNTIME_FILES)
        raise DataError(
            f"onnxruntime-web could not be fetched ({error})",
            fix=f"install Node.js, which brings npm, and be online once; or put {names} out of the folder dist of "
            f"the npm package {PACKAGE} into {folder}",
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write onnxruntime-web into {folder}", found=error.strerror or str(error),
            fix="free some space, or choose another cache folder with the variable XDG_CACHE_HOME",
        ) from error  # fmt: skip
    return fetched


def _is_whole(file: RuntimeFile, content: bytes) -> bool:
    return len(content) == file.n_bytes and sha256_of(content) == file.sha256
