"""An onnxruntime session: its settings, on a provider that is proven to run the LSTM, with buffers bound once."""

import ctypes
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgelstm.errors import MissingDependencyError, ModelError, ProviderError

LSTM_OPERATORS = ("LSTM", "DynamicQuantizeLSTM")
MAX_BOUND_SHAPES = 32
"""Input shapes whose buffers are kept; a caller with ever other batch sizes shall not fill the memory."""

Provider = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
Arrays = Mapping[str, npt.NDArray[Any]]


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


class BoundSession:
    """One ONNX file in one session, on a provider that is proven to run its LSTM.

    ``provider`` is ``cpu``; ``cuda``, which raises ProviderError unless every LSTM node is placed on CUDA; or
    ``auto``, CUDA if it can be had and else the CPU. ``provider_note`` says why, where that is news: an NVIDIA GPU
    was found and used, or could not be. Raises ValueError for another provider, ModelError if the file cannot be
    loaded. ``source`` is how errors call the model.
    """

    def __init__(self, content: bytes, provider: Provider, settings: SessionSettings, source: str) -> None:
        if provider not in get_args(Provider):
            raise ValueError(f"provider: found {provider!r}, expected one of {', '.join(get_args(Provider))}")
        self._ort = import_onnxruntime()
        self.errors = onnxruntime_errors(self._ort)
        """What onnxruntime raises."""
        self._settings, self._source = settings, source
        self.provider_note: str | None = None
        self.provider_used, self._session = self._open(content, provider)
        self._bound: OrderedDict[Hashable, tuple[Arrays, Arrays, Callable[[], None]]] = OrderedDict()
        self._lock = threading.Lock()  # the bound buffers serve one thread; another goes the unbound way

    def run(self, feeds: Arrays, outputs: Mapping[str, tuple[int, ...]], key: Hashable = None) -> Arrays:
        """Run on ``feeds``; ``outputs`` are the float32 outputs that are wanted, with their shapes.

        ``key`` tells the shapes apart, where the caller has something shorter than all of them.

        On the CPU through buffers that are bound once for each set of shapes, so that nothing is looked up and
        nothing allocated inside: a small model's call takes half the time. What comes back is the caller's own.
        """
        try:
            if self.provider_used == "cpu" and self._lock.acquire(blocking=False):
                try:
                    return self._run_bound(feeds, outputs, key)
                finally:
                    self._lock.release()
            return dict(zip(outputs, self._session.run([*outputs], dict(feeds)), strict=True))
        except self.errors as error:
            raise self.cannot_run(error) from error

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A call that reads and writes exactly these arrays, which the caller keeps; CPU only. It raises ``errors``."""
        binding = self._session.io_binding()
        value = self._ort.OrtValue.ortvalue_from_numpy  # on the CPU an OrtValue shares NumPy's memory
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, value(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, value(array))
        return partial(self._session.run_with_iobinding, binding)

    def cannot_run(self, error: Exception) -> ModelError:
        """What one of ``errors`` means to the user."""
        return ModelError(f"{self._source} cannot be run", found=short_text(error), fix="export the checkpoint again")

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider) of every node, in running order, after onnxruntime's own fusions."""
        return [(node.op_type, provider) for provider, node in _assigned_nodes(self._session)]

    def _run_bound(self, feeds: Arrays, outputs: Mapping[str, tuple[int, ...]], key: Hashable) -> Arrays:
        key = key or tuple([(name, array.shape) for name, array in feeds.items()])
        if (bound := self._bound.get(key)) is None:
            if len(self._bound) >= MAX_BOUND_SHAPES:
                self._bound.popitem(last=False)
            own: Arrays = {name: np.zeros(array.shape, array.dtype) for name, array in feeds.items()}
            found: Arrays = {name: np.empty(shape, np.float32) for name, shape in outputs.items()}
            bound = self._bound[key] = own, found, self.bind(own, found)
        inputs, results, call = bound
        for name, array in feeds.items():
            inputs[name][...] = array
        call()
        return {name: array.copy() for name, array in results.items()}

    def _open(self, content: bytes, provider: Provider) -> tuple[Literal["cpu", "cuda"], Any]:
        if provider == "cpu":
            return "cpu", self._session_on("cpu", content)
        problem, has_gpu = cuda_problem(self._ort), has_nvidia_driver()
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
        if has_gpu:  # without one, that the CPU runs it is no news
            self.provider_note = f"provider cpu: CUDA cannot be used ({problem.split(';')[0]})"
        return "cpu", self._session_on("cpu", content)

    def _session_on(self, provider: Literal["cpu", "cuda"], content: bytes) -> Any:
        try:
            return open_session(content, self._settings, provider)
        except self.errors as error:
            raise ModelError(
                f"{self._source} cannot be loaded as an ONNX model", found=short_text(error),
                expected="an undamaged file written by `edgelstm export`", fix="export it again",
            ) from error  # fmt: skip


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
    # its own fallback to the CPU would print on stdout
    return ort.InferenceSession(content, options, providers=providers, enable_fallback=0)


def lstm_placement(session: Any) -> dict[str, str]:
    """Node name -> execution provider of every LSTM node, as the session itself reports it.

    The session must have been made with ``session.record_ep_graph_assignment_info``.
    """
    lstms = [(place, node) for place, node in _assigned_nodes(session) if node.op_type in LSTM_OPERATORS]
    return {node.name or node.op_type: place for place, node in lstms}


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
    if not has_nvidia_driver():
        return "no NVIDIA driver on this machine; install the driver of your GPU, or use --provider cpu"
    ort.preload_dlls()  # finds CUDA and cuDNN in torch's or NVIDIA's wheels
    return None


def has_nvidia_driver() -> bool:
    """Whether the library of an NVIDIA driver can be loaded: without it there is no GPU to speak of."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


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
    classes = [kind for kind in vars(ort.capi.onnxruntime_pybind11_state).values() if isinstance(kind, type)]
    return (*(kind for kind in classes if issubclass(kind, Exception)), RuntimeError, ValueError)


def short_text(error: Exception) -> str:
    """What onnxruntime says, without the codes before it, at most 300 characters."""
    text = " ".join(str(error).split()).split(" : ", 3)[-1]
    return text if len(text) < 300 else text[:297] + "..."
