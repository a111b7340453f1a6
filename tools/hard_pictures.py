"""Draw MNIST digits as people photograph, scan and paint them, one folder for each kind of trouble.

    python tools/hard_pictures.py --split test -n 100 --model runs/base/model.safetensors
    python tools/hard_pictures.py --split train -n 20 -o hard

The first prints how many pictures of each kind a checkpoint reads right, the second writes the pictures.
"""

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from edgelstm.data import load_mnist
from edgelstm.picture import read_picture

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """What is drawn, on what, and how it is photographed."""

    width: int = 520
    height: int = 440
    extent: int = 230
    """Longer side of the digit, pixels."""
    pen: float = 10.0
    """Stroke width, pixels."""
    ink: tuple[float, float, float] = (45, 45, 50)
    paper: tuple[float, float, float] = (222, 220, 212)
    place: tuple[float, float] = (0.5, 0.5)
    """Middle of the digit, shares of height and width."""
    turn_deg: float = 6.0
    """Largest rotation either way."""
    noise: float = 2.0
    """Standard deviation of grain, grey levels."""
    shading: float = 0.1
    """How much darker the darkest side is."""
    shadow: float = 0.0
    """How much light a hard-edged shadow takes."""
    ruled: float = 0.0
    """Strength of ruled lines, 1 = as dark as ink."""
    squared: bool = False
    """Ruled both ways."""
    blur: float = 0.6
    quality: int | None = None
    """JPEG quality; None: PNG."""
    specks: int = 0
    crease: float = 0.0
    frame: int = 0
    """Thickness of a dark frame around the picture, pixels."""
    desk: float | None = None
    """Brightness of a desk that shows at one edge."""
    texture: float = 0.0
    perspective: float = 0.0
    gaps: float = 0.0
    """Share of the strokes that a dry pen leaves out."""
    vignette: float = 0.0
    box: float = 0.0
    """Thickness of a box drawn around the digit, pixels."""
    margin: int = 0
    """White margin around the picture, as of a saved plot, pixels."""


def skeleton(mask: Mask) -> Mask:
    """Thin a mask to its middle lines (Guo and Hall 1989)."""
    mask = np.pad(mask, 1)
    while True:
        before = mask.sum()
        for start in (4, 0):
            around = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
            p = [np.roll(mask, (-y, -x), (0, 1)) for y, x in around]
            either = [p[i] | p[i - 7] for i in range(8)]  # p[i] or the one after it
            rises = sum((~p[i] & either[i + 1]).astype(int) for i in (0, 2, 4, 6))
            odd = sum(either[i].astype(int) for i in (7, 1, 3, 5))
            even = sum(either[i].astype(int) for i in (0, 2, 4, 6))
            n = np.minimum(odd, even)
            held = (p[start] | p[start + 1] | ~p[(start + 3) % 8]) & p[(start + 2) % 8]
            mask = mask & ~((rises == 1) & (n >= 2) & (n <= 3) & ~held)
        if mask.sum() == before:
            return mask[1:-1, 1:-1]


def strokes(digit: npt.NDArray[np.uint8], scene: Scene, rng: Rng) -> Image.Image:
    """The digit's coverage, drawn anew with the scene's pen: mode L, the size of the picture."""
    ys, xs = np.nonzero(digit > 96)
    crop = digit[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = crop.shape
    scale = 200 / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    large = Image.fromarray(np.pad(crop, 2)).resize((size[0] + 40, size[1] + 40), Image.Resampling.BICUBIC)
    line = skeleton(np.asarray(large.filter(ImageFilter.GaussianBlur(2.5))) > 70)
    ys, xs = np.nonzero(line)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):  # points between neighbours, or large digits are dotted
        beside = line & np.roll(line, (-dy, -dx), (0, 1))
        by, bx = np.nonzero(beside)
        for share in (0.25, 0.5, 0.75):
            ys, xs = np.append(ys, by + share * dy), np.append(xs, bx + share * dx)
    k = scene.extent / max(float(np.ptp(ys)), float(np.ptp(xs)), 1.0)
    angle = np.deg2rad(rng.uniform(-scene.turn_deg, scene.turn_deg))
    cos, sin = np.cos(angle) * k, np.sin(angle) * k
    y, x = ys - (ys.min() + ys.max()) / 2, xs - (xs.min() + xs.max()) / 2
    cy, cx = scene.place[0] * scene.height, scene.place[1] * scene.width
    points = np.stack([cy + cos * y + sin * x, cx - sin * y + cos * x], axis=1)
    if scene.gaps:
        wave = np.sin(points @ rng.normal(0, 0.25, 2) + rng.uniform(0, 6)) + np.sin(points @ rng.normal(0, 0.5, 2))
        points = points[wave > np.quantile(wave, scene.gaps)]
    canvas = np.zeros((scene.height, scene.width), np.float64)
    radius = scene.pen / 2 + 1
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    for py, px in points:  # a round dab of ink at each point of the middle line
        yy, xx = int(py) + reach, int(px) + reach
        if yy[0] < 0 or xx[0] < 0 or yy[-1] >= scene.height or xx[-1] >= scene.width:
            continue
        far = np.hypot(*np.meshgrid(yy - py, xx - px, indexing="ij"))
        spot = canvas[yy[0] : yy[-1] + 1, xx[0] : xx[-1] + 1]
        np.maximum(spot, np.clip(scene.pen / 2 + 0.5 - far, 0, min(1.0, scene.pen)), out=spot)
    return Image.fromarray(np.rint(255 * canvas).astype(np.uint8))


def smooth(shape: tuple[int, int], cell: int, rng: Rng) -> Floats:
    """Soft random field, about -1 to 1, that changes over ``cell`` pixels."""
    coarse = rng.normal(0, 0.6, (shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC), np.float64)


def light(scene: Scene, rng: Rng) -> Floats:
    """Share of the light that reaches each pixel."""
    y, x = np.meshgrid(np.linspace(-1, 1, scene.height), np.linspace(-1, 1, scene.width), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    share = 1 - scene.shading * (1 + np.cos(angle) * x + np.sin(angle) * y) / 2
    if scene.shadow:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
        edge = 1 / (1 + np.exp(-(np.cos(angle) * x + np.sin(angle) * y - offset) * rng.uniform(15, 80)))
        share *= 1 - scene.shadow * edge
    if scene.vignette:
        share *= 1 - scene.vignette * np.clip((x * x + y * y) / 2, 0, 1) ** 1.5
    if scene.crease:
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
        across = np.cos(angle) * x + np.sin(angle) * y - offset
        share *= 1 - scene.crease * np.exp(-np.abs(across) * 60) + 0.5 * scene.crease * np.tanh(across * 3)
    if scene.texture:
        share *= 1 + scene.texture * (smooth(share.shape, 6, rng) + smooth(share.shape, 25, rng)) / 2
    return np.asarray(share)


def lines(scene: Scene, rng: Rng) -> Floats:
    """Coverage of the printed lines, 0 to 1."""
    y, x = np.meshgrid(np.arange(scene.height), np.arange(scene.width), indexing="ij")
    tilt, pitch = rng.uniform(-0.04, 0.04), rng.uniform(0.18, 0.5) * scene.extent
    thick = max(1.0, scene.height / 300)
    phase = rng.uniform(0, pitch, 2)
    cover = np.clip(thick - np.abs((y + tilt * x + phase[0]) % pitch - pitch / 2), 0, 1)
    if scene.squared:
        cover = np.maximum(cover, np.clip(thick - np.abs((x - tilt * y + phase[1]) % pitch - pitch / 2), 0, 1))
    return np.asarray(scene.ruled * cover)


def draw(digit: npt.NDArray[np.uint8], scene: Scene, rng: Rng) -> Image.Image:
    """The photograph."""
    cover = np.asarray(strokes(digit, scene, rng), np.float64)[:, :, None] / 255
    paper, ink = np.array(scene.paper, np.float64), np.array(scene.ink, np.float64)
    sheet = np.broadcast_to(paper, (scene.height, scene.width, 3))
    if scene.ruled:
        sheet = sheet + lines(scene, rng)[:, :, None] * (ink + np.array([10, 15, 40]) - paper)
    picture = (sheet * (1 - cover) + ink * cover) * light(scene, rng)[:, :, None]
    if scene.box:
        cy, cx = scene.place[0] * scene.height, scene.place[1] * scene.width
        far = np.maximum(np.abs(np.arange(scene.height) - cy)[:, None], np.abs(np.arange(scene.width) - cx)[None])
        picture[np.abs(far - 0.75 * scene.extent) < scene.box / 2] = ink
    for _ in range(scene.specks):
        y, x, r = rng.integers(0, scene.height), rng.integers(0, scene.width), rng.uniform(0.7, 3.5)
        yy, xx = np.ogrid[: scene.height, : scene.width]
        picture[(yy - y) ** 2 + (xx - x) ** 2 <= r * r] = ink
    if scene.desk is not None:
        slant = rng.uniform(-0.1, 0.1) * (np.arange(scene.height) - scene.height / 2)
        picture[np.arange(scene.width)[None] < (0.12 * scene.width + slant)[:, None]] = scene.desk
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(scene.blur))
    if scene.perspective:
        a, b, c, d = rng.uniform(-scene.perspective, scene.perspective, 4)
        bend = (
            1 + a,
            b,
            -b * scene.width / 2,
            c,
            1 + d,
            -c * scene.height / 2,
            a / scene.width,
            d / scene.height,
        )
        image = image.transform(
            image.size,
            Image.Transform.PERSPECTIVE,
            bend,
            Image.Resampling.BICUBIC,
            fillcolor=tuple(int(v) for v in scene.paper),
        )
    grain = rng.normal(0, scene.noise, (scene.height, scene.width, 1)) if scene.noise else 0.0
    pixels = np.clip(np.asarray(image, np.float64) + grain, 0, 255).astype(np.uint8)
    if scene.frame:
        inner = pixels[scene.frame : -scene.frame, scene.frame : -scene.frame].copy()
        pixels[:] = int(rng.choice([0, 20, 128]))
        pixels[scene.frame : -scene.frame, scene.frame : -scene.frame] = inner
    if scene.margin:
        pixels = np.pad(pixels, [(scene.margin, scene.margin)] * 2 + [(0, 0)], constant_values=255)
    return Image.fromarray(pixels)


def coloured(rng: Rng) -> Scene:
    """Ink and paper of two colours that a person tells apart."""
    while True:
        ink, ground = rng.integers(0, 256, (2, 3)).astype(float)
        if np.linalg.norm(ink - ground) > 150:
            return Scene(ink=tuple(ink), paper=tuple(ground))


def transparent(digit: npt.NDArray[np.uint8], level: int, rng: Rng) -> Image.Image:
    """Strokes of one grey level on nothing; the hidden colour is chance."""
    cover = strokes(digit, Scene(), rng)
    alpha = np.asarray(cover)
    pixels = np.empty((*alpha.shape, 4), np.uint8)
    pixels[:, :, :3] = np.where(alpha[:, :, None] > 0, level, rng.integers(0, 256, 3))
    pixels[:, :, 3] = alpha
    return Image.fromarray(pixels)


PLAIN = Scene()
SCREEN = replace(PLAIN, noise=0, shading=0, blur=0.01, ink=(0, 0, 0), paper=(255, 255, 255))
"""A drawing program."""
KINDS: dict[str, Callable[[Rng], Scene]] = {
    "plain paper": lambda rng: PLAIN,
    "drawing, dark on white": lambda rng: replace(SCREEN, pen=rng.uniform(4, 25)),
    "drawing, white on black": lambda rng: replace(
        SCREEN, ink=(255, 255, 255), paper=(0, 0, 0), pen=rng.uniform(4, 25)
    ),
    "hairline": lambda rng: replace(PLAIN, pen=rng.uniform(0.8, 2), width=700, height=600),
    "hairline drawing": lambda rng: replace(SCREEN, pen=1.0, width=900, height=900, extent=500),
    "thick": lambda rng: replace(PLAIN, pen=rng.uniform(30, 45)),
    "pencil": lambda rng: replace(PLAIN, ink=(150, 150, 152), pen=5, texture=0.03, noise=4),
    "low contrast": lambda rng: replace(PLAIN, ink=(190, 188, 180), noise=3),
    "dark on dark": lambda rng: replace(PLAIN, ink=(20, 20, 24), paper=(70, 66, 60), noise=3),
    "whiteboard": lambda rng: replace(PLAIN, ink=(40, 60, 150), paper=(205, 210, 208), shading=0.4, pen=7),
    "chalk": lambda rng: replace(
        PLAIN, ink=(210, 210, 205), paper=(45, 70, 55), texture=0.15, noise=8, shading=0.3, pen=9
    ),
    "shading": lambda rng: replace(PLAIN, shading=0.7),
    "hard shadow": lambda rng: replace(PLAIN, shadow=rng.uniform(0.3, 0.65), shading=0.2),
    "vignette": lambda rng: replace(PLAIN, vignette=rng.uniform(0.6, 1.0)),
    "crease": lambda rng: replace(PLAIN, crease=rng.uniform(0.1, 0.25), texture=0.05),
    "textured": lambda rng: replace(PLAIN, texture=0.2, noise=5),
    "noise": lambda rng: replace(PLAIN, noise=rng.uniform(15, 30)),
    "blur": lambda rng: replace(PLAIN, blur=rng.uniform(4, 9)),
    "JPEG": lambda rng: replace(PLAIN, quality=int(rng.integers(5, 20)), noise=4),
    "ruled": lambda rng: replace(PLAIN, ruled=rng.uniform(0.2, 0.5)),
    "ruled, dark lines": lambda rng: replace(PLAIN, ruled=rng.uniform(0.6, 1.0)),
    "squared": lambda rng: replace(PLAIN, ruled=rng.uniform(0.2, 0.5), squared=True),
    "squared, dark lines": lambda rng: replace(PLAIN, ruled=rng.uniform(0.6, 0.9), squared=True),
    "perspective": lambda rng: replace(PLAIN, perspective=0.15, turn_deg=12),
    "coloured": coloured,
    "specks": lambda rng: replace(PLAIN, specks=40),
    "desk at the edge": lambda rng: replace(PLAIN, desk=float(rng.choice([30, 90, 150]))),
    "frame": lambda rng: replace(PLAIN, frame=int(rng.integers(3, 40))),
    "white on black, framed": lambda rng: replace(
        SCREEN, ink=(255, 255, 255), paper=(0, 0, 0), frame=int(rng.integers(3, 40)), extent=200
    ),
    "box around": lambda rng: replace(PLAIN, box=float(rng.integers(2, 9)), turn_deg=3),
    "plot, white on black": lambda rng: replace(
        SCREEN,
        ink=(255, 255, 255),
        paper=(0, 0, 0),
        width=300,
        height=300,
        pen=24,
        margin=int(rng.integers(10, 150)),
    ),
    "photo pasted on white": lambda rng: replace(
        PLAIN, paper=(150, 150, 145), margin=int(rng.integers(10, 150)), shading=0.3
    ),
    "tiny": lambda rng: replace(
        PLAIN,
        width=1400,
        height=1100,
        extent=int(rng.integers(40, 90)),
        pen=4,
        place=tuple(rng.uniform(0.2, 0.8, 2)),
    ),
    "filling": lambda rng: replace(PLAIN, width=300, height=300, extent=255, pen=rng.uniform(10, 30), turn_deg=0),
    "off centre": lambda rng: replace(PLAIN, extent=140, place=tuple(rng.uniform(0.25, 0.75, 2)), pen=7),
    "dry pen": lambda rng: replace(PLAIN, gaps=rng.uniform(0.08, 0.2), pen=8),
    "phone photo": lambda rng: replace(
        PLAIN,
        width=1200,
        height=900,
        extent=int(rng.integers(150, 500)),
        pen=rng.uniform(5, 14),
        shading=0.4,
        shadow=rng.uniform(0, 0.5),
        texture=0.04,
        noise=5,
        quality=50,
        perspective=0.08,
        turn_deg=10,
        ruled=float(rng.choice([0, 0.3])),
        specks=8,
        vignette=0.4,
        place=tuple(rng.uniform(0.35, 0.65, 2)),
    ),
}


def encode(kind: str, digit: npt.NDArray[np.uint8], rng: Rng) -> bytes:
    """A picture file of this kind."""
    stream = io.BytesIO()
    if kind.startswith("transparent"):
        transparent(digit, 0 if kind.endswith("black") else 255, rng).save(stream, "PNG")
        return stream.getvalue()
    scene = KINDS[kind](rng)
    image = draw(digit, scene, rng)
    if scene.quality is None:
        image.save(stream, "PNG", compress_level=1)
    else:
        image.save(stream, "JPEG", quality=scene.quality)
    return stream.getvalue()


ALL_KINDS = (*KINDS, "transparent, black", "transparent, white")


def pictures(kind: str, split: str, n: int, seed: int) -> list[tuple[int, bytes]]:
    """``n`` labelled picture files of one kind; the same seed gives the same files."""
    digits = load_mnist("train" if split == "train" else "test")
    rng = np.random.default_rng([seed, ALL_KINDS.index(kind)])
    chosen = rng.choice(len(digits), n, replace=False)
    return [(int(digits.labels[i]), encode(kind, digits.images[i], rng)) for i in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("train", "test"), default="train", help="train to tune, test to report")
    parser.add_argument("-n", type=int, default=50, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=ALL_KINDS, help="only this kind; may be repeated")
    parser.add_argument("--model", type=Path, help="a checkpoint: print what it reads right")
    parser.add_argument("-o", type=Path, help="write the pictures into this folder: KIND/LABEL/NUMBER.png")
    args = parser.parse_args()
    runner = _runner(args.model) if args.model else None
    total = 0
    for kind in args.kind or ALL_KINDS:
        made = pictures(kind, args.split, args.n, args.seed)
        if args.o:
            for i, (digit, content) in enumerate(made):
                target = args.o / kind.replace(", ", "_").replace(" ", "_") / str(digit)
                target.mkdir(parents=True, exist_ok=True)
                suffix = "jpg" if content.startswith(b"\xff\xd8") else "png"
                (target / f"{i:04d}.{suffix}").write_bytes(content)
        if runner:
            read = runner(np.stack([read_picture(content).pixels for _, content in made]))
            right = int((read == np.array([digit for digit, _ in made])).sum())
            total += right
            print(f"{kind:26} {right:5d}/{args.n}  {100 * right / args.n:6.1f} %", flush=True)
    if runner:
        n = args.n * len(args.kind or ALL_KINDS)
        print(f"{'all':26} {total:5d}/{n}  {100 * total / n:6.1f} %")


def _runner(path: Path) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.int64]]:
    from edgelstm.training.checkpoint import load_checkpoint
    from edgelstm.training.model import TorchRunner

    runner = TorchRunner(load_checkpoint(path).model())
    return lambda pixels: runner.logits(pixels).argmax(axis=1)


if __name__ == "__main__":
    main()
