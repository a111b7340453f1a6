"""Tests of the page's scripts without a browser: under Node.js, held against Python."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from drawings import PEN, drawn_digits, rendered

from edgelstm.config import ModelConfig
from edgelstm.data.picture import digit_from_array
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import open_model, shipped_models
from edgelstm.runtime.early_exit import Decider, confidences
from edgelstm.runtime.runner import OrtRunner
from edgelstm.web import page
from edgelstm.web.page import page_data

N_DIGITS = 200
MAX_LINES = 600
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


READ = """
import { loadModel } from "./engine.js";
const [data, ...pictures] = values;
const model = await loadModel(data);
for (const picture of pictures) {
  const pixels = Uint8Array.from(picture);
  const steps = model.logitsByStep(pixels);
  if (String(model.read(pixels)) !== String(steps.at(-1))) throw Error("read otherwise row by row");
  show({ logits: steps.map((step) => [...step]), settled: model.settledAfter(steps),
    probabilities: model.probabilities(steps.at(-1)) });
}
"""


def read(node, model, pictures):
    """What the page's engine makes of (n, rows, cols) pixels: for each the logits by step, and what follows of them."""
    return node(READ, [page_data(model), *(picture.ravel().tolist() for picture in pictures)])


def bits(logits):
    return np.array(logits, np.float32).view(np.uint32)


def logits_by_step(model, pictures):
    """(n, steps, classes) by NumPy."""
    scheme = scheme_of(model, "int8")
    state, found, rows = scheme.start(len(pictures)), [], scheme.config.rows_per_step
    for at in range(0, pictures.shape[1], rows):
        state = scheme.step(pictures[:, at : at + rows], state)
        found.append(scheme.head_logits(state[-1][0]))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_the_engine_has_numpys_bits_for_200_digits_of_every_shipped_model(node, sample, name):
    model, digits = open_model(name), sample.sequences[:N_DIGITS]
    found = [each["logits"] for each in read(node, model, digits)]
    np.testing.assert_array_equal(bits(found), bits(logits_by_step(model, digits)))
    np.testing.assert_array_equal(bits(found)[:, -1], bits(scheme_of(model, "int8").logits(digits)))


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hidden_size=1, class_names=("a", "b")),
        ModelConfig(hidden_size=18, rows_per_step=2, n_layers=2),
        ModelConfig(hidden_size=33, rows_per_step=28, n_layers=3, class_names=("a", "b", "c")),
        ModelConfig(rows=12, cols=5, hidden_size=30, rows_per_step=3),
        ModelConfig(rows=7, cols=1, hidden_size=12, n_layers=2),
        ModelConfig(rows=2, cols=1023, hidden_size=20, n_layers=2),
        ModelConfig(hidden_size=512, n_layers=2, rows_per_step=14),
    ],
    ids=lambda config: f"{config.rows}x{config.cols}-{config.n_layers}x{config.hidden_size}",
)
def test_the_engine_has_numpys_bits_for_odd_shapes(node, checkpoint_of, model_bytes_of, config):
    model = open_model(model_bytes_of(checkpoint_of(config)))
    draw = np.random.default_rng(3)
    pictures = draw.integers(0, 256, (8, config.rows, config.cols)).astype(np.uint8)
    pictures[4:][draw.random(pictures[4:].shape) < 0.8] = 0
    found = [each["logits"] for each in read(node, model, pictures)]
    np.testing.assert_array_equal(bits(found), bits(logits_by_step(model, pictures)))


def test_confidence_is_divided_by_the_models_temperature(node, sample):
    model = open_model("base")
    assert model.contract.temperature != 1
    for found in read(node, model, sample.sequences[:20]):
        expected = 1 / confidences(np.array(found["logits"][-1:], np.float32), model.contract.temperature)[0]
        assert abs(max(found["probabilities"]) * expected - 1) < 1e-12
        assert abs(sum(found["probabilities"]) - 1) < 1e-12


@pytest.mark.parametrize("name", ["base", "early", "small"])
def test_the_rule_for_early_exit_says_the_same_row(node, sample, name):
    model, digits = open_model(name), sample.sequences[:100]
    decider, steps = Decider(model.contract.early, len(digits)), logits_by_step(model, digits)
    settled = np.zeros(len(digits), int)
    for step in range(steps.shape[1] - 1):
        decider.update(steps[:, step])
        settled[(decider.decision >= 0) & (settled == 0)] = (step + 1) * model.contract.config.rows_per_step
    found = [each["settled"] or 0 for each in read(node, model, digits)]
    assert settled.tolist() == found
    assert len(set(found)) >= 3


def test_without_a_rule_nothing_is_settled_early(node, tiny_model_bytes, sample):
    model = open_model(tiny_model_bytes)
    assert [None] * 3 == [each["settled"] for each in read(node, model, sample.sequences[:3])]


def test_a_damaged_model_is_an_error_and_no_answer(node, tiny_model_bytes):
    data = page_data(open_model(tiny_model_bytes))
    half = len(data["weights"]) // 8 * 4
    script = """
    import { loadModel } from "./engine.js";
    await loadModel(values[0]).then(() => show("a model"), (error) => show("an error"));
    """
    for change in ({"weights": data["weights"][:half]}, {"engine": data["engine"][:40]}, {"weights": "?"}):
        assert ["an error"] == node(script, [data | change])
    assert ["a model"] == node(script, [data])


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
    assert away.mean() <= 3.5, said  # Python centres to a quarter of a pixel
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


def test_every_script_imports_only_those_before_it_on_the_page():
    for place, name in enumerate(page.SCRIPTS):
        text = (page.SOURCES / name).read_text(encoding="utf-8")
        imported = re.findall(r'^import .* from "\./(.*)";$', text, re.MULTILINE)
        assert set(imported) <= set(page.SCRIPTS[:place]), name
        assert text.count("import ") - text.count("* ") <= len(imported), f"{name}: an import that is not one line"


def test_the_page_names_no_other_site():
    for path in page.SOURCES.iterdir():
        text = path.read_text(encoding="latin-1").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?:\S*", text) == [], path.name


def test_text_never_becomes_markup():
    scripts = [path.read_text(encoding="utf-8") for path in page.SOURCES.glob("*.js")]
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\("
    assert re.findall(forbidden, "\n".join(scripts)) == []


def test_the_scripts_can_be_read_in_one_sitting():
    n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in page.SOURCES.glob("*.js"))
    assert n_lines <= MAX_LINES
