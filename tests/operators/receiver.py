"""A receiver for tests, run as a process of its own so that it can be killed and frozen.

    python receiver.py URL FORMAT KEY=VALUE...

Opens URL with PyAV, prints "ready" before it waits, and for every picture its number, its time in ms and its mean brightness; "sound N" at
the end where there was some; "end" when the sender has gone.
"""

from __future__ import annotations

import sys

import av
from media_clips import number_of


def main(url: str, format: str, *options: str) -> None:
    print("ready", flush=True)
    heard = 0
    container = av.open(url, format=format or None, options=dict(o.split("=", 1) for o in options))
    last = 0.0
    try:
        for packet in container.demux():
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    heard += frame.samples
                    continue
                last = last if frame.pts is None else float(frame.pts * frame.time_base) * 1000  # a listening RTSP gives the first one none
                picture = frame.to_ndarray(format="rgb24")
                print(number_of(picture), round(last), round(float(picture[picture.shape[0] // 2 :].mean())), flush=True)
    except (av.error.FFmpegError, OSError):
        pass
    print("sound", heard, flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
