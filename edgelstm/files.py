"""Write beside the target, then rename: a failed write leaves the old file as it was."""

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from edgelstm.errors import EdgeLstmError, OutputError, printable

_PART = ".part"
"""How a file ends that is not whole yet."""


def read_bounded(
    path: str | os.PathLike[str], max_bytes: int, what: str, error: type[EdgeLstmError] = EdgeLstmError
) -> bytes:
    """The content of a regular file of at most ``max_bytes``; never waits for a pipe, never reads a device without end.

    ``what`` names the kind of file in the message ("an ONNX model"). Raises ``error``.
    """
    name = printable(path, 4096)  # of a path, all
    try:
        _check_size(os.stat(path), name, max_bytes, what, error)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as stream:
            status = os.fstat(handle)
            _check_size(status, name, max_bytes, what, error)  # it may have been swapped in between
            # its size and one byte more: to ask for the largest at once makes room for it every time
            content = stream.read(min(status.st_size, max_bytes) + 1)
    except FileNotFoundError:
        raise error(f"no file {name}", fix="check its name") from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, EdgeLstmError):
            raise
        reason = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
        raise error(f"cannot read {name}", found=reason, fix="check its name and rights") from problem
    if len(content) > max_bytes:
        raise error(f"{name} is not {what}", found="a file that grows", expected=f"at most {max_bytes:,} bytes")
    return content


def _check_size(status: os.stat_result, name: str, max_bytes: int, what: str, error: type[EdgeLstmError]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{name} is not {what}", found=_kind(status), expected="a file")
    if not 0 < status.st_size <= max_bytes:
        found = f"{status.st_size:,} bytes" if status.st_size else "an empty file"
        raise error(f"{name} is not {what}", found=found, expected=f"1 to {max_bytes:,} bytes")


def _kind(status: os.stat_result) -> str:
    return "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it takes the target's name.

    The folder is made if missing. If the block raises, the temporary file is removed and an existing target is
    untouched. A symbolic link is followed: the file that it names is replaced. Raises OutputError if the folder
    or the file cannot be written, or if the target is a folder, a device or anything else but a file.
    """
    import tempfile  # with its five modules, only where something is written: infer starts faster

    target = Path(target)
    try:
        if target.is_symlink():
            target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            status = target.stat()
            if not stat.S_ISREG(status.st_mode):  # to rename over a device would put a file in its place
                raise _cannot_write(target, _kind(status), "choose another -o", expected="a file name")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_PART, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise _output_error(target, error) from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes the file private; give it ordinary rights
        os.replace(temporary, target)
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: str | os.PathLike[str], content: bytes) -> None:
    """Write the whole file or nothing, and have it on disk before it gets its name."""
    with replacing(target) as temporary, open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed writes of these files left in ``folder``; call it only where nobody else writes them."""
    ours = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[a-z0-9_]{{8}}{re.escape(_PART)}")
    for path in folder.glob(f".*{_PART}"):
        if ours.fullmatch(path.name):
            path.unlink(missing_ok=True)


class FolderLock:
    """Keeps other processes that ask for it out of a folder until ``close`` or the end of the process, by kill too.

    The folder itself is locked, so that no lock file is left. Raises OutputError if another process holds it.
    On Windows, and in file systems without such locks, nothing is locked.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        """``holder`` is said of the other process: "another training writes into"."""
        self._handle: int | None = None
        if sys.platform == "win32":
            return
        try:
            self._handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            fix = "wait for it to end, stop it, or choose another folder with -o"
            raise OutputError(f"{holder} {folder}", fix=fix) from None
        except OSError:
            self.close()

    def close(self) -> None:
        """Let others in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()


def check_writable(folder: Path) -> None:
    """Make the folder if it is missing; raise OutputError if no file can be written there."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _output_error(folder, error) from error


def sha256_of(content: bytes) -> str:
    """The sha256 of the bytes, as 64 hexadecimal digits."""
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _output_error(target: Path, error: OSError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if isinstance(error, FileExistsError | NotADirectoryError):
        return _cannot_write(target, "a file in place of one of its folders", "choose another -o")
    found = error.strerror or type(error).__name__
    return _cannot_write(target, found, "free some space or choose a folder that can be written")


def _cannot_write(target: Path, found: str, fix: str, expected: str | None = None) -> OutputError:
    return OutputError(f"cannot write {target}", found=found, expected=expected, fix=fix)
