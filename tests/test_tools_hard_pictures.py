"""tools/hard_pictures.py: the same seed draws the same files, and a person's digit stays a digit."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgelstm.data.dataset import Part
from edgelstm.data.picture import decode, read_picture
from edgelstm.runtime.calibration import probabilities
from edgelstm.runtime.classifier import Classifier

TOOLS = Path(__file__).resolve().parent.parent / "tools"
QUICK = (
    "plain paper", "drawing, white on black", "hairline", "thick", "low contrast", "whiteboard", "hard shadow", "ruled",
    "squared, dark lines", "coloured", "frame", "EXIF rotation", "1 bit", "16 bits", "CMYK", "animated",
    "transparent, hostile", "saved plot, viridis", "enlarged, blocks", "printed digit",
)  # fmt: skip


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, sample: Part) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)  # where a script finds its neighbours
    module = importlib.import_module("hard_pictures")
    monkeypatch.setattr(module, "load_mnist", lambda split: sample)
    return module


def test_the_same_seed_draws_the_same_files_and_another_does_not(tool: ModuleType) -> None:
    once, again, other = (list(tool.pictures("ruled", "test", 2, seed)) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_no_digits_are_pictures_too(tool: ModuleType) -> None:
    for kind in tool.NO_DIGIT:
        [content] = tool.no_digit_pictures(kind, "test", 1, 0)
        assert decode(content).ndim in (2, 3), kind


def test_the_shipped_model_reads_most_of_a_few_hard_pictures(tool: ModuleType) -> None:
    classifier = Classifier("base", provider="cpu")
    made = [(kind, *picture) for kind in QUICK for picture in tool.pictures(kind, "test", 2, 0)]
    digits = [classifier.classify(content).index for _, _, content in made]
    wrong = [
        f"{kind}: {label} read as {digit}"
        for (kind, label, _), digit in zip(made, digits, strict=True)
        if label != digit
    ]
    assert len(wrong) <= 4, wrong


def test_a_sheet_shows_every_picture_beside_what_was_seen(tool: ModuleType, tmp_path: Path) -> None:
    items = [(str(label), content) for label, content in tool.pictures("plain paper", "test", 3, 0)]
    classifier = Classifier("base", provider="cpu")
    tool.sheet(classifier, items[:1], tmp_path / "one.png")
    tool.sheet(classifier, items, tmp_path / "three.png")
    one, three = (decode((tmp_path / name).read_bytes()) for name in ("one.png", "three.png"))
    assert three.shape[1] - 3 * one.shape[1] in range(60), "three beside each other, with gaps"
    assert np.ptp(one[-140:, -140:]) == 255


@pytest.mark.parametrize("kind", ["sticky note", "1 bit"])
def test_a_digit_on_a_sheet_that_lies_askew_and_one_of_dots_are_seen(tool: ModuleType, kind: str) -> None:
    classifier = Classifier("base", provider="cpu")
    made = list(tool.pictures(kind, "test", 6, 0))
    n_right = sum(classifier.classify(content).index == label for label, content in made)
    assert n_right >= 5, f"{n_right}/6"


def test_the_edge_of_a_shadow_is_no_ink(tool: ModuleType) -> None:
    n_empty = sum(read_picture(content).empty for content in tool.no_digit_pictures("blank, shadowed", "test", 6, 0))
    assert n_empty >= 4, f"{n_empty}/6"


def test_the_reliability_of_four_answers_by_hand(tool: ModuleType) -> None:
    shares = np.array([[0.95, 0.05], [0.95, 0.05], [0.25, 0.75], [0.3, 0.7]])
    found = tool.reliability(shares, np.array([0, 1, 1, 0]))
    filled = {part.low: (part.n, round(part.confidence, 3), part.accuracy) for part in found.bins if part.n}
    assert filled == {0.6: (1, 0.7, 0.0), 0.7: (1, 0.75, 1.0), 0.9: (2, 0.95, 0.5)}
    assert found.ece == pytest.approx((0.7 + 0.25 + 2 * 0.45) / 4)
    assert found.nll == pytest.approx(-np.log([0.95, 0.05, 0.75, 0.3]).mean())


def test_labels_drawn_with_the_probabilities_have_almost_no_calibration_error(tool: ModuleType) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4_000, 10)).astype(np.float32)
    labels = (probabilities(logits).cumsum(axis=1) < rng.random((4_000, 1))).sum(axis=1).clip(0, 9)
    right, wrong = (tool.reliability(probabilities(logits, t), labels).ece for t in (1.0, 0.4))
    assert right < 0.02 < 0.05 < wrong, (right, wrong)


def test_the_reliability_of_no_answers_is_refused(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="no answers"):
        tool.reliability(np.zeros((0, 10)), np.zeros(0, int))
