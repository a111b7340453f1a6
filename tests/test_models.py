"""Tests of the shipped models: the files are those of the manifest, and what it says of them is so."""

import json
from pathlib import Path

import pytest

from edgelstm.config import FAMILY, shipped_dir
from edgelstm.contract import Score
from edgelstm.data.mnist import sample_digits
from edgelstm.export.graph import build_model
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.files import sha256_of
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream
from edgelstm.training.checkpoint import load_checkpoint

MANIFEST = json.loads((shipped_dir() / "manifest.json").read_text(encoding="utf-8"))
FILES = [(name, file) for name, model in MANIFEST.items() for file in model["files"]]


@pytest.mark.parametrize(("name", "file"), FILES, ids=[file for _, file in FILES])
def test_a_shipped_file_is_the_one_of_the_manifest(name, file):
    content = (shipped_dir() / file).read_bytes()
    assert MANIFEST[name]["files"][file] == {"n_bytes": len(content), "sha256": sha256_of(content)}


def test_no_model_is_shipped_that_the_manifest_does_not_name():
    shipped = {path.name for path in shipped_dir().iterdir() if path.suffix in (".onnx", ".safetensors")}
    assert {file for _, file in FILES} == shipped


def files(ending):
    """The shipped models that have a file of this ending."""
    return [name for name, model in MANIFEST.items() if f"{name}{ending}" in model["files"]]


def shipped(file):
    return (shipped_dir() / file).read_bytes()


def test_the_whole_family_is_shipped_in_fp32_and_int8_and_base_as_a_stream():
    assert files(".onnx") == files(".int8.onnx") == [*FAMILY]
    assert files(".stream.onnx") == ["base", "early"]


@pytest.mark.parametrize("name", files(".onnx"))
def test_the_shipped_model_is_the_export_of_the_shipped_checkpoint_byte_for_byte(name):
    checkpoint = load_checkpoint(shipped_dir() / f"{name}.safetensors")
    assert shipped(f"{name}.onnx") == build_model(checkpoint).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", files(".int8.onnx"))
def test_the_shipped_int8_model_is_made_of_the_shipped_checkpoint_byte_for_byte(name):
    checkpoint = load_checkpoint(shipped_dir() / f"{name}.safetensors")
    score = Score(**MANIFEST[name]["test_int8"])
    assert shipped(f"{name}.int8.onnx") == build_model(checkpoint, "int8", score).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", files(".stream.onnx"))
def test_the_shipped_stream_is_made_of_the_shipped_checkpoint_and_its_rule_byte_for_byte(name):
    checkpoint = load_checkpoint(shipped_dir() / f"{name}.safetensors")
    rule = Stream(f"{name}.stream").contract.early
    assert rule is not None
    assert shipped(f"{name}.stream.onnx") == build_stream_model(checkpoint, early=rule).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", MANIFEST)
def test_the_manifest_says_what_the_checkpoint_says_of_itself(name):
    checkpoint, entry = load_checkpoint(shipped_dir() / f"{name}.safetensors"), MANIFEST[name]
    assert FAMILY[checkpoint.name] == checkpoint.config
    for split, score in (("validation", checkpoint.validation), ("test", checkpoint.test)):
        assert Score(**entry[split]) == score
    assert (entry["n_parameters"], entry["verified"]) == (checkpoint.config.n_parameters, True)
    assert entry["seeds"][str(checkpoint.train.seed)] == {"validation": entry["validation"], "test": entry["test"]}


@pytest.mark.parametrize("name", files(".onnx"))
def test_the_seed_that_is_shipped_is_the_median_of_validation(name):
    rights = sorted(seed["validation"]["n_right"] for seed in MANIFEST[name]["seeds"].values())
    assert len(rights) >= 3
    assert MANIFEST[name]["validation"]["n_right"] == rights[len(rights) // 2]


@pytest.mark.parametrize("name", files(".onnx"))
def test_the_shipped_model_reads_the_shipped_sample(name):
    score = Score.of(OrtRunner(name, provider="cpu").logits(sample_digits().images), sample_digits().labels)
    assert score.n_right >= 985, str(score)


@pytest.mark.parametrize("name", MANIFEST)
def test_the_card_holds_the_figures_of_the_manifest(name):
    card = Path(shipped_dir() / "README.md").read_text(encoding="utf-8")
    scores = [MANIFEST[name].get(split) for split in ("validation", "test", "test_int8")]
    for score in filter(None, [*scores, *(seed["test"] for seed in MANIFEST[name]["seeds"].values())]):
        assert f"{score['n_right']:,}/{score['n']:,}" in card
