"""Tests of training on one's own data: groups, unequal lengths, the smallest units."""

import dataclasses

import numpy as np
import pytest

from edgelstm.config import ModelConfig, TrainConfig
from edgelstm.data.arrays import dataset_from_arrays
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.run import begin_run
from edgelstm.training.state import RunPlan

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_score_of_a_random_split_shows_how_much_knowing_the_persons_flatters(tmp_path):
    """A person is told by a column of its own, the class drawn by person: only a known person's can be answered.

    In so small a unit that nothing is learned but from normalised values.
    """
    draw = np.random.default_rng(0)
    person = np.repeat(np.arange(16), 10)
    values = 1e-6 * (np.eye(16)[person][:, None] + draw.normal(0, 0.1, (160, 4, 16)))
    dataset = dataset_from_arrays(values.astype(np.float32), person % 2, group=person)
    config = ModelConfig(rows=4, cols=16, hidden_size=16, class_names=("0", "1"), preparation="values")
    train = TrainConfig(recipe="own", epochs=40, batch_size=16, learning_rate=0.01, threads=1)
    *_, end = begin_run(RunPlan("persons", config, train), tmp_path, lambda config: dataset, "cpu")
    assert end.random_split.accuracy > 0.9 > 0.7 > end.test.accuracy, (end.random_split, end.test)


def test_what_lies_behind_the_ends_changes_no_weight(tmp_path):
    draw = np.random.default_rng(0)
    labels, lengths = np.arange(60) % 2, draw.integers(3, 8, 60).astype(np.int32)
    values = draw.normal(0, 1, (60, 7, 1)) + labels[:, None, None]
    plain = dataset_from_arrays(values.astype(np.float32), labels, lengths=lengths)
    behind = {name: np.arange(7) >= part.lengths[:, None] for name, part in plain.parts.items()}
    filled = {
        name: dataclasses.replace(part, sequences=np.where(behind[name][..., None], np.float32(9), part.sequences))
        for name, part in plain.parts.items()
    }
    config = ModelConfig(
        rows=7, cols=1, hidden_size=8, class_names=("0", "1"), preparation="values", variable_length=True
    )
    train = TrainConfig(recipe="own", epochs=2, batch_size=16, learning_rate=0.02, threads=1)
    ends, found = [], set()
    for dataset in (plain, dataclasses.replace(plain, **filled)):
        folder = tmp_path / str(len(ends))
        *_, end = begin_run(RunPlan("x", config, train), folder, lambda config, opened=dataset: opened, "cpu")
        ends.append((end.validation, end.test))
        found.add(load_checkpoint(folder).weights_sha256)
    assert (len(found), ends[0]) == (1, ends[1])


def test_a_unit_so_small_that_its_inverse_is_beyond_float32_ends_no_run(tmp_path):
    values = 1e-40 * np.random.default_rng(0).normal(0, 1, (60, 7, 1))
    dataset = dataset_from_arrays(values.astype(np.float32), np.arange(60) % 2)
    config = ModelConfig(rows=7, cols=1, hidden_size=8, class_names=("0", "1"), preparation="values")
    train = TrainConfig(recipe="own", epochs=2, batch_size=16, threads=1)
    *_, end = begin_run(RunPlan("x", config, train), tmp_path, lambda config: dataset, "cpu")
    assert end.test.n == 12
