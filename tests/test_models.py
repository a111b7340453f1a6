"""Tests of the shipped models: the files are those of the manifest, and what it says of them is so."""

import dataclasses
import json
from pathlib import Path
from shutil import which

import pytest

from edgelstm.config import FAMILY, shipped_dir
from edgelstm.contract import Score, in_batches
from edgelstm.data.mnist import sample_digits
from edgelstm.exporting.graph import build_graph, contract_of
from edgelstm.files import sha256_of
from edgelstm.measure.compile import logits_sha256
from edgelstm.native.runner import CRunner
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import encode, open_model
from edgelstm.runtime.runner import OrtRunner
from edgelstm.runtime.stream import Stream, logits_by_step
from edgelstm.training.checkpoint import load_checkpoint

MANIFEST = json.loads((shipped_dir() / "manifest.json").read_text(encoding="utf-8"))
FILES = [(name, file) for name, model in MANIFEST.items() for file in model["files"]]
ONNX_FILES = [(name, file) for name, file in FILES if file.endswith(".onnx")]
SHIPPED = [file.removesuffix(".onnx") for _, file in ONNX_FILES]


@pytest.mark.parametrize(("name", "file"), FILES, ids=[file for _, file in FILES])
def test_a_shipped_file_is_the_one_of_the_manifest(name, file):
    content = (shipped_dir() / file).read_bytes()
    assert MANIFEST[name]["files"][file] == {"n_bytes": len(content), "sha256": sha256_of(content)}


def test_no_model_is_shipped_that_the_manifest_does_not_name():
    shipped = {path.name for path in shipped_dir().iterdir() if path.suffix in (".onnx", ".safetensors")}
    assert {file for _, file in FILES} == shipped


def test_the_whole_family_is_shipped_in_fp32_and_int8_and_the_early_model_in_fp32():
    family = {f"{name}{ending}" for name in FAMILY for ending in ("", ".int8")}
    assert {*family, "early"} == set(SHIPPED)


@pytest.mark.parametrize(("name", "file"), ONNX_FILES, ids=SHIPPED)
def test_a_shipped_file_is_the_export_of_its_checkpoint_byte_for_byte(name, file):
    """But for the rule and int8's own score, which data chose and counted, and the library versions that wrote it."""
    shipped, checkpoint = open_model(shipped_dir() / file), load_checkpoint(shipped_dir() / f"{name}.safetensors")
    said = shipped.contract
    fresh = contract_of(checkpoint, said.precision, test=said.test, early=said.early)
    fresh = dataclasses.replace(fresh, versions=said.versions)
    assert shipped.content == encode(build_graph(checkpoint, fresh))
    assert checkpoint.versions.items() <= said.versions.items()
    if said.precision == "int8":
        assert said.test == Score(**MANIFEST[name]["test_int8"])


@pytest.mark.parametrize("model", SHIPPED)
def test_a_shipped_model_has_a_rule_for_early_exit_that_validation_chose(model):
    file = open_model(model)
    rule = file.contract.early
    assert rule is not None
    assert (rule.validation.n, rule.temperature) == (9 * 5_000, file.contract.temperature)
    assert 1 <= rule.mean_rows <= file.contract.config.rows


@pytest.mark.parametrize("name", MANIFEST)
def test_the_manifest_says_what_the_checkpoint_says_of_itself(name):
    checkpoint, entry = load_checkpoint(shipped_dir() / f"{name}.safetensors"), MANIFEST[name]
    assert FAMILY["base" if name == "early" else name] == checkpoint.config
    for split, score in (("validation", checkpoint.validation), ("test", checkpoint.test)):
        assert Score(**entry[split]) == score
    assert (entry["n_parameters"], entry["verified"]) == (checkpoint.config.n_parameters, True)
    assert entry["seeds"][str(checkpoint.train.seed)] == {"validation": entry["validation"], "test": entry["test"]}


@pytest.mark.parametrize("name", FAMILY)
def test_the_seed_that_is_shipped_is_the_median_of_validation(name):
    rights = sorted(seed["validation"]["n_right"] for seed in MANIFEST[name]["seeds"].values())
    assert len(rights) >= 3
    assert MANIFEST[name]["validation"]["n_right"] == rights[len(rights) // 2]


@pytest.mark.parametrize("model", SHIPPED)
def test_a_shipped_model_reads_the_shipped_sample_whole_and_row_by_row(model):
    sample = sample_digits()
    for logits in (
        OrtRunner(model, provider="cpu").logits(sample.sequences),
        logits_by_step(Stream(model, n_streams=50), sample.sequences)[:, -1],
    ):
        score = Score.of(logits, sample.labels)
        assert score.n_right >= 985, str(score)


@pytest.mark.parametrize(("name", "file"), ONNX_FILES, ids=SHIPPED)
def test_the_c_engine_gives_the_logits_of_the_manifest_bit_for_bit(name, file):
    """Of the shipped sample; by the compiler that is here, or in NumPy, which takes longer and gives the same."""
    model, expected = open_model(shipped_dir() / file), MANIFEST[name]["c_logits_sha256"][file]
    assert set(expected) == {"int8"} if model.contract.precision == "int8" else {"int8", "fp32"}
    for precision, digests in expected.items():
        provider = "c-int8" if precision == "int8" else "c"
        runner = CRunner(model, provider=provider) if which("cc") else scheme_of(model, precision)
        assert set(digests) == {"10000", "1000"}
        assert digests["1000"] == logits_sha256(in_batches(runner, sample_digits().sequences, 250))


@pytest.mark.parametrize("name", MANIFEST)
def test_the_card_holds_the_figures_of_the_manifest(name):
    card = Path(shipped_dir() / "README.md").read_text(encoding="utf-8")
    scores = [MANIFEST[name].get(split) for split in ("validation", "test", "test_int8")]
    for score in filter(None, [*scores, *(seed["test"] for seed in MANIFEST[name]["seeds"].values())]):
        assert f"{score['n_right']:,}/{score['n']:,}" in card
