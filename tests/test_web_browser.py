"""The exported page in a real browser, opened from the disk: drawn on, compared with Python, looked at.

`make browser` runs these for real. Without Chromium they skip.
"""

import base64
import itertools
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Page, chromium
from drawings import PEN, digit_strokes, rendered

from edgelstm.data.picture import digit_from_array
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import ModelFile, open_model
from edgelstm.web.page import build_page
from edgelstm.web.server import DemoServer

pytestmark = pytest.mark.browser
N_DIGITS = 200
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
    return {name: open_model(name) for name in ("base", "base.int8", "small", "nano")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes the page with a model, and gives its address."""
    folder = tmp_path_factory.mktemp("pages")

    def write(model):
        path = folder / f"{len(list(folder.iterdir()))} page.html"
        path.write_bytes(build_page(model).html)
        return path.as_uri()

    return write


@pytest.fixture(scope="module")
def urls(models, written):
    """The page's address with each model."""
    return {name: written(model) for name, model in models.items()}


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
    """Nothing has gone wrong, and nothing but the page itself was asked for."""
    problems, requests = page.problems(), page.requests()
    page.close()
    assert problems == []
    assert requests == [url]


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


@pytest.mark.parametrize("name", ["base", "base.int8", "small", "nano"])
def test_the_pages_logits_are_pythons_bit_for_bit_for_200_test_digits(browser, urls, models, sample, name):
    page = Page(browser)
    page.open(urls[name])
    images = sample.sequences[:N_DIGITS]
    page.run(f"globalThis.images = Uint8Array.from(atob('{base64.b64encode(images.tobytes()).decode()}'),"
             " (c) => c.charCodeAt(0)); 0")  # fmt: skip
    expected = scheme_of(models[name], "int8").logits(images)
    for call in ("model.read(image)", "model.logitsByStep(image).at(-1)"):
        found = page.run(
            f"Array.from({{ length: {N_DIGITS} }}, (_, i) => images.subarray(784 * i, 784 * (i + 1)))"
            f".map((image) => [...new Uint32Array(({call}).buffer)])"
        )
        np.testing.assert_array_equal(np.array(found, np.uint32), expected.view(np.uint32))
    check_quiet(page, urls[name])


def test_what_the_page_saw_is_what_python_makes_of_the_drawing(same_page, models):
    draw(same_page, 3)
    settled(same_page)
    picture = np.array(same_page.run("[...view.reading.picture]"), np.uint8).reshape(28, 28)
    away = np.abs(picture - digit_from_array(rendered(digit_strokes(3))).pixels.astype(int)).mean()
    assert away <= 6, f"{away:.1f} grey levels a pixel"
    scheme = scheme_of(models["base"], "int8")
    state = scheme.start(1)
    for row in picture[:14]:
        state = scheme.step(row[None, None], state)
    odds = np.exp(scheme.head_logits(state[0][0])[0].astype(float) / models["base"].contract.temperature)
    found = same_page.run("view.reading.probabilities[14]")
    np.testing.assert_allclose(found, odds / odds.sum(), rtol=1e-12)


def test_the_pages_pen_is_as_thick_as_the_tests(same_page):
    assert same_page.run("PEN") == PEN


@pytest.mark.parametrize("name", ["base.int8", "small", "nano"])
def test_any_exported_model_runs_on_the_page(browser, urls, name):
    page = Page(browser)
    page.open(urls[name])
    draw(page, 3)
    settled(page)
    assert answer(page).startswith("3, ")
    assert page.run("document.querySelector('#model').textContent").startswith(f"Model {name.partition('.')[0]}: ")
    check_quiet(page, urls[name])


def test_hostile_names_are_nothing_but_text(browser, written, models, screenshots):
    model = with_names(models["base"], HOSTILE)
    url = written(replace(model, contract=replace(model.contract, name=HOSTILE[0])))
    for size in ({}, PHONE):
        page = Page(browser, **size)
        page.open(url)
        elements = page.run("document.querySelectorAll('*').length")
        draw(page, 3)
        settled(page)
        page.screenshot(screenshots / f"hostile-{'phone' if size else 'laptop'}.png", whole=True)
        assert page.run("document.querySelectorAll('img, [onerror], [onfocus]').length") == 0
        assert page.run("document.querySelectorAll('script').length") == 2
        assert page.run("document.querySelectorAll('*').length") - elements < 10
        names = page.run("[...document.querySelectorAll('.bars .name')].map((e) => e.textContent)")
        assert names[:4] == list(HOSTILE[:4])
        assert page.run("document.querySelector('#digit').textContent") in names
        assert HOSTILE[0] in page.run("document.querySelector('#model').textContent")
        assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
        check_quiet(page, url)


# Latency, offline, served


def test_the_latency_is_measured_and_can_be_measured_again(page):
    draw(page, 5)
    for _ in range(2):
        page.until("document.querySelector('#measured').textContent.startsWith('200 samples, each the mean of ')")
        rows = page.run("[...document.querySelectorAll('#percentiles tr')].map((row) => row.innerText).join('|')")
        assert rows.startswith("a picture, 28 rows"), rows
        assert "|one row" in rows
        assert rows.count("µs") + rows.count("ms") == 6, rows
        page.click("#measure")
        page.until("document.querySelector('#measured').textContent === 'measuring'")


@pytest.mark.parametrize("name", ["base", "small", "nano"])
def test_the_median_of_a_real_digit(browser, urls, sample, name):
    """Printed, not judged: it is this machine's."""
    page = Page(browser)
    page.open(urls[name])
    found = page.run(f"measure(model, Uint8Array.from({sample.sequences[0].ravel().tolist()}))")
    print(f"\n{name}: a picture {1000 * found['whole']['ms'][0]:.0f} us, a step {1000 * found['one']['ms'][0]:.1f} us")
    assert 0 < found["one"]["ms"][0] < found["whole"]["ms"][0]
    check_quiet(page, urls[name])


def test_it_works_with_the_network_off(browser, urls):
    page = Page(browser)
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.open(urls["base"])
    draw(page, 2)
    assert answer(page).startswith("2, ")
    check_quiet(page, urls["base"])


def test_its_policy_lets_nothing_out_and_runs_no_other_script(page):
    for address in ("http://127.0.0.1:9/", "data:,x", "blob:null/x"):
        assert page.run(f"fetch('{address}').then(() => 'sent', (error) => error.message)") == "Failed to fetch"
    page.run(
        "document.head.append(Object.assign(document.createElement('script'), { textContent: 'globalThis.x = 1' }))"
    )
    page.run("document.body.insertAdjacentHTML('beforeend', '<p style=\"position: fixed\" id=\"styled\">')")
    assert page.run("[globalThis.x, getComputedStyle(document.querySelector('#styled')).position]") == [None, "static"]
    said = [event["entry"]["text"] for event in page.events("Log.entryAdded")]
    assert sum("Content Security Policy" in line for line in said) >= 5, said
    page.forget_events()
    page.open(page.run("location.href"))


def test_the_served_page_is_the_same_and_isolated(browser, models):
    with DemoServer(build_page(models["base"]), port=0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        page = Page(browser)
        page.open(server.url)
        assert page.run("crossOriginIsolated")
        draw(page, 3)
        assert answer(page).startswith("3, ")
        check_quiet(page, server.url)
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
