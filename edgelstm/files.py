"""Write beside the target, then rename: a failed write leaves the old file as it was."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelstm.errors import OutputError


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it takes the target's name.

    The folder is made if missing. If the block raises, the temporary file is removed and an
    existing target is untouched. Raises OutputError if the folder or the file cannot be written.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise OutputError(
                f"cannot write {target}", found="a folder", expected="a file name", fix="choose another -o"
            )
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
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


def check_writable(folder: Path) -> None:
    """Make the folder if it is missing; raise OutputError if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _output_error(folder, error) from error


def sha256_of(content: bytes) -> str:
    """The sha256 of the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _output_error(target: Path, error: OSError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if isinstance(error, FileExistsError | NotADirectoryError):
        return OutputError(
            f"cannot write {target}", found="a file in place of one of its folders", fix="choose another -o"
        )
    return OutputError(
        f"cannot write {target}",
        found=error.strerror or type(error).__name__,
        fix="free some space or choose a folder that can be written",
    )
