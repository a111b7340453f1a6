"""The kinds of hard pictures for hard_pictures.py: for each, how a file with a digit in it is made."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scenes import Bytes, Rng, Scene, draw, photograph, strokes

PLAIN = Scene()
SCREEN = replace(PLAIN, noise=0, shading=0, blur=0.01, ink=(0, 0, 0), paper=(255, 255, 255))
"""A drawing program."""
BLACKBOARD = replace(SCREEN, ink=(255, 255, 255), paper=(0, 0, 0))
PHOTO = replace(PLAIN, shading=0.35, texture=0.03, noise=4, perspective=0.06, turn_deg=10)
plain, screen, blackboard, photo = (partial(replace, scene) for scene in (PLAIN, SCREEN, BLACKBOARD, PHOTO))
"""Such a scene with something changed."""
MARKERS = ((30, 30, 34), (40, 60, 160), (190, 40, 50), (30, 120, 70))
PENS = ((30, 40, 120), (170, 30, 40), (20, 110, 60), (90, 90, 94), (120, 60, 140), (220, 120, 40))


def coloured(rng: Rng) -> Scene:
    """Ink and paper of two colours that a person tells apart."""
    while True:
        ink, ground = rng.integers(0, 256, (2, 3)).astype(float)
        if np.linalg.norm(ink - ground) > 150:
            return Scene(ink=tuple(ink), paper=tuple(ground))


SCENES: dict[str, Callable[[Rng], Scene]] = {
    "plain paper": lambda rng: PLAIN,
    "drawing, dark on white": lambda rng: screen(pen=rng.uniform(4, 25)),
    "drawing, white on black": lambda rng: blackboard(pen=rng.uniform(4, 25)),
    "hairline": lambda rng: plain(pen=rng.uniform(0.8, 2), width=700, height=600),
    "hairline drawing": lambda rng: screen(pen=1.0, width=900, height=900, extent=500),
    "hairline in a large photo": lambda rng: photo(
        pen=rng.uniform(1.2, 2), width=1100, height=900, extent=260, enlarged=2, texture=0.01
    ),
    "thick": lambda rng: plain(pen=rng.uniform(30, 45)),
    "very thick": lambda rng: plain(pen=rng.uniform(48, 62), extent=210),
    "very thick drawing": lambda rng: screen(pen=rng.uniform(45, 62), extent=210),
    "pencil": lambda rng: plain(ink=(150, 150, 152), pen=5, texture=0.03, noise=4),
    "coloured pen": lambda rng: photo(ink=PENS[rng.integers(len(PENS))], pen=rng.uniform(4, 10)),
    "low contrast": lambda rng: plain(ink=(190, 188, 180), noise=3),
    "dark on dark": lambda rng: plain(ink=(20, 20, 24), paper=(70, 66, 60), noise=3),
    "light on light": lambda rng: plain(ink=(252, 252, 250), paper=(215, 205, 190), shading=0.2),
    "whiteboard": lambda rng: plain(ink=(40, 60, 150), paper=(205, 210, 208), shading=0.4, pen=7),
    "whiteboard with glare": lambda rng: plain(
        ink=MARKERS[rng.integers(4)], paper=(190, 196, 198), glare=rng.uniform(0.6, 1), shading=0.4, pen=8, blur=1
    ),
    "chalk": lambda rng: plain(ink=(210, 210, 205), paper=(45, 70, 55), texture=0.15, noise=8, shading=0.3, pen=9),
    "shading": lambda rng: plain(shading=0.7),
    "hard shadow": lambda rng: plain(shadow=rng.uniform(0.3, 0.65), shading=0.2),
    "shadow of a hand": lambda rng: photo(finger=rng.uniform(0.3, 0.6)),
    "thumb": lambda rng: photo(thumb=True, extent=190, place=(0.42, 0.5)),
    "vignette": lambda rng: plain(vignette=rng.uniform(0.6, 1.0)),
    "crease": lambda rng: plain(crease=rng.uniform(0.1, 0.25), texture=0.05),
    "crumpled": lambda rng: plain(crumples=int(rng.integers(4, 12)), texture=0.04, shading=0.3),
    "textured": lambda rng: plain(texture=0.2, noise=5),
    "noise": lambda rng: plain(noise=rng.uniform(15, 30)),
    "blur": lambda rng: plain(blur=rng.uniform(4, 9)),
    "ruled": lambda rng: plain(printed="ruled", print_strength=rng.uniform(0.2, 0.5)),
    "ruled, dark lines": lambda rng: plain(printed="ruled", print_strength=rng.uniform(0.6, 1.0)),
    "ruled, photo": lambda rng: photo(
        printed="margin", print_strength=rng.uniform(0.15, 0.4), pen=rng.uniform(3, 6), extent=140, holes=True
    ),
    "squared": lambda rng: plain(printed="squared", print_strength=rng.uniform(0.2, 0.5)),
    "squared, dark lines": lambda rng: plain(printed="squared", print_strength=rng.uniform(0.6, 0.9)),
    "squared, close lines": lambda rng: photo(
        printed="squared", print_strength=rng.uniform(0.15, 0.4), pitch=rng.uniform(14, 28), pen=8
    ),
    "dotted": lambda rng: photo(printed="dotted", print_strength=0.6, pitch=rng.uniform(18, 40), pen=7),
    "shows through": lambda rng: photo(behind=rng.uniform(0.08, 0.2), pen=9),
    "perspective": lambda rng: plain(perspective=0.15, turn_deg=12),
    "coloured": coloured,
    "specks": lambda rng: plain(specks=40),
    "desk at the edge": lambda rng: plain(desk=float(rng.choice((30, 90, 150)))),
    "sheet on a desk": lambda rng: photo(sheet=rng.uniform(0.06, 0.2), extent=150, pen=7),
    "sticky note": lambda rng: photo(paper=(240, 220, 90), sheet=rng.uniform(0.1, 0.25), extent=140, pen=7),
    "frame": lambda rng: plain(frame=int(rng.integers(3, 40))),
    "white on black, framed": lambda rng: blackboard(frame=int(rng.integers(3, 40)), extent=200),
    "box around": lambda rng: plain(box=float(rng.integers(2, 9)), turn_deg=3),
    "white square on a page": lambda rng: blackboard(width=300, height=300, pen=24, margin=int(rng.integers(10, 150))),
    "photo pasted on white": lambda rng: plain(paper=(150, 150, 145), margin=int(rng.integers(10, 150)), shading=0.3),
    "tiny": lambda rng: plain(
        width=1400, height=1100, extent=int(rng.integers(40, 90)), pen=4, place=tuple(rng.uniform(0.2, 0.8, 2))
    ),
    "filling": lambda rng: plain(width=300, height=300, extent=255, pen=rng.uniform(10, 30), turn_deg=0),
    "off centre": lambda rng: plain(extent=140, place=tuple(rng.uniform(0.25, 0.75, 2)), pen=7),
    "thumbnail": lambda rng: plain(width=44, height=40, extent=26, pen=rng.uniform(1.5, 3.5), blur=0.3),
    "dry pen": lambda rng: plain(gaps=rng.uniform(0.08, 0.2), pen=8),
    "pen lifted": lambda rng: plain(lifted=rng.uniform(0.1, 0.16), pen=rng.uniform(4, 9)),
}
"""PNG files of a scene."""


def phone(rng: Rng) -> Scene:
    """Everything at once."""
    return plain(
        width=1200, height=900, extent=int(rng.integers(150, 500)), pen=rng.uniform(5, 14), shading=0.4,
        shadow=rng.uniform(0, 0.5), texture=0.04, noise=5, perspective=0.08, turn_deg=10,
        printed=str(rng.choice(["", "ruled", "squared"])), specks=8, vignette=0.4,
        place=tuple(rng.uniform(0.35, 0.65, 2)),
    )  # fmt: skip


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"compress_level": 1} if kind == "PNG" else {}), **options)
    return stream.getvalue()


def _jpeg(make: Callable[[Rng], Scene], low: int, high: int, digit: Bytes, rng: Rng) -> bytes:
    return encoded(draw(digit, make(rng), rng), "JPEG", quality=int(rng.integers(low, high)))


def _small_in_12_megapixels(digit: Bytes, rng: Rng) -> bytes:
    place = tuple(rng.uniform(0.25, 0.75, 2))
    scene = photo(width=1333, height=1000, enlarged=3, place=place, extent=int(rng.integers(50, 110)), pen=3.5)
    return encoded(draw(digit, scene, rng), "JPEG", quality=80)


def _rotated(digit: Bytes, rng: Rng) -> bytes:
    """Lying on its side, with the EXIF tag that says so."""
    exif = Image.Exif()
    turns = ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270))
    exif[0x0112], back = turns[rng.integers(3)]
    return encoded(draw(digit, PHOTO, rng).transpose(back), "JPEG", exif=exif)


def _mode(mode: str, kind: str, digit: Bytes, rng: Rng) -> bytes:
    image = draw(digit, photo(noise=2, texture=0), rng)
    if mode == "16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 40)
    elif mode == "P":
        image = image.quantize(int(rng.integers(3, 17)))
    else:
        image = image.convert(mode)
    return encoded(image, kind)


def _animated(digit: Bytes, rng: Rng) -> bytes:
    frames = [draw(digit, SCREEN, rng).convert("P")] + [Image.new("P", (520, 440), 255)] * 2
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _transparent(level: int, hostile: bool, digit: Bytes, rng: Rng) -> bytes:
    """Strokes of one grey level on nothing; the hidden colour is chance, or shows another digit."""
    alpha = np.rint(255 * strokes(digit, screen(pen=rng.uniform(4, 24)), rng)).astype(np.uint8)
    hidden = np.broadcast_to(rng.integers(0, 256, 3), (*alpha.shape, 3))
    if hostile:
        wrong = strokes(np.rot90(digit), SCREEN, rng)[:, :, None] > 0.5
        hidden = np.where(wrong, 255 - hidden, hidden)
    pixels = np.where(alpha[:, :, None] > 0, level, hidden).astype(np.uint8)
    return encoded(Image.fromarray(np.dstack([pixels, alpha])))


def _sheet_with_hole(digit: Bytes, rng: Rng) -> bytes:
    """A white sheet out of which the strokes are cut."""
    cover = strokes(digit, SCREEN, rng)
    grey = np.full((*cover.shape, 1), 255 if rng.random() < 0.5 else 0)
    return encoded(Image.fromarray(np.dstack([grey, np.rint(255 * (1 - cover))]).astype(np.uint8)))


def _saved_plot(colours: str, digit: Bytes, rng: Rng) -> bytes:
    """What matplotlib saves of the 28 x 28 pixels: axes, ticks and a title."""
    share = digit[:, :, None].astype(np.float32) / 255
    low, high = {"grey": ((0, 0, 0), (255, 255, 255)), "white": ((255, 255, 255), (0, 0, 0))}.get(
        colours, ((68, 1, 84), (253, 231, 37))
    )
    pixels = low + share * (np.array(high) - low)
    if colours == "viridis":
        pixels = pixels - np.array([60, -60, -60]) * (4 * share * (1 - share))
    page = Image.new("RGB", (640, 480), "white")
    side, left, top = 369, 143, 53
    square = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    page.paste(square, (left, top))
    pen = ImageDraw.Draw(page)
    if rng.random() < 0.7:
        pen.rectangle((left, top, left + side, top + side), outline="black")
        for value in range(0, 28, 5):
            at = (value + 0.5) * side / 28
            pen.line((left + at, top + side, left + at, top + side + 4), fill="black")
            pen.line((left - 4, top + at, left, top + at), fill="black")
            pen.text((left + at - 4, top + side + 7), str(value), fill="black")
            pen.text((left - 20, top + at - 5), str(value), fill="black")
    if rng.random() < 0.5:
        pen.text((left + side / 2 - 40, top - 22), f"Prediction: {rng.integers(10)}", fill="black")
    return encoded(page)


def _enlarged(inverted: bool, method: Image.Resampling, digit: Bytes, rng: Rng) -> bytes:
    """The 28 x 28 pixels made large, as screenshots show them."""
    side = int(rng.integers(100, 600))
    image = Image.fromarray(255 - digit if inverted else digit).resize((side, side), method)
    return encoded(image, "JPEG", quality=75) if rng.random() < 0.5 else encoded(image)


def _shrunken(side: int, digit: Bytes, rng: Rng) -> bytes:
    """A photo that somebody made small without centring it."""
    scene = plain(width=400, height=400, extent=300, pen=rng.uniform(18, 36), texture=0.03)
    return encoded(draw(digit, scene, rng).convert("L").resize((side, side), Image.Resampling.BOX))


def _printed(label: int, rng: Rng) -> bytes:
    """A printed digit, photographed."""
    scene = photo(turn_deg=0)
    image = Image.new("L", (scene.width, scene.height))
    font = ImageFont.load_default(size=float(rng.integers(120, 300)))
    ImageDraw.Draw(image).text((scene.width / 2, scene.height / 2), str(label), 255, font, anchor="mm")
    return encoded(photograph(np.asarray(image, np.float32) / 255, scene, rng))


FILES: dict[str, Callable[[Bytes, Rng], bytes]] = {
    "JPEG": partial(_jpeg, lambda rng: plain(noise=4), 5, 20),
    "JPEG at quality 20, photo": partial(_jpeg, lambda rng: photo(pen=6, extent=170), 20, 21),
    "phone photo": partial(_jpeg, phone, 40, 60),
    "small in 12 megapixels": _small_in_12_megapixels,
    "EXIF rotation": _rotated,
    "1 bit": partial(_mode, "1", "PNG"),
    "16 bits": partial(_mode, "16", "PNG"),
    "palette": partial(_mode, "P", "PNG"),
    "CMYK": partial(_mode, "CMYK", "JPEG"),
    "WebP": partial(_mode, "RGB", "WEBP"),
    "TIFF": partial(_mode, "L", "TIFF"),
    "animated": _animated,
    "transparent, black": partial(_transparent, 0, False),
    "transparent, white": partial(_transparent, 255, False),
    "transparent, hostile": partial(_transparent, 128, True),
    "transparent strokes": _sheet_with_hole,
    "saved plot, grey": partial(_saved_plot, "grey"),
    "saved plot, white": partial(_saved_plot, "white"),
    "saved plot, viridis": partial(_saved_plot, "viridis"),
    "enlarged, blocks": partial(_enlarged, False, Image.Resampling.NEAREST),
    "enlarged, dark on white": partial(_enlarged, True, Image.Resampling.BICUBIC),
    "28 x 28 of a photo": partial(_shrunken, 28),
    "64 x 64 of a photo": partial(_shrunken, 64),
}
"""Picture files that are more than a scene."""

KINDS = (*SCENES, *FILES, "7 with a bar", "printed digit")


def encode(kind: str, label: int, digit: Bytes, other: Bytes, rng: Rng) -> bytes:
    """A picture file of this kind; ``other`` is another digit, for those that need two."""
    if kind in FILES:
        return FILES[kind](digit, rng)
    if kind == "printed digit":
        return _printed(label, rng)
    if kind == "7 with a bar":
        return encoded(draw(digit, plain(bar=True, pen=rng.uniform(5, 12)), rng))
    scene = SCENES[kind](rng)
    return encoded(draw(digit, scene, rng, other if scene.behind else None))
