"""An onnxruntime session that runs the model: choose the provider, prove it, pixels to logits."""

import ctypes
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from edgelstm.config import DEFAULT_MODEL, RUNS_DIR, shipped_dir
from edgelstm.contract import INPUT_NAME, OUTPUT_NAME, Logits, ModelContract, Pixels, check_pixels
from edgelstm.errors import MissingDependencyError, ModelError, ProviderError
from edgelstm.onnx_file import check_operators, check_weights

MODEL_FILE = "model.onnx"
"""The exported model of a run folder."""
MAX_MODEL_BYTES = 32 * 2**20
"""Larger files are refused unread: onnxruntime takes up to five times the file. The shipped models are below 1 MB."""
MAX_BOUND_SIZES = 8
LSTM_OPERATORS = ("LSTM", "DynamicQuantizeLSTM")

Provider = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class SessionSettings:
    """onnxruntime session options that matter for a model of a few hundred kilobytes."""

    threads: int = 1
    """Intra-op threads. One is fastest for a few images at a time: waking a second costs more."""
    spinning: bool = False
    """Let idle threads burn a core while they wait. Off: the device has better uses for it."""
    chunk: int = 32
    """On the CPU a larger batch is run so many images at a time: beyond, the gates leave the core's cache."""


def import_onnxruntime() -> ModuleType:
    """onnxruntime with its telemetry and its console log off; MissingDependencyError if not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before the import
    try:
        import onnxruntime  # noqa: TID251 - the one place that imports it
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "cpu", "gpu", purpose="running a model") from error
    onnxruntime.set_default_logger_severity(4)  # what it would log, our errors say in one line
    module: ModuleType = onnxruntime
    return module


def find_model(name: str | os.PathLike[str], file: str = MODEL_FILE) -> Path:
    """The ONNX file that a user means: a file, a run folder (its ``file``), or the name of a shipped model.

    Raises ModelError if there is no such file or model.
    """
    path = Path(name)
    if path.is_dir() and (path / file).is_file():
        return path / file
    if path.exists() and not path.is_dir():
        return path
    shipped = shipped_dir() / f"{name}.onnx"
    if shipped.is_file() and os.sep not in str(name):
        return shipped
    names = sorted(file.name.removesuffix(".onnx") for file in shipped_dir().glob("*.onnx"))
    raise ModelError(
        f"no model {name}",
        found=f"a folder without {file}" if path.is_dir() else "no such file",
        expected=f"an .onnx file, a run folder, or a shipped model ({', '.join(names) or 'none here'})",
        fix="export one with `edgelstm export`",
    )


def checkpoint_beside(model: Path) -> Path:
    """Where the checkpoint of a model file is expected: base.safetensors for base.onnx and base.stream.int8.onnx."""
    name = model.name
    for suffix in (".onnx", ".int8", ".fp16", ".stream"):
        name = name.removesuffix(suffix)
    return model.with_name(name + ".safetensors")


def default_model() -> str:
    """The run of this folder, if it has been exported, else the shipped base model."""
    here = Path(RUNS_DIR) / DEFAULT_MODEL / MODEL_FILE
    return str(here) if here.is_file() else DEFAULT_MODEL


def read_model(name: str | os.PathLike[str], file: str = MODEL_FILE) -> bytes:
    """The bytes of a model file. Reading bytes means that no external data file is ever followed."""
    path = find_model(name, file)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a model", found="not a regular file", expected="an .onnx file")
        if not 0 < status.st_size <= MAX_MODEL_BYTES:
            raise ModelError(
                f"{path} is not a model", found=f"{status.st_size:,} bytes",
                expected=f"1 to {MAX_MODEL_BYTES:,}", fix="export it again",
            )  # fmt: skip
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}", found=error.strerror, fix="check its name and rights") from error


@dataclass(frozen=True)
class _Bound:
    """Buffers of one batch size that the session reads and writes in place."""

    pixels: Pixels
    logits: Logits
    binding: Any


class OrtRunner:
    """One model in one onnxruntime session, on a provider that is proven to run its LSTM.

    ``model`` is a path, a run folder, a shipped model's name, or the file's bytes. ``provider`` is
    ``cpu``; ``cuda``, which raises ProviderError unless every LSTM node is placed on CUDA; or
    ``auto``, CUDA if it can be had and else the CPU, with the reason in ``provider_note``. ``source`` is
    how errors call the model, ``name`` how reports call the runner. A file may hold only the operators that
    `edgelstm export` writes; bytes may hold any.

    Raises ModelError if the file is damaged or does not keep the contract.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        provider: Provider = "auto",
        settings: SessionSettings = SessionSettings(),
        name: str | None = None,
        source: str | None = None,
    ) -> None:
        self._ort = import_onnxruntime()
        self.source = source or ("the model" if isinstance(model, bytes) else str(find_model(model)))
        content = model if isinstance(model, bytes) else read_model(model)
        check_weights(content, self.source)
        if not isinstance(model, bytes):  # bytes are the caller's own: verify runs what torch exports
            check_operators(content, self.source)
        self.n_bytes = len(content)
        self._errors = onnxruntime_errors(self._ort)
        self.settings = settings
        self.provider_requested = provider
        self.provider_note: str | None = None
        """Why ``auto`` chose what it chose; None if the provider was named."""
        self.provider_used, self._session = self._open(content, provider)
        self.contract = self._checked_contract()
        self._bound: dict[int, _Bound] = {}
        self._lock = threading.Lock()  # the bound buffers serve one thread; another goes the unbound way
        self.name = name or f"onnxruntime {self.provider_used.upper()}"

    def logits(self, pixels: Pixels) -> Logits:
        """(B, rows, cols) uint8 -> (B, classes) float32.

        Raises ValueError for another shape or dtype, ModelError if the model's own shapes do not fit.
        """
        check_pixels(pixels, self.contract.config)
        if not len(pixels):  # onnxruntime's LSTM ends the whole process on an empty batch
            return np.empty((0, self.contract.config.n_classes), np.float32)
        try:
            if self.provider_used == "cuda":
                return self._logits_unbound(pixels)
            chunk = self.settings.chunk
            if len(pixels) <= chunk:
                return self._logits_on_cpu(pixels)
            parts = [self._logits_on_cpu(pixels[at : at + chunk]) for at in range(0, len(pixels), chunk)]
            return np.concatenate(parts)
        except self._errors as error:
            raise ModelError(
                f"{self.source} cannot be run", found=short_text(error), fix="export the checkpoint again"
            ) from error

    def _logits_unbound(self, pixels: Pixels) -> Logits:
        found: Logits = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0]
        return found

    def _logits_on_cpu(self, pixels: Pixels) -> Logits:
        if not self._lock.acquire(blocking=False):
            return self._logits_unbound(pixels)
        try:
            return self._logits_bound(pixels)
        finally:
            self._lock.release()

    def _logits_bound(self, pixels: Pixels) -> Logits:
        """The same through buffers that are bound once for each batch size: no feeds to look up each time."""
        bound = self._bound.get(len(pixels)) or self._bind(len(pixels))
        bound.pixels[:] = pixels
        self._session.run_with_iobinding(bound.binding)
        return bound.logits.copy()

    def _bind(self, batch_size: int) -> "_Bound":
        config, value = self.contract.config, self._ort.OrtValue.ortvalue_from_numpy
        pixels = np.zeros((batch_size, config.rows, config.cols), np.uint8)
        logits = np.empty((batch_size, config.n_classes), np.float32)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(INPUT_NAME, value(pixels))  # on the CPU an OrtValue shares NumPy's memory
        binding.bind_ortvalue_output(OUTPUT_NAME, value(logits))
        if len(self._bound) >= MAX_BOUND_SIZES:
            self._bound.clear()
        self._bound[batch_size] = _Bound(pixels, logits, binding)
        return self._bound[batch_size]

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node, in running order, after onnxruntime's own fusions."""
        return placed_nodes(self._session)

    def _open(self, content: bytes, provider: Provider) -> tuple[Literal["cpu", "cuda"], Any]:
        if provider == "cpu":
            return "cpu", self._session_on("cpu", content)
        problem = cuda_problem(self._ort)
        if problem is None:
            try:
                session = self._session_on("cuda", content)
            except ModelError as error:
                session = self._session_on("cpu", content)  # raises if it is the file's fault and not CUDA's
                problem = f"its session failed ({error.__cause__})"
            nodes = lstm_placement(session)
            if nodes and all(place == _PROVIDERS["cuda"] for place in nodes.values()):
                if provider == "auto":
                    self.provider_note = "provider cuda: the LSTM node is placed on CUDA"
                return "cuda", session
            places = ", ".join(f"{node} on {place}" for node, place in nodes.items()) or "no LSTM node"
            problem = f"{problem or f'onnxruntime placed {places}'}; {_cuda_library_problem(self._ort)}"
        if provider == "cuda":
            raise ProviderError(f"provider cuda cannot run this model: {problem}")
        self.provider_note = f"provider cpu: CUDA cannot be used ({problem.split(';')[0]})"
        return "cpu", self._session_on("cpu", content)

    def _session_on(self, provider: Literal["cpu", "cuda"], content: bytes) -> Any:
        try:
            return open_session(content, self.settings, provider)
        except self._errors as error:
            raise ModelError(
                f"{self.source} cannot be loaded as an ONNX model", found=short_text(error),
                expected="an undamaged file written by `edgelstm export`", fix="export it again",
            ) from error  # fmt: skip

    def _checked_contract(self) -> ModelContract:
        """The file's contract, held against what the session really takes and gives."""
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{self.source} has a damaged model contract", found="metadata that is no text", expected="UTF-8",
                fix="export the checkpoint again",
            ) from error  # fmt: skip
        contract = ModelContract.from_metadata(metadata, self.source)
        config = contract.config
        for what, values, expected in (
            ("input", inputs, (INPUT_NAME, "tensor(uint8)", [config.rows, config.cols])),
            ("output", outputs, (OUTPUT_NAME, "tensor(float)", [config.n_classes])),
        ):
            found = [(value.name, value.type, value.shape[1:]) for value in values]
            batched = all(value.shape and not isinstance(value.shape[0], int) for value in values)
            if found != [expected] or not batched:
                raise ModelError(
                    f"{self.source} breaks the model contract in its {what}",
                    found=[(value.name, value.type, value.shape) for value in values],
                    expected=(expected[0], expected[1], ["batch", *expected[2]]),
                    fix="export the checkpoint again",
                )
        return contract


def open_session(content: bytes, settings: SessionSettings, provider: Literal["cpu", "cuda"] = "cpu") -> Any:
    """An onnxruntime session with these settings; raises onnxruntime's own errors."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # a weight of any node that lies in another file is looked for where nothing can be
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    providers: list[Any] = [_PROVIDERS["cpu"]]
    if provider == "cuda":
        # TF32 keeps 10 of 23 mantissa bits: off, or CUDA's logits are not the CPU's
        providers.insert(0, (_PROVIDERS["cuda"], {"use_tf32": "0"}))
    # its own fallback to the CPU would print on stdout; ours is silent until it is asked
    return ort.InferenceSession(content, options, providers=providers, enable_fallback=0)


def lstm_placement(session: Any) -> dict[str, str]:
    """Node name -> execution provider of every LSTM node, as the session itself reports it.

    The session must have been made with ``session.record_ep_graph_assignment_info``.
    """
    return {
        node.name or node.op_type: provider
        for provider, node in _assigned_nodes(session)
        if node.op_type in LSTM_OPERATORS
    }


def placed_nodes(session: Any) -> list[tuple[str, str]]:
    """(operator, execution provider) of every node, in running order, as the session itself reports it."""
    return [(node.op_type, provider) for provider, node in _assigned_nodes(session)]


def _assigned_nodes(session: Any) -> list[tuple[str, Any]]:
    return [
        (subgraph.ep_name, node)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]


def cuda_problem(ort: ModuleType) -> str | None:
    """Why CUDA cannot be used on this machine and what to do, or None if it is worth trying."""
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        return (
            f"the installed onnxruntime {ort.__version__} is a build without CUDA; "
            'run pip uninstall onnxruntime, then pip install "edgelstm[gpu]"'
        )
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine; install the driver of your GPU, or use --provider cpu"
    ort.preload_dlls()  # finds CUDA and cuDNN in torch's or NVIDIA's wheels
    return None


def _cuda_library_problem(ort: ModuleType) -> str:
    """What the dynamic loader says of onnxruntime's CUDA library, and what to install."""
    library = Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return f'{short_text(error)}; run pip install "onnxruntime-gpu[cuda,cudnn]"'
    return "run `edgelstm doctor` for what is installed"


def onnxruntime_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Every exception class that onnxruntime raises; they have no common base of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    found: Callable[[str], Any] = lambda name: getattr(state, name)  # noqa: E731
    classes = [found(name) for name in dir(state) if isinstance(found(name), type)]
    return (*(kind for kind in classes if issubclass(kind, Exception)), RuntimeError, ValueError)


def short_text(error: Exception) -> str:
    """What onnxruntime says, without the codes before it, at most 300 characters."""
    text = " ".join(str(error).split()).split(" : ", 3)[-1]
    return text if len(text) < 300 else text[:297] + "..."
