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
N_KILLS = 6
EPOCHS = 20
N_LINES = 32
"""An epoch's line for each of the 20, and a step's for every 10 of the 120."""

# argv: folder of the reference, folder of the killed run, number of kills, the options of train
DRIVER = """
import os, random, signal, sys, time
import torch._dynamo, torch.utils.tensorboard  # what each train would import
import edgelstm.data.mnist, edgelstm.cli.train
from edgelstm.training import run

sample = edgelstm.data.mnist.sample_digits()
parts = [
    edgelstm.data.mnist.Digits(sample.images[at], sample.labels[at], "digits")
    for at in (slice(0, 800), slice(800, 1000))
]
run.load_splits = lambda folder: edgelstm.data.mnist.Splits(*parts, sample, "0" * 64)
edgelstm.data.mnist.ensure_mnist = lambda folder, report: folder

def started(folder, options):
    pid = os.fork()
    if not pid:
        edgelstm.cli.main(["train", *options, "-o", folder])  # ends the process
    return pid

def going_on():
    ready = os.path.exists(f"{folder}/{run.STATE_FILE}")
    return started(folder, [*options, "--resume" if ready else "--overwrite"])

def n_lines(folder):
    try:
        with open(f"{folder}/{run.LOG_FILE}") as stream:
            return sum(line.endswith("\\n") for line in stream)
    except FileNotFoundError:
        return 0

whole, folder, n_kills, *options = sys.argv[1:]
assert os.waitstatus_to_exitcode(os.waitpid(started(whole, options), 0)[1]) == 0
draw = random.Random(1)
for number in range(int(n_kills)):
    pid = going_on()
    lines, more, moment = n_lines(folder), draw.randint(0, 6), draw.uniform(0, 0.03)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and n_lines(folder) < lines + more:
        time.sleep(0.001)
    time.sleep(moment)  # so that it is hit wherever it is: in a step, in a file
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(ended[1]), n_lines(folder), flush=True)
assert os.waitstatus_to_exitcode(os.waitpid(going_on(), 0)[1]) == 0
"""


def log_of(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("taught", [False, True], ids=["labels", "teacher"])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, tiny_checkpoint, taught):
    options = ["nano", "--hidden-size", "8", "--epochs", str(EPOCHS), "--threads", "1", "--device", "cpu"]
    if taught:
        save_checkpoint(tmp_path / "teacher.safetensors", tiny_checkpoint)
        options += ["--teacher", str(tmp_path / "teacher.safetensors"), "--recipe", "best"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, tmp_path / "whole", tmp_path / "killed", str(N_KILLS), *options],
        env={
            **os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    n_killed = sum(line.startswith("-9 ") for line in done.stdout.splitlines())
    assert n_killed >= N_KILLS / 2, f"the run ended before it was killed: {done.stdout}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in (CHECKPOINT_FILE, STATE_FILE):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), f"{name} differs after {done.stdout}"
    assert len(log_of(whole)) == N_LINES
    assert log_of(whole) == log_of(killed)
