"""From the source to the canvas of the preview page, in a headless Chromium on this machine: H.264 through WebCodecs, JPEG, and an MJPEG <img>.

The source paints the time into each picture when it yields it; the page reads it back from its canvas after drawing (for MJPEG at every
animation frame, which adds up to one of them). Both read the same clock. The graph runs in a process of its own. Needs a Chromium.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "remote"))

import numpy as np

from bench.common import arguments, median, report, rounds
from engine import Operator, Stamped, operator
from engine.live.summary import percentile
from engine.payload import Image

BITS, BLOCK = 32, 20
SIZE = (360, 640)

READ = f"""globalThis.stampOf = (pixels, width) => {{
  let stamp = 0;
  for (let bit = 0; bit < {BITS}; bit++) {{
    if (pixels[4 * (width * {BLOCK // 2} + bit * {BLOCK} + {BLOCK // 2}) + 1] > 128) stamp += 2 ** bit;
  }}
  return stamp;
}};
globalThis.ageOf = (context, width) => ((Date.now() % 2 ** {BITS}) - stampOf(context.getImageData(0, 0, width, {BLOCK}).data, width));"""

WATCH = READ + """globalThis.ages = [];
(() => { const picture = afterimage.picture, draw = picture.draw.bind(picture);
  picture.draw = (source, header) => {
    draw(source, header);
    ages.push([ageOf(picture.context, picture.canvas.width), picture.drawn.at(-1).age]);
  };
})()"""

MJPEG = READ + """globalThis.ages = [];
(() => { const image = new Image(), canvas = document.createElement('canvas'); let last = -1;
  [canvas.width, canvas.height] = [640, 360];
  const context = canvas.getContext('2d', { willReadFrequently: true });
  image.src = 'stream.mjpeg';
  document.body.prepend(image);
  const look = () => { if (image.naturalWidth) { context.drawImage(image, 0, 0);
      const stamp = stampOf(context.getImageData(0, 0, 640, 20).data, 640);
      if (stamp !== last) { last = stamp; const age = (Date.now() % 2 ** 32) - stamp; ages.push([age, age]); } }
    requestAnimationFrame(look); };
  look();
})()"""


@operator("bench.clock")
class Clock(Operator):
    """Pictures of the time of day in ms, as 32 blocks in the top row, over a moving texture."""

    def __init__(self, *, fps: float = 30.0) -> None:
        self.fps = fps

    def __call__(self) -> Iterator[Image]:
        import cv2

        height, width = SIZE
        noise = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (height, 2 * width, 3), np.uint8), (0, 0), 7)
        noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
        start, i = self.site.clock.now(), 0
        while self.site.sleep_until(start + round(i * 1e9 / self.fps)):
            picture = np.ascontiguousarray(noise[:, 4 * i % width : 4 * i % width + width])
            now = int(time.time() * 1000)
            for bit in range(BITS):
                picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 if now >> bit & 1 else 0
            yield Stamped(Image(picture), pts=round(i * 1e9 / self.fps))  # type: ignore[misc]
            i += 1


def serve(seconds: float) -> None:
    """The graph with its preview, for so long; the first line printed is the page's address."""
    from engine.graph import GraphBuilder
    from engine.planning.compile import compile
    from engine.session import Session
    from remote.preview import Preview

    graph = GraphBuilder("latency", clock="live")
    graph.node("clock", "bench.clock")
    graph.node("out", "sink.null", image="clock")
    preview = Preview("127.0.0.1:0")
    session = Session(compile(preview.graph(graph.build())))
    preview.attached(session)
    assert preview.server is not None
    print(preview.server.url, flush=True)
    until = time.monotonic() + seconds
    session.run(lambda s: s.stop() if time.monotonic() > until else None)
    preview.ended(session, None)
    session.check()


def measured(browser: Any, url: str, how: str, seconds: float) -> dict[str, float]:
    """Ages in ms at the canvas over some seconds of one way."""
    begun = time.perf_counter()
    browser.open(url)
    if how != "h264":
        page = url.partition("?")[0]
        browser.open(page + "?codecs=jpeg")
    browser.until("globalThis.afterimage?.picture.count > 0")
    first = (time.perf_counter() - begun) * 1e3
    if how == "mjpeg":
        browser.evaluate("afterimage.link.ask('view', { of: '' })")
    browser.evaluate(MJPEG if how == "mjpeg" else WATCH)
    time.sleep(1.0)
    browser.evaluate("ages.length = 0")
    time.sleep(seconds)
    ages = browser.evaluate("ages.slice()")
    assert how == "mjpeg" or browser.evaluate("afterimage.picture.enc") == how
    own = [age for age, _ in ages]
    browser.open("about:blank")
    return {
        "p50": percentile(own, 50), "p95": percentile(own, 95), "max": max(own), "fps": len(own) / seconds,
        "page_says_p50": percentile([age for _, age in ages], 50), "first_picture_ms": first,
    }  # fmt: skip


def main() -> None:
    args = arguments(__doc__ or "", seconds=5.0, serve=0.0)
    if args.serve:
        serve(args.serve)
        return
    import chrome

    if chrome.program() is None:
        sys.exit("no Chromium on this machine; install one, then run this again")
    ways = ("h264", "jpeg", "mjpeg")
    limit = args.rounds * len(ways) * (args.seconds + 15) + 60
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(limit)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with chrome.Chrome(1280, 800) as browser:
            version = browser._call("Browser.getVersion")["product"]
            found = rounds({way: (lambda way=way: measured(browser, url, way, args.seconds)) for way in ways}, args.rounds)
    finally:
        server.terminate()
        server.wait(20)
    result = {way: {key: round(median([r[key] for r in runs]), 1) for key in runs[0]} for way, runs in found.items()}
    about = {"size": list(SIZE), "fps": 30, "seconds": args.seconds, "rounds": args.rounds, "browser": version, "unit": "ms, medians of rounds"}
    report(args, "preview_latency", {"about": about, **result})


if __name__ == "__main__":
    main()
