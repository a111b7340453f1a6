"""Tests of training on one's own data: groups, unequal lengths, the smallest units."""

import dataclasses

import numpy as np
import pytest

from edgelstm.config import ModelConfig, TrainConfig
from edgelstm.contract import Score
from edgelstm.data.arrays import dataset_from_arrays
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.model import TorchRunner
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


@pytest.mark.parametrize("unit", [1.0, 1e-40])
def test_sequences_of_unequal_length_are_scored_at_their_own_ends(tmp_path, unit):
    """The class is the sign of the first rows; what lies behind a sequence's end says the opposite."""
    draw = np.random.default_rng(0)
    labels, lengths = np.arange(80) % 2, draw.integers(3, 8, 80).astype(np.int32)
    values = draw.normal(0, 0.3, (80, 7, 1)) + (2 * labels - 1)[:, None, None]
    behind = (np.arange(7) >= lengths[:, None])[..., None]
    opposite = np.where(behind, 9.0 * (1 - 2 * labels)[:, None, None], values) * unit
    parts = dataset_from_arrays((values * unit).astype(np.float32), labels, lengths=lengths)
    index = {row.tobytes(): i for i, row in enumerate((values * unit).astype(np.float32)[:, :3])}
    wrong = {
        name: dataclasses.replace(
            part, sequences=opposite.astype(np.float32)[[index[row.tobytes()] for row in part.sequences[:, :3]]]
        )
        for name, part in parts.parts.items()
    }  # fmt: skip
    dataset = dataclasses.replace(parts, **wrong)
    config = ModelConfig(
        rows=7, cols=1, hidden_size=8, class_names=("0", "1"), preparation="values", variable_length=True
    )
    train = TrainConfig(recipe="own", epochs=6, batch_size=16, learning_rate=0.02, threads=1)
    *_, end = begin_run(RunPlan("signs", config, train), tmp_path, lambda config: dataset, "cpu")
    if unit == 1:  # numbers so small are flushed to zero while training
        found = TorchRunner(load_checkpoint(tmp_path).model()).logits(dataset.test.sequences, dataset.test.lengths)
        assert Score.of(found, dataset.test.labels) == end.test == Score(16, 16)
