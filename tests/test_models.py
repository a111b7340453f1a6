"""Tests of the shipped models: the files are those of the manifest, and what it says of them is so."""

import json
from pathlib import Path

import pytest

from edgelstm.config import FAMILY, shipped_dir
from edgelstm.contract import Score
from edgelstm.data import sample_digits
from edgelstm.files import sha256_of
from edgelstm.runtime import OrtRunner
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.training.graph import build_model

MANIFEST = json.loads((shipped_dir() / "manifest.json").read_text(encoding="utf-8"))
FILES = [(name, file) for name, model in MANIFEST.items() for file in model["files"]]


@pytest.mark.parametrize(("name", "file"), FILES, ids=[file for _, file in FILES])
def test_a_shipped_file_is_the_one_of_the_manifest(name, file):
    content = (shipped_dir() / file).read_bytes()
    assert MANIFEST[name]["files"][file] == {"n_bytes": len(content), "sha256": sha256_of(content)}


def test_no_model_is_shipped_that_the_manifest_does_not_name():
    shipped = {path.name for path in shipped_dir().iterdir() if path.suffix in (".onnx", ".safetensors")}
    assert {file for _, file in FILES} == shipped


@pytest.mark.parametrize("name", MANIFEST)
def test_the_shipped_model_is_the_export_of_the_shipped_checkpoint_byte_for_byte(name):
    checkpoint = load_checkpoint(shipped_dir() / f"{name}.safetensors")
    assert (shipped_dir() / f"{name}.onnx").read_bytes() == build_model(checkpoint).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", MANIFEST)
def test_the_shipped_int8_model_is_made_of_the_shipped_checkpoint_byte_for_byte(name):
    checkpoint = load_checkpoint(shipped_dir() / f"{name}.safetensors")
    score = Score(**MANIFEST[name]["test_int8"])
    made = build_model(checkpoint, "int8", score).SerializeToString(deterministic=True)
    assert (shipped_dir() / f"{name}.int8.onnx").read_bytes() == made


@pytest.mark.parametrize("name", MANIFEST)
def test_the_manifest_says_what_the_model_says_of_itself(name):
    contract = OrtRunner(name, provider="cpu").contract
    entry = MANIFEST[name]
    assert FAMILY[name] == contract.config
    assert contract.test is not None
    assert (entry["test"]["n_right"], entry["test"]["n"]) == (contract.test.n_right, contract.test.n)
    assert (entry["n_parameters"], entry["verified"]) == (contract.config.n_parameters, True)


@pytest.mark.parametrize("name", MANIFEST)
def test_the_shipped_model_reads_the_shipped_sample(name):
    digits = sample_digits()
    n_right = int((OrtRunner(name, provider="cpu").logits(digits.images).argmax(1) == digits.labels).sum())
    assert n_right >= 985, f"{n_right}/1000"


@pytest.mark.parametrize("name", MANIFEST)
def test_the_card_holds_the_figures_of_the_manifest(name):
    card = Path(shipped_dir() / "README.md").read_text(encoding="utf-8")
    for split in ("validation", "test", "test_int8"):
        score = MANIFEST[name][split]
        assert f"{score['n_right']:,}/{score['n']:,}" in card
