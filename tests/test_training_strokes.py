"""Tests of edgelstm.training.strokes: which digits get strokes, where, and that they stay inside the picture."""

import dataclasses

import pytest
import torch

from edgelstm.config import AugmentConfig, ModelConfig
from edgelstm.training.augment import augment, augmented
from edgelstm.training.model import RowLstm
from edgelstm.training.strokes import Digits, draw, redrawn

ONLY_HANDS = AugmentConfig(0, 0, 0, 0, 0, hands=1.0)
CHANGED = (1, 2, 4, 7, 9)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits(sample):
    """Real digits and what they show."""
    return torch.from_numpy(sample.sequences.copy()).float(), torch.from_numpy(sample.labels.astype("int64"))


def stems(slant=0.0, batch=300):
    """1s as one stroke of 20 rows, 2 pixels thick, leaning to the right by so many pixels a row."""
    strokes = torch.tensor([[[14.0 + 10 * slant, 4.0], [14.0 - 10 * slant, 24.0]]])
    return draw(strokes[None, 0].expand(batch, 1, 2, 2), torch.full((batch,), 2.0), torch.Size((28, 28)))


def test_only_digits_that_other_hands_write_otherwise_are_changed(digits):
    ink, labels = digits
    changed = (redrawn(ink, labels, 1.0, seeded()) != ink).any(2).any(1)
    assert not changed[~torch.isin(labels, torch.tensor(CHANGED))].any()
    for digit in CHANGED:
        share = changed[labels == digit].float().mean()
        assert share > 0.95, f"{share:.2f} of the {digit}s were changed"


def test_only_the_share_asked_for_is_changed(digits):
    ink, labels = digits
    changed = (redrawn(ink, labels, 0.3, seeded()) != ink).any(2).any(1)
    assert changed[torch.isin(labels, torch.tensor(CHANGED))].float().mean() == pytest.approx(0.3, abs=0.07)


def test_strokes_are_added_but_for_the_4(digits):
    ink, labels = digits
    added = redrawn(ink, labels, 1.0, seeded()) - ink
    assert (added[labels != 4] >= 0).all(), "ink was taken away"
    assert (added[labels == 4] < 0).any(), "a 4 is drawn anew"


def test_the_same_seed_draws_alike_and_the_originals_are_left_alone(digits):
    ink, labels = digits
    before = ink.clone()
    first, second, other = (redrawn(ink, labels, 1.0, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, ink)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("slant", [-0.2, 0.0, 0.3])
def test_the_flag_of_a_1_falls_to_the_left_and_is_never_level(slant):
    """What is level at the top is a 7."""
    ones = stems(slant)
    added = redrawn(ones, torch.ones(len(ones), dtype=torch.int64), 1.0, seeded()) - ones
    flags = added[:, :18] > 100
    flags[:, :, :2] = False
    seen = 0
    for one, flag in zip(ones, flags, strict=True):
        rows, cols = flag.nonzero().T
        if len(cols) < 8:
            continue
        seen += 1
        far = cols.argmin()
        top = (one[5] * torch.arange(28)).sum() / one[5].sum()
        assert cols[far] < top, "a flag on the right"
        assert rows[far] - 5 > 0.4 * (top - cols[far]) - 1.5, "a level flag"
    assert seen > 150


def test_the_foot_of_a_1_is_at_its_lower_end():
    ones = stems()
    added = redrawn(ones, torch.ones(len(ones), dtype=torch.int64), 1.0, seeded()) - ones
    feet = (added[:, 20:] > 100).sum((1, 2)) > 3
    assert 0.4 < feet.float().mean() < 0.65
    assert (added[feet][:, 18:21] > 100).sum() < (added[feet][:, 21:] > 100).sum()


def test_the_bar_of_a_7_crosses_its_stem_on_both_sides():
    strokes = torch.tensor([[[7.0, 5.0], [20.0, 5.0]], [[20.0, 5.0], [11.0, 24.0]]])
    seven = draw(strokes.expand(200, 2, 2, 2), torch.full((200,), 2.0), torch.Size((28, 28)))
    added = redrawn(seven, torch.full((200,), 7), 1.0, seeded()) - seven
    assert (added[:, :8].amax((1, 2)) < 100).all(), "ink near the top"
    for bar, old in zip(added > 100, seven > 100, strict=True):
        rows, cols = bar.nonzero().T
        row = int(rows.float().mean())
        stem = old[row].nonzero().float().mean()
        assert cols.min() < stem < cols.max()


def test_strokes_are_as_thick_as_the_digit():
    for thickness in (2.0, 4.0):
        strokes = torch.tensor([[[[14.0, 4.0], [14.0, 24.0]]]])
        found = Digits(draw(strokes, torch.tensor([thickness]), torch.Size((28, 28)))).thickness
        assert float(found) == pytest.approx(thickness * 4 / torch.pi, rel=0.25)


def test_a_stroke_without_length_is_none():
    nothing = torch.full((3, 1, 2, 2), 10.0)
    assert float(draw(nothing, torch.full((3,), 3.0), torch.Size((28, 28))).max()) == 0


def test_a_picture_without_ink_does_no_harm():
    nothing = torch.zeros(50, 28, 28)
    found = redrawn(nothing, torch.arange(50) % 10, 1.0, seeded())
    assert found.isfinite().all()
    assert augment(nothing.to(torch.uint8), ONLY_HANDS, seeded(), torch.arange(50) % 10).dtype == torch.uint8


def test_the_centre_of_mass_stays_where_it_was(digits):
    ink, labels = digits
    pixels = ink.to(torch.uint8)
    changed = augment(pixels, ONLY_HANDS, seeded(), labels).double()
    at = torch.arange(28.0, dtype=torch.float64)
    for axis in (1, 2):
        before, after = (p.double().sum(axis) @ at / p.double().sum((1, 2)) for p in (pixels, changed))
        assert (before - after).abs().max() < 0.35


@pytest.mark.parametrize("names", [tuple("abcdefghij"), tuple("0123456798")])
def test_classes_of_other_names_get_no_strokes(digits, names):
    ink, labels = digits
    model = RowLstm(dataclasses.replace(ModelConfig(hidden_size=2), class_names=names))
    pixels = ink.to(torch.uint8)
    assert torch.equal(pixels, augmented(pixels, model, ONLY_HANDS, seeded(), labels))
    own = RowLstm(ModelConfig(hidden_size=2))
    assert not torch.equal(pixels, augmented(pixels, own, ONLY_HANDS, seeded(), labels))
