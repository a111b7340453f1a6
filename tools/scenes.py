"""Draws a digit as people photograph, scan and paint it, for hard_pictures.py: the pen, the paper, the camera."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """What is drawn, on what, and how it is photographed. Lengths are pixels unless said otherwise."""

    width: int = 520
    height: int = 440
    extent: int = 230
    """Longer side of the digit."""
    pen: float = 10.0
    """Stroke width."""
    ink: Colour = (45, 45, 50)
    paper: Colour = (222, 220, 212)
    place: tuple[float, float] = (0.5, 0.5)
    """Middle of the digit, shares of height and width."""
    turn_deg: float = 6.0
    """Largest rotation either way."""
    gaps: float = 0.0
    """Share of the strokes that a dry pen leaves out."""
    lifted: float = 0.0
    """Length of the one place where the pen was lifted, shares of the extent."""
    bar: bool = False
    """A short line through the middle, as many write a 7."""
    printed: str = ""
    """``ruled``, ``squared``, ``dotted``, ``margin`` (ruled, with a red line on the left)."""
    print_strength: float = 0.3
    """1 = as dark as ink."""
    pitch: float = 0.0
    """Distance of the printed lines; 0: chance."""
    behind: float = 0.0
    """How strongly the writing on the back shows through, 1 = as dark as ink."""
    holes: bool = False
    """Punched holes on the left, dark."""
    specks: int = 0
    box: float = 0.0
    """Thickness of a box drawn around the digit."""
    shading: float = 0.1
    """How much darker the darkest side is."""
    shadow: float = 0.0
    """How much light a hard-edged shadow takes."""
    finger: float = 0.0
    """How much light the soft shadow of a hand takes."""
    thumb: bool = False
    """A thumb holds the sheet at the bottom."""
    vignette: float = 0.0
    glare: float = 0.0
    """How white the lamp's reflection is."""
    crease: float = 0.0
    crumples: int = 0
    """Facets of crumpled paper."""
    texture: float = 0.0
    desk: float | None = None
    """Brightness of a desk that shows at one edge."""
    sheet: float = 0.0
    """Width of the desk all around the sheet, share of the picture; the sheet lies askew on it."""
    frame: int = 0
    """Thickness of an even frame around the picture."""
    margin: int = 0
    """White margin around the picture, as of a saved plot."""
    perspective: float = 0.0
    blur: float = 0.6
    noise: float = 2.0
    """Standard deviation of grain, grey levels."""
    enlarged: int = 1
    """Each pixel becomes so many, each way: what a camera with more pixels gives."""


def skeleton(mask: Mask) -> Mask:
    """Thin a mask to its middle lines (Guo and Hall 1989)."""
    mask = np.pad(mask, 1)
    while True:
        before = mask.sum()
        for start in (4, 0):
            around = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
            p = [np.roll(mask, (-y, -x), (0, 1)) for y, x in around]
            either = [p[i] | p[i - 7] for i in range(8)]  # p[i] or the one after it
            rises = sum((~p[i] & either[i + 1]).astype(np.int8) for i in (0, 2, 4, 6))
            odd = sum(either[i].astype(np.int8) for i in (7, 1, 3, 5))
            even = sum(either[i].astype(np.int8) for i in (0, 2, 4, 6))
            n = np.minimum(odd, even)
            held = (p[start] | p[start + 1] | ~p[(start + 3) % 8]) & p[(start + 2) % 8]
            mask = mask & ~((rises == 1) & (n >= 2) & (n <= 3) & ~held)
        if mask.sum() == before:
            return mask[1:-1, 1:-1]


def middle_line(digit: Bytes) -> Floats:
    """Points (n, 2) along the strokes, y and x, the digit's box about 1 long and its middle at 0."""
    ys, xs = np.nonzero(digit > 96)
    crop = digit[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = crop.shape
    scale = 120 / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    large = Image.fromarray(np.pad(crop, 2)).resize((size[0] + 24, size[1] + 24), Image.Resampling.BICUBIC)
    line = skeleton(np.asarray(large.filter(ImageFilter.GaussianBlur(1.5))) > 85)
    ys, xs = (axis.astype(np.float32) for axis in np.nonzero(line))
    if len(ys) < 2:
        return np.array([[-0.5, 0.0], [0.5, 0.0]], np.float32)
    found = [np.stack([ys, xs], axis=1)]
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):  # points between neighbours, or large digits are dotted
        beside = line & np.roll(line, (-dy, -dx), (0, 1))
        pairs = np.argwhere(beside).astype(np.float32)
        found += [pairs + np.array([share * dy, share * dx], np.float32) for share in np.arange(1, 8) / 8]
    points = np.concatenate(found)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - (low + high) / 2) / max(1.0, float((high - low).max())), np.float32)


def placed(points: Floats, scene: Scene, rng: Rng) -> Floats:
    """The points in pixels of the scene, turned, with the gaps and the bar that the scene asks for."""
    if scene.bar:
        y, x = points[np.abs(points[:, 0]) < 0.08].mean(axis=0) if (np.abs(points[:, 0]) < 0.08).any() else (0, 0)
        share = np.linspace(-0.22, 0.22, 200, dtype=np.float32)
        points = np.concatenate([points, np.stack([y - 0.1 * share, x + share], axis=1)])
    if scene.lifted:
        away = np.hypot(*(points - points[rng.integers(len(points))]).T)
        points = points[away > scene.lifted / 2]
    angle = np.deg2rad(rng.uniform(-scene.turn_deg, scene.turn_deg))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points @ turn * scene.extent + np.array(scene.place) * (scene.height, scene.width)
    if scene.gaps:
        wave = np.sin(points @ rng.normal(0, 0.25, 2) + rng.uniform(0, 6)) + np.sin(points @ rng.normal(0, 0.5, 2))
        points = points[wave > np.quantile(wave, scene.gaps)]
    return np.asarray(points, np.float32)


def coverage(points: Floats, pen: float, width: int, height: int) -> Floats:
    """How much of each pixel a round pen covers that visits these points: (height, width), 0 to 1."""
    fine = 4 if width * height < 600_000 else 2
    canvas = Image.new("L", (width * fine, height * fine))
    draw, r = ImageDraw.Draw(canvas), max(pen * fine / 2, 0.5)
    for y, x in (points * fine).tolist():
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(canvas.reduce(fine), np.float32) / 255


def strokes(digit: Bytes, scene: Scene, rng: Rng) -> Floats:
    """The digit's coverage, drawn anew with the scene's pen: (height, width), 0 to 1."""
    return coverage(placed(middle_line(digit), scene, rng), scene.pen, scene.width, scene.height)


def smooth(shape: tuple[int, int], cell: int, rng: Rng) -> Floats:
    """Soft random field, about -1 to 1, that changes over ``cell`` pixels."""
    coarse = rng.normal(0, 0.6, (shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


def _grid(scene: Scene) -> tuple[Floats, Floats]:
    """y and x of each pixel, -1 to 1."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (scene.height, scene.width))
    return np.meshgrid(y, x, indexing="ij")  # type: ignore[return-value]


def light(scene: Scene, rng: Rng) -> Floats:
    """Share of the light that reaches each pixel."""
    y, x = _grid(scene)
    angle = rng.uniform(0, 2 * np.pi)
    share = 1 - scene.shading * (1 + np.cos(angle) * x + np.sin(angle) * y) / 2
    if scene.shadow:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
        edge = 1 / (1 + np.exp(-(np.cos(angle) * x + np.sin(angle) * y - offset) * rng.uniform(15, 80)))
        share = share * (1 - scene.shadow * edge)
    if scene.finger:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x - offset
        inside = 1 / (1 + np.exp((np.abs(across) - 0.18) * 25)) / (1 + np.exp((along - rng.uniform(-0.1, 0.5)) * 12))
        share = share * (1 - scene.finger * inside)
    if scene.vignette:
        share = share * (1 - scene.vignette * np.clip((x * x + y * y) / 2, 0, 1) ** 1.5)
    if scene.crease:
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
        across = np.cos(angle) * x + np.sin(angle) * y - offset
        share = share * (1 - scene.crease * np.exp(-np.abs(across) * 60) + 0.5 * scene.crease * np.tanh(across * 3))
    for _ in range(scene.crumples):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-1, 1)
        across = np.cos(angle) * x + np.sin(angle) * y - offset
        share = share * (1 + 0.05 * np.tanh(across * 40) * np.exp(-np.abs(across) * 2))
    if scene.texture:
        share = share * (1 + scene.texture * (smooth(share.shape, 6, rng) + smooth(share.shape, 25, rng)) / 2)
    return np.asarray(share, np.float32)


def print_cover(scene: Scene, rng: Rng) -> Floats:
    """Coverage of what is printed on the paper, 0 to 1."""
    y, x = np.meshgrid(np.arange(scene.height), np.arange(scene.width), indexing="ij")
    tilt, pitch = rng.uniform(-0.04, 0.04), scene.pitch or rng.uniform(0.18, 0.5) * scene.extent
    thick = max(1.0, scene.height / 300)
    phase = rng.uniform(0, pitch, 2)
    rows = np.clip(thick - np.abs((y + tilt * x + phase[0]) % pitch - pitch / 2), 0, 1)
    columns = np.clip(thick - np.abs((x - tilt * y + phase[1]) % pitch - pitch / 2), 0, 1)
    if scene.printed == "squared":
        rows = np.maximum(rows, columns)
    elif scene.printed == "dotted":
        far = np.hypot((y + phase[0]) % pitch - pitch / 2, (x + phase[1]) % pitch - pitch / 2)
        rows = np.clip(1.2 * thick + 0.5 - far, 0, 1)
    elif scene.printed == "margin":
        edge = rng.uniform(0.08, 0.2) * scene.width
        rows = np.maximum(rows, np.clip(1.5 * thick - np.abs(x - tilt * y - edge), 0, 1))
    return np.asarray(scene.print_strength * rows, np.float32)


def _discs(picture: Floats, places: npt.NDArray[np.float64], colour: Colour) -> None:
    """Fill discs of (y, x, radius) in place."""
    image = Image.new("L", (picture.shape[1], picture.shape[0]))
    for y, x, r in places.tolist():
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=255)
    picture[np.asarray(image) > 0] = colour


def draw(digit: Bytes, scene: Scene, rng: Rng, back: Bytes | None = None) -> Image.Image:
    """The photograph; ``back`` is the digit on the other side of the sheet."""
    return photograph(strokes(digit, scene, rng), scene, rng, back)


def photograph(cover: Floats, scene: Scene, rng: Rng, back: Bytes | None = None) -> Image.Image:
    """Ink of this coverage on the scene's paper, in its light, through its camera."""
    paper, ink = np.array(scene.paper, np.float32), np.array(scene.ink, np.float32)
    sheet = np.broadcast_to(paper, (scene.height, scene.width, 3))
    if scene.printed:
        sheet = sheet + print_cover(scene, rng)[:, :, None] * (ink + np.float32([10, 15, 40]) - paper)
    if back is not None:
        seen = strokes(back, scene, rng)[:, ::-1, None]
        sheet = sheet + scene.behind * seen * (ink - paper)
    picture = (sheet * (1 - cover[:, :, None]) + ink * cover[:, :, None]) * light(scene, rng)[:, :, None]
    _cover_partly(picture, scene, rng)
    if scene.sheet:
        picture = _on_desk(picture, scene, rng)
    return _camera(Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)), scene, rng)


def _cover_partly(picture: Floats, scene: Scene, rng: Rng) -> None:
    """Draw what lies on the sheet or beside it, in place."""
    height, width = scene.height, scene.width
    if scene.box:
        cy, cx = scene.place[0] * height, scene.place[1] * width
        far = np.maximum(np.abs(np.arange(height) - cy)[:, None], np.abs(np.arange(width) - cx)[None])
        picture[np.abs(far - 0.75 * scene.extent) < scene.box / 2] = scene.ink
    if scene.specks:
        _discs(picture, rng.uniform((0, 0, 0.7), (height, width, 3.5), (scene.specks, 3)), scene.ink)
    if scene.holes:
        _discs(picture, np.array([[share * height, 0.05 * width, 0.022 * height] for share in (0.25, 0.75)]), (30,) * 3)
    if scene.thumb:
        _discs(picture, np.array([[height * 1.02, rng.uniform(0.2, 0.8) * width, 0.17 * height]]), (196, 140, 118))
    if scene.glare:
        y, x = _grid(scene)
        y0, x0 = rng.uniform(-0.8, 0.8, 2)
        spot = np.exp(-(((y - y0) / rng.uniform(0.1, 0.3)) ** 2) - ((x - x0) / rng.uniform(0.2, 0.6)) ** 2)
        picture += scene.glare * spot[:, :, None] * (255 - picture)
    if scene.desk is not None:
        slant = rng.uniform(-0.1, 0.1) * (np.arange(height) - height / 2)
        picture[np.arange(width)[None] < (0.12 * width + slant)[:, None]] = scene.desk


def _on_desk(picture: Floats, scene: Scene, rng: Rng) -> Floats:
    height, width = scene.height, scene.width
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    inner = scene.sheet + (1 - 2 * scene.sheet) * corners + rng.uniform(-0.3, 0.3, (4, 2)) * scene.sheet
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(x * width, y * height) for x, y in inner], fill=255)
    colour = rng.choice([(90, 60, 40), (40, 40, 44), (150, 120, 90), (120, 124, 130)])
    desk = colour * (1 + 0.12 * smooth((height, width), 20, rng)[:, :, None])
    return np.where(np.asarray(mask)[:, :, None] > 0, picture, desk).astype(np.float32)


def _camera(image: Image.Image, scene: Scene, rng: Rng) -> Image.Image:
    image = image.filter(ImageFilter.GaussianBlur(scene.blur))
    if scene.perspective:
        a, b, c, d = rng.uniform(-scene.perspective, scene.perspective, 4)
        w, h = image.size
        bend = (1 + a, b, -b * w / 2, c, 1 + d, -c * h / 2, a / w, d / h)
        ground = (90, 90, 90) if scene.sheet else tuple(int(v) for v in scene.paper)
        image = image.transform((w, h), Image.Transform.PERSPECTIVE, bend, Image.Resampling.BICUBIC, fillcolor=ground)
    if scene.enlarged > 1:
        size = (image.width * scene.enlarged, image.height * scene.enlarged)
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    if scene.noise:
        grain = rng.normal(0, scene.noise, (*pixels.shape[:2], 1)).astype(np.float32)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    if scene.frame:
        inner = pixels[scene.frame : -scene.frame, scene.frame : -scene.frame]
        pixels = np.full_like(pixels, int(rng.choice([0, 20, 128])))
        pixels[scene.frame : -scene.frame, scene.frame : -scene.frame] = inner
    if scene.margin:
        pixels = np.pad(pixels, [(scene.margin, scene.margin)] * 2 + [(0, 0)], constant_values=255)
    return Image.fromarray(pixels)
