"""How old a picture is when a receiver in another process has decoded it, for each way out: 640 x 360 at 30 fps, on this machine alone.

Every picture carries the time it was handed to the sink, as 32 black or white blocks along its top; the receiver (PyAV with small probes and
no buffering) reads it after decoding. So the age holds the hand-over to the child, conversion, encode, transport, decode and conversion back.
The first second is left out. Receivers on this machine only: a network adds its own.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import arguments, report
from engine.clock import RealClock
from engine.live.summary import percentile
from engine.payload import Image
from engine.testing import Bench

SIZE, FPS, BLOCK = (360, 640), 30, 20
QUICK = ("fflags=nobuffer", "flags=low_delay", "analyzeduration=100000", "probesize=65536")


def stamped(when_ms: int) -> Any:
    """A picture that carries the low 32 bits of a time."""
    import numpy as np

    height, width = SIZE
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = np.linspace(30, 220, width, dtype=np.uint8)[None, :, None]
    picture[height // 2, :, 1] = when_ms % 256
    for bit in range(32):
        picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (when_ms >> bit & 1)
    return picture


def now_ms() -> int:
    return int(time.time() * 1000) & 0xFFFFFFFF


def receive(url: str, format: str, *options: str) -> None:
    """Print the age of every picture, in ms. Runs as a process of its own."""
    import av

    print("ready", flush=True)
    container = av.open(url, format=format or None, options=dict(o.split("=", 1) for o in options))
    container.streams.video[0].thread_type = "SLICE"
    try:
        for frame in container.decode(video=0):
            luma = frame.to_ndarray(format="gray")
            bits = [luma[4 : BLOCK - 4, b * BLOCK + 4 : (b + 1) * BLOCK - 4].mean() > 128 for b in range(32)]
            print((now_ms() - sum(1 << b for b, on in enumerate(bits) if on)) & 0xFFFFFFFF, flush=True)
    except (av.error.FFmpegError, OSError):
        pass


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def way(name: str) -> tuple[str, dict[str, Any], list[str]]:
    """Operator, parameters, and how the receiver opens it ("" for the address: what the sink tells)."""
    here = f"127.0.0.1:{free_port()}"
    listening = ["rtsp_flags=listen", "listen_timeout=10"]
    return {
        "tcp": ("sink.video", {"url": f"tcp://{here}"}, [f"tcp://{here}?listen=1", "nut", *QUICK]),
        "rtmp": ("sink.video", {"url": f"rtmp://{here}/live/key"}, [f"rtmp://{here}/live/key", "flv", "listen=1", *QUICK]),
        "udp": ("sink.video", {"url": f"udp://{here}"}, [f"udp://{here}?overrun_nonfatal=1&fifo_size=50000", "mpegts", *QUICK]),
        "rtsp push": ("sink.video", {"url": f"rtsp://{here}/live"}, [f"rtsp://{here}/live", "rtsp", *listening, *QUICK]),
        "sink.rtsp": ("sink.rtsp", {"url": "rtsp://127.0.0.1:0/live"}, ["", "", "rtsp_transport=tcp", *QUICK]),
    }[name]  # fmt: skip


def measure(name: str, seconds: float) -> dict[str, Any]:
    op, params, how = way(name)
    with Bench(op, site_live=True, site_clock=RealClock(), **params) as bench:
        where = how[0] or bench.operator.address
        receiver = subprocess.Popen([sys.executable, __file__, "--receive", where, *how[1:]], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout is not None
        receiver.stdout.readline()
        time.sleep(1.0)  # it prints before it listens
        ages: list[int] = []
        reader = threading.Thread(target=lambda: ages.extend(int(line) for line in receiver.stdout or ()))
        reader.start()
        start = time.monotonic()
        for index in range(round(seconds * FPS)):
            time.sleep(max(0.0, start + index / FPS - time.monotonic()))
            if bench.operator.wanted():
                bench(Image(stamped(now_ms())), pts=round(index * 1e9 / FPS))
                bench.let_go()
        offered = bench.operator.tally()
    receiver.kill()
    reader.join()
    receiver.wait()
    receiver.stdout.close()
    kept = [float(age) for age in ages[FPS:] if age < 60_000]
    ages_ms = {f"p{q}": round(percentile(kept, q), 1) for q in (50, 95, 99)} if kept else {}
    return {"age_ms": ages_ms, "pictures": len(ages), "sent": offered.get("sent", 0), "replaced": offered.get("replaced", 0)}


def main() -> None:
    if sys.argv[1:2] == ["--receive"]:
        receive(*sys.argv[2:])
        return
    args = arguments(__doc__ or "", seconds=6.0)
    names = ("tcp", "rtmp", "sink.rtsp", "rtsp push", "udp")
    report(args, "cpu_outputs", {"size": f"{SIZE[1]}x{SIZE[0]}", "fps": FPS, "ways": {name: measure(name, args.seconds) for name in names}})


if __name__ == "__main__":
    main()
