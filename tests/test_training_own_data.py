"""Tests of training on one's own data: what the score of a random split says beside the grouped one."""

import numpy as np
import pytest

from edgelstm.config import ModelConfig, TrainConfig
from edgelstm.data.arrays import dataset_from_arrays
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
    train = TrainConfig(recipe="own", epochs=12, batch_size=16, learning_rate=0.02, threads=1)
    *_, end = begin_run(RunPlan("persons", config, train), tmp_path, lambda config: dataset, "cpu")
    assert end.random_split.accuracy > 0.9 > 0.7 > end.test.accuracy, (end.random_split, end.test)
