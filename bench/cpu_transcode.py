"""What the way through RGB costs: 720p30 H.264 -> 512 x 512 -> H.264, CPU time a frame against PyAV as tutorials use it and the ffmpeg command.

All variants decode the same file and encode with x264 ultrafast zerolatency, crf 23, one picture in, one out. "rgb" means that every
frame is a NumPy RGB picture in the middle, which is what operators work on; "yuv" never leaves the codec's own colours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import arguments, cpu_seconds, median, report, rounds
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.pool import Pools
from engine.session import Session
from engine.testing import Bench

SIDE = 512
TARGET = 0.70


def make_clip(path: Path, frames: int) -> None:
    """The test pattern as 720p30 H.264, with key frames every ten seconds as x264 sets them by itself."""
    import av

    with av.open(f"testsrc2=size=1280x720:rate=30:duration={frames / 30}", format="lavfi") as source, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for frame in source.decode(video=0):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base = frame.pts, frame.time_base
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def operators(clip: Path, out: Path) -> int:
    """The operators called by hand, one after the other."""
    count = 0
    with (
        Bench("source.video", url=str(clip), size=f"{SIDE}x{SIDE}", fit="stretch", site_pools=Pools()) as source,
        Bench("sink.video", url=str(out), quality=58, speed="fast") as sink_,
    ):
        for item in source():
            sink_.site.stream = source.site.stream
            sink_(item.value, pts=item.pts)
            source.let_go()
            count += 1
    return count


def engine(clip: Path, out: Path) -> int:
    """The same two operators as a graph."""
    g = GraphBuilder("transcode")
    camera = g.node("camera", "source.video", url=str(clip), size=f"{SIDE}x{SIDE}", fit="stretch")
    g.node("screen", "sink.video", image=camera, url=str(out), quality=58, speed="fast")
    session = Session(compile(g.build()))
    session.run()
    session.check()
    return session.frames_out


def pyav(clip: Path, out: Path, *, rgb: bool) -> int:
    """PyAV's documented way: to_ndarray and from_ndarray, or without leaving YUV."""
    import av

    count = 0
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency", "crf": "23"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in source.decode(video=0):
            if rgb:
                picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE), "rgb24")
            else:
                picture = frame.reformat(SIDE, SIDE, "yuv420p")
            picture.pts, picture.time_base = count, Fraction(1, 30)
            target.mux(stream.encode(picture))
            count += 1
        target.mux(stream.encode(None))
    return count


def command(clip: Path, out: Path, *, rgb: bool) -> None:
    scale = f"scale={SIDE}:{SIDE}" + (",format=rgb24,format=yuv420p" if rgb else "")
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-crf", "23"]
    subprocess.run(["ffmpeg", "-y", "-v", "error", "-i", str(clip), "-vf", scale, "-an", *encode, str(out)], check=True)


def child_cpu(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU time of the children and wall time of one call, in seconds."""
    import resource

    def used() -> float:
        facts = resource.getrusage(resource.RUSAGE_CHILDREN)
        return facts.ru_utime + facts.ru_stime

    cpu, wall = used(), time.perf_counter()
    work()
    return used() - cpu, time.perf_counter() - wall


def main() -> None:
    args = arguments(__doc__ or "", frames=600)
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "clip.mp4", Path(folder) / "out.mp4"
        make_clip(clip, args.frames)

        def here(work: Callable[[Path, Path], int]) -> Callable[[], tuple[float, float]]:
            def measure() -> tuple[float, float]:
                made: list[int] = []
                spent = cpu_seconds(lambda: made.append(work(clip, out)))
                if made != [args.frames]:
                    raise SystemExit(f"{made} frames came out instead of {args.frames}")
                return spent

            return measure

        variants: dict[str, Callable[[], tuple[float, float]]] = {
            "operators, rgb": here(operators),
            "engine, rgb": here(engine),
            "pyav, rgb": here(lambda c, o: pyav(c, o, rgb=True)),
            "pyav, yuv": here(lambda c, o: pyav(c, o, rgb=False)),
        }
        if shutil.which("ffmpeg") and sys.platform != "win32":
            variants["ffmpeg command, rgb"] = lambda: child_cpu(lambda: command(clip, out, rgb=True))
            variants["ffmpeg command, yuv"] = lambda: child_cpu(lambda: command(clip, out, rgb=False))
        rounds({name: run for name, run in variants.items() if "rgb" in name}, 1)  # the first round pays for imports and probing
        measured = rounds(variants, args.rounds)

    table = {}
    for name, runs in measured.items():
        cpu = [1e3 * c / args.frames for c, _ in runs]
        wall = [args.frames / w for _, w in runs]
        table[name] = {
            "cpu_ms_a_frame": round(median(cpu), 3), "least": round(min(cpu), 3), "most": round(max(cpu), 3), "fps": round(median(wall), 1),
        }  # fmt: skip
    naive = table["pyav, rgb"]["cpu_ms_a_frame"]
    ratios = {name: round(facts["cpu_ms_a_frame"] / naive, 3) for name, facts in table.items()}
    result = {
        "frames": args.frames, "rounds": args.rounds, "variants": table, "ratio_to_naive_pyav": ratios,
        "target": f"engine, rgb <= {TARGET}", "reached": ratios["engine, rgb"] <= TARGET,
    }  # fmt: skip
    report(args, "cpu_transcode", result)


if __name__ == "__main__":
    main()
