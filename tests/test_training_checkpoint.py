"""Tests of edgelstm.training.checkpoint: what is saved comes back, what is damaged is refused by name."""

import dataclasses
import json
import math
import os

import pytest
import safetensors
import safetensors.torch
import torch

from edgelstm.config import RECIPES
from edgelstm.contract import Score
from edgelstm.errors import CheckpointError, OutputError
from edgelstm.training.checkpoint import CHECKPOINT_FILE, FORMAT, load_checkpoint, save_checkpoint, save_tensors


@pytest.fixture
def saved(tiny_checkpoint, tmp_path):
    path = tmp_path / "run" / CHECKPOINT_FILE
    save_checkpoint(path, tiny_checkpoint)
    return path


def change(path, *, tensors=None, header=None, **values):
    """Write the file anew with other tensors, header entries or JSON values (None drops one)."""
    with safetensors.safe_open(path, framework="pt") as stream:
        old_header = stream.metadata()
        old = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    merged = {k: v for k, v in {**json.loads(old_header[FORMAT]), **values}.items() if v is not ...}
    new_header = {**old_header, FORMAT: json.dumps(merged), **(header or {})}
    new = {name: tensor for name, tensor in {**old, **(tensors or {})}.items() if tensor is not None}
    path.write_bytes(safetensors.torch.save(new, metadata=new_header))


def parts(checkpoint):
    values = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    return {**values, "weights": {name: weight.tolist() for name, weight in checkpoint.weights.items()}}


def test_a_checkpoint_comes_back_equal(tiny_checkpoint, tmp_path):
    full = dataclasses.replace(
        tiny_checkpoint, validation=Score(3, 4), test=Score(5, 6), versions={"torch": "2.10"}, epoch=7
    )
    save_checkpoint(tmp_path / "full.safetensors", full)
    assert parts(full) == parts(load_checkpoint(tmp_path / "full.safetensors"))


def test_scores_that_are_not_known_yet_stay_unknown(saved):
    checkpoint = load_checkpoint(saved)
    assert (checkpoint.validation, checkpoint.test) == (None, None)


def test_a_run_folder_stands_for_its_model_file(saved):
    assert parts(load_checkpoint(saved)) == parts(load_checkpoint(str(saved.parent)))


def test_weights_that_are_views_are_saved_by_value(tiny_checkpoint, tmp_path):
    weights = {name: weight.t().contiguous().t() for name, weight in tiny_checkpoint.weights.items()}
    save_checkpoint(tmp_path / "views", dataclasses.replace(tiny_checkpoint, weights=weights))
    assert parts(tiny_checkpoint) == parts(load_checkpoint(tmp_path / "views"))


def test_the_digest_knows_every_bit_of_the_weights(tiny_checkpoint):
    weights = dict(tiny_checkpoint.weights)
    bias = weights["head.bias"].clone()
    bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))
    changed = dataclasses.replace(tiny_checkpoint, weights={**weights, "head.bias": bias})
    assert tiny_checkpoint.weights_sha256 != changed.weights_sha256


def test_the_digest_is_of_the_weights_alone(tiny_checkpoint):
    other = dataclasses.replace(
        tiny_checkpoint, name="other", epoch=9, weights=dict(reversed(tiny_checkpoint.weights.items()))
    )
    assert tiny_checkpoint.weights_sha256 == other.weights_sha256


def test_the_model_of_a_checkpoint_has_its_weights_and_is_ready_to_evaluate(tiny_checkpoint):
    model = tiny_checkpoint.model()
    assert not model.training
    assert [n for n, w in model.state_dict().items() if not torch.equal(w, tiny_checkpoint.weights[n])] == []


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere.*; train one with `edgelstm train`"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_missing_weight_is_named(saved):
    change(saved, tensors={"head.bias": None})
    with pytest.raises(
        CheckpointError, match=r"does not hold the weights of its own config: found no weight head\.bias"
    ):
        load_checkpoint(saved)


def test_an_unexpected_weight_is_named(saved):
    change(saved, tensors={"extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="unexpected weight extra"):
        load_checkpoint(saved)


def test_every_difference_is_named_in_one_line(saved):
    change(saved, tensors={"head.bias": None, "extra": torch.zeros(1), "head.weight": torch.zeros(1)})
    expected = r"found no weight head\.bias, unexpected weight extra, weight head\.weight is"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(saved)


def test_a_misshaped_weight_is_named_with_both_shapes(saved):
    change(saved, tensors={"head.weight": torch.zeros(10, 9)})
    expected = r"weight head.weight is F32 \(10, 9\) instead of F32 \(10, 8\)"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(saved)


def test_a_weight_of_another_type_is_named(saved):
    change(saved, tensors={"head.bias": torch.zeros(10, dtype=torch.float64)})
    with pytest.raises(CheckpointError, match=r"weight head.bias is F64"):
        load_checkpoint(saved)


def test_a_config_of_another_size_is_refused(saved, tiny_config):
    change(saved, config={**dataclasses.asdict(tiny_config), "hidden_size": 16})
    with pytest.raises(CheckpointError, match=r"head.weight is F32 \(10, 8\) instead of .*\(10, 16\)"):
        load_checkpoint(saved)


@pytest.mark.parametrize("key", ["config", "train", "name", "epoch", "data_sha256", "validation", "test"])
def test_a_value_that_is_left_out_is_damaged_metadata(saved, key):
    change(saved, **{key: ...})
    with pytest.raises(CheckpointError, match=f"has damaged metadata: found .*{key}"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "values",
    [{"config": []}, {"config": {}}, {"train": 3}, {"validation": [1, 2]}, {"extra": 1}],
    ids=str,
)
def test_values_that_mean_nothing_are_damaged_metadata(saved, values):
    change(saved, **values)
    with pytest.raises(CheckpointError, match="has damaged metadata"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("part", "change_of_it", "message"),
    [
        ("config", {"hidden_size": 10**30}, "hidden_size: found 1000000000000000000000000000000, expected"),
        ("config", {"n_layers": 10**7}, "n_layers: found 10000000, expected"),
        ("config", {"class_names": ["\ud800"]}, "class_names: found "),
        ("train", {"seed": "x"}, "seed: found 'x', expected"),
        ("train", {"threads": "2"}, "threads: found '2', expected"),
        ("train", {"epochs": math.inf}, "epochs: found inf, expected"),
        (None, {"epoch": -5}, "epoch: found -5, expected"),
        (None, {"epoch": math.inf}, "epoch: found inf, expected"),
        (None, {"epoch": 1.0}, r"epoch: found 1\.0, expected"),
        (None, {"name": 3}, "name: found something else than a text"),
        (None, {"name": "a" * 101}, "name: found something else than a text"),
        (None, {"versions": {"torch": 2}}, "versions: found something else than texts"),
        (None, {"versions": dict.fromkeys(map(str, range(99)), "")}, "versions: found something else"),
        (None, {"versions": 3}, "has no attribute"),
        (None, {"temperature": "1"}, "temperature: found '1', expected"),
        (None, {"validation": {"n": 1, "n_right": 2}}, "a score of 2 out of 1"),
    ],
    ids=str,
)
def test_values_that_no_run_writes_are_one_clear_line(saved, tiny_checkpoint, part, change_of_it, message):
    values = dataclasses.asdict(dataclasses.replace(tiny_checkpoint, weights={}))
    change(saved, **({part: values[part] | change_of_it} if part else change_of_it))
    with pytest.raises(CheckpointError, match=f"has damaged metadata: found .*{message}"):
        load_checkpoint(saved)


def test_a_model_far_larger_than_its_file_costs_nothing(saved, tiny_config):
    """The largest that a config may claim: 256 MB of weights that are not there, refused by their shapes."""
    change(saved, config={**dataclasses.asdict(tiny_config), "hidden_size": 1024, "n_layers": 8})
    with pytest.raises(CheckpointError, match=r"no weight lstm\.bias_hh_l1.* more"):
        load_checkpoint(saved)


def test_a_header_that_claims_more_than_any_of_ours_is_refused_unread(saved):
    content = saved.read_bytes()
    saved.write_bytes((2**40).to_bytes(8, "little") + content[8:])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: found a header of 1,099,511,627,776 by"):
        load_checkpoint(saved)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(saved, value):
    change(saved, tensors={"head.bias": torch.full((10,), value)})
    with pytest.raises(CheckpointError, match=r"holds numbers that are not finite: found head\.bias; train again"):
        load_checkpoint(saved)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "pipe")


def test_a_checkpoint_from_before_a_field_was_renamed_is_read(saved):
    train = dataclasses.asdict(RECIPES["best"])
    train["n_lessons"] = train.pop("teacher_copies") + 2
    change(saved, train=train)
    assert 62 == load_checkpoint(saved).train.teacher_copies


@pytest.mark.parametrize("header", [{FORMAT: "[" * 100_000}, {FORMAT: "{"}, {FORMAT: "[]"}, {FORMAT: "null"}])
def test_a_header_without_an_object_of_values_is_refused(saved, header):
    change(saved, header=header)
    with pytest.raises(CheckpointError, match=str(saved)):
        load_checkpoint(saved)


def test_a_safetensors_file_of_others_is_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(1)}))
    with pytest.raises(
        CheckpointError, match=f"not a checkpoint of this version: found no metadata, expected {FORMAT}"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100], ids=["empty", "text", "noise"])
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as caught:
        load_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(saved)


def test_a_checkpoint_that_cannot_be_written_is_one_clear_line(tiny_checkpoint, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*model.safetensors: found "):
        save_checkpoint(tmp_path / "file" / CHECKPOINT_FILE, tiny_checkpoint)


def test_a_failed_save_leaves_the_old_checkpoint(saved, tiny_checkpoint, monkeypatch):
    before = saved.read_bytes()

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(saved, dataclasses.replace(tiny_checkpoint, epoch=2))
    assert (before, [saved]) == (saved.read_bytes(), list(saved.parent.iterdir()))


def test_values_are_kept_beside_any_tensors(tmp_path):
    save_tensors(tmp_path / "file", {"a": torch.arange(3)}, {"epoch": 1})
    with safetensors.safe_open(tmp_path / "file", framework="pt") as stream:
        found = stream.get_tensor("a").tolist(), json.loads(stream.metadata()[FORMAT])
    assert found == ([0, 1, 2], {"epoch": 1})


def test_equal_checkpoints_are_equal_files(tiny_checkpoint, tmp_path):
    for name in "ab":
        save_checkpoint(tmp_path / name, tiny_checkpoint)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_exported_model_is_called_that(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(CheckpointError, match=r"model\.onnx is an exported model: expected a checkpoint"):
        load_checkpoint(tmp_path / "model.onnx")


def test_the_state_to_resume_from_is_not_taken_for_the_weights(tmp_path):
    save_tensors(tmp_path / "state.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match=r"is the state to resume a run from: expected the weights, .*model\.saf"):
        load_checkpoint(tmp_path / "state.safetensors")
