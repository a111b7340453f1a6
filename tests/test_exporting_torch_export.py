"""Tests of edgelstm.exporting.torch_export: what torch's own exporter makes of a checkpoint, quietly."""

import numpy as np
import onnx
import pytest

from edgelstm.exporting import torch_export
from edgelstm.exporting.torch_export import TorchExportedRunner, torch_exported_model
from edgelstm.runtime.parity import compare
from edgelstm.training.model import TorchRunner

pytestmark = pytest.mark.usefixtures("one_thread")


def test_its_graph_is_another_than_ours_answers_as_torch_does_and_it_is_quiet(
    tiny_checkpoint, tiny_model_bytes, sample, monkeypatch, capfd
):
    """One test, because the exporter takes seconds."""
    model = torch_exported_model(tiny_checkpoint)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LSTM") == 1
    assert operators != [node.op_type for node in onnx.load_model_from_string(tiny_model_bytes).graph.node]

    monkeypatch.setattr(torch_export, "torch_exported_model", lambda checkpoint, rows: model)
    runner = TorchExportedRunner(tiny_checkpoint)
    assert runner.name == "torch.onnx.export"
    expected = TorchRunner(tiny_checkpoint.model()).logits(sample.sequences[:100])
    for batch in (1, 2, 100):
        assert compare(expected[:batch], runner.logits(sample.sequences[:batch])).passed
    with pytest.raises(ValueError, match=r"found uint8 \(1, 27, 28\)"):
        runner.logits(np.zeros((1, 27, 28), np.uint8))
    assert capfd.readouterr() == ("", "")
