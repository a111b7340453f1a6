"""The demo page in a real browser: drawn on with mouse, finger and keys, compared with Python, looked at.

`make browser` runs these for real. Without Chromium, or without onnxruntime-web in the cache folder, they skip.
"""

import base64
import functools
import http.server
import itertools
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Page, chromium
from drawings import digit_strokes, rendered

from edgelstm.data import npm
from edgelstm.data.picture import digit_from_array
from edgelstm.errors import DataError
from edgelstm.onnx_file import ModelFile, open_model
from edgelstm.runtime.stream import Stream
from edgelstm.web.page import build_page, ensure_runtime, export_page
from edgelstm.web.server import DemoServer

pytestmark = pytest.mark.browser
N_DIGITS = 200
FP32_ATOL = 1e-5
INT8_ATOL = 0.05
"""int8: the browser's kernels round activations elsewhere than this machine's."""
NOTHING = "\N{EN DASH}"
"""What stands in the place of the digit while there is none."""
EMPTY = f"document.querySelector('#digit').textContent === '{NOTHING}'"
PHONE = {"width": 390, "height": 844, "phone": True}
HOSTILE = (
    "<img src=/x onerror=alert(1)>", "</script><script>alert(2)</script>", "${alert(3)}", "\u202egnp.exe", "&lt;b&gt;",
    "a" * 100, "javascript:alert(4)", '"onfocus="alert(5)', "`${alert(6)}`", "\x1b[31mred",
)  # fmt: skip


def with_names(model: ModelFile, class_names: tuple[str, ...]) -> ModelFile:
    """The same model whose classes are called otherwise."""
    config = replace(model.contract.config, class_names=class_names)
    return replace(model, contract=replace(model.contract, config=config))


@pytest.fixture(scope="module")
def models():
    return {name: open_model(name) for name in ("base", "base.int8", "small", "nano.int8")}


@pytest.fixture(scope="module")
def runtime():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npm.shutil, "which", lambda name: None)  # tests fetch nothing
        try:
            return ensure_runtime()
        except DataError:
            pytest.skip("onnxruntime-web is not in the cache folder: run `edgelstm demo --export DIR` once")


@pytest.fixture(scope="module")
def pages(models, runtime):
    return {name: build_page(model) | runtime for name, model in models.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory, runtime):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def serve():
    """Serves a page until the end of the tests, and gives its address."""
    servers = []

    def start(files):
        server = DemoServer(files, port=0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server.url

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def urls(pages, serve):
    """The page's address with each model."""
    return {name: serve(files) for name, files in pages.items()}


@pytest.fixture
def page(browser, urls):
    """The page on a laptop, newly opened; at the end nothing may have gone wrong in it, nor left it."""
    found = Page(browser)
    found.open(urls["base"])
    yield found
    check_quiet(found, urls["base"])


@pytest.fixture(scope="module")
def opened(browser, urls):
    found = Page(browser)
    found.open(urls["base"])
    yield found
    check_quiet(found, urls["base"])


@pytest.fixture
def same_page(opened):
    """One page for many tests, cleared before each: to open it takes longer than most tests."""
    opened.set_dark(False)
    opened.run("document.querySelector('#clear').click(); document.activeElement.blur(); scrollTo(0, 0)")
    opened.until(EMPTY)
    return opened


@pytest.fixture
def phone(browser, urls):
    found = Page(browser, **PHONE)
    found.open(urls["base"])
    yield found
    check_quiet(found, urls["base"])


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
    for stroke in digit_strokes(digit):
        before = n_read(page)
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
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
    for digit in range(10):
        draw(same_page, digit)
        settled(same_page)
        read[digit] = answer(same_page).split(",")[0]
        assert same_page.run("document.querySelector('#digit').textContent") == read[digit]
        same_page.click("#clear")
        same_page.until(EMPTY)
    assert {digit: str(digit) for digit in range(10)} == read


def test_a_finger_draws_without_moving_the_page(phone):
    box = phone.box("#pad")
    at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in digit_strokes(7)[0]]
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
    page.until(EMPTY)
    assert page.run("document.querySelector('#clear').disabled")
    page.click("#undo")
    page.until("document.querySelector('#spoken').textContent")
    settled(page)
    assert answer(page) == both
    for _ in range(2):
        page.click("#undo")
    page.until("document.querySelector('#confidence').textContent === 'draw a digit'")
    assert page.run("document.querySelector('#undo').disabled")


def test_a_stroke_that_is_taken_back_under_the_pointer_is_gone(same_page):
    draw(same_page, 1)
    before = answer(same_page)
    box = same_page.box("#pad")
    same_page.run("document.querySelector('#pad').focus()")
    same_page.mouse("mousePressed", box["x"] + 40, box["y"] + 200)
    same_page.mouse("mouseMoved", box["x"] + 90, box["y"] + 200)
    same_page.key("Backspace")
    for x in (140, 190, 240):
        same_page.mouse("mouseMoved", box["x"] + x, box["y"] + 200)
    same_page.mouse("mouseReleased", box["x"] + 240, box["y"] + 200)
    settled(same_page)
    assert answer(same_page) == before


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
    page.until(EMPTY)


def test_everything_that_can_be_used_is_reached_by_tab_and_shows_it(page):
    draw(page, 3)
    page.until("!document.querySelector('#measure').disabled && document.querySelector('#percentiles').children.length")
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.run("document.querySelector('h1').tabIndex = -1; document.querySelector('h1').focus()")
    reached = []
    for _ in range(7):
        page.key("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.tagName"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached
    assert reached == ["pad", "undo", "clear", "SUMMARY", "replay", "rows", "measure"]


def test_the_rows_are_gone_through_by_arrow_keys(same_page):
    draw(same_page, 3)
    settled(same_page)
    same_page.run("document.querySelector('#rows').focus()")
    same_page.key("ArrowLeft")
    same_page.until("document.querySelector('#rows-read').textContent === '27 of 28 rows'")
    same_page.key("Home")
    same_page.until("document.querySelector('#rows-read').textContent === '0 of 28 rows'")
    assert same_page.run("document.querySelector('#digit').textContent") == NOTHING


# The same as Python


@pytest.mark.parametrize(("name", "atol"), [("base", FP32_ATOL), ("small", FP32_ATOL), ("base.int8", INT8_ATOL)])
def test_the_pages_logits_are_pythons_for_200_test_digits(browser, urls, models, sample, name, atol):
    page = Page(browser)
    page.open(urls[name])
    page_reader(page)
    images = sample.sequences[:N_DIGITS]
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
    # int8's activations are scaled over each call: the same rows a call on both sides, one picture at a time
    stream = Stream(models[name])
    expected = {"in one call": [], "row by row": []}
    step = stream.contract.config.rows_per_step
    for image in images:
        stream.reset()
        expected["in one call"].append(stream.push(image)[0])
        stream.reset()
        expected["row by row"].append([stream.push(image[at : at + step]) for at in range(0, 28, step)][-1][0])
    for (way, logits), found in zip(expected.items(), (whole, by_row), strict=True):
        away = float(np.abs(found - np.array(logits)).max())
        print(f"\n{name} {way}: largest difference {away:.2g}")
        assert (found.argmax(1) == np.array(logits).argmax(1)).all()
        assert away <= atol


def test_what_the_page_saw_is_what_python_makes_of_the_drawing(same_page):
    draw(same_page, 3)
    settled(same_page)
    same_page.run("import('/digit.js').then((m) => { globalThis.digitFromStrokes = m.digitFromStrokes; })")
    same_page.run("import('/pad.js').then((m) => { globalThis.smooth = m.smooth; })")
    strokes = digit_strokes(3)
    found = same_page.run(f"[...digitFromStrokes({json.dumps(strokes)}.map(smooth), 0.075, 28, 28)]")
    away = np.abs(np.array(found).reshape(28, 28) - digit_from_array(rendered(strokes)).pixels.astype(int)).mean()
    assert away <= 6, f"{away:.1f} grey levels a pixel"


def test_the_rule_for_early_exit_says_the_same_row(same_page, models, sample):
    page_reader(same_page)
    stream = Stream(models["base"], early=True)
    found_any = set()
    for image in sample.sequences[:20]:
        stream.reset()
        expected = None
        for row in range(27):
            stream.push(image[row])
            if stream.decided[0]:
                expected = row + 1
                break
        found = same_page.run(
            f"reader.logitsByStep(Uint8Array.from({image.ravel().tolist()})).then((l) => reader.settledAfter(l))"
        )
        assert expected == found
        found_any.add(found)
    assert len(found_any) > 3


def test_confidence_is_divided_by_the_models_temperature(same_page, models, sample):
    page_reader(same_page)
    logits = Stream(models["base"]).push(sample.sequences[8])[0]
    odds = np.exp((logits - logits.max()).astype(np.float64) / models["base"].contract.temperature)
    found = same_page.run(
        f"reader.logits(Uint8Array.from({sample.sequences[8].ravel().tolist()})).then((l) => reader.probabilities(l))"
    )
    np.testing.assert_allclose(odds / odds.sum(), found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["base.int8", "small", "nano.int8"])
def test_any_exported_model_runs_on_the_page(browser, urls, name):
    page = Page(browser)
    page.open(urls[name])
    draw(page, 3)
    settled(page)
    assert answer(page).startswith("3, ")
    assert page.run("document.querySelector('#model').textContent").startswith(f"Model {name.partition('.')[0]}, ")
    check_quiet(page, urls[name])


def test_hostile_names_are_nothing_but_text(browser, serve, models, runtime, screenshots):
    model = with_names(models["base"], HOSTILE)
    url = serve(build_page(replace(model, contract=replace(model.contract, name=HOSTILE[0]))) | runtime)
    for size in ({}, PHONE):
        page = Page(browser, **size)
        page.open(url)
        elements = page.run("document.querySelectorAll('*').length")
        draw(page, 3)
        settled(page)
        page.screenshot(screenshots / f"hostile-{'phone' if size else 'laptop'}.png", whole=True)
        assert page.run("document.querySelectorAll('img, script:not([src]), [onerror], [onfocus]').length") == 0
        assert page.run("document.querySelectorAll('*').length") - elements < 10
        names = page.run("[...document.querySelectorAll('.bars .name')].map((e) => e.textContent)")
        assert names[:4] == list(HOSTILE[:4])
        assert page.run("document.querySelector('#digit').textContent") in names
        assert HOSTILE[0] in page.run("document.querySelector('#model').textContent")
        assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
        check_quiet(page, url)


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


def test_exported_files_work_from_any_web_server(browser, pages, tmp_path):
    """Python's own: in a folder below its root, with no header of ours."""
    export_page(pages["base"], tmp_path / "some" / "where")

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
    page.open(urls["base"])
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
    outside = page.run(
        "[...document.querySelectorAll('section *:not(.spoken):not(.share)')].filter((e) => {"
        " const box = e.getBoundingClientRect(), card = e.closest('section').getBoundingClientRect();"
        " return box.width && (box.right > card.right || box.left < card.left); }).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert outside == [], outside
    small = page.run(
        "[...document.querySelectorAll('button, #rows')].filter((e) => e.getBoundingClientRect().height < 44)"
        ".map((e) => e.id || e.className)"
    )
    assert small == []
    check_quiet(page, urls["base"])


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
