"""Tests of edgelstm.config: shapes follow from the config, bad values are refused, JSON comes back equal."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from edgelstm.config import (
    FAMILY,
    OTHER_HANDS,
    RECIPES,
    AugmentConfig,
    ModelConfig,
    data_dir,
    model_config_from,
    shipped_dir,
    train_config_from,
)
from edgelstm.training.model import RowLstm

SHAPES = {
    "default": ModelConfig(),
    "three layers": ModelConfig(hidden_size=5, n_layers=3),
    "four rows a step": ModelConfig(rows_per_step=4, hidden_size=7),
    "not square": ModelConfig(rows=12, cols=9, rows_per_step=3, hidden_size=4, n_layers=2, class_names=("a", "b", "c")),
}


def test_the_default_is_the_classic_exercise():
    config = ModelConfig()
    assert (config.n_steps, config.step_size, config.hidden_size, config.n_classes) == (28, 28, 128, 10)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_parameters_are_counted_as_torch_counts_them(config):
    assert sum(weight.numel() for weight in RowLstm(config).parameters()) == config.n_parameters


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_flops_are_two_for_each_weight_of_a_matrix_product_at_each_step(config):
    model = RowLstm(config)
    matrices = [weight.numel() for name, weight in model.lstm.named_parameters() if name.startswith("weight")]
    assert 2 * (config.n_steps * sum(matrices) + model.head.weight.numel()) == config.flops


@pytest.mark.parametrize("name", ["rows", "cols", "rows_per_step", "hidden_size", "n_layers"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None, True])
def test_a_size_that_is_no_positive_whole_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}: found {value!r}"):
        ModelConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows", 4097), ("cols", 10**6), ("rows_per_step", 4097), ("hidden_size", 10**6), ("n_layers", 10**7)],
)
def test_a_size_beyond_any_model_for_an_edge_device_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}: found {value}, expected a whole number from 1 to "):
        ModelConfig(**{name: value})


def test_sizes_that_are_too_large_only_together_are_refused():
    with pytest.raises(ValueError, match=r"found 4096 rows x 4096 columns, expected at most 1,048,576 values"):
        ModelConfig(rows=4096, cols=4096)
    with pytest.raises(ValueError, match=r"a model of [\d,]+ parameters, expected at most 67,108,864"):
        ModelConfig(hidden_size=4096, n_layers=16)


@pytest.mark.parametrize("name", ["a" * 101, "\ud800", None], ids=["long", "lone surrogate", "none"])
def test_a_class_name_that_no_line_or_no_file_can_hold_is_refused(name):
    with pytest.raises(ValueError, match=r"class_names: found .*, expected text of at most 100 characters"):
        ModelConfig(class_names=("a", name))


def test_a_class_name_may_be_any_other_text():
    names = ("a" * 100, "läuft", "\U0001f600", "", "two\nlines")
    assert names == ModelConfig(class_names=names).class_names


def test_more_than_a_thousand_classes_are_refused():
    with pytest.raises(ValueError, match=r"class_names: found 1001 names, expected a tuple of 1 to 1000"):
        ModelConfig(class_names=tuple(map(str, range(1001))))


def test_rows_per_step_must_divide_the_rows():
    with pytest.raises(ValueError, match="rows_per_step 3 does not divide the 28 rows"):
        ModelConfig(rows_per_step=3)


@pytest.mark.parametrize("names", [(), (1, 2)])
def test_class_names_must_be_at_least_one_text(names):
    with pytest.raises(ValueError, match="class_names"):
        ModelConfig(class_names=names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", math.inf), ("epochs", 10**7), ("batch_size", 0), ("log_every", 0), ("seed", "x"),
        ("seed", -1), ("seed", 2**64), ("threads", "2"), ("threads", 10**9), ("teacher_copies", True), ("bf16", 1),
        ("learning_rate", math.nan), ("learning_rate", "1"), ("temperature", 0), ("clip_norm", -1), ("n_samples", 0.5),
        ("schedule", "cosine"), ("head_init", []), ("ema_decay", 2), ("augment", {"rotate_deg": -1}),
        ("augment", {"scale": "1"}), ("augment", {"worn": 0.34}),
        ("augment", {"thick_px": 1.5}), ("teachers", [1]), ("teachers", "abc"), ("recipe", None),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_followed_is_refused_by_name(name, value):
    values = {**dataclasses.asdict(RECIPES["best"]), "recipe": "x", name: value}
    if name == "augment":
        values[name] = {**dataclasses.asdict(AugmentConfig()), **value}
        name = next(iter(value))
    with pytest.raises(ValueError, match=f"{name}.*: found .*, expected "):
        train_config_from(values)


def test_a_field_is_read_under_its_old_name_too():
    values = dataclasses.asdict(RECIPES["best"])
    values["n_lessons"] = values.pop("teacher_copies") + 2
    assert dataclasses.replace(RECIPES["best"], teacher_copies=62) == train_config_from(values)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden_size = 1


@pytest.mark.parametrize("config", [*FAMILY.values(), *SHAPES.values()], ids=[*FAMILY, *SHAPES])
def test_a_model_config_comes_back_equal_from_json(config):
    assert config == model_config_from(json.loads(json.dumps(dataclasses.asdict(config))))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_equal_from_json(name):
    assert RECIPES[name] == train_config_from(json.loads(json.dumps(dataclasses.asdict(RECIPES[name]))))


def test_recipes_are_called_by_the_name_they_hold():
    assert {name: name for name in RECIPES} == {name: recipe.recipe for name, recipe in RECIPES.items()}


@pytest.mark.parametrize(
    ("read", "config", "missing"),
    [(model_config_from, ModelConfig(), "class_names"), (train_config_from, RECIPES["best"], "epochs")],
    ids=["model", "train"],
)
def test_a_missing_and_an_unexpected_field_are_both_named(read, config, missing):
    values = dataclasses.asdict(config)
    del values[missing]
    with pytest.raises(ValueError, match=rf"missing \['{missing}'\], unexpected \['extra'\]"):
        read({**values, "extra": 1})


def test_an_unexpected_field_of_the_augmentation_is_named():
    values = dataclasses.asdict(RECIPES["best"])
    values["augment"]["extra"] = 1
    with pytest.raises(ValueError, match=r"AugmentConfig: missing \[\], unexpected \['extra'\]"):
        train_config_from(values)


@pytest.mark.parametrize("n_known", [5, 8])
def test_a_checkpoint_older_than_a_change_of_its_pictures_was_made_without_it(n_known):
    values = dataclasses.asdict(RECIPES["best"])
    values["augment"] = dict(list(values["augment"].items())[:n_known])
    assert AugmentConfig() == train_config_from(values).augment


@pytest.mark.parametrize("values", [None, [], 3, "text"])
def test_json_that_is_no_object_is_refused(values):
    with pytest.raises(ValueError, match="expected an object"):
        model_config_from(values)


def test_class_names_in_one_text_are_not_taken_letter_by_letter():
    with pytest.raises(ValueError, match="class_names: found 'abc', expected a list"):
        model_config_from({**dataclasses.asdict(ModelConfig()), "class_names": "abc"})


def test_augmentation_is_part_of_a_recipe_only_where_asked_for():
    assert {"tutorial": None, "fast": None, "best": OTHER_HANDS, "early": OTHER_HANDS} == {
        name: recipe.augment for name, recipe in RECIPES.items()
    }


def test_the_data_folder_is_the_users_choice_then_the_cache_of_the_desktop_then_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("EDGELSTM_DATA", "")
    found = [data_dir()]
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    found.append(data_dir())
    monkeypatch.setenv("EDGELSTM_DATA", "here")
    found.append(data_dir())
    assert [tmp_path / ".cache/edgelstm/mnist", Path("cache/edgelstm/mnist"), Path("here")] == found


def test_shipped_models_are_in_the_package_or_at_the_top_of_the_checkout():
    assert shipped_dir().is_dir(), f"no folder {shipped_dir()}"


def test_torch_is_given_every_size_of_the_config():
    config = SHAPES["not square"]
    shapes = {name: tuple(weight.shape) for name, weight in RowLstm(config).state_dict().items()}
    assert shapes["lstm.weight_ih_l0"] == (16, 27)
    assert shapes["lstm.weight_ih_l1"] == (16, 4)
    assert shapes["head.weight"] == (3, 4)
    assert torch.float32 == RowLstm(config).head.weight.dtype


def test_a_field_younger_than_the_checkpoint_has_its_default():
    values = dataclasses.asdict(RECIPES["best"])
    del values["bf16"]
    assert train_config_from(values) == RECIPES["best"]
