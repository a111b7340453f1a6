"""Several processes train one model: the same bytes as one process writes for the same shards.

One process imports torch once and forks the processes of each training; the torchrun test starts real ones.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import edgelstm
from edgelstm.training.checkpoint import CHECKPOINT_FILE, STATE_FILE, save_checkpoint
from edgelstm.training.fit import EpochResult
from edgelstm.training.run import LOG_FILE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

TIMEOUT_S = 240
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(edgelstm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
TINY = ("--hidden-size", "8", "--device", "cpu", "--threads", "1")

# a line of JSON in: the arguments of each process; a line out: what each printed and its exit status
DRIVER = """
import json, os, pathlib, socket, sys
import torch._dynamo, torch.utils.tensorboard  # what each train would import
import edgelstm.cli.train
from edgelstm.training import run, train

train.ensure_mnist = lambda **options: print("MNIST is there", file=sys.stderr)

def started(rank, size, port, arguments, folder):
    pid = os.fork()
    if pid:
        return pid
    if size > 1:
        who = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in who.items()})
    for number in (1, 2):
        os.dup2(os.open(f"{folder}/{rank}.{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    edgelstm.cli.main(["train", *arguments])  # ends the process

for line in sys.stdin:
    asked = json.loads(line)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = len(asked["arguments"])
    pids = [started(rank, size, port, one, asked["folder"]) for rank, one in enumerate(asked["arguments"])]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    files = [[pathlib.Path(asked["folder"], f"{rank}.{number}") for rank in range(size)] for number in (1, 2)]
    print(json.dumps([codes, *[[file.read_text() for file in of_one] for of_one in files]]), flush=True)
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs `edgelstm train` in so many processes: their exit statuses, and what each printed to stdout and stderr."""
    folder = tmp_path_factory.mktemp("printed")
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(folder / "cache"), "EDGELSTM_DATA": str(folder / "mnist")}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DRIVER], env=environment, text=True, cwd=folder,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as driver:  # fmt: skip

        def run(size, *arguments):
            of_each = [[str(argument).replace("RANK", str(rank)) for argument in arguments] for rank in range(size)]
            driver.stdin.write(json.dumps({"arguments": of_each, "folder": str(folder)}) + "\n")
            driver.stdin.flush()
            return json.loads(driver.stdout.readline())

        yield run
        driver.stdin.close()


@pytest.fixture(scope="module")
def digits(tmp_path_factory, sample):
    """150 real digits as data of one's own."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, X=sample.sequences[:150], y=sample.labels[:150])
    return path


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """100 sequences of 3 to 9 rows, two classes, as `train` arguments."""
    draw = np.random.default_rng(0)
    labels, lengths = np.arange(100) % 2, draw.integers(3, 10, 100).astype(np.int32)
    values = (draw.normal(0, 1, (100, 9, 2)) + labels[:, None, None]).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "unequal.npz"
    np.savez(path, X=values, y=labels, lengths=lengths)
    return path


def written(folder):
    """sha256 of what a run leaves, and its log without the time."""
    log = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CHECKPOINT_FILE, STATE_FILE)}
    return files, [{key: value for key, value in line.items() if key != "images_per_s"} for line in log]


def trained(together, size, folder, *arguments):
    """What a run of so many processes leaves; only the first of them speaks."""
    codes, out, err = together(size, *TINY, "-o", folder, *arguments)
    assert codes == [0] * size, err
    assert ([True] + [False] * (size - 1),) * 2 == tuple([bool(one) for one in each] for each in (out, err))
    return written(folder)


def one_error(together, size, *arguments, code=1):
    """The one error line of processes that must all fail."""
    codes, out, err = together(size, *TINY, *arguments)
    lines = [line for one in err for line in one.splitlines() if line.startswith("Error: ")]
    assert (len(lines), max(codes), [""] * size) == (1, code, out), (codes, err)
    assert all(codes), codes
    assert "Traceback" not in "".join(err)
    return lines[0]


def test_the_weights_depend_on_the_shards_not_on_the_processes(together, digits, tmp_path):
    kind = ("--data", digits, "--preparation", "digit", "--recipe", "best", "--epochs", 1)
    one, two, four = (trained(together, n, tmp_path / str(n), *kind, "--shards", 4) for n in (1, 2, 4))
    assert one == two == four


def test_one_shard_is_what_one_process_trains_alone(together, unequal, tmp_path):
    alone, two = (
        trained(together, n, tmp_path / str(n), "--data", unequal, "--shards", 1, "--epochs", 1) for n in (1, 2)
    )
    assert alone == two


def test_sequences_of_unequal_length_in_shards_of_unequal_size(together, unequal, tmp_path):
    kind = ("--data", unequal, "--recipe", "early", "--epochs", 1, "--shards", 3)
    assert trained(together, 1, tmp_path / "1", *kind) == trained(together, 2, tmp_path / "2", *kind)


def test_the_teachers_logits_are_shared_out(together, digits, tiny_checkpoint, tmp_path):
    save_checkpoint(tmp_path / "teacher.safetensors", tiny_checkpoint)
    kind = ("--data", digits, "--preparation", "digit", "--teacher", tmp_path / "teacher.safetensors", "--epochs", 1)
    two = trained(together, 2, tmp_path / "2", *kind, "--recipe", "best")  # first: later runs read what it keeps
    assert two == trained(together, 1, tmp_path / "1", *kind, "--recipe", "best", "--shards", 2)


def test_a_run_goes_on_with_another_number_of_processes(together, unequal, tmp_path):
    kind = {"hidden_size": 8, "epochs": 2, "shards": 4, "threads": 1, "device": "cpu"}

    def stop(event):
        if isinstance(event, EpochResult):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        edgelstm.train(str(unequal), output=tmp_path / "2", **kind, on_progress=stop)
    whole = trained(together, 1, tmp_path / "1", "--data", unequal, "--epochs", 2, "--shards", 4)
    assert whole == trained(together, 2, tmp_path / "2", "--data", unequal, "--resume")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--data", "nowhere.npz"), 1, "nowhere.npz"),
        (("--data", "DIGITS", "--shards", 1000), 2, "shards: found 1000, expected at most the batch of"),
        (("--resume", "-o", "FOLDER"), 1, "no checkpoint"),
    ],
    ids=["on all", "of usage", "on the first"],
)
def test_an_error_is_said_once_and_ends_all(together, digits, tmp_path, arguments, code, expected):
    known = {"DIGITS": digits, "FOLDER": tmp_path}
    assert expected in one_error(together, 2, *[known.get(one, one) for one in arguments], code=code)


def test_mnist_is_fetched_by_one_process_of_a_machine(together, tmp_path):
    assert 1 == "".join(together(2, *TINY, "-o", tmp_path)[2]).count("MNIST is there\n")


def test_processes_with_different_data_do_not_train(together, unequal, tmp_path):
    for rank, n in enumerate((100, 99)):
        with np.load(unequal) as data:
            np.savez(tmp_path / f"data{rank}.npz", **{name: values[:n] for name, values in data.items()})
    found = one_error(together, 2, "--data", tmp_path / "dataRANK.npz", "-o", tmp_path / "run")
    assert "the processes of a training differ in their data" in found


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_process_killed_under_torchrun_ends_with_the_same_bytes(together, unequal, tmp_path):
    kind = [*TINY, "--data", str(unequal), "--epochs", "8"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with subprocess.Popen(
        [*torchrun, "--max-restarts", "1", "-m", "edgelstm", "train", *kind, "-o", str(tmp_path / "killed")],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as one:  # fmt: skip
        until = time.monotonic() + TIMEOUT_S
        while not (tmp_path / "killed" / CHECKPOINT_FILE).exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(min(children(one.pid)), signal.SIGKILL)  # the one that writes
        _, err = one.communicate(timeout=TIMEOUT_S)
    assert one.returncode == 0, err
    assert "going on after epoch" in err
    assert written(tmp_path / "killed") == trained(together, 1, tmp_path / "whole", *kind, "--shards", 2)
