"""Tests of edgelstm score: what it prints, its exit status, and jobs that are killed at any moment."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import TIMEOUT_S, fails, process, run, started, strict_json
from PIL import Image
from scored import children, files, rows

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "edgelstm[score]"')


@pytest.fixture(autouse=True)
def _an_empty_folder(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def alone(monkeypatch):
    """Parts are scored in this process."""
    monkeypatch.setattr("sys.frozen", True, raising=False)


@pytest.fixture
def pictures(sample):
    """A folder of six pictures, one of them blank and one no picture."""
    Path("p").mkdir()
    for i, image in enumerate(sample.sequences[:4]):
        Image.fromarray(image).save(f"p/{i}.png")
    Image.new("L", (60, 60), 255).save("p/blank.png")
    Path("p/text.png").write_text("no picture")


@pytest.mark.usefixtures("alone", "pictures")
def test_a_folder_is_scored_in_rows_and_summed_up(tiny):
    done = run("score", "p", "-o", "out", "--model", tiny, expected=1)
    shown = done.stdout.splitlines()
    assert ["scored     6 inputs into 1 files in out", "errors     1", "abstained  1"] == shown[:3]
    assert shown[3].startswith("time       ")
    assert "scored 6 of 6 (100%), 1 errors, " in done.stderr
    names = [f"p/{name}.png" for name in ("0", "1", "2", "3", "blank", "text")]
    found = rows(Path("out"))
    assert names == [row["path"] for row in found]
    assert ("no ink found", None) == (found[4]["note"], found[4]["label"])
    assert found[5]["error"].startswith("p/text.png")
    again = run("score", "p", "-o", "out", "--model", tiny, expected=1)
    assert again.stdout.startswith("scored     6 inputs into 1 files in out, 6 of them by earlier runs\n")
    import pyarrow.parquet

    assert pyarrow.parquet.read_table("out").to_pylist() == found  # the folder is one table
    manifest = json.loads(Path("out/_manifest.json").read_text())
    assert {"n": 6, "n_errors": 1, "n_abstained": 1} == manifest["finished"]


@pytest.mark.usefixtures("alone", "pictures")
def test_json_is_one_document(tiny):
    Path("p/text.png").unlink()
    done = strict_json(run("score", "p", "-o", "out", "--model", tiny, "--json").stdout)
    assert ("p", "out", "local", 5, 0, 1, 0, 1) == tuple(
        done[key] for key in ("source", "output", "engine", "n", "n_errors", "n_abstained", "n_earlier", "n_parts")
    )
    assert done["fingerprint"] == json.loads(Path("out/_manifest.json").read_text())["fingerprint"]


@pytest.mark.usefixtures("pictures")
def test_a_list_comes_on_standard_input(tiny):
    with started("score", "-", "-o", "out", "--model", tiny, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        one.communicate(b"p/1.png\np/0.png\n", timeout=TIMEOUT_S)
    assert one.returncode == 0
    assert ["p/1.png", "p/0.png"] == [row["path"] for row in rows(Path("out"))]


@pytest.mark.usefixtures("alone", "pictures")
def test_another_job_is_one_error_line(tiny):
    run("score", "p", "-o", "out", "--model", tiny, expected=1)
    error = fails("score", "p", "-o", "out", "--model", tiny, "--batch-size", 3)
    assert error == "out holds another job: found another batch size in _manifest.json; choose another folder with -o"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("score missing -o out", "cannot read missing: found no such file or directory"),
        ("score empty -o out", "empty holds no inputs"),
        ("score p -o p", "p is the output folder too"),
        ("score p -o p/0.png", "cannot write"),
    ],
)
@pytest.mark.usefixtures("alone", "pictures")
def test_what_cannot_be_done_is_one_error_line(tiny, arguments, expected):
    Path("empty").mkdir()
    assert fails(*arguments.split(), "--model", tiny).startswith(expected)


@pytest.mark.parametrize(
    "arguments", ["p", "p -o out --address auto", "p -o out --batch-size 0", "p -o out --engine x"]
)
def test_usage_errors_exit_2(arguments):
    assert "Usage: " in run("score", *arguments.split(), expected=2).stderr


def test_without_pyarrow_or_ray_it_says_what_to_install(monkeypatch, tiny):
    for name, extra in (("ray", "ray"), ("pyarrow", "score")):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        error = fails("score", "p", "-o", "out", "--model", tiny, "--engine", "ray")
        assert f'pip install "edgelstm[{extra}]"' in error
    assert not Path("out").exists()


def a_large_list(n=4000):
    """A list of good, bad and missing files, whose parts take a while."""
    Path("list.txt").write_text("".join(f"p/{'01234'[i % 5]}.png\n" if i % 9 else "p/text.png\n" for i in range(n)))
    return ["score", "list.txt", "-o", "out"]


def wait_for(condition):
    for _ in range(TIMEOUT_S * 100):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.usefixtures("pictures")
def test_killed_again_and_again_it_gives_every_input_once_and_the_rows_of_an_undisturbed_run(tiny, tmp_path):
    """The command and its workers are killed in turn, by an unlucky hand that is the same each time."""
    command, draw = [*a_large_list(), "--model", tiny], random.Random(3)
    for n_parts, whom in ((0, "all"), (1, "worker"), (3, "command"), (5, "worker"), (6, "command"), (9, "worker")):
        with started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
            wait_for(lambda n=n_parts: len([*Path("out").glob("part-*.parquet")]) >= n and len(children(one.pid)) > 1)
            time.sleep(draw.random() / 3)
            workers = children(one.pid)
            if whom != "worker":
                one.send_signal(signal.SIGKILL)
            for worker in workers if whom == "all" else workers[-1:] if whom == "worker" else ():
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if whom == "worker":  # the command goes on by itself
                wait_for(lambda n=n_parts: len([*Path("out").glob("part-*.parquet")]) > n or one.poll() is not None)
                one.send_signal(signal.SIGKILL)
        wait_for(lambda found=workers: not any(alive(worker) for worker in found))
    done = process(*command)
    assert done.returncode == 1, done.stderr
    assert "of them by earlier runs" in done.stdout
    assert process(*command[:2], "-o", "undisturbed", "--model", tiny).returncode == 1
    assert Path("list.txt").read_text().splitlines() == [row["path"] for row in rows(Path("out"))]
    assert files(Path("undisturbed")) == files(Path("out"))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("pictures")
def test_ctrl_c_says_how_far_it_came_and_how_to_go_on(tiny):
    command = [*a_large_list(), "--model", tiny]
    with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        wait_for(lambda: [*Path("out").glob("part-*.parquet")])
        one.send_signal(signal.SIGINT)
        out, err = one.communicate(timeout=TIMEOUT_S)
    assert (130, "") == (one.returncode, out), err
    assert err.splitlines()[-1].startswith("Stopped: ")
    assert err.splitlines()[-1].endswith(" of 4,000 scored; the same command goes on.")
