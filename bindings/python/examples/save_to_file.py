"""Every frame into a video file, with the times it was made at: `python save_to_file.py OUT.mp4 tcp://127.0.0.1:5555`. Needs av.

What was lost on the way, or because this program was too slow, is told at the end.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction

import av
from afterimage_client import Frame, Subscriber

TICKS = Fraction(1, 90_000)


class Writer:
    """One video stream in a file."""

    def __init__(self, file: av.container.OutputContainer, first: Frame) -> None:
        height, width = first.header.shape[:2]
        self.file, self.zero, self.last = file, first.header.born, -1
        self.stream = file.add_stream("libx264", rate=30, options={"crf": "18", "preset": "veryfast"})
        self.stream.width, self.stream.height, self.stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        self.stream.codec_context.time_base = TICKS

    def add(self, frame: Frame) -> None:
        # Capture times go on across restarts and resets of the graph; its own pts begin again.
        self.last = max(self.last + 1, round((frame.header.born - self.zero) / 1e9 / TICKS))
        picture = av.VideoFrame.from_ndarray(frame.rgb, format="rgb24").reformat(self.stream.width, self.stream.height, "yuv420p")
        picture.pts, picture.time_base = self.last, TICKS
        self.file.mux(self.stream.encode(picture))

    def finish(self) -> None:
        self.file.mux(self.stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="such as show.mp4; its ending says the format")
    parser.add_argument("url", nargs="?", default="tcp://127.0.0.1:5555")
    parser.add_argument("seconds", nargs="?", type=float, default=float("inf"))
    parser.add_argument("--stream", default="live")
    args = parser.parse_args()
    out, until = args.out, time.monotonic() + args.seconds
    writer, counts = None, None
    with Subscriber(args.url, args.stream, latest=False, queue=512) as frames, av.open(out, "w") as file:
        counts = frames.counts
        try:
            while time.monotonic() < until:
                try:
                    frame = frames.read(timeout=0.5)
                except TimeoutError:
                    continue
                if frame is None:
                    break
                writer = writer or Writer(file, frame)
                writer.add(frame)
        except KeyboardInterrupt:
            pass
        if writer is not None:
            writer.finish()
    print(f"{counts.received} frames, {counts.lost} lost on the way, {counts.overflowed} because this was too slow: {out}")


if __name__ == "__main__":
    main()
