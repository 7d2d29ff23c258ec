"""The JavaScript client in a real browser, on a page of another origin: `show` on a canvas, the verbs, what a page may not.

Skips where no Chromium is installed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chrome
import pytest
from chrome import Chrome
from remote_runs import ROOT
from shown import Shown, film, on_canvas, shown

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chrome.program() is None, reason="no Chromium on this machine")]

PAGE = """<!doctype html><title>a page of somebody else's</title><canvas id="picture"></canvas><img id="still" crossorigin="anonymous">
<script type="module">
import { Preview, show } from "./src/browser.js";
const asked = new URLSearchParams(location.search);
const seen = globalThis.seen = { frames: [], error: null, over: false };
const codecs = asked.get("codecs")?.split(",");
const preview = globalThis.preview = new Preview(asked.get("at"), { token: asked.get("token"), codecs });
show(preview, document.querySelector("#picture"), (frame) => seen.frames.push([frame.seq, frame.enc, frame.params]))
  .catch((error) => (seen.error = `${error.name}: ${error.message}`)).finally(() => (seen.over = true));
</script>"""

NUMBER = on_canvas("seen.frames.at(-1)[0]")


class Quiet(SimpleHTTPRequestHandler):
    """The client's files, and PAGE. Browsers open connections ahead of need: those are not waited on."""

    timeout = 0.5

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/":
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())
        else:
            super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """The origin of a server that is not the preview's."""
    folder: Path = ROOT / "bindings/javascript"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with Chrome(800, 600) as found:
        yield found


@contextmanager
def opened(browser: Chrome, host: str, run: Shown, query: str = "") -> Iterator[None]:
    browser.open("about:blank")
    browser.said.clear()
    browser.open(f"{host}/?at=http://127.0.0.1:{run.port}/&token={run.token}{query}")
    yield
    browser.open("about:blank")


@pytest.mark.parametrize("size", [(96, 256), (97, 301)])
@pytest.mark.parametrize("enc", ["h264", "jpeg"])
def test_show_draws_each_frame_whole_on_the_canvas(browser: Chrome, host: str, enc: str, size: tuple[int, int]) -> None:
    with shown(film(fps=15, height=size[0], width=size[1]), origins=[host]) as run, opened(browser, host, run, f"&codecs={enc}"):
        browser.until("seen.frames.length > 12 || seen.error")
        number, believed, width, height = browser.evaluate(NUMBER)
        assert (number, width, height) == (believed, size[1], size[0])
        drawn = browser.evaluate("seen.frames")
        assert {one[1] for one in drawn} == {enc}
        assert [one[0] for one in drawn] == sorted({one[0] for one in drawn})
        assert browser.evaluate("preview.malformed") == 0


def test_the_default_is_h264_where_the_browser_decodes_it_and_verbs_reach_the_graph(browser: Chrome, host: str) -> None:
    with shown(film(fps=15), origins=[host]) as run, opened(browser, host, run):
        browser.until("seen.frames.length > 3 || seen.error")
        applied = browser.evaluate("preview.set({'keep.level': 8}).then((applied) => applied)")
        assert run.session.values(["keep.level"]) == {"keep.level": 8}
        browser.until(f"seen.frames.at(-1)[0] > {applied['seq']} + 2")
        drawn = browser.evaluate("seen.frames")
        assert {enc for _, enc, _ in drawn} == {"h264"}
        assert all((seq >= applied["seq"]) == (params >= applied["params"]) for seq, _, params in drawn)
        refused = browser.evaluate("preview.set({'keep.level': 99}).then(() => '', (error) => error.name)")
        assert refused == "RefusedError"
        long = browser.evaluate("preview.set({'keep.level': 'é'.repeat(600_000)}).then(() => '', (error) => error.message)")
        assert "at most 1048576 bytes" in long
        assert browser.evaluate("preview.get('keep.level')") == 8  # it cost no connection


def test_show_ends_with_close_and_says_why_where_the_run_ends(browser: Chrome, host: str) -> None:
    with shown(film(fps=15), origins=[host]) as run:
        with opened(browser, host, run):
            browser.until("seen.frames.length > 3 || seen.error")
            browser.evaluate("preview.close()")
            browser.until("seen.over")
            assert browser.evaluate("seen.error") is None
        browser.open(f"{host}/?at=http://127.0.0.1:{run.port}/&token={run.token}")
        browser.until("seen.frames.length > 3 || seen.error")
    browser.until("seen.over")
    assert browser.evaluate("seen.error").startswith("ConnectionError: the connection has ended")
    browser.open("about:blank")


@pytest.mark.parametrize("why", ["not named", "no token"])
def test_a_page_that_was_not_named_or_has_no_token_gets_nothing(browser: Chrome, host: str, why: str) -> None:
    origins = [host] if why == "no token" else ["http://127.0.0.1:1"]
    with shown(film(fps=15), origins=origins) as run:
        browser.open(f"http://127.0.0.1:{run.port}/?token={run.token}")  # the cookie of an earlier visit is there, and helps nobody
        browser.open("about:blank")
        browser.open(f"{host}/?at=http://127.0.0.1:{run.port}/&token={run.token if why == 'not named' else ''}")
        browser.until("seen.over")
        assert browser.evaluate("[seen.frames.length, seen.error.split(':')[0]]") == [0, "ConnectionError"]
        still = f"http://127.0.0.1:{run.port}/snapshot.jpg" + (f"?token={run.token}" if why == "not named" else "")
        loads = "new Promise((done) => Object.assign(new Image(), {onload: () => done(true), onerror: () => done(false), src: %r}))"
        assert browser.evaluate(loads % still) is False
        browser.open("about:blank")


def test_a_named_page_embeds_the_picture_and_reads_it(browser: Chrome, host: str) -> None:
    with shown(film(fps=15), origins=[host]) as run, opened(browser, host, run):
        browser.until("seen.frames.length > 3 || seen.error")
        where = f"http://127.0.0.1:{run.port}"
        plain = "new Promise((done) => Object.assign(new Image(), {onload() { done(this.naturalWidth) }, onerror: () => done(0), src: %r}))"
        assert browser.evaluate(plain % f"{where}/snapshot.jpg?token={run.token}") == 256
        assert browser.evaluate(plain % f"{where}/stream.mjpeg?token={run.token}") == 256
        ask = "fetch(%r, {headers: {authorization: 'Bearer ' + %r}}).then((answer) => answer.json()).then((found) => found.graph)"
        assert browser.evaluate(ask % (f"{where}/graph.json", run.token)) == "film"
