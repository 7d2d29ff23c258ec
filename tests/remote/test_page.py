"""The preview page in a real browser: what it shows, that its controls reach the graph, that it fits a phone and comes back by itself.

Skips where no Chromium is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import chrome
import pytest
from chrome import Chrome
from shown import Shown, film, on_canvas, shown

from engine import Knob, Live, operator
from engine.graph import Govern, GraphBuilder, KnobRule, as_input
from engine.payload import Image, Scalar

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chrome.program() is None, reason="no Chromium on this machine")]

NUMBER = on_canvas("afterimage.picture.last.seq")
"""What the canvas shows, by the bits in its top row, beside what the page believes that it shows."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with Chrome(1280, 860) as found:
        yield found


def opened(browser: Chrome, run: Shown, query: str = "") -> Chrome:
    browser.open("about:blank")
    browser.said.clear()
    browser.open(f"http://127.0.0.1:{run.port}/?token={run.token}")
    if query:
        browser.open(f"http://127.0.0.1:{run.port}/?{query}")
    browser.until("globalThis.afterimage?.picture.count > 2")
    return browser


def text(browser: Chrome, selector: str) -> Any:
    return browser.evaluate(f"document.querySelector({selector!r}).textContent")


@pytest.mark.parametrize(("query", "enc"), [("", "h264"), ("codecs=jpeg", "jpeg")])
def test_the_canvas_shows_the_newest_frame(browser: Chrome, query: str, enc: str) -> None:
    with shown(film(fps=15)) as run:
        opened(browser, run, query)
        assert browser.evaluate("location.href") == f"http://127.0.0.1:{run.port}/" + (f"?{query}" if query else "")  # no token to be seen
        assert browser.evaluate("afterimage.picture.enc") == enc
        number, believed, width, height = browser.evaluate(NUMBER)
        assert (number, width, height) == (believed, 256, 96)
        browser.until("afterimage.picture.count > 12")
        assert browser.evaluate(NUMBER)[0] > number
        assert browser.evaluate("afterimage.picture.drawn.every((d, i, all) => !i || d.seq > all[i - 1].seq)")
        ages = browser.evaluate("afterimage.picture.drawn.map(d => d.age)")
        assert all(0 < age < 60_000 for age in ages)
        known = ("getImageData", "REFUSED")  # this test's own doing, and the page of the test before
        assert not [said for said in browser.said if not any(word in said for word in known)]


def test_colours_arrive_as_they_are(browser: Chrome) -> None:
    with shown(film(fps=10)) as run:
        opened(browser, run)
        pixel = "document.querySelector('#picture').getContext('2d').getImageData(128, 80, 1, 1).data"
        red, green, blue, seq = browser.evaluate(f"[...{pixel}.slice(0, 3), afterimage.picture.last.seq]")
        assert abs(green - 90) <= 6
        assert abs(blue - 90) <= 6
        assert abs(red - seq % 200) <= 12


def test_a_browser_that_cannot_decode_goes_on_with_jpeg(browser: Chrome) -> None:
    with shown(film(fps=10)) as run:
        opened(browser, run)
        browser.evaluate("afterimage.picture.decoder.decode(new EncodedVideoChunk({type: 'key', timestamp: 0, data: new Uint8Array(64)}))")
        browser.until("afterimage.picture.enc === 'jpeg'")
        count = browser.evaluate("afterimage.picture.count")
        browser.until(f"afterimage.picture.count > {count + 3}")
        number, believed, *_ = browser.evaluate(NUMBER)
        assert number == believed


def test_a_slider_moves_the_graph_and_says_from_which_frame(browser: Chrome) -> None:
    with shown(film(fps=20)) as run:
        opened(browser, run)
        browser.evaluate("""(() => { const slider = document.querySelector('#c-keep-level'); slider.value = 8;
                            slider.dispatchEvent(new Event('input', { bubbles: true })); })()""")
        receipt = "document.querySelector('#c-keep-level').parentElement.querySelector('.receipt')"
        browser.until(f"/applied at frame \\d+/.test({receipt}.textContent)")
        assert run.session.nodes["keep"].params["level"] == 8
        run.session.set({"keep.level": 2})  # somebody else's change is shown too
        browser.until("document.querySelector('#c-keep-level').value === '2'")
        number = "document.querySelector('#c-keep-level').parentElement.querySelector('.beside')"
        browser.evaluate(f"(() => {{ const n = {number}; n.value = 70; n.dispatchEvent(new Event('change')); }})()")
        browser.until(f"{receipt}.dataset.state === 'bad'")
        assert run.session.nodes["keep"].params["level"] == 2
        browser.until("document.querySelector('#c-keep-level').value === '2'")
        browser.evaluate(f"(() => {{ const n = {number}; n.value = ''; n.dispatchEvent(new Event('change')); }})()")
        assert browser.evaluate(f"[{receipt}.textContent, {number}.value]") == ["write a whole number from 0 to 9", "2"]


def test_what_is_too_long_is_said_and_costs_no_connection(browser: Chrome) -> None:
    with shown(film(fps=15)) as run:
        opened(browser, run)
        ask = "afterimage.link.ask('set', {changes: {'keep.level': 'é'.repeat(600_000)}}).then(() => 'sent', error => error.message)"
        assert "too long" in browser.evaluate(ask)
        assert text(browser, "#link") == "connected"


def test_buttons_do_what_they_say(browser: Chrome, tmp_path: Any) -> None:
    with shown(film(fps=20)) as run:
        run.preview.stage.folder = tmp_path  # type: ignore[union-attr]
        opened(browser, run)
        press = "document.querySelector('#{}').click()".format
        browser.evaluate(press("pause"))
        browser.until("document.querySelector('#pause').textContent === 'Resume'")
        assert run.session.paused
        browser.evaluate(press("pause"))
        browser.until("document.querySelector('#pause').textContent === 'Pause'")
        browser.evaluate(press("reset"))
        browser.until("/a new epoch at frame/.test(document.querySelector('#said').textContent)")
        assert run.session.epoch == 1
        browser.evaluate(press("record"))
        browser.until("document.querySelector('#record').getAttribute('aria-pressed') === 'true' && !document.querySelector('#o-rec').hidden")
        browser.until("afterimage.link.ask('record').then(answer => answer.frames > 5)")
        browser.evaluate(press("record"))
        browser.until("document.querySelector('#record').getAttribute('aria-pressed') === 'false'")
        assert len(list(tmp_path.glob("film-*.mp4"))) == 1
        browser.evaluate("""(() => { const list = document.querySelector('#outputs'); list.value = 'film.image';
                            list.dispatchEvent(new Event('change')); })()""")
        browser.until("afterimage.picture.last.stream === 'film.image'")
        browser.evaluate(press("stop"))
        assert not run.session.draining.is_set()  # one press only asks
        browser.evaluate(press("stop"))
        browser.until("/stopped/i.test(document.querySelector('#stop').textContent + document.querySelector('#state').textContent)")
        assert run.session.draining.is_set()


def test_the_graph_and_the_plots_are_drawn_with_live_numbers(browser: Chrome) -> None:
    with shown(film(fps=20)) as run:
        opened(browser, run)
        assert sorted(browser.evaluate("[...document.querySelectorAll('.node .nodename')].map(n => n.textContent)")) == ["film", "keep", "out"]
        assert browser.evaluate("document.querySelectorAll('.edges path').length") == 2
        browser.until("[...document.querySelectorAll('.node .ms')].every(n => / ms$/.test(n.textContent))")
        browser.until("document.querySelectorAll('.plot b').length === 4 && document.querySelector('.plot b').textContent !== '–'")
        assert float(text(browser, "#v-fps")) > 0
        assert text(browser, "#state") == "online"


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1440])
def test_nothing_is_wider_than_the_screen(browser: Chrome, width: int) -> None:
    with shown(film(fps=10)) as run:
        browser.resize(width, 800)
        try:
            opened(browser, run)
            browser.until("document.querySelector('.plot b').textContent !== '–'")
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            low = "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.getBoundingClientRect().height < 32).map(b => b.id)"
            assert browser.evaluate(low) == []
        finally:
            browser.resize(1280, 860)


def test_everything_has_a_name_and_can_be_reached_with_the_keyboard(browser: Chrome) -> None:
    with shown(film(fps=10)) as run:
        opened(browser, run)
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
        asked = {"button", "slider", "spinbutton", "combobox", "checkbox", "switch", "textbox", "image", "img"}
        nameless = [
            n["role"]["value"] for n in tree
            if not n.get("ignored") and n.get("role", {}).get("value") in asked and not n.get("name", {}).get("value")
        ]  # fmt: skip
        assert not nameless
        browser.evaluate("document.activeElement.blur()")
        seen = set()
        for _ in range(30):
            for kind in ("keyDown", "keyUp"):
                browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            seen.add(browser.evaluate("document.activeElement.id || document.activeElement.className"))
        assert {"outputs", "pause", "reset", "snapshot", "record", "full", "stop", "c-keep-level"} <= seen
        browser.evaluate("document.activeElement.blur()")
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", windowsVirtualKeyCode=32, text=" " * (kind == "keyDown"))
        browser.until("document.querySelector('#pause').textContent === 'Resume'")


def test_a_lost_connection_is_said_and_made_again(browser: Chrome) -> None:
    with shown(film(fps=15)) as run:
        opened(browser, run)
        browser.evaluate("afterimage.link.socket.close()")
        browser.until("document.querySelector('#link').dataset.state !== 'live'")
        browser.until("document.querySelector('#link').dataset.state === 'live'")
        count = browser.evaluate("afterimage.picture.count")
        browser.until(f"afterimage.picture.count > {count + 3}")
        number, believed, *_ = browser.evaluate(NUMBER)
        assert number == believed
    browser.until("document.querySelector('#link').textContent.startsWith('the run has ended')")
    assert text(browser, "#state") == "stopped"
    browser.open("about:blank")


def test_an_engine_that_hangs_is_said_while_the_connection_stands(browser: Chrome) -> None:
    with shown(film(fps=15)) as run:
        opened(browser, run)
        browser.evaluate("(() => { const socket = afterimage.link.socket; globalThis.heard = socket.onmessage; socket.onmessage = null; })()")
        browser.until("/^no answer for [3-9] s$/.test(document.querySelector('#link').textContent)")
        assert browser.evaluate("document.body.classList.contains('away')")
        browser.evaluate("void (afterimage.link.socket.onmessage = globalThis.heard)")
        browser.until("document.querySelector('#link').textContent === 'connected' && !document.body.classList.contains('away')")


def test_a_pause_and_a_connection_that_broke_show_in_the_state(browser: Chrome) -> None:
    with shown(film(fps=15)) as run:
        opened(browser, run)
        run.session.pause()
        browser.until("document.querySelector('#state').textContent === 'paused'")
        run.session.resume()
        browser.until("document.querySelector('#state').textContent === 'online'")
        browser.evaluate("void (afterimage.link.lost = () => afterimage.link.tell('state', { state: 'lost', pause: 3000 }))")
        browser.evaluate("afterimage.link.socket.close()")
        browser.until("document.querySelector('#state').textContent === 'not connected'")
        assert text(browser, "#link") == "connection lost, trying again in 3 s"
        browser.open("about:blank")


LIGHT = """(() => {
  const style = getComputedStyle(document.documentElement);
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).map((rule) => rule.cssText).join('');
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const luminance = (name) => {
    pen.fillStyle = style.getPropertyValue(name);
    pen.fillRect(0, 0, 1, 1);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => (Math.max(luminance(a), luminance(b)) + 0.05) / (Math.min(luminance(a), luminance(b)) + 0.05);
  const words = ['--text', '--muted', '--second', '--good', '--warn', '--bad', '--words', '--faint'];
  return {
    empty: [...new Set(rules.match(/--[a-z]+(?=[),])/g))].filter((name) => !['--tone', '--at'].includes(name) && !style.getPropertyValue(name)),
    faint: words.flatMap((name) => ['--ground', '--card', '--raised'].map((on) => [name, on, contrast(name, on)]))
      .filter(([, , found]) => found < 4.5),
    on: contrast('--on', '--accent'),
    ground: luminance('--ground'),
  };
})()"""
"""Colours that are not defined, words that stand out too little from what they stand on (WCAG 2.1, AA), and how bright the page is."""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_follows_the_system_s_colours_and_can_be_read_in_both(browser: Chrome, scheme: str) -> None:
    with shown(film(fps=15)) as run:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        try:
            found = opened(browser, run).evaluate(LIGHT)
        finally:
            browser.call("Emulation.setEmulatedMedia", features=[])
    assert (found["empty"], found["faint"]) == ([], [])
    assert found["on"] > 4.5
    assert (found["ground"] > 0.5) == (scheme == "light")


@operator("shown.level")
def level(image: Image) -> Scalar:
    """How red it is, 0..1."""
    return Scalar(float(image.data[50, 0, 0]) / 200)


@operator("shown.knobs")
def knobs(image: Image, *, steps: Annotated[int, Knob(1, 60)] = 15, strength: Annotated[float, Live(0, 1)] = 0.5) -> Image:
    """The picture as it is."""
    return image


def test_what_an_edge_feeds_is_shown_and_not_to_be_touched_and_a_knob_that_is_set_is_held_until_its_mark_is_pressed(browser: Chrome) -> None:
    g = GraphBuilder("held", clock="live", govern=Govern(1000.0, (KnobRule("paint.steps", (10, 22)),)))
    g.node("film", "shown.film", fps=25.0)
    g.node("level", "shown.level", image="film")
    g.node("paint", "shown.knobs", image="film", strength=as_input("strength", {"from": "level"}))
    g.node("out", "sink.null", image="paint")
    with shown(g.build()) as run:
        opened(browser, run)
        field, mark = "document.querySelector('#c-paint-strength')", "document.querySelector('.tag.governed')"
        assert browser.evaluate(f"{field}.disabled") is True
        value = browser.evaluate(f"{field}.value")
        browser.until(f"{field}.value !== {value!r}")  # the value of now
        assert browser.evaluate(f"[{mark}.textContent, {mark}.disabled]") == ["governed", True]
        browser.evaluate("(() => { const s = document.querySelector('#c-paint-steps'); s.value = 12; s.dispatchEvent(new Event('input')); })()")
        browser.until(f"{mark}.dataset.held === 'true'")
        assert run.session.governing.held == {"paint.steps"}
        browser.evaluate(f"{mark}.click()")
        browser.until(f"{mark}.dataset.held === 'false'")
        assert not run.session.governing.held
