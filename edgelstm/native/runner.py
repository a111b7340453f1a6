"""The generated C compiled for this machine, kept in the cache folder, and called: whole sequences and streams."""

import ctypes
import os
import shlex
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from edgelstm.config import cache_dir
from edgelstm.contract import Array, Lengths, Logits, Sequences, check_sequences
from edgelstm.errors import OutputError, ProviderError, printable
from edgelstm.files import replacing, sha256_of
from edgelstm.onnx_file import ModelFile, ModelSource, open_model

if TYPE_CHECKING:
    from edgelstm.native.scheme import Precision

CProvider = Literal["c", "c-int8"]
"""The C engine in the precision of the file (fp16 as fp32), or in int8, whatever the file holds."""
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fno-tree-vectorize", "-fPIC", "-shared")
COMPILE_SECONDS = 600
_DIGEST_BYTES = 32
_UINT8 = np.dtype(np.uint8)

# what Python calls: a batch, and steps of many streams
_CALLS = """
void engine_run(const @KIND@ *x, const int32_t *lengths, ptrdiff_t n, ptrdiff_t rows, float *logits);
void engine_run(const @KIND@ *x, const int32_t *lengths, ptrdiff_t n, ptrdiff_t rows, float *logits) {
  ptrdiff_t i;
  for (i = 0; i < n; i++)
    engine_classify(x + i * rows * ENGINE_COLS@LENGTH@, logits + i * ENGINE_CLASSES);
  (void)lengths;
}

void engine_steps(engine_state *states, const int64_t *which, ptrdiff_t n, ptrdiff_t steps, const @KIND@ *rows,
                  float *logits);
void engine_steps(engine_state *states, const int64_t *which, ptrdiff_t n, ptrdiff_t steps, const @KIND@ *rows,
                  float *logits) {
  ptrdiff_t i, step;
  for (i = 0; i < n; i++) {
    for (step = 0; step < steps; step++, rows += ENGINE_ROWS_PER_STEP * ENGINE_COLS)
      engine_push(states + which[i], rows);
    engine_logits(states + which[i], logits + i * ENGINE_CLASSES);
  }
}
"""


def c_precision(file: ModelFile, provider: CProvider) -> "Precision":
    """What the C engine computes in for this file."""
    return "int8" if provider == "c-int8" or file.contract.precision == "int8" else "fp32"


def c_constant_bytes(file: ModelFile, provider: CProvider) -> int:
    """Bytes of what the C engine keeps of this model."""
    from edgelstm.native.generate import constant_bytes
    from edgelstm.native.scheme import scheme_of

    return constant_bytes(scheme_of(file, c_precision(file, provider)))


class CRunner:
    """A model as C behind the Runner protocol, compiled on first use: no onnxruntime, one thread.

    ``model`` is what `open_model` takes. No answer depends on the others of its batch. May be called from several
    threads at once. Raises ModelError if the model cannot be C, ProviderError if it cannot be compiled here.
    """

    provider_note = None

    def __init__(self, model: ModelSource, *, provider: CProvider = "c", source: str | None = None) -> None:
        file = open_model(model, source)
        self.contract, self.source, self.n_bytes = file.contract, file.source, file.n_bytes
        self.precision = c_precision(file, provider)
        self.provider_requested = self.provider_used = provider
        self.name = f"C {self.precision}"
        self._config = file.contract.config
        library = load(file, self.precision)
        self._run, self._classify = library.engine_run, library.engine_classify
        self._found = np.empty((1, self._config.n_classes), np.float32)
        self._found_at = ctypes.c_void_p(_address(self._found))
        config = self._config
        self._one_picture = None if config.is_values else (1, config.rows, config.cols)
        self._lock = threading.Lock()  # the buffer serves one thread; another goes the other way

    def __repr__(self) -> str:
        return f"CRunner({self.source!r}, provider={self.provider_used!r})"

    def logits(self, sequences: Sequences, lengths: Lengths | None = None) -> Logits:
        """(B, rows, cols) uint8 or float32, and (B,) int32 where lengths differ -> (B, classes) float32.

        Raises ValueError for another shape or dtype or a value before a sequence's end that is not finite.
        """
        # one picture first, with as few looks as can be: each takes a part of the time of a small model
        if (
            sequences.__class__ is np.ndarray and sequences.shape == self._one_picture
            and sequences.dtype is _UINT8 and lengths is None and self._lock.acquire(False)
        ):  # fmt: skip
            try:
                self._classify(sequences.tobytes(), self._found_at)
                return self._found.copy()
            finally:
                self._lock.release()
        sequences, lengths = check_sequences(sequences, self._config, lengths)
        n, rows = sequences.shape[:2]
        if n == 1 and self._lock.acquire(False):
            try:  # to look up an array's address takes longer than to copy it
                length = () if lengths is None else (int(lengths[0]),)
                self._classify(sequences.tobytes(), *length, self._found_at)
                return self._found.copy()
            finally:
                self._lock.release()
        sequences = np.ascontiguousarray(sequences)
        logits = np.empty((n, self._config.n_classes), np.float32)
        ends = None if lengths is None else np.ascontiguousarray(lengths)
        self._run(_address(sequences), None if ends is None else _address(ends), n, rows, _address(logits))
        return logits

    def nodes(self) -> list[tuple[str, str]]:
        """(operator, execution provider): it has one, of its own."""
        return [(f"C {self.precision}", self.provider_used)]


class CSteps:
    """Streams side by side through the C engine: each with its state, in plain memory."""

    def __init__(self, file: ModelFile, n: int, provider: CProvider) -> None:
        from edgelstm.native.generate import padded

        config, self.precision = file.contract.config, c_precision(file, provider)
        self._config = config
        units = (config.n_layers, padded(config.hidden_size))
        h = np.int8 if self.precision == "int8" else np.float32
        self._states = np.zeros(n, np.dtype([("c", np.float32, units), ("h", h, units)]))
        self._all = np.arange(n)
        self._call = load(file, self.precision).engine_steps

    @property
    def arrays(self) -> list[Array]:
        """h and c of all streams, (n, layers, units padded to a multiple of four): the state itself."""
        return [self._states["h"], self._states["c"]]

    def push(self, rows: Sequences, chosen: npt.NDArray[np.int64] | None = None) -> Logits:
        """(n, rows, cols), of all streams or of those chosen -> (n, classes)."""
        which = self._all if chosen is None else np.ascontiguousarray(chosen)
        rows = np.ascontiguousarray(rows)
        logits = np.empty((len(which), self._config.n_classes), np.float32)
        n_steps = rows.shape[1] // self._config.rows_per_step
        self._call(_address(self._states), _address(which), len(which), n_steps, _address(rows), _address(logits))
        return logits

    def reset(self, which: slice | int | npt.NDArray[np.int64]) -> None:
        """Begin anew."""
        for array in self.arrays:
            array[which] = 0

    def nodes(self) -> list[tuple[str, str]]:
        """As CRunner's."""
        return [(f"C {self.precision}", "c")]


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


# --- compile and load -------------------------------------------------------------------------------


def load(file: ModelFile, precision: "Precision") -> ctypes.CDLL:
    """The library of a model, from the cache folder, or compiled into it.

    Raises ModelError if the model cannot be C; ProviderError without a compiler, if it fails, or if what it makes
    gives other bits than it must, or the cache folder cannot be written.
    """
    compiler = find_compiler()
    target = (
        cache_dir() / "native" / f"{_key(file, precision, compiler)}{'.dylib' if sys.platform == 'darwin' else '.so'}"
    )
    if not _is_whole(target):
        try:
            _compile(file, precision, compiler, target)
        except OutputError as error:
            fix = "set XDG_CACHE_HOME to a folder that can be written"
            raise ProviderError(
                "the compiled model cannot be kept", found=error.__cause__ or error.what, fix=fix
            ) from error
    try:
        library = ctypes.CDLL(str(target))
    except OSError as error:
        fix = f"remove {printable(target, 4096)}, or set XDG_CACHE_HOME to a folder from which programs may be run"
        raise ProviderError("the compiled model cannot be loaded", found=error, fix=fix) from error
    if not hasattr(library, "engine_self_test") or library.engine_self_test() != 1:
        fix = "set CC to another compiler, without -ffast-math and -ffp-contract"
        raise ProviderError(f"{shlex.join(compiler)} makes C that gives other bits than it must", fix=fix)
    address, size = ctypes.c_void_p, ctypes.c_ssize_t
    library.engine_run.argtypes = [address, address, size, size, address]
    n_rows = [ctypes.c_int] if file.contract.config.variable_length else []
    library.engine_classify.argtypes = [address, *n_rows, address]
    library.engine_steps.argtypes = [address, address, size, size, address, address]
    library.engine_run.restype = library.engine_steps.restype = None
    return library


def find_compiler() -> list[str]:
    """The C compiler with its own arguments: CC, or the first of cc, gcc and clang. Raises ProviderError if none."""
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        given, fix = f"CC={printable(os.environ['CC'])}", "write it as a shell would read it"
        raise ProviderError(f"provider c needs a C compiler: {error}", found=given, fix=fix) from error
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    found_text = f"CC={printable(os.environ['CC'])}, which is no program" if chosen else "none of cc, gcc and clang"
    raise ProviderError(
        "provider c needs a C compiler", found=found_text,
        fix="install gcc or clang (Debian: apt-get install gcc libc6-dev), or use --provider cpu",
    )  # fmt: skip


def _key(file: ModelFile, precision: "Precision", compiler: list[str]) -> str:
    """Of the model, all that generates and compiles it, and the processor that it is compiled for."""
    here = Path(__file__).parent
    program = os.stat(compiler[0])
    parts = [
        sha256_of(file.content), precision, *(sha256_of(path.read_bytes()) for path in sorted(here.glob("*.[hp]*"))),
        *compiler, str(program.st_size), str(program.st_mtime_ns), *FLAGS, _machine(), _processor(),
    ]  # fmt: skip
    return sha256_of("\n".join(parts).encode())


def _processor() -> str:
    """What -march=native depends on: a cache folder may be shared by unlike machines."""
    try:  # its instruction sets, as the kernel tells them to udev
        return Path("/sys/devices/system/cpu/modalias").read_text(encoding="utf-8")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        import platform

        return platform.processor()
    kept = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part", "isa")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(kept)))


def _machine() -> str:
    return os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")


def _is_whole(library: Path) -> bool:
    """Whether it is there as it was written: the digest of what stands before it ends the file."""
    import hashlib

    try:
        content = library.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def _compile(file: ModelFile, precision: "Precision", compiler: list[str], target: Path) -> None:
    import hashlib
    import subprocess
    import tempfile

    from edgelstm.native.generate import c_source
    from edgelstm.native.scheme import scheme_of

    text = c_source(scheme_of(file, precision), file.contract, name="engine", model_sha256=sha256_of(file.content)).code
    kind = "float" if file.contract.config.is_values else "uint8_t"
    length = ", lengths[i]" if file.contract.config.variable_length else ""
    text += _CALLS.replace("@KIND@", kind).replace("@LENGTH@", length)
    with replacing(target) as whole, tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "engine.c", Path(folder) / "engine.so"
        source.write_text(text, encoding="utf-8")
        native = "-mcpu=native" if _machine() in ("aarch64", "arm64") else "-march=native"
        for flags in ((*FLAGS, native), FLAGS):  # not every compiler knows the machine it runs on
            command = [*compiler, *flags, "-o", str(library), "-x", "c", str(source)]  # also by a C++ compiler
            try:
                done = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ProviderError(f"{compiler[0]} cannot compile the model", found=error) from error
            if done.returncode == 0 and library.is_file():
                break
        else:
            said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
            wrong = next((line for line in said if "error" in line), said[0])
            raise ProviderError(
                f"{compiler[0]} cannot compile the model", found=printable(wrong.removeprefix(f"{source}:")),
                fix="set CC to another C99 compiler, or use --provider cpu",
            )  # fmt: skip
        content = library.read_bytes()
        whole.write_bytes(content + hashlib.sha256(content).digest())
