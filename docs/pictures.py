"""Makes docs/demo.png and docs/demo.webp from what the demo painted: `make demo`, then `python docs/pictures.py`."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent


def main(video: str = "out/demo.mp4") -> None:
    import av
    from PIL import Image

    with av.open(video) as container:
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    picks = [frames[round(i * (len(frames) - 1) / 5)] for i in range(6)]
    width, height = picks[0].size
    sheet = Image.new("RGB", (3 * width + 16, 2 * height + 8), "white")
    for i, frame in enumerate(picks):
        sheet.paste(frame, ((i % 3) * (width + 8), (i // 3) * (height + 8)))
    sheet.save(DOCS / "demo.png", optimize=True)
    short = frames[: min(len(frames), 120) : 2]  # five seconds at half the rate
    short[0].save(DOCS / "demo.webp", save_all=True, append_images=short[1:], duration=83, loop=0, quality=60, method=4)


if __name__ == "__main__":
    main(*sys.argv[1:])
