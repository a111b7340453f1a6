"""Tests of edgelstm score --engine ray: the rows of the local engine, whatever actor or node is lost on the way."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import process, started
from PIL import Image
from scored import DEADLY, children, files, rows

import edgelstm

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "edgelstm[score]"')
pytest.importorskip("ray", reason='needs Ray: pip install "edgelstm[ray]"', exc_type=ImportError)
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours

TIMEOUT_S = 300


@pytest.fixture
def here(monkeypatch, tmp_path, sample):
    """A folder with pictures, a bad one, and a list of 1,500 of them."""
    (tmp_path / "here" / "p").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for i, image in enumerate(sample.sequences[:5]):
        Image.fromarray(image).save(f"p/{i}.png")
    Path("p/text.png").write_text("no picture")
    a_list()
    return tmp_path / "here"


def a_list(deadly=(), n=1500):
    names = [f"p/{i % 5}.png" if i % 9 else "p/text.png" for i in range(n)]
    for at in deadly:
        names[at] = "deadly.png"
    Path("list.txt").write_text("\n".join(names))
    return names


def scored(model, output, *options):
    done = process("score", "list.txt", "-o", output, "--model", model, *options, flags=("-m", "edgelstm"))
    assert done.returncode == 1, done.stderr  # some cannot be read
    return done


def wait_for(condition):
    for _ in range(TIMEOUT_S * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_ray_writes_the_bytes_of_the_local_engine_says_nothing_of_its_own_and_leaves_nothing(here, tiny, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="t") as folder, monkeypatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        done = scored(tiny, "ray", "--engine", "ray")
        left = os.listdir(folder)
    scored(tiny, "local")
    assert files(here / "local") == files(here / "ray")
    assert [line for line in done.stderr.splitlines() if not line.startswith(("scored ", "model "))] == []
    assert [] == left
    assert scored(tiny, "ray", "--engine", "local").stdout.count("1,500 of them by earlier runs") == 1


def test_an_actor_that_dies_costs_the_input_that_did_it(here, tiny, monkeypatch):
    (here / "sitecustomize.py").write_text(DEADLY)
    names = a_list(deadly=(7, 1499))
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{Path(edgelstm.__file__).parents[1]}")
    command = [sys.executable, "-m", "edgelstm", "score", "list.txt", "--model", tiny]
    for engine in ("ray", "local"):
        done = subprocess.run(
            [*command, "-o", engine, "--engine", engine], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 1, done.stderr
    found = rows(here / "ray")
    assert names == [row["path"] for row in found]
    assert [7, 1499] == [at for at, row in enumerate(found) if "a process that ended" in (row["error"] or "")]
    assert files(here / "local") == files(here / "ray")


def test_a_driver_that_is_killed_takes_its_cluster_with_it_and_the_job_goes_on(here, tiny):
    command = ["score", "list.txt", "-o", "out", "--model", tiny, "--engine", "ray"]
    with started(*command, flags=("-m", "edgelstm"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        wait_for(lambda: [*Path("out").glob("part-*.parquet")])
        theirs = children(one.pid)
        one.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in theirs))
    scored(tiny, "out", "--engine", "ray")
    scored(tiny, "local")
    assert files(here / "local") == files(here / "out")


def test_a_node_that_is_lost_costs_no_input(here, tiny, monkeypatch):
    """A head without cores and two nodes of one core on this machine; one is killed in the middle."""
    from ray.cluster_utils import Cluster

    names = a_list(n=4000)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        options = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
        cluster = Cluster(True, head_node_args={"num_cpus": 0, **options})
        try:
            nodes = [cluster.add_node(num_cpus=1, **options) for _ in range(2)]
            cluster.wait_for_nodes()
            command = ["score", "list.txt", "-o", "out", "--model", tiny, "--engine", "ray"]
            with started(
                *command, "--address", cluster.address, flags=("-m", "edgelstm"), stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            ) as one:  # fmt: skip
                wait_for(lambda: len([*Path("out").glob("part-*.parquet")]) >= 3 or one.poll() is not None)
                assert one.poll() is None, one.communicate()
                cluster.remove_node(nodes[0], allow_graceful=False)
                _, err = one.communicate(timeout=TIMEOUT_S)
            assert one.returncode == 1, err
        finally:
            cluster.shutdown()
    assert names == [row["path"] for row in rows(here / "out")]
    scored(tiny, "local")
    assert files(here / "local") == files(here / "out")


def test_no_cluster_at_the_address_is_one_error_line(here, tiny):
    done = process(
        "score", "list.txt", "-o", "out", "--model", tiny, "--engine", "ray", "--address", "127.0.0.1:1",
        flags=("-m", "edgelstm"),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("Error: Ray at 127.0.0.1:1 cannot score: found")
