"""Tests of tools/seeds.py: the spread over seeds, and the seed that validation chooses."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from edgelstm.contract import Score
from edgelstm.errors import CheckpointError
from edgelstm.training.checkpoint import CHECKPOINT_FILE, save_checkpoint

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("seeds")


@pytest.fixture
def runs(tmp_path, tiny_checkpoint):
    """(seed, validation, test, ...) -> a run folder."""

    def kept(seed, validation, test, *, name="tiny", folder=None, **train):
        folder = tmp_path / (folder or f"{name}-{seed}")
        train = dataclasses.replace(tiny_checkpoint.train, seed=seed, **train)
        scores = {"validation": Score(validation, 1000), "test": Score(test, 2000) if test is not None else None}
        save_checkpoint(
            folder / CHECKPOINT_FILE, dataclasses.replace(tiny_checkpoint, train=train, name=name, **scores)
        )
        return folder

    return kept


def test_a_row_has_the_mean_the_sample_deviation_and_the_seed_to_ship(tool, runs):
    lines = tool.report([runs(2, 980, 1960), runs(0, 990, 1980), runs(1, 991, 1990)]).splitlines()
    # validation 99.0, 99.1, 98.0: mean 98.7, sd of n - 1 0.608; test 99.0, 99.5, 98.0: mean 98.833, sd 0.764
    assert lines[2] == "| tiny | 3 | 98.700 +- 0.608 % | 98.833 +- 0.764 % | 0 |"
    assert lines[6:] == [
        "| tiny | 0 | 990/1,000 (99.00 %) | 1,980/2,000 (99.00 %) |",
        "| tiny | 1 | 991/1,000 (99.10 %) | 1,990/2,000 (99.50 %) |",
        "| tiny | 2 | 980/1,000 (98.00 %) | 1,960/2,000 (98.00 %) |",
    ]


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        ({0: 10, 1: 30, 2: 20}, 2),
        ({4: 20, 3: 20, 7: 10}, 3),  # two at the median: the lower
        ({1: 10, 0: 20}, 0),  # both as near to the mean of the middle two: the lower
        ({0: 10, 1: 19, 2: 20, 3: 90}, 1),
        ({5: 10}, 5),
    ],
)
def test_the_seed_to_ship_is_nearest_the_median_on_validation(tool, validation, expected):
    assert expected == tool.median_seed({seed: Score(n, 100) for seed, n in validation.items()})


def test_one_seed_has_no_deviation(tool, runs):
    assert "| tiny | 1 | 99.000 +- ? % | 99.500 +- ? % | 5 |" in tool.report([runs(5, 990, 1990)])


def test_runs_that_differ_in_more_than_the_seed_are_apart_and_say_in_what(tool, runs):
    folders = [
        runs(0, 990, 1990), runs(1, 990, 1990), runs(0, 980, 1980, folder="longer", epochs=80),
        runs(0, 970, 1970, name="other"), runs(0, 960, 1960, folder="taught", teachers=("ab" * 32, "cd" * 32)),
    ]  # fmt: skip
    labels = list(tool.grouped(folders))
    assert labels == [
        "tiny, epochs 7, teachers none", "tiny, epochs 80, teachers none", "other",
        "tiny, epochs 7, teachers abababab+cdcdcdcd",
    ]  # fmt: skip
    assert [2, 1, 1, 1] == [len(one) for one in tool.grouped(folders).values()]


def test_an_unfinished_run_is_refused(tool, runs):
    with pytest.raises(CheckpointError, match=r"tiny-0 is not a finished run: found epoch 1 and no test score"):
        tool.report([runs(0, 990, None)])


def test_the_same_seed_twice_is_refused(tool, runs):
    with pytest.raises(CheckpointError, match="again is a run that was named before: found seed 0 twice"):
        tool.report([runs(0, 990, 1990), runs(0, 991, 1991, folder="again")])


def test_a_folder_without_a_run_is_one_line(tool, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["seeds.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"Error: no checkpoint at .*model\.safetensors"):
        tool.main()
