"""Tests of the page's scripts without a browser: its picture preparation under Node.js against Python's."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import web_vectors
from PIL import Image

from edgelstm.web import page as site

RUN = """
import { readFileSync } from "node:fs";
import { digitFromArray } from "./picture/digit.js";
for (const line of readFileSync(0, "utf8").trim().split("\\n")) {
  const picture = JSON.parse(line);
  const found = digitFromArray({ ...picture, data: new Uint8Array(Buffer.from(picture.data, "base64")) });
  console.log(JSON.stringify({ ...found, pixels: Buffer.from(found.pixels).toString("base64") }));
}
"""
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs a script beside a copy of the page's: lines in, values of its lines out."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node.js on this machine")
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(site.WEB, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(script, lines=()):
        (folder / "run.js").write_text(script)
        done = subprocess.run(
            [program, "run.js"], cwd=folder, input="\n".join(lines), capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_the_page_prepares_pictures_as_python_does(node, sample):
    named = web_vectors.vectors(sample.images[:16], n_scrawls=24)
    found = web_vectors.agreement(named, node(RUN, [web_vectors.as_json(array) for _, array in named]))
    # grey ones bit for bit; where colour is projected, BLAS and JavaScript may round a subpixel apart: 4 grey levels
    grey = {name for name, array in named if array.ndim == 2 or (array == array[:, :, :1]).all()}
    assert [line for line in found.different if line.split(" (")[0] in grey] == [], str(found)
    assert found.n_different_pixels <= 0.0001 * found.n_pixels, found
    assert found.largest <= 8, found


SUMS = """
import { readFileSync } from "node:fs";
import { sum32 } from "./picture/arrays.js";
for (const line of readFileSync(0, "utf8").trim().split("\\n"))
  console.log(sum32(new Float32Array(Uint8Array.from(Buffer.from(line, "base64")).buffer)));
"""


def test_sums_are_rounded_as_numpy_rounds_them(node):
    draw = np.random.default_rng(1)
    arrays = [draw.normal(0, 1, n).astype(np.float32) for n in (1, 7, 8, 9, 127, 128, 129, 1000, 5003, 102_400)]
    found = node(SUMS, [base64.b64encode(array.tobytes()).decode() for array in arrays])
    assert [float(array.sum()) for array in arrays] == found


RESIZE = """
import { readFileSync } from "node:fs";
import { resized, resizedBytes } from "./picture/resize.js";
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
for (const line of readFileSync(0, "utf8").trim().split("\\n")) {
  const { height, width, channels, data, filter, to } = JSON.parse(line);
  const found = filter
    ? resized({ height, width, data: new Float32Array(bytes(data).buffer) }, ...to, filter)
    : resizedBytes({ height, width, channels, data: bytes(data) }, ...to, "box");
  console.log(JSON.stringify(Buffer.from(found.data.buffer).toString("base64")));
}
"""


SHAPES = (
    ((90, 70), (31, 20)), ((40, 50), (40, 17)), ((7, 9), (30, 44)), ((211, 5), (97, 5)),
    ((160, 80), (64, 32)), ((161, 80), (64, 32)), ((300, 90), (120, 36)), ((161, 80), (322, 160)),
)  # fmt: skip
"""(from, to), the second row about where Pillow begins to go downward first."""


def test_pictures_are_resized_as_pillow_resizes_them(node):
    draw = np.random.default_rng(2)
    cases = []
    for shape, to in SHAPES:
        cases += [(draw.normal(0, 50, shape).astype(np.float32), to, kind) for kind in ("box", "bilinear", "bicubic")]
        cases += [(draw.integers(0, 256, (*shape, channels), dtype=np.uint8), to, None) for channels in (1, 3)]
    lines = [json.loads(web_vectors.as_json(array)) | {"filter": kind, "to": to} for array, to, kind in cases]
    found = node(RESIZE, map(json.dumps, lines))
    for (array, (height, width), kind), answer in zip(cases, found, strict=True):
        method = Image.Resampling[(kind or "box").upper()]
        expected = np.asarray(Image.fromarray(array.squeeze()).resize((width, height), method))
        got = np.frombuffer(base64.b64decode(answer), array.dtype).reshape(expected.shape)
        assert np.array_equal(expected, got), f"{kind} {array.shape} to {height}, {width}"


def test_transparent_pictures_get_the_same_ground(node):
    from edgelstm.data.picture import decode

    draw = np.random.default_rng(3)
    colour = draw.integers(0, 256, (40, 30, 4), dtype=np.uint8)
    sheet = np.full((40, 30, 4), (250, 240, 230, 255), np.uint8)
    sheet[10:30, 12:16] = (20, 10, 60, 255)
    sheet[:2] = (9, 9, 9, 0)
    light = np.zeros((40, 30, 4), np.uint8)
    light[8:30, 10:14] = (240, 250, 255, 255)
    dark = light.copy()
    dark[8:30, 10:14, :3] = 7
    faint = np.zeros((40, 30, 4), np.uint8)
    faint[8:30, 10:14] = (10, 30, 20, 90)
    nothing = np.zeros((40, 30, 4), np.uint8)
    pictures = {"noise": colour, "sheet": sheet, "light": light, "dark": dark, "faint": faint, "nothing": nothing}
    script = """
    import { readFileSync } from "node:fs";
    import { opaque } from "./picture/opaque.js";
    for (const line of readFileSync(0, "utf8").trim().split("\\n")) {
      const picture = JSON.parse(line);
      const found = opaque({ ...picture, data: new Uint8Array(Buffer.from(picture.data, "base64")) });
      console.log(JSON.stringify({ ...found, data: [...found.data] }));
    }
    """
    answers = node(script, [web_vectors.as_json(array) for array in pictures.values()])
    for (name, array), answer in zip(pictures.items(), answers, strict=True):
        expected = decode(web_vectors.png(array))
        expected = expected[:, :, None] if expected.ndim == 2 else expected
        found = np.array(answer["data"], np.uint8).reshape(answer["height"], answer["width"], answer["channels"])
        assert expected.shape == found.shape, name
        assert np.abs(expected.astype(int) - found).max() == 0, f"{name}: {np.abs(expected.astype(int) - found).max()}"


def test_percentiles_are_order_statistics(node):
    script = """
    import { percentile } from "./latency.js";
    const values = [30, 10, 70, 50, 20, 60, 40];
    console.log(JSON.stringify([0.01, 0.5, 0.9, 0.99].map((share) => percentile(values, share))));
    """
    assert node(script) == [[10, 40, 70, 70]]


def test_every_file_that_the_page_names_is_there():
    names = {path.relative_to(site.WEB).as_posix() for path in site.WEB.rglob("*") if path.is_file()}
    fetched = {file.page_name for file in site.RUNTIME_FILES} | {site.MODEL_FILE, site.ABOUT_FILE}
    for name in sorted(names):
        text = (site.WEB / name).read_text(encoding="utf-8")
        for part in text.split('"')[1::2]:
            if part.startswith(("./", "../")):
                path = (Path("/") / name).parent / part
                found = str(path.resolve().relative_to("/"))
                assert found in names | fetched, f"{name} names {part}"


def test_the_page_names_no_other_site():
    addresses = {
        f"{path.name}: {line.strip()[:80]}"
        for path in site.WEB.rglob("*")
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if "//" in line.replace("http://www.w3.org/2000/svg", "") and ("http:" in line or "https:" in line)
    }
    assert {line for line in addresses if "www.w3.org/2000/svg" not in line} == set()
