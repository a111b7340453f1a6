"""tools/bench_peers.py: what is timed has torch's logits, and what is not says why."""

import importlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgelstm.contract import Pixels
from edgelstm.training.checkpoint import Checkpoint

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)  # where a script finds its neighbour, peers.py
    return importlib.import_module("bench_peers")


@pytest.fixture
def measured(tool: ModuleType, tiny_checkpoint: Checkpoint) -> Callable[..., Any]:
    """(extra peers, batch sizes) -> report: edgelstm, torch eager and the extra ones, in no time."""

    def measure(extra: dict[str, Any] | None = None, **arguments: Any) -> Any:
        peers = {name: tool.PEERS[name] for name in ("edgelstm", "torch eager")} | (extra or {})
        return tool.bench_peers(tiny_checkpoint, peers, seconds=0.05, **arguments)

    return measure


def result(report: Any, name: str) -> Any:
    (found,) = [result for result in report.results if result.name == name]
    return found


def test_edgelstm_and_torch_are_timed_against_each_other(tool: ModuleType, measured: Callable[..., Any]) -> None:
    report = measured()
    ours, torch_eager = result(report, "edgelstm"), result(report, "torch eager")
    assert (None, 1.0) == (ours.problem, ours.times_edgelstm.value)
    assert torch_eager.problem is None
    assert torch_eager.latency.p50.value_s > 0
    assert torch_eager.times_edgelstm.low is not None, "rounds enough for an interval"
    assert torch_eager.max_difference < tool.ATOL


def test_a_slower_peer_has_a_ratio_above_one_and_stands_below(
    tool: ModuleType, measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"edgelstm": 1e-4, "torch eager": 3e-4}
    rounds = {name: [np.full(5, second)] * tool.N_ROUNDS for name, second in seconds.items()}
    monkeypatch.setattr(tool, "measure_alternating", lambda contestants, **arguments: rounds)
    found = [(one.name, round(one.times_edgelstm.value, 6)) for one in measured().results]
    assert [("edgelstm", 1.0), ("torch eager", 3.0)] == found


def test_pictures_come_in_batches_of_the_size_that_was_asked_for(
    tool: ModuleType, measured: Callable[..., Any]
) -> None:
    sizes = set()

    def load(checkpoint: Checkpoint, threads: int) -> Callable[[Pixels], Any]:
        right = tool.PEERS["edgelstm"].load(checkpoint, threads)
        return lambda pixels: sizes.add(len(pixels)) or right(pixels)

    report = measured({"counted": tool.Peer(load, ())}, batch_size=3)
    assert ({3}, 3, None) == (sizes, report.batch_size, result(report, "counted").problem)


def test_other_logits_are_refused_and_not_timed(tool: ModuleType, measured: Callable[..., Any]) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Callable[[Pixels], Any]:
        right = tool.PEERS["edgelstm"].load(checkpoint, threads)
        return lambda pixels: right(pixels) + np.float32(3 * tool.ATOL)

    wrong = result(measured({"wrong": tool.Peer(load, ())}), "wrong")
    assert "other logits than torch: largest difference 0.0003" in wrong.problem
    assert (None, None) == (wrong.latency, wrong.times_edgelstm)


@pytest.mark.parametrize(("n_wrong", "is_timed"), [(10, True), (11, False)])
def test_int8_is_held_to_its_decisions_on_1000_digits(
    tool: ModuleType, measured: Callable[..., Any], n_wrong: int, is_timed: bool
) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Callable[[Pixels], Any]:
        right, calls = tool.PEERS["edgelstm"].load(checkpoint, threads), iter(range(10**9))

        def call(pixels: Pixels) -> Any:
            logits = right(pixels) + np.float32(0.5)
            return -logits if next(calls) < n_wrong else logits

        return call

    found = result(measured({"int8": tool.Peer(load, (), precision="int8")}), "int8")
    assert is_timed == (found.latency is not None)
    assert is_timed or f"{n_wrong} of 1000 decisions" in found.problem


def test_int8_of_no_number_is_refused(tool: ModuleType, measured: Callable[..., Any]) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Callable[[Pixels], Any]:
        right = tool.PEERS["edgelstm"].load(checkpoint, threads)
        return lambda pixels: np.where(right(pixels) < right(pixels).max(), -np.inf, right(pixels)).astype(np.float32)

    assert "other logits" in result(measured({"inf": tool.Peer(load, (), precision="int8")}), "inf").problem


def test_what_has_no_logits_is_timed_and_shows_no_difference(tool: ModuleType, measured: Callable[..., Any]) -> None:
    report = measured({"nothing": tool.Peer(lambda checkpoint, threads: lambda pixels: None, (), precision=None)})
    assert result(report, "nothing").times_edgelstm.value < 1
    (line,) = [line for line in tool.peers_text(report).splitlines() if line.startswith("nothing")]
    assert line.endswith(" -")


def test_a_missing_package_is_a_row_with_its_reason(tool: ModuleType, measured: Callable[..., Any]) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Any:
        return importlib.import_module("no_such_package")

    report = measured({"absent": tool.Peer(load, ("no-such-package",))})
    assert "not installed: ModuleNotFoundError: No module named 'no_such_package'" == result(report, "absent").problem
    text = tool.peers_text(report)
    assert "measured  2 of 3 contestants; tools/peers.txt is an environment that holds them all" in text
    assert "absent      -        not measured: not installed" in text


def test_a_peer_that_cannot_take_the_model_is_a_row_with_its_reason(
    tool: ModuleType, measured: Callable[..., Any]
) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Any:
        raise NotImplementedError("no LSTM\nhere")

    report = measured({"limited": tool.Peer(load, ())})
    assert "not loaded: NotImplementedError: no LSTM here" == result(report, "limited").problem


def test_a_peer_that_aborts_in_its_own_process_is_refused_by_name_of_the_signal(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = tool.probe_in_process("model.safetensors", 1, 1)
    for code, expected in ((-6, "not loaded: it ends the process with SIGABRT"), (1, None), (0, None)):
        ended = subprocess.CompletedProcess([], code)
        monkeypatch.setattr(tool.subprocess, "run", lambda *command, ended=ended, **options: ended)
        assert expected == probe("tract")


def test_a_peer_that_raises_when_it_runs_is_a_row_with_its_reason(
    tool: ModuleType, measured: Callable[..., Any]
) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Callable[[Pixels], Any]:
        return lambda pixels: pixels.no_such_method()

    problem = result(measured({"broken": tool.Peer(load, ())}), "broken").problem
    assert problem.startswith("does not run: AttributeError: ")


def test_a_peer_that_its_probe_refuses_is_never_loaded_here(tool: ModuleType, measured: Callable[..., Any]) -> None:
    def load(checkpoint: Checkpoint, threads: int) -> Any:
        pytest.fail("loaded")

    report = measured({"fragile": tool.Peer(load, ())}, probe=lambda name: f"{name} aborts")
    assert "fragile aborts" == result(report, "fragile").problem


def test_table_and_json_say_the_same(tool: ModuleType, measured: Callable[..., Any]) -> None:
    report = measured()
    values = json.loads(json.dumps(asdict(report)))
    ratio = {found["name"]: found["times_edgelstm"]["value"] for found in values["results"]}["torch eager"]
    (line,) = [line for line in tool.peers_text(report).splitlines() if line.startswith("torch eager")]
    assert f" {ratio:.2f} [" in line
