"""Tests of edgelstm.data.picture.find: the digit is found as a person would see it, and drawn as MNIST would."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from edgelstm.data.mnist import sample_digits
from edgelstm.data.picture import digit_from_array
from edgelstm.data.picture.blobs import inside, label
from edgelstm.data.picture.draw import stroke_width
from edgelstm.errors import PictureError

SEVEN = [(95, 90), (205, 90), (140, 230)]


def drawn(points: list[tuple[int, int]] = SEVEN, width: int = 14, size: tuple[int, int] = (300, 320)) -> np.ndarray:
    """Coverage, 0 to 1, of strokes on a sheet of 300 x 320."""
    image = Image.new("L", size, 0)
    ImageDraw.Draw(image).line(points, fill=255, width=width, joint="curve")
    return np.asarray(image, np.float32) / 255


def paper(cover: np.ndarray, ink: float = 40, ground: float = 220) -> np.ndarray:
    return np.rint(ground + (ink - ground) * cover).astype(np.uint8)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first.astype(float).ravel(), second.astype(float).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def like_plain(picture: np.ndarray) -> float:
    return likeness(PLAIN, digit_from_array(picture).pixels)


PLAIN = digit_from_array(paper(drawn())).pixels
GRAIN = np.random.default_rng(0).normal(0, 1, (320, 300))


def test_dark_and_light_ink_give_the_same_digit() -> None:
    assert like_plain(255 - paper(drawn())) > 0.97


def test_the_digit_fits_the_box_and_is_centred() -> None:
    ys, xs = np.nonzero(PLAIN > 40)
    assert max(np.ptp(ys), np.ptp(xs)) + 1 in (20, 21)
    total = PLAIN.sum(dtype=float)
    assert abs(PLAIN.sum(axis=1) @ np.arange(28) / total - 13.5) < 0.2
    assert abs(PLAIN.sum(axis=0) @ np.arange(28) / total - 13.5) < 0.2


def test_other_sizes_scale_the_box_in_proportion() -> None:
    pixels = digit_from_array(paper(drawn()), 56, 56).pixels
    ys, _ = np.nonzero(pixels > 40)
    assert pixels.shape == (56, 56)
    assert np.ptp(ys) + 1 in (39, 40, 41)


@pytest.mark.parametrize("width", [1, 2, 5, 30, 40])
def test_hairlines_and_thick_strokes_come_out_with_mnists_pen(width: int) -> None:
    pixels = digit_from_array(paper(drawn(width=width))).pixels
    assert 0.55 < pixels.sum(dtype=float) / PLAIN.sum(dtype=float) < 1.75
    assert likeness(PLAIN, pixels) > 0.75


@pytest.mark.parametrize("scale", [0.12, 0.4])
def test_small_digits_in_the_corner_are_found(scale: float) -> None:
    points = [(round(20 + x * scale), round(15 + y * scale)) for x, y in SEVEN]
    assert like_plain(paper(drawn(points, max(2, round(14 * scale))))) > 0.8


def test_a_shadow_with_a_hard_edge_is_not_ink() -> None:
    light = np.ones((320, 300))
    light[:, 150:] = 0.5
    grainy = np.clip(paper(drawn()) * light + 2 * GRAIN, 0, 255)  # a photo: a drawing has neither grain nor shadows
    assert like_plain(grainy.astype(np.uint8)) > 0.9


def test_dark_corners_are_not_ink() -> None:
    y, x = np.meshgrid(np.linspace(-1, 1, 320), np.linspace(-1, 1, 300), indexing="ij")
    assert like_plain((paper(drawn()) * (1 - 0.45 * (x * x + y * y))).astype(np.uint8)) > 0.9


def test_grain_and_low_contrast_are_seen_through() -> None:
    for ink, grain in ((185, 4), (200, 6)):
        faint = paper(drawn(), ink=ink) + grain * GRAIN
        assert like_plain(np.clip(faint, 0, 255).astype(np.uint8)) > 0.9, (ink, grain)


def test_specks_are_not_part_of_the_digit() -> None:
    picture = paper(drawn())
    for y, x in [(20, 30), (40, 250), (280, 60), (300, 200), (150, 30)]:
        picture[y : y + 4, x : x + 4] = 30
    found = digit_from_array(picture)
    assert (found.note, likeness(PLAIN, found.pixels) > 0.97) == (None, True)


@pytest.mark.parametrize("mark", ["scratch", "dot", "stain"])
def test_a_scratch_or_a_dot_beside_the_digit_and_a_stain_far_away_are_neither_read_nor_noted(mark: str) -> None:
    image = Image.fromarray(paper(drawn()))
    pen = ImageDraw.Draw(image)
    if mark == "scratch":  # as long as a small stroke, but of hardly any area
        pen.line((225, 150, 225, 174), fill=40, width=1)
    else:  # the dot has the area of a stroke, but not its length
        pen.ellipse((225, 150, 234, 159) if mark == "dot" else (20, 20, 40, 40), fill=40)
    found = digit_from_array(np.asarray(image))
    assert (found.note, likeness(PLAIN, found.pixels) > 0.99) == (None, True)


@pytest.mark.parametrize("ground", [0, 120, 255])
def test_a_frame_is_not_part_of_the_digit(ground: int) -> None:
    picture = np.pad(paper(drawn()), 12, constant_values=ground)
    assert like_plain(picture) > 0.95


def test_a_grey_photo_pasted_on_white_is_read_inside() -> None:
    shaded = paper(drawn(), ground=150) * np.linspace(0.7, 1, 300)
    assert like_plain(np.pad(shaded.astype(np.uint8), 30, constant_values=255)) > 0.95


def test_a_drawn_box_is_not_part_of_the_digit() -> None:
    picture = paper(drawn())
    picture[50:54, 50:250] = picture[266:270, 50:250] = 40
    picture[50:270, 50:54] = picture[50:270, 246:250] = 40
    assert like_plain(picture) > 0.95


def test_a_black_plot_on_a_white_page_is_read_inside() -> None:
    picture = np.pad((255 * drawn()).astype(np.uint8), 80, constant_values=255)
    assert like_plain(picture) > 0.95


@pytest.mark.parametrize("margin", [20, 30, 40])
@pytest.mark.parametrize("askew", [0, 5])
def test_a_frame_drawn_close_around_the_digit_is_not_read(margin: int, askew: int) -> None:
    image = Image.fromarray(paper(drawn(size=(500, 520))))
    left, top, right, bottom = 95 - margin, 90 - margin, 205 + margin, 230 + margin
    corners = [(left, top), (right, top + askew), (right - askew, bottom), (left - askew, bottom - askew), (left, top)]
    ImageDraw.Draw(image).line(corners, fill=40, width=5)
    assert like_plain(np.asarray(image)) > 0.7  # it may lie half a pixel lower


def test_a_thin_frame_around_a_bold_digit_is_no_loose_stroke_of_it() -> None:
    image = Image.fromarray(paper(drawn(width=24, size=(500, 520))))
    ImageDraw.Draw(image).rectangle((55, 50, 245, 270), outline=100, width=3)
    assert likeness(digit_from_array(paper(drawn(width=24))).pixels, digit_from_array(np.asarray(image)).pixels) > 0.95


def test_a_dark_margin_of_an_empty_page_has_no_ink() -> None:
    picture = np.clip(200 + GRAIN, 0, 255)
    picture[:, 262:] = 60
    assert digit_from_array(picture.astype(np.uint8)).empty


@pytest.mark.parametrize("both_ways", [False, True])
def test_printed_lines_as_dark_as_the_ink_are_taken_away(both_ways: bool) -> None:
    picture = paper(drawn())
    for at in range(25, 300, 40):
        picture[at : at + 2] = np.minimum(picture[at : at + 2], 60)
        if both_ways:
            picture[:, at : at + 2] = np.minimum(picture[:, at : at + 2], 60)
    assert like_plain(picture) > 0.85


def test_a_loose_stroke_belongs_to_the_digit() -> None:
    body = np.maximum(drawn([(110, 100), (105, 150), (160, 160), (180, 200), (150, 235), (100, 230)]), 0)
    whole = np.maximum(body, drawn([(110, 95), (190, 90)]))
    loose = np.maximum(body, drawn([(125, 85), (200, 80)]))
    assert likeness(digit_from_array(paper(whole)).pixels, digit_from_array(paper(loose)).pixels) > 0.8
    assert digit_from_array(paper(loose)).note is None


def test_a_loose_stroke_a_fifth_of_the_digit_away_belongs_to_it() -> None:
    body = drawn([(110, 130), (105, 170), (160, 180), (180, 215), (150, 250), (100, 245)])
    loose = digit_from_array(paper(np.maximum(body, drawn([(115, 92), (190, 92)]))))
    rows = loose.pixels[4:9].max(axis=1)  # the loose stroke, and the gap below it
    assert (loose.note, rows.max(), rows.min()) == (None, 255, 0)


def test_what_runs_out_of_the_picture_is_not_the_digit() -> None:
    """A cable's or a sleeve's edge, longer than the digit, that lies along the edge of the picture for a while."""
    edge = drawn([(2, 40), (2, 140), (100, 160), (100, 280), (60, 280)], 8)
    digit = drawn([(170 + (x - 95) // 2, 120 + (y - 90) // 2) for x, y in SEVEN], 8)
    grainy = np.clip(paper(np.maximum(edge, digit)) + 2 * GRAIN, 0, 255)
    assert like_plain(grainy.astype(np.uint8)) > 0.9


def test_a_thick_blot_is_not_the_digit() -> None:
    image = Image.fromarray(np.rint(255 * drawn([(60, 60), (60, 200)], 8)).astype(np.uint8))
    alone = digit_from_array(255 - np.asarray(image))
    ImageDraw.Draw(image).ellipse((130, 110, 270, 250), fill=255)
    assert likeness(alone.pixels, digit_from_array(255 - np.asarray(image)).pixels) > 0.95


def test_two_digits_are_noted_and_the_largest_is_read() -> None:
    other = [(230, 150), (230, 230)]
    wide = np.maximum(drawn([(x - 60, y) for x, y in SEVEN]), drawn(other))
    found = digit_from_array(paper(wide))
    assert found.note == "more than one object: read the largest"
    assert likeness(PLAIN, found.pixels) > 0.95


def test_another_digit_close_beside_is_not_taken_for_a_loose_stroke() -> None:
    image = Image.fromarray(paper(drawn()))
    ImageDraw.Draw(image).line((240, 100, 240, 220), fill=40, width=10)
    found = digit_from_array(np.asarray(image))
    assert found.note == "more than one object: read the largest"
    assert likeness(PLAIN, found.pixels) > 0.95


def test_a_small_digit_in_a_large_photo_is_looked_at_closer() -> None:
    cover = np.zeros((1500, 1500), np.float32)
    cover[100:420, 900:1200] = drawn(width=8)
    assert like_plain(paper(cover)) > 0.95


def test_coloured_ink_of_equal_brightness_is_seen() -> None:
    cover = drawn()[:, :, None]
    red, green = np.array([230, 60, 60]), np.array([20, 151, 110])  # both have luma 111
    picture = np.rint(red * cover + green * (1 - cover)).astype(np.uint8)
    assert like_plain(picture) > 0.95


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_page_has_no_ink(level: int) -> None:
    found = digit_from_array(np.full((200, 300), level, np.uint8))
    assert (found.empty, found.note) == (True, "no ink found")
    assert not found.pixels.any()


def test_an_empty_grainy_page_has_no_ink() -> None:
    assert digit_from_array(np.clip(200 + 2 * GRAIN, 0, 255).astype(np.uint8)).empty


def test_mnist_digits_pass_through_bit_for_bit_in_either_polarity() -> None:
    for image in sample_digits().sequences:
        assert (digit_from_array(image).pixels == image).all()
        assert (digit_from_array(255 - image).pixels == image).all()


def test_an_mnist_digit_saved_as_colour_passes_too() -> None:
    image = sample_digits().sequences[0]
    assert (digit_from_array(np.dstack([image] * 3)).pixels == image).all()


def test_what_only_resembles_mnist_is_drawn_anew() -> None:
    image = sample_digits().sequences[0]
    assert digit_from_array(np.maximum(image, 40)).pixels[:3].max() == 0  # a grey ground
    small = np.zeros((28, 28), np.uint8)
    small[10:18, 13:15] = 255
    assert np.ptp(np.nonzero(digit_from_array(small).pixels > 40)[0]) >= 14


def test_a_dim_digit_of_mnists_size_is_drawn_anew_in_full_white() -> None:
    assert digit_from_array(sample_digits().sequences[0] // 3).pixels.max() > 250


def test_a_small_picture_with_the_digit_in_a_corner_is_centred() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[2:12, 3:5] = 255
    assert digit_from_array(image).pixels[:, 12:16].sum() > 0.9 * digit_from_array(image).pixels.sum()


def test_label_numbers_pieces_that_touch_diagonally() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    blobs = label(mask)
    assert len(blobs) == 4
    assert sorted(blobs.area) == [1, 2, 2, 2]
    assert blobs.labels[0, 0] == blobs.labels[1, 1] != blobs.labels[0, 3]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_label_agrees_with_flood_fill(mask: np.ndarray) -> None:
    blobs, seen, n = label(mask), np.zeros(mask.shape, int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        n, queue = n + 1, [start]
        while queue:
            y, x = queue.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not seen[y, x]:
                seen[y, x] = n
                queue += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert len(blobs) == n
    for i in range(n):
        assert len(set(seen[blobs.labels == i])) == 1


SHAPES = st.one_of(st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 40)] * 2, st.just(3)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays(np.uint8, SHAPES))
def test_any_array_gives_a_picture(picture: np.ndarray) -> None:
    found = digit_from_array(picture)
    assert (found.pixels.shape, found.pixels.dtype.name) == ((28, 28), "uint8")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays(np.uint8, st.lists(st.integers(0, 9), max_size=4).map(tuple)))
def test_an_array_of_any_shape_is_a_picture_or_refused(picture: np.ndarray) -> None:
    if picture.size and picture.ndim in (2, 3) and picture.shape[2:] in ((), (3,)):
        assert digit_from_array(picture).pixels.shape == (28, 28)
    else:
        with pytest.raises(PictureError, match=r"expected uint8 of shape \(H, W\) or \(H, W, 3\)"):
            digit_from_array(picture)


def test_an_array_of_floats_is_refused() -> None:
    with pytest.raises(PictureError, match=r"found float64 of shape \(9, 9\), expected uint8"):
        digit_from_array(np.zeros((9, 9)))


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_pictures_of_every_small_size_are_read(margin: int) -> None:
    """A sheet inside a margin, of which the inset leaves nothing, was an IndexError."""
    for height in range(1, 29):
        for width in range(1, 29):
            picture = np.full((height, width), 255, np.uint8)
            picture[margin:-margin, margin:-margin] = 0
            assert digit_from_array(picture).pixels.shape == (28, 28), (height, width)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (40, 7)])
def test_the_digit_is_drawn_at_any_size(size: tuple[int, int]) -> None:
    assert digit_from_array(paper(drawn()), *size).pixels.shape == size


@pytest.mark.parametrize("shape", [(12, 400), (400, 12), (20, 320), (1, 500), (3, 1000)])
def test_noise_of_a_long_and_narrow_shape_gives_a_picture(shape: tuple[int, int]) -> None:
    for seed in range(5):
        picture = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        assert digit_from_array(picture).pixels.shape == (28, 28)


def test_a_thick_ring_is_a_digit_and_no_sheet() -> None:
    image = Image.new("L", (300, 320), 230)
    ImageDraw.Draw(image).ellipse((60, 40, 240, 280), outline=30, width=55)
    grainy = np.clip(np.asarray(image) + 3 * GRAIN, 0, 255).astype(np.uint8)
    pixels = digit_from_array(grainy).pixels
    assert pixels[12:16, 12:16].max() < 60, pixels[12:16, 12:16]
    assert pixels[6:22].max(axis=1).min() > 200


@pytest.mark.parametrize("width", [3, 10, 24, 40])
@pytest.mark.parametrize("angle_deg", [0, 20, 45, 70])
def test_the_stroke_width_is_measured_at_any_angle(width: int, angle_deg: float) -> None:
    angle = np.deg2rad(angle_deg)
    y, x = np.ogrid[:400, :400]
    along = (x - 200) * np.cos(angle) + (y - 200) * np.sin(angle)
    across = (y - 200) * np.cos(angle) - (x - 200) * np.sin(angle)
    bar = (np.abs(along) < 180) & (np.abs(across + 0.01) <= width / 2)
    real = bar.sum() / 360
    expected = real * 360 / (360 + real)  # the two ends are outline too
    assert stroke_width(bar) == pytest.approx(expected, rel=0.1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(0, 99)] * 4, st.integers(0, 255)), max_size=6), st.integers(0, 255))
def test_any_boxes_give_a_picture(boxes: list[tuple[int, int, int, int, int]], ground: int) -> None:
    image = Image.new("L", (100, 90), ground)
    for x0, y0, x1, y1, level in boxes:
        ImageDraw.Draw(image).rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=level)
    grainy = np.clip(np.asarray(image) + GRAIN[:90, :100], 0, 255).astype(np.uint8)
    for picture in (np.asarray(image), grainy):
        found = digit_from_array(picture)
        assert (found.pixels.shape, found.pixels.dtype.name) == ((28, 28), "uint8")


def test_a_sheet_that_lies_askew_has_an_inside_and_a_disc_and_a_slanting_loop_have_none() -> None:
    sheet, disc, loop = (Image.new("1", (240, 200)) for _ in range(3))
    ImageDraw.Draw(sheet).polygon([(50, 30), (200, 42), (190, 170), (42, 160)], fill=1)
    ImageDraw.Draw(sheet).line([(110, 70), (120, 130)], fill=0, width=6)
    ImageDraw.Draw(disc).ellipse((50, 30, 190, 170), fill=1)
    ImageDraw.Draw(loop).line([(60, 170), (180, 30), (200, 40), (80, 180), (60, 170)], fill=1, width=5)
    found = [inside(label(np.asarray(image)), 0) for image in (sheet, disc, loop)]
    assert [part is None for part in found] == [False, True, True]
    assert found[0][0].sum() > 0.8 * np.asarray(sheet).sum()


def cut_to_ink(cover: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(cover > 0.5)
    return cover[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


THREE = [(110, 95), (190, 95), (140, 150), (190, 200), (150, 240), (105, 225)]


@pytest.mark.parametrize("points", [SEVEN, THREE])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_margin_of_any_width_never_changes_a_drawing(points: list[tuple[int, int]], inverted: bool) -> None:
    cut = paper(cut_to_ink(drawn(points)))
    cut, ground = (255 - cut, 35) if inverted else (cut, 220)
    plain = digit_from_array(cut)
    assert plain.note is None
    for margin in ((0, 0, 9, 0), (40, 0, 0, 0), (3, 3, 3, 3), (120, 30, 70, 200)):
        wide = np.pad(cut, [margin[:2], margin[2:]], constant_values=ground)
        assert likeness(plain.pixels, digit_from_array(wide).pixels) > 0.98, margin


@pytest.mark.parametrize("size", [16, 24, 40, 100, 300, 900, 2000])
@pytest.mark.parametrize("method", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_a_cut_out_digit_of_any_size_is_the_same_digit(size: int, method: Image.Resampling) -> None:
    cut = Image.fromarray(paper(cut_to_ink(drawn(THREE, 20))))
    expected = digit_from_array(np.asarray(cut)).pixels
    scale = size / max(cut.size)
    method = method if scale > 1 else Image.Resampling.BOX
    made = cut.resize((round(cut.width * scale), round(cut.height * scale)), method)
    assert likeness(expected, digit_from_array(np.asarray(made)).pixels) > 0.9


def test_pale_strokes_of_a_small_scan_are_kept() -> None:
    scan = np.zeros((8, 8), np.uint8)
    scan[0, 1:7] = scan[7, 1:7] = 250
    scan[1:7, 1] = scan[1:7, 6] = 140  # the sides of a 0, half as dark
    pixels = digit_from_array(scan).pixels
    assert pixels[12:16, :12].max() > 80
    assert pixels[12:16, 16:].max() > 80
    assert pixels[13:15, 13:15].max() < 60


def test_the_bar_of_a_seven_that_spans_the_picture_is_no_printed_line() -> None:
    image = Image.new("L", (200, 260), 230)
    ImageDraw.Draw(image).line([(0, 30), (198, 30), (90, 250)], fill=30, width=3)
    pixels = digit_from_array(np.clip(np.asarray(image) + GRAIN[:260, :200], 0, 255).astype(np.uint8)).pixels
    assert (pixels[:8] > 60).any(axis=0).sum() >= 12


def test_a_crop_pasted_on_a_white_square_is_read_inside_close_to_its_edges() -> None:
    crop = np.pad((255 * cut_to_ink(drawn(width=24))).astype(np.uint8), 4)
    expected = digit_from_array(crop).pixels
    square = np.full((400, 400), 255, np.uint8)
    square[100 : 100 + crop.shape[0], 130 : 130 + crop.shape[1]] = crop
    assert likeness(expected, digit_from_array(square).pixels) > 0.9


def test_a_bug_costs_only_its_own_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelstm.data.picture.find.grey_from", lambda picture: [][0])
    with pytest.raises(PictureError, match="report it as a bug"):
        digit_from_array(paper(drawn()))


@pytest.mark.parametrize("blank", ["grain", "gradient", "vignette", "dust", "cell", "corner", "desk"])
@pytest.mark.parametrize("size", [(12, 9), (40, 64), (300, 220), (500, 700)])
def test_pages_with_nothing_on_them_have_no_ink(blank: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    page = 200 + rng.normal(0, 1, size)
    if blank in ("grain", "cell"):
        page = 200 + 8 * rng.normal(0, 1, size)
    elif blank == "gradient":
        page = page - 25 * x - 30 * y
    elif blank == "vignette":
        page = page * (1 - 0.4 * (x * x + y * y) / 2)
    elif blank == "dust":
        page = np.where((np.abs(x - 0.2) < 1.5 / size[1]) & (np.abs(y) < 1.5 / size[0]), 90.0, 255.0)
    elif blank == "corner":
        page = np.where(x + y > 0.7, 90.0, page)
    else:
        page = np.where(x < -0.6, 90.0, page)
    assert digit_from_array(np.clip(page, 0, 255).astype(np.uint8)).empty
