"""Tests of edgelstm.training.augment: digits move by what was asked, and alike for the same seed."""

import dataclasses

import numpy as np
import pytest
import torch

from edgelstm.config import OTHER_HANDS, AugmentConfig, ModelConfig
from edgelstm.training.augment import augment, augment_values, augmented, blurred, thickened
from edgelstm.training.model import RowLstm

STILL = AugmentConfig(rotate_deg=0, scale=0, shear=0, shift_px=0, elastic_px=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits(sample):
    return torch.from_numpy(sample.sequences[:200].copy())


def spot(batch=500, rows=28, cols=28):
    """A 2 x 2 spot in the very middle of each picture."""
    pixels = torch.zeros(batch, rows, cols, dtype=torch.uint8)
    pixels[:, rows // 2 - 1 : rows // 2 + 1, cols // 2 - 1 : cols // 2 + 1] = 255
    return pixels


def centres(pixels):
    """(B, 2): the centre of mass of each picture, x and y in pixels from the middle."""
    mass = pixels.double()
    y, x = (torch.arange(size) - (size - 1) / 2 for size in mass.shape[1:])
    total = mass.sum((1, 2))
    return torch.stack([(mass.sum(1) * x).sum(1) / total, (mass.sum(2) * y).sum(1) / total], 1)


def test_nothing_to_change_changes_nothing(digits):
    assert torch.equal(digits, augment(digits, STILL, seeded()))


def test_pixels_stay_uint8_of_the_same_shape(digits):
    moved = augment(digits, AugmentConfig(), seeded())
    assert (torch.uint8, digits.shape) == (moved.dtype, moved.shape)


def test_the_original_digits_are_left_alone(digits):
    before = digits.clone()
    augment(digits, AugmentConfig(), seeded())
    assert torch.equal(before, digits)


def test_the_same_seed_moves_digits_alike(digits):
    first, second = (augment(digits, AugmentConfig(), seeded(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_another_seed_moves_digits_otherwise(digits):
    assert not torch.equal(augment(digits, AugmentConfig(), seeded(3)), augment(digits, AugmentConfig(), seeded(4)))


def test_each_digit_of_a_batch_moves_on_its_own():
    moved = augment(spot(50), AugmentConfig(), seeded())
    assert len({picture.numpy().tobytes() for picture in moved}) == 50


@pytest.mark.parametrize(("rows", "cols"), [(28, 28), (14, 56), (40, 16)])
def test_a_shift_is_at_most_what_was_asked_and_uses_all_of_it_on_both_axes(rows, cols):
    moved = centres(augment(spot(500, rows, cols), AugmentConfig(0, 0, 0, shift_px=2.0, elastic_px=0), seeded()))
    largest = moved.abs().max(0).values
    assert (largest <= 2.02).all(), f"shifted by {largest.tolist()} pixels"
    assert (largest > 1.9).all(), f"shifted by only {largest.tolist()} pixels"
    mean = moved.mean(0)
    assert (mean.abs() < 0.2).all(), f"500 shifts average {mean.tolist()} pixels"


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(15, 0, 0, 0, 0), AugmentConfig(0, 0.15, 0, 0, 0), AugmentConfig(0, 0, 0.2, 0, 0),
    ],
    ids=["rotation", "scale", "shear"],
)  # fmt: skip
def test_other_changes_keep_the_middle_in_its_place(config):
    moved = augment(spot(100), config, seeded())
    assert not torch.equal(spot(100), moved)
    assert (centres(moved).abs() < 0.05).all(), f"the middle moved by {centres(moved).abs().max()} pixels"


def bars():
    """A bar above the middle in each picture: its direction shows rotation, its distance the scale."""
    pixels = torch.zeros(500, 56, 56, dtype=torch.uint8)
    pixels[:, 10:14, 27:29] = 255
    return pixels, -16.0  # rows from the middle


def test_a_rotation_is_at_most_what_was_asked_and_uses_all_of_it():
    pixels, _ = bars()
    moved = centres(augment(pixels, AugmentConfig(rotate_deg=15, scale=0, shear=0, shift_px=0, elastic_px=0), seeded()))
    angles = torch.rad2deg(torch.atan2(moved[:, 0], -moved[:, 1]))
    assert 14.5 < angles.max() < 15.2, f"turned by {angles.max():.2f} degrees"
    assert -15.2 < angles.min() < -14.5, f"turned by {angles.min():.2f} degrees"


def test_a_scale_is_at_most_what_was_asked_and_uses_all_of_it():
    pixels, height = bars()
    moved = centres(
        augment(pixels, AugmentConfig(rotate_deg=0, scale=0.15, shear=0, shift_px=0, elastic_px=0), seeded())
    )
    scales = height / moved[:, 1]  # grid_sample goes from the new picture to the old one
    assert 1.14 < scales.max() < 1.16, f"scaled by {scales.max():.3f}"
    assert 0.84 < scales.min() < 0.86, f"scaled by {scales.min():.3f}"


def test_a_shear_moves_rows_sideways_and_none_up_or_down():
    pixels, height = bars()
    moved = centres(
        augment(pixels, AugmentConfig(rotate_deg=0, scale=0, shear=0.2, shift_px=0, elastic_px=0), seeded())
    )
    slopes = (moved[:, 0] / height).abs()
    assert 0.195 < slopes.max() < 0.205, f"sheared by {slopes.max():.3f}"
    assert (moved[:, 1] - height).abs().max() < 0.05


@pytest.mark.parametrize(("rows", "cols"), [(28, 28), (14, 56)])
def test_an_elastic_displacement_has_the_deviation_asked_for(rows, cols):
    moved = centres(augment(spot(2000, rows, cols), AugmentConfig(0, 0, 0, 0, elastic_px=1.0), seeded()))
    deviations = moved.std(0)
    # 2,000 draws know a deviation to 1.6 %; bending changes a spot's shape a little too
    np.testing.assert_allclose(deviations, [1, 1], atol=0.12)


def test_an_elastic_displacement_bends_smoothly():
    """Neighbouring pixels move together: the digit's ink stays about what it was."""
    line = torch.zeros(100, 28, 28, dtype=torch.uint8)
    line[:, 4:24, 13:15] = 255
    moved = augment(line, AugmentConfig(0, 0, 0, 0, elastic_px=1.0), seeded())
    ink = moved.double().sum((1, 2)) / line.double().sum((1, 2))
    assert 0.6 < ink.min() < ink.max() < 1.6, f"ink from {ink.min():.2f} to {ink.max():.2f}"


def test_pictures_need_not_be_square():
    pixels = torch.zeros(3, 10, 20, dtype=torch.uint8)
    assert tuple(augment(pixels, AugmentConfig(), seeded()).shape) == (3, 10, 20)


# Worn digits


def worn(config, pixels, seed=0):
    """Each picture as it is, but for what the config wears."""
    return augment(pixels, dataclasses.replace(STILL, worn=1 / 3 - 0.004, **config), seeded(seed))


def block(batch=1000):
    """A square of ink in the middle of each picture."""
    pixels = torch.zeros(batch, 28, 28, dtype=torch.uint8)
    pixels[:, 9:19, 9:19] = 200
    return pixels


def differing(pixels, changed):
    """The pictures that were changed, float64."""
    return changed[(pixels != changed).any(2).any(1)].double()


def test_what_is_not_worn_stays_and_each_change_gets_its_share():
    for config in ({"noise_levels": 40.0}, {"blur_px": 2.0}, {"faint": 0.8}, {"thick_px": 1.0}):
        share = len(differing(block(), worn(config, block()))) / 1000
        assert share == pytest.approx(0.33, abs=0.05), f"{config}: {share} of the pictures changed"
    share = len(differing(block(), worn({"cut_px": 3.0}, block()))) / 1000
    assert share == pytest.approx(0.33 * 5 / 6, abs=0.05), "a sixth of the cuts rounds to no pixel"


def test_noise_is_on_every_pixel_and_up_to_what_was_asked():
    grey = torch.full((1000, 28, 28), 128, dtype=torch.uint8)
    deviations = differing(grey, worn({"noise_levels": 40.0}, grey)).std((1, 2))
    assert 36 < deviations.max() < 44, f"noise of {deviations.max():.1f} levels"
    assert deviations.mean() == pytest.approx(20, rel=0.1)


def test_faint_ink_keeps_at_least_its_share():
    strengths = differing(block(), worn({"faint": 0.8}, block())).amax((1, 2)) / 200
    assert 0.195 < strengths.min() < 0.25
    assert strengths.max() > 0.95


def test_noise_blur_and_faintness_do_not_come_together():
    """Ink at a fifth under noise could not be read by anyone."""
    grey = torch.full((2000, 28, 28), 150, dtype=torch.uint8)
    changed = differing(grey, worn({"noise_levels": 20.0, "faint": 0.8}, grey))
    noisy, faint = changed.std((1, 2)) > 1, changed.mean((1, 2)) < 145
    assert noisy.any()
    assert faint.any()
    assert not (noisy & faint).any()


def test_blur_has_the_deviation_asked_for_and_keeps_the_ink():
    picture = torch.zeros(1, 28, 28)
    picture[0, 14, 14] = 255.0
    found = blurred(picture, torch.tensor([1.5]))
    assert float(found.sum()) == pytest.approx(255, rel=1e-3)
    assert float(found.sum((0, 2)) @ (torch.arange(28.0) - 14) ** 2 / 255) == pytest.approx(1.5**2, rel=0.02)
    assert torch.allclose(picture, blurred(picture, torch.zeros(1)), atol=1e-3)


@pytest.mark.parametrize(("pixels", "width"), [(1.0, 4.0), (0.5, 3.0), (-0.5, 1.0), (0.0, 2.0)])
def test_strokes_become_thicker_or_thinner_on_both_sides(pixels, width):
    line = torch.zeros(1, 28, 28)
    line[:, :, 13:15] = 255.0
    assert float(thickened(line, torch.tensor([pixels]))[0, 14].sum() / 255) == width


def test_an_edge_is_lost_on_one_side_alone_and_each_side_has_its_turn():
    changed = differing(block(2000), worn({"cut_px": 3.0}, block(2000)))
    inked = changed > 0
    rows, cols = inked.any(2), inked.any(1)
    lost = torch.stack([~rows[:, 9:19].any(1), ~cols[:, 9:19].any(1)])
    assert not lost.any(), "a digit is gone"
    sides = torch.stack([~rows[:, 9], ~rows[:, 18], ~cols[:, 9], ~cols[:, 18]]).sum(1)
    assert (sides > 80).all(), f"top, bottom, left, right were cut {sides.tolist()} times"
    heights, widths = rows.sum(1), cols.sum(1)
    assert ((heights == 10) != (widths == 10)).all(), "one side alone"
    assert (7, 7) == (int(heights.min()), int(widths.min()))


def test_worn_digits_change_alike_for_the_same_seed(digits, sample):
    labels = torch.from_numpy(sample.labels[:200].copy())
    first, second, other = (augment(digits, OTHER_HANDS, seeded(seed), labels) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (torch.uint8, digits.shape) == (first.dtype, first.shape)


# Values


def values_model(mean=(5.0, -1e4), deviation=(2.0, 100.0)):
    model = RowLstm(ModelConfig(rows=50, cols=2, hidden_size=2, preparation="values"))
    model.mean.copy_(torch.tensor(mean))
    model.scale.copy_(1 / torch.tensor(deviation))
    return model


def constant(model, distance=1.0, batch=2000):
    """Sequences that stay so many deviations above the mean of each column."""
    return (model.mean + distance / model.scale).expand(batch, 50, 2).contiguous()


def in_deviations(moved, model):
    """(B, R, C) distances from the mean of each column, float64."""
    return (moved.double() - model.mean.double()) * model.scale.double()


def only(**strengths):
    return AugmentConfig(0, 0, 0, 0, 0, **strengths)


def test_noise_has_the_deviation_asked_for_in_each_column_and_is_another_for_each_value():
    model = values_model()
    moved = in_deviations(augment_values(constant(model), model, only(noise=0.3), seeded()), model)
    np.testing.assert_allclose(moved.std((0, 1)), [0.3, 0.3], rtol=0.01)
    np.testing.assert_allclose(moved.mean((0, 1)), [1, 1], atol=0.005)
    assert moved.std(1).min() > 0.2, "each value of a sequence is moved on its own"


@pytest.mark.parametrize(
    ("config", "distance", "deviation"),
    [(only(column_offset=0.2), 1.0, 0.2), (only(column_scale=0.1), 3.0, 0.3), (only(column_scale=0.1), 0.0, 0.0)],
    ids=["offset", "scale", "scale of the mean"],
)
def test_a_whole_column_of_a_sequence_is_shifted_and_scaled_about_its_mean(config, distance, deviation):
    model = values_model()
    moved = in_deviations(augment_values(constant(model, distance), model, config, seeded()), model)
    np.testing.assert_allclose(moved.mean(1).std(0), [deviation, deviation], rtol=0.05, atol=1e-6)
    assert moved.std(1).max() < 1e-4, "the rows of a sequence move alike"
    correlation = np.corrcoef(moved[:, 0].T)[0, 1] if deviation else 0
    assert abs(correlation) < 0.1, f"the columns move together: {correlation}"


def test_values_move_alike_for_the_same_seed_and_stay_float32():
    model = values_model()
    config = only(noise=0.3, column_scale=0.1, column_offset=0.1)
    first, second, other = (augmented(constant(model, 1, 20), model, config, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (torch.float32, (20, 50, 2)) == (first.dtype, tuple(first.shape))


def test_values_are_left_as_they_are_by_what_moves_pictures():
    model = values_model((0.0, 0.0), (1.0, 1.0))
    values = constant(model, 1, 20)
    assert torch.equal(values, augment_values(values, model, AugmentConfig(), seeded()))


def test_a_plain_picture_of_few_levels_is_moved_without_rounding():
    model = RowLstm(ModelConfig(rows=8, cols=8, hidden_size=2, preparation="plain"))
    model.scale.fill_(1 / 16)
    pixels = torch.full((500, 8, 8), 8, dtype=torch.uint8)
    moved = augmented(pixels, model, only(noise=0.1), seeded())
    assert 0.1 * 16 == pytest.approx(float(moved.std()), rel=0.02)
    assert moved.frac().abs().max() > 0
