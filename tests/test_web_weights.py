"""Tests of edgelstm.web.weights: what the page's engine is given. That it is right, test_web_static.py shows."""

import re

import numpy as np
import pytest

from edgelstm.config import ModelConfig
from edgelstm.errors import ModelError
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import open_model
from edgelstm.web.page import SOURCES
from edgelstm.web.weights import MAX_COLUMNS, MAX_UNITS, page_weights


def test_sizes_come_first_and_then_every_weight(checkpoint_of, model_bytes_of):
    config = ModelConfig(hidden_size=18, rows_per_step=2, n_layers=2, class_names=("a", "b", "c"))
    model = open_model(model_bytes_of(checkpoint_of(config)))
    content = page_weights(model)
    assert [2, 56, 20, 3] == np.frombuffer(content, "<i4", 4).tolist()
    layers = sum(4 * 20 * (columns + 20) + 4 * 4 * 20 * 3 for columns in (56, 20))
    assert len(content) == 16 + layers + 3 * 20 + 2 * 4 * 3
    assert content.endswith(scheme_of(model).head_bias.tobytes())


def test_python_and_c_know_the_same_limits():
    text = (SOURCES.parent / "engine.c").read_text(encoding="utf-8")
    limits = {name: int(size) for name, size in re.findall(r"#define MODEL_MAX_(\w+) (\d+)", text)}
    assert limits == {"UNITS": MAX_UNITS, "COLUMNS": MAX_COLUMNS}


def test_a_model_that_the_engine_has_no_room_for_is_refused_in_one_line(checkpoint_of, model_bytes_of):
    largest, too_large = (
        open_model(model_bytes_of(checkpoint_of(ModelConfig(hidden_size=units))), "wide.onnx") for units in (512, 513)
    )
    assert len(page_weights(largest)) > 1_000_000
    with pytest.raises(ModelError) as caught:
        page_weights(too_large)
    expected = "wide.onnx is too large for the page: found 513 units a layer, expected at most 512; choose another with"
    assert str(caught.value).startswith(expected)
