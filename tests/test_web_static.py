"""Tests of the page's scripts without a browser: under Node.js, held against Python."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from drawings import PEN, drawn_digits, rendered

from edgelstm.data.picture import digit_from_array
from edgelstm.runtime.runner import OrtRunner
from edgelstm.web import page

N_DIGITS = 200
MAX_LINES = 900
"""Of JavaScript: the page stays small enough to be read."""
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs a script beside a copy of the page's: values in, one a line, values out."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node.js on this machine")
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(page.SOURCES, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(script, values=()):
        (folder / "run.js").write_text(
            'import { readFileSync } from "node:fs";\nconst show = (value) => console.log(JSON.stringify(value));\n'
            'const values = readFileSync(0, "utf8").split("\\n").filter(Boolean).map((line) => JSON.parse(line));\n'
            + script
        )
        done = subprocess.run(
            [program, "run.js"], cwd=folder, input="\n".join(map(json.dumps, values)), capture_output=True, text=True,
            timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


PREPARE = f"""
import {{ digitFromStrokes }} from "./digit.js";
for (const strokes of values) show([...digitFromStrokes(strokes, {PEN}, 28, 28)]);
"""


def prepare(node, drawings):
    """What the page makes of drawings: (n, 28, 28) uint8."""
    return np.array(node(PREPARE, drawings), np.uint8).reshape(-1, 28, 28)


def test_a_drawing_is_prepared_as_python_prepares_its_picture(node):
    drawings = drawn_digits(N_DIGITS)
    found = prepare(node, drawings)
    expected = np.stack([digit_from_array(rendered(strokes)).pixels for strokes in drawings])
    model = OrtRunner("base")
    decisions = [model.logits(pixels).argmax(1) for pixels in (found, expected)]
    different = np.flatnonzero(decisions[0] != decisions[1])
    away = np.abs(found.astype(int) - expected).mean(axis=(1, 2))
    said = f"{different} decided otherwise; grey levels a pixel: mean {away.mean():.1f}, most {away.max():.1f}"
    assert len(different) == 0, said
    assert away.mean() <= 3, said
    assert away.max() <= 12, said
    assert (decisions[0] == np.arange(N_DIGITS) % 10).mean() > 0.9, said


def middle_and_box(pixels):
    """Centre of mass (y, x) and longest side of the ink, in pixels."""
    ys, xs = np.nonzero(pixels)
    y, x = (float((axis + 0.5) @ pixels[ys, xs]) / pixels.sum() for axis in (ys, xs))
    return (y, x), max(np.ptp(ys), np.ptp(xs)) + 1


def test_every_digit_fills_its_box_and_hangs_by_its_centre_of_mass(node):
    for pixels in prepare(node, drawn_digits(40)):
        (y, x), box = middle_and_box(pixels.astype(float))
        assert abs(y - 14) <= 0.1, y
        assert abs(x - 14) <= 0.1, x
        assert 20 <= box <= 21, box


def test_a_dot_stays_a_dot_and_a_line_a_line(node):
    shaky = [[(0.5, 0.5), (0.505, 0.5), (0.5, 0.503)]]
    line = [[(0.1, 0.1), (0.1, 0.9)]]
    one_point, few, tall = prepare(node, [[[(0.2, 0.9)]], shaky, line])
    for pixels in (one_point, few):
        assert 3 <= middle_and_box(pixels.astype(float))[1] <= 6
    assert (tall.max(axis=1) > 0).sum() == 20
    assert (tall.max(axis=0) > 0).sum() <= 4


def test_a_long_scrawl_is_prepared_while_one_draws(node):
    draw = np.random.default_rng(1)
    scrawl = [(float(x), float(y)) for x, y in np.clip(np.cumsum(draw.normal(0, 0.01, (20_000, 2)), 0) + 0.5, 0, 1)]
    assert prepare(node, [[scrawl]]).max() == 255


def test_strokes_are_smoothed_between_their_ends(node):
    script = 'import { smooth } from "./pad.js";\nfor (const points of values) show(smooth(points));'
    corner = [(0, 0), (1, 0), (1, 1)]
    lone, pair, smoothed = node(script, [corner[:1], corner[:2], corner])
    assert lone == [[0, 0], [0, 0]]
    assert pair == [[0, 0], [1, 0]]
    assert (smoothed[0], smoothed[-1]) == ([0, 0], [1, 1])
    assert [0.875, 0.125] in smoothed  # the middle of the curve, inside the corner
    assert [1, 0] not in smoothed


def test_percentiles_are_order_statistics(node):
    script = """
    import { percentile } from "./latency.js";
    show([0.01, 0.5, 0.9, 0.99].map((share) => percentile(values, share)));
    """
    assert node(script, [30, 10, 70, 50, 20, 60, 40]) == [[10, 40, 70, 70]]


def test_every_file_that_the_page_names_is_there():
    names = {path.name for path in page.SOURCES.iterdir()}
    fetched = {file.name.replace(".mjs", ".js") for file in page.RUNTIME_FILES}
    named = set()
    for name in names:
        text = (page.SOURCES / name).read_text(encoding="utf-8")
        named |= {part.removeprefix("./") for part in text.split('"')[1::2] if part.startswith("./")}
        named |= set(re.findall(r'(?:href|src)="([^"]+)"', text)) if name == "index.html" else set()
    assert named - fetched <= names
    assert names - named == {"index.html"}


def test_the_page_names_no_other_site():
    for path in page.SOURCES.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?:\S*", text) == [], path.name


def test_text_never_becomes_markup():
    scripts = [path.read_text(encoding="utf-8") for path in page.SOURCES.glob("*.js")]
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\("
    assert re.findall(forbidden, "\n".join(scripts)) == []


def test_the_scripts_can_be_read_in_one_sitting():
    n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in page.SOURCES.glob("*.js"))
    assert n_lines <= MAX_LINES
