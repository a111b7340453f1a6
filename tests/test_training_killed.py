"""kill -9 at random moments, through the command line: the run that goes on ends with the same bytes.

One process imports torch once and forks a process for each `edgelstm train`; those are killed by SIGKILL.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgelstm
from edgelstm.training.checkpoint import CHECKPOINT_FILE, STATE_FILE, save_checkpoint
from edgelstm.training.run import LOG_FILE

TIMEOUT_S = 300
N_KILLS = 4
EPOCHS = 10
N_LINES = 16
"""An epoch's line for each of the 10, and a step's for every 10 of the 60."""

# argv: a folder, number of kills, a teacher's checkpoint
DRIVER = """
import os, random, signal, sys, time
import torch._dynamo, torch.utils.tensorboard  # what each train would import
import edgelstm.data.mnist, edgelstm.cli.train
from edgelstm.training import run, train

sample = edgelstm.data.mnist.sample_digits()
digits = edgelstm.data.mnist.Dataset(
    "digits", "digit", edgelstm.data.mnist.DIGITS,
    sample.take(slice(0, 800)), sample.take(slice(800, 1000)), sample, "0" * 64, "given",
)
train.opened = lambda *arguments, **options: digits
train.ensure_mnist = lambda *arguments, **options: None

def started(folder, options):
    pid = os.fork()
    if not pid:
        edgelstm.cli.main(["train", *options, "-o", folder])  # ends the process
    return pid

def going_on(folder, options):
    ready = os.path.exists(f"{folder}/{run.STATE_FILE}")
    return started(folder, [*options, "--resume" if ready else "--overwrite"])

def end_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def n_lines(folder):
    try:
        with open(f"{folder}/{run.LOG_FILE}") as stream:
            return sum(line.endswith("\\n") for line in stream)
    except FileNotFoundError:
        return 0

folder, n_kills, teacher, *options = sys.argv[1:]
draw = random.Random(1)
for kind, more in (("labels", []), ("teacher", ["--teacher", teacher, "--recipe", "best"])):
    killed, asked = f"{folder}/killed-{kind}", [*options, *more]
    assert end_of(started(f"{folder}/whole-{kind}", asked)) == 0
    for number in range(int(n_kills)):
        pid = going_on(killed, asked)
        lines, more, moment = n_lines(killed), draw.randint(0, 4), draw.uniform(0, 0.03)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and n_lines(killed) < lines + more:
            time.sleep(0.001)
        time.sleep(moment)  # so that it is hit wherever it is: in a step, in a file
        if ended[0]:
            print(kind, "ended", os.waitstatus_to_exitcode(ended[1]), flush=True)
        else:
            os.kill(pid, signal.SIGKILL)
            print(kind, end_of(pid), n_lines(killed), flush=True)
    assert end_of(going_on(killed, asked)) == 0
"""


def log_of(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, tiny_checkpoint):
    save_checkpoint(tmp_path / "teacher.safetensors", tiny_checkpoint)
    options = ["nano", "--hidden-size", "8", "--epochs", str(EPOCHS), "--threads", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, tmp_path, str(N_KILLS), tmp_path / "teacher.safetensors", *options],
        env={
            **os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for kind in ("labels", "teacher"):
        n_killed = done.stdout.count(f"{kind} -9 ")
        assert n_killed >= N_KILLS / 2, f"the run ended before it was killed: {done.stdout}"
        whole, killed = tmp_path / f"whole-{kind}", tmp_path / f"killed-{kind}"
        for name in (CHECKPOINT_FILE, STATE_FILE):
            assert (whole / name).read_bytes() == (killed / name).read_bytes(), f"{name} differs after {done.stdout}"
        assert len(log_of(whole)) == N_LINES
        assert log_of(whole) == log_of(killed)
        assert list(killed.glob(".*.part")) == []
