"""The demo page in a real browser: drawn on, given files, used by keyboard, compared with Python.

`make browser` runs these for real. Without Chromium, or without onnxruntime-web in the cache folder, they skip.
"""

import base64
import functools
import http.server
import itertools
import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import web_vectors
from browser import Page, chromium

from edgelstm.contract import EarlyRule
from edgelstm.data import npm
from edgelstm.data.picture import decode
from edgelstm.errors import DataError
from edgelstm.export.stream_graph import build_stream_model
from edgelstm.runtime.classifier import Classifier
from edgelstm.runtime.parity import ATOL, RTOL, compare
from edgelstm.runtime.stream_runner import StreamRunner
from edgelstm.training.checkpoint import load_checkpoint
from edgelstm.web.page import build_site, ensure_runtime, export_site
from edgelstm.web.server import DemoServer

pytestmark = pytest.mark.browser
MODELS = Path(__file__).parents[1] / "models"
N_DIGITS = 200
NOTHING = "\N{EN DASH}"
"""What stands in the place of the digit while there is none."""
INT8_ATOL = 0.05
"""int8: the browser's kernels round activations elsewhere than this machine's."""
PHONE = {"width": 390, "height": 844, "phone": True}

# Strokes in shares of the pad; an arc is (centre x, y, radius x, y, from, to), degrees clockwise from the top.
DIGITS = {
    0: [[(0.5, 0.5, 0.17, 0.27, 0, 360)]],
    1: [[0.5, 0.22, 0.5, 0.78]],
    2: [[(0.5, 0.36, 0.16, 0.14, -80, 110), 0.36, 0.74, 0.66, 0.74]],
    3: [[(0.48, 0.35, 0.15, 0.13, -60, 170), (0.48, 0.63, 0.18, 0.16, 0, 230)]],
    4: [[0.4, 0.22, 0.34, 0.55, 0.68, 0.55], [0.6, 0.3, 0.58, 0.8]],
    5: [[0.66, 0.24, 0.4, 0.24, 0.38, 0.46, (0.49, 0.6, 0.17, 0.16, -20, 230)]],
    6: [[0.58, 0.2, 0.42, 0.42, (0.5, 0.62, 0.14, 0.16, -80, 280)]],
    7: [[0.34, 0.26, 0.66, 0.26, 0.46, 0.78]],
    8: [[(0.5, 0.36, 0.13, 0.13, 180, 540), (0.5, 0.64, 0.16, 0.15, 0, 360)]],
    9: [[(0.5, 0.37, 0.14, 0.14, 90, 450), 0.62, 0.5, 0.56, 0.8]],
}


def points(stroke):
    """A stroke as a list of (x, y)."""
    found, numbers = [], []
    for part in stroke:
        if isinstance(part, tuple):
            x, y, rx, ry, start, stop = part
            angles = np.radians(np.linspace(start, stop, 24))
            found += [(x + rx * math.sin(a), y - ry * math.cos(a)) for a in angles]
        else:
            numbers.append(part)
            if len(numbers) == 2:
                found.append(tuple(numbers))
                numbers = []
    return found


@pytest.fixture(scope="module")
def models():
    """fp32 and int8 streaming models of the shipped weights."""
    checkpoint = load_checkpoint(MODELS / "base.safetensors")
    rule = EarlyRule(0.9, 2)
    return {
        precision: build_stream_model(checkpoint, precision, None, rule).SerializeToString(deterministic=True)
        for precision in ("fp32", "int8")
    }


@pytest.fixture(scope="module")
def sites(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npm.shutil, "which", lambda name: None)  # tests fetch nothing
        try:
            runtime = ensure_runtime()
        except DataError:
            pytest.skip("onnxruntime-web is not in the cache folder: run `edgelstm demo --export DIR` once")
    return {precision: build_site(model, precision, runtime) for precision, model in models.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory, sites):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def urls(sites):
    """The page's address with each model."""
    servers = {precision: DemoServer(site, port=0) for precision, site in sites.items()}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield {precision: server.url for precision, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture
def page(browser, urls):
    """The page on a laptop, newly opened; at the end nothing may have gone wrong in it, nor left it."""
    found = Page(browser)
    found.open(urls["fp32"])
    yield found
    check_quiet(found, urls["fp32"])


@pytest.fixture(scope="module")
def opened(browser, urls):
    found = Page(browser)
    found.open(urls["fp32"])
    yield found
    check_quiet(found, urls["fp32"])


@pytest.fixture
def same_page(opened):
    """One page for many tests, cleared before each: to open it takes longer than most tests."""
    opened.set_dark(False)
    opened.run("document.querySelector('#clear').click(); document.activeElement.blur(); scrollTo(0, 0)")
    opened.until("document.querySelector('#digit').textContent === '\\u2013'")
    return opened


@pytest.fixture
def phone(browser, urls):
    found = Page(browser, **PHONE)
    found.open(urls["fp32"])
    yield found
    check_quiet(found, urls["fp32"])


def check_quiet(page, url):
    problems = page.problems()
    requests = page.requests()
    page.close()
    assert problems == []
    assert requests
    assert [address for address in requests if not address.startswith((url, "data:", f"blob:{url}"))] == []


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("EDGELSTM_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


def n_read(page):
    return int(page.run("document.body.dataset.read ?? 0"))


def answer(page):
    """What is said once the reading is finished."""
    return page.run("document.querySelector('#spoken').textContent")


def draw(page, digit):
    """With the mouse."""
    box = page.box("#pad")
    for stroke in DIGITS[digit]:
        before = n_read(page)
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points(stroke)]
        page.mouse("mousePressed", *at[0])
        for place in at[1:]:
            page.mouse("mouseMoved", *place)
        page.mouse("mouseReleased", *at[-1])
        page.until(f"document.body.dataset.read > {before}")


def settled(page):
    """Wait until the sweep is over."""
    page.until("document.querySelector('#rows-read').textContent === '28 of 28 rows'")


def page_reader(page):
    page.run("import('/reader.js').then(async (m) => { globalThis.reader = await m.loadReader(); })")


# Drawing


def test_digits_drawn_with_the_mouse_are_read(same_page):
    read = {}
    for digit in DIGITS:
        draw(same_page, digit)
        settled(same_page)
        read[digit] = answer(same_page).split(",")[0]
        assert same_page.run("document.querySelector('#digit').textContent") == read[digit]
        same_page.click("#clear")
        same_page.until("document.querySelector('#digit').textContent === '\\u2013'")
    assert {digit: str(digit) for digit in DIGITS} == read


def test_a_finger_draws_without_moving_the_page(phone):
    box = phone.box("#pad")
    at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points(DIGITS[7][0])]
    phone.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[at[0]])
    for first, second in itertools.pairwise(at):
        for share in (0.25, 0.5, 0.75, 1):
            place = {key: first[key] + share * (second[key] - first[key]) for key in "xy"}
            phone.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[place])
    phone.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    phone.until("document.body.dataset.read > 0")
    assert answer(phone).startswith("7, "), answer(phone)
    assert phone.run("scrollY") == 0


def test_a_digit_is_read_while_it_is_drawn(same_page):
    box, before = same_page.box("#pad"), n_read(same_page)
    same_page.mouse("mousePressed", box["x"] + 100, box["y"] + 80)
    for step in range(12):
        same_page.mouse("mouseMoved", box["x"] + 100 + 12 * step, box["y"] + 80 + step)
    same_page.until("document.querySelector('#digit').textContent !== '\\u2013'")
    assert n_read(same_page) == before  # the pen is still down
    same_page.mouse("mouseReleased", box["x"] + 240, box["y"] + 90)
    same_page.until(f"document.body.dataset.read > {before}")


def test_undo_takes_back_strokes_and_clearing(page):
    draw(page, 4)
    both = answer(page)
    page.click("#clear")
    page.until("document.querySelector('#digit').textContent === '\\u2013'")
    assert page.run("document.querySelector('#clear').disabled")
    page.click("#undo")
    page.until("document.querySelector('#spoken').textContent")
    settled(page)
    assert answer(page) == both
    for _ in range(2):
        page.click("#undo")
    page.until("document.querySelector('#confidence').textContent === 'draw a digit'")
    assert page.run("document.querySelector('#undo').disabled")


# Keyboard


def test_a_digit_can_be_drawn_and_taken_back_by_keyboard_alone(page):
    page.key("Tab")
    assert page.run("document.activeElement.id") == "pad"
    page.until("!document.querySelector('#pen').hidden")
    for key, n in (("ArrowLeft", 4), ("ArrowUp", 1)):
        for _ in range(n):
            page.key(key)
    page.key(" ", "Space")
    for _ in range(9):
        page.key("ArrowRight")
    for _ in range(4):  # down and left at once, then down
        page.key_down("ArrowLeft")
        page.key("ArrowDown")
        page.call("Input.dispatchKeyEvent", type="keyUp", key="ArrowLeft", code="ArrowLeft")
        for _ in range(3):
            page.key("ArrowDown")
    assert n_read(page) == 0
    page.key(" ", "Space")
    page.until("document.body.dataset.read > 0")
    assert answer(page).startswith("7, "), answer(page)
    page.key("Backspace")
    page.until("document.querySelector('#digit').textContent === '\\u2013'")


def test_everything_that_can_be_used_is_reached_by_tab_and_shows_it(page):
    draw(page, 3)
    page.until("!document.querySelector('#measure').disabled && document.querySelector('#percentiles').children.length")
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.run("document.querySelector('h1').tabIndex = -1; document.querySelector('h1').focus()")
    reached = []
    for _ in range(8):
        page.key("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.tagName"))
        style = "getComputedStyle(document.activeElement.matches('#file') ? document.activeElement.parentElement :"
        assert page.run(f"{style} document.activeElement).outlineStyle") == "solid", reached
    assert reached == ["pad", "undo", "clear", "file", "SUMMARY", "replay", "rows", "measure"]


def test_the_rows_are_gone_through_by_arrow_keys(same_page):
    draw(same_page, 3)
    settled(same_page)
    same_page.run("document.querySelector('#rows').focus()")
    same_page.key("ArrowLeft")
    same_page.until("document.querySelector('#rows-read').textContent === '27 of 28 rows'")
    same_page.key("Home")
    same_page.until("document.querySelector('#rows-read').textContent === '0 of 28 rows'")
    assert same_page.run("document.querySelector('#digit').textContent") == NOTHING


# Pictures


def png_of(digit, sample):
    """A test digit, dark on light, enlarged and off centre: something to be prepared."""
    image = 255 - np.kron(sample.images[digit], np.ones((9, 9), np.uint8))
    return web_vectors.png(np.pad(image, ((10, 60), (40, 20)), constant_values=255))


@pytest.fixture
def pictures(sample, tmp_path):
    """Paths of two pictures, a 7 and a 2, and of something else."""
    assert sample.labels[:2].tolist() == [7, 2]
    for at, name in enumerate(("seven.png", "two.png")):
        (tmp_path / name).write_bytes(png_of(at, sample))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def choose(page, path):
    node = page.call("DOM.getDocument")["root"]["nodeId"]
    found = page.call("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(path)], nodeId=found)


def drop(page, path):
    x, y = page.centre("#pad")
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        page.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)


def paste(page, path):
    content = base64.b64encode(path.read_bytes()).decode()
    page.run(
        f"(() => {{ const bytes = Uint8Array.from(atob('{content}'), (c) => c.charCodeAt(0));"
        "const clipboardData = new DataTransfer();"
        "clipboardData.items.add(new File([bytes], 'pasted.png', { type: 'image/png' }));"
        "document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true })); })()"
    )


@pytest.mark.parametrize("give", [choose, drop, paste])
def test_a_picture_that_is_given_is_read_as_python_reads_it(same_page, pictures, give):
    for name, digit in (("seven.png", 7), ("two.png", 2)):
        before = n_read(same_page)
        give(same_page, pictures / name)
        same_page.until(f"document.body.dataset.read > {before}")
        expected = Classifier().classify(pictures / name)
        assert answer(same_page).startswith(f"{digit}, "), answer(same_page)
        assert expected.label == str(digit)


def test_what_is_no_picture_is_one_clear_line(same_page, pictures):
    drop(same_page, pictures / "notes.txt")
    same_page.until("document.querySelector('#message').textContent.includes('is no picture')")
    assert same_page.run("document.querySelector('#message').textContent") == (
        "notes.txt is no picture that this browser reads; save it as PNG or JPEG."
    )
    draw(same_page, 7)
    assert answer(same_page).startswith("7, ")
    assert same_page.run("document.querySelector('#message').textContent") == ""


def test_an_empty_picture_says_so(same_page, tmp_path):
    (tmp_path / "white.png").write_bytes(web_vectors.png(np.full((90, 70), 255, np.uint8)))
    choose(same_page, tmp_path / "white.png")
    same_page.until("document.querySelector('#spoken').textContent === 'no ink found'")


def test_a_stroke_on_a_picture_begins_a_drawing_and_undo_brings_the_picture_back(same_page, pictures):
    before = n_read(same_page)
    choose(same_page, pictures / "two.png")
    same_page.until(f"document.body.dataset.read > {before}")
    draw(same_page, 7)
    assert answer(same_page).startswith("7, ")
    same_page.click("#undo")
    same_page.until("document.querySelector('#spoken').textContent.startsWith('2, ')")


# The same as Python


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_pages_logits_are_pythons_for_200_test_digits(browser, urls, models, sample, precision):
    page = Page(browser)
    page.open(urls[precision])
    page_reader(page)
    images = sample.images[:N_DIGITS]
    page.run(f"globalThis.images = Uint8Array.from(atob('{base64.b64encode(images.tobytes()).decode()}'),"
             " (c) => c.charCodeAt(0)); 0")  # fmt: skip
    whole, by_row = (
        np.array(json.loads(page.run(
            f"(async () => {{ const found = []; for (let i = 0; i < {N_DIGITS}; i++) {{"
            f" const image = images.subarray(784 * i, 784 * (i + 1)); found.push([...await {call}]); }}"
            " return JSON.stringify(found); })()"
        )), np.float32)
        for call in ("reader.logits(image)", "reader.logitsByStep(image).then((steps) => steps.at(-1))")
    )  # fmt: skip
    page.close()
    runner = StreamRunner(models[precision])
    # int8's activations are scaled over each call, so a picture alone; Python's runner goes row by row
    expected = np.concatenate([runner.logits(image[None]) for image in images])
    found = {"in one call": whole, "row by row": by_row}
    for name, logits in found.items():
        report = compare(expected, logits)
        print(f"\n{precision} {name}: {report.n_same}/{report.n} same decisions, largest {report.max_difference:.2g}")
    if precision == "fp32":
        assert (ATOL, RTOL) == (1e-5, 1e-5)
        assert compare(expected, whole).passed, compare(expected, whole)
        assert compare(expected, by_row).passed, compare(expected, by_row)
    else:
        report = compare(expected, by_row)
        assert report.n_same == N_DIGITS
        assert report.max_difference <= INT8_ATOL, report


def test_the_page_prepares_pictures_as_python_does(same_page, sample):
    named = [*web_vectors.edge_cases(), *web_vectors.vectors(sample.images[:4], n_scrawls=6)[-10:]]
    same_page.run("import('/picture/digit.js').then((m) => { globalThis.prepare = m.digitFromArray; })")
    answers = [
        json.loads(same_page.run(
            f"(() => {{ const p = {web_vectors.as_json(array)};"
            " const found = prepare({ ...p, data: Uint8Array.from(atob(p.data), (c) => c.charCodeAt(0)) });"
            " return JSON.stringify({ ...found, pixels: btoa(String.fromCharCode(...found.pixels)) }); })()"
        ))
        for _, array in named
    ]  # fmt: skip
    found = web_vectors.agreement(named, answers)
    print(f"\nprepared: {found}")
    assert found.n_different_pixels <= 0.0001 * found.n_pixels, found
    assert found.largest <= 8, found


def test_picture_files_come_out_as_from_python(same_page):
    """Decoding included, which is the browser's: nearly all pixels the same, the same digit nearly always."""
    same_page.run(
        "Promise.all([import('/files.js'), import('/picture/digit.js')]).then(([files, digit]) => {"
        " globalThis.prepareFile = async (content) => {"
        "  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));"
        "  const { array } = await files.pictureFromFile(new Blob([bytes]));"
        "  const found = digit.digitFromArray(array);"
        "  return JSON.stringify({ ...found, pixels: btoa(String.fromCharCode(...found.pixels)) }); }; })"
    )
    paths = [path for path in sorted(web_vectors.PICTURES.rglob("*")) if path.suffix in (".png", ".jpg", ".jpeg")]
    named = [(path.name, decode(path.read_bytes())) for path in paths]
    answers = [
        json.loads(same_page.run(f"prepareFile('{base64.b64encode(path.read_bytes()).decode()}')")) for path in paths
    ]
    found = web_vectors.agreement(named, answers)
    print(f"\nfiles: {found}")
    assert found.n_different_pixels <= 0.01 * found.n_pixels, found


def test_the_rule_for_deciding_early_says_the_same_row(same_page, models, sample):
    from edgelstm.runtime.stream import Stream

    page_reader(same_page)
    stream = Stream(models["fp32"], early=True)
    for image in sample.images[:20]:
        stream.reset()
        expected = None
        for row in range(27):
            stream.push(image[row : row + 1])
            if stream.decided[0]:
                expected = row + 1
                break
        found = same_page.run(
            f"reader.logitsByStep(Uint8Array.from({image.ravel().tolist()})).then((l) => reader.settledAfter(l))"
        )
        assert expected == found


# Latency, offline, elsewhere


def test_the_latency_is_measured_and_can_be_measured_again(page):
    draw(page, 5)
    for _ in range(2):
        page.until("document.querySelector('#measured').textContent.includes('1,000 runs each')")
        rows = page.run("[...document.querySelectorAll('#percentiles tr')].map((row) => row.innerText).join('|')")
        assert rows.startswith("28 rows in one call"), rows
        assert "one row a call" in rows
        assert rows.count("µs") + rows.count("ms") == 6, rows
        page.click("#measure")
        page.until("document.querySelector('#measured').textContent === 'measuring'")


def test_the_page_is_isolated(same_page):
    assert same_page.run("crossOriginIsolated")


def test_it_works_with_the_network_off(page):
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    draw(page, 2)
    assert answer(page).startswith("2, ")


def test_its_policy_lets_nothing_out(page):
    tried = page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)")
    assert tried == "Failed to fetch"
    said = [event["entry"]["text"] for event in page.events("Log.entryAdded")]
    assert any("Content Security Policy" in line or "violates" in line for line in said), said
    page.forget_events()
    page.run("fetch('model.json').then((answer) => answer.json())")


def test_exported_files_work_from_any_web_server(browser, sites, tmp_path):
    """Python's own: in a folder below its root, with no header of ours."""
    export_site(sites["fp32"], tmp_path / "some" / "where")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/some/where/"
        page = Page(browser)
        page.open(url)
        assert not page.run("crossOriginIsolated")
        draw(page, 3)
        assert answer(page).startswith("3, ")
        check_quiet(page, url)
        server.shutdown()


# Looks


def contrast(page, selector):
    """WCAG's contrast ratio of an element's text on what is behind it."""
    return page.run(
        "((element) => {"
        " const rgb = (text) => text.match(/[\\d.]+/g).map(Number);"
        " const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 :"
        "  ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);"
        " let behind = element; let ground;"
        " do { ground = rgb(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }"
        " while (ground[3] === 0);"
        " const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground)];"
        " return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })"
        f"(document.querySelector({json.dumps(selector)}))"
    )


@pytest.mark.parametrize("size", ["laptop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_in_both_themes_and_sizes(browser, urls, screenshots, theme, size):
    page = Page(browser, dark=theme == "dark", **(PHONE if size == "phone" else {}))
    page.open(urls["fp32"])
    draw(page, 3)
    page.until("document.querySelector('#percentiles').children.length === 2")
    settled(page)
    page.run("scrollTo(0, 0)")
    page.screenshot(screenshots / f"{size}-{theme}.png", whole=size == "phone")
    for selector in ("h1", "header p", "#confidence", "figcaption", "#rows-read", "#settled", "summary", "#model",
                     ".note", "#replay", ".bars .name", "tbody th"):  # fmt: skip
        ratio = contrast(page, selector)
        assert ratio >= 4.5, f"{selector} in {theme}: {ratio:.1f}"
    wide = page.run("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{wide} px wider than the {size}"
    small = page.run(
        "[...document.querySelectorAll('button, .button, #rows')].filter((e) => e.getBoundingClientRect().height < 44)"
        ".map((e) => e.id || e.className)"
    )
    assert small == []
    check_quiet(page, urls["fp32"])


def test_the_theme_changes_under_way(same_page):
    draw(same_page, 3)
    settled(same_page)
    corner = (
        "(() => { const c = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });"
        " c.drawImage(document.querySelector('#saw'), -1, -1); return [...c.getImageData(0, 0, 1, 1).data]; })()"
    )
    before = same_page.run(corner)
    same_page.set_dark(True)
    same_page.until("matchMedia('(prefers-color-scheme: dark)').matches")
    same_page.until(f"{corner}[0] < 60")
    assert before[0] > 200


def test_the_sweep_is_seen_and_is_left_out_for_those_who_want_no_motion(same_page, screenshots):
    same_page.set_dark(False, reduced_motion=True)
    draw(same_page, 3)
    assert same_page.run("document.querySelector('#rows-read').textContent") == "28 of 28 rows"
    same_page.set_dark(False)
    same_page.click("#replay")
    same_page.until("parseInt(document.querySelector('#rows-read').textContent) < 28")
    same_page.screenshot(screenshots / "sweep.png")
    settled(same_page)


def test_what_is_shown_has_names_for_those_who_cannot_see_it(same_page):
    draw(same_page, 3)
    settled(same_page)
    assert same_page.run("document.querySelector('#spoken').ariaLive") == "polite"
    assert same_page.run("document.querySelector('#saw').ariaLabel").endswith("it reads 3")
    assert "for 3" in same_page.run("document.querySelector('#strip').ariaLabel")
    labels = same_page.run("[...document.querySelectorAll('#bars li')].map((item) => item.ariaLabel).join('|')").split(
        "|"
    )
    assert len(labels) == 10
    assert labels[3].startswith("3: ")
    nameless = same_page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "application", "image", "img"}
    assert [
        node for node in nameless
        if not node.get("ignored") and node["role"]["value"] in roles and not node.get("name", {}).get("value")
    ] == []  # fmt: skip
