"""Tests of edgelstm.show.contact_sheet: pictures beside what the network saw, whatever they are called."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgelstm.errors import OutputError
from edgelstm.runtime.classifier import Prediction
from edgelstm.show import contact_sheet
from edgelstm.show.contact_sheet import CAPTION_PX, COLUMNS, GAP_PX, SIDE_PX, check_target, save_pairs

WIDTH, HEIGHT = 2 * SIDE_PX + 2, SIDE_PX + CAPTION_PX


@pytest.fixture
def pair(sample):
    """A digit as an array, and what might be said of it."""
    image = sample.sequences[0]
    return image, Prediction("a.png", 7, "7", 0.9, (("7", 0.9),), sequence=image)


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_pairs_stand_in_columns_and_pictures_with_an_error_are_left_out(pair, tmp_path):
    error = Prediction("b.png", None, None, None, error="damaged")
    save_pairs([pair, (b"", error), *[pair] * COLUMNS], tmp_path / "sheet.png")
    page = opened(tmp_path / "sheet.png")
    assert page.size == (COLUMNS * (WIDTH + GAP_PX) - GAP_PX, 2 * (HEIGHT + GAP_PX) - GAP_PX)
    seen = np.asarray(page.convert("L"))[HEIGHT + GAP_PX + CAPTION_PX :, SIDE_PX + 2 : 2 * SIDE_PX + 2]
    np.testing.assert_array_equal(np.kron(pair[1].sequence, np.ones((8, 8), np.uint8)), seen)


def test_a_folder_gets_a_picture_each_under_a_name_that_is_safe_anywhere(pair, tmp_path):
    image, prediction = pair
    names = ["x/../..\\evil\n.png", "\x1b[31mred.png", "\udcff.png", "a" * 300 + ".png"]
    pairs = [(image, replace(prediction, source=name)) for name in names]
    save_pairs(pairs, tmp_path / "seen")
    found = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert found == ["0001-.._evil_.png", "0002-__31mred.png", "0003-_.png", f"0004-{'a' * 60}.png"]


@pytest.mark.parametrize("label", ["7\nforged", "\x1b[31mred", "\ud800", "9" * 5_000, "数字"])
def test_any_class_name_can_be_drawn_and_stays_in_its_line(pair, tmp_path, label):
    image, prediction = pair
    for name, text in (("plain", "7"), ("named", label)):
        save_pairs([(image, replace(prediction, label=text, note=text))], tmp_path / f"{name}.png")
    plain, named = (np.asarray(opened(tmp_path / f"{name}.png")) for name in ("plain", "named"))
    np.testing.assert_array_equal(plain[CAPTION_PX:], named[CAPTION_PX:])


def test_a_sheet_that_few_programs_would_open_is_refused(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "MAX_PICTURES", 2)
    with pytest.raises(OutputError, match="too many pictures: found 3, expected at most 2; name a folder instead"):
        save_pairs([pair] * 3, tmp_path / "sheet.png")


def test_nothing_to_show_writes_nothing(tmp_path):
    save_pairs([(b"", Prediction("b.png", None, None, None, error="damaged"))], tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_not_written_over(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to("a.png")
    check_target(tmp_path / "other.png", [str(tmp_path / "a.png")])
    with pytest.raises(OutputError, match="is one of the pictures"):
        check_target(tmp_path / "link.png", [str(tmp_path / "a.png")])
