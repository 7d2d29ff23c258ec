"""Everything about speed and memory that needs a GPU, in one script that fits one call of nine minutes.

Full-size networks with random weights, made on the device; our operators and the engine beside diffusers and StreamDiffusion in the same
process. Eight phases, each with a deadline; every number is in the file as soon as it is known, so a run that is cut off loses nothing, and
`--phases` goes on with the rest into the same file. What cannot be measured here says why.

    python bench/gpu_live.py --json out/gpu_live.json                   all phases
    python bench/gpu_live.py --json out/gpu_live.json --phases 4,6      some, beside what the file has of the others
    python bench/gpu_live.py --device cpu --tiny --json out/tiny.json  the script itself, anywhere, with tiny networks

    0 ceilings   copies, matrix products, transfers, launches      4 frames     ours beside diffusers and StreamDiffusion
    1 networks   built, whole, finite                              5 beside     a language model on the same card
    2 modules    by batch: eager, channels last, CUDA graph        6 capped     shipped presets, live_2060 within 6 GB
    3 compiled   the repeated parts compiled, then captured        7 eighth     eight-bit weights

Ratios are between variants of one run. Random weights say nothing about pictures. GeForce cards are not in here: what they can do at most
is arithmetic, and `engine plan --card` prints it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.gpu.lab import Lab, Late, Skipped  # noqa: E402

TOTAL = 540.0
GRACE = 1.15  # a phase is interrupted when it has taken this much of its time


@dataclass(frozen=True)
class Phase:
    """`seconds`: its share of TOTAL. `apart`: in a process of its own, because what it calls cannot be interrupted otherwise."""

    name: str
    seconds: float
    module: str
    call: str
    apart: bool = False

    @property
    def number(self) -> int:
        return int(self.name[0])


PHASES = (
    Phase("0 ceilings", 20, "ceilings", "ceilings"), Phase("1 networks", 20, "ceilings", "networks"),
    Phase("2 modules", 80, "modules", "modules"), Phase("3 compiled", 80, "modules", "compiled", apart=True),
    Phase("4 frames", 150, "frames", "frames"), Phase("5 beside", 45, "beside", "beside"), Phase("6 capped", 100, "capped", "capped"),
    Phase("7 eighth", 45, "eighth", "eighth", apart=True),
)  # fmt: skip


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise Late after `seconds`, between two instructions of Python; where the system has no timers, deadlines are looked at only."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise Late("interrupted")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_phase(lab: Lab, phase: Phase, seconds: float, apart: bool) -> None:
    print(f"{phase.name}: {seconds:.0f} s", flush=True)
    begun = time.monotonic()
    lab.begin(phase.name, seconds)
    try:
        with alarm(seconds * GRACE):
            if apart and phase.apart:
                in_process(lab, phase, seconds)
            else:
                module = __import__(f"bench.gpu.{phase.module}", fromlist=[phase.call])
                getattr(module, phase.call)(lab)
        lab.now.setdefault("ended", "whole")
    except Late as why:
        lab.now["ended"] = f"out of time at {why}"
    except Skipped as why:
        lab.now["ended"] = f"skipped: {why}"
    except Exception as error:  # the other phases are measured all the same
        lab.now["ended"] = f"failed: {type(error).__name__}: {error}"[:400]
    lab.now["took_s"] = round(time.monotonic() - begun, 1)
    lab.write()
    print(f"  {lab.now['ended']}, {lab.now['took_s']} s", flush=True)


def in_process(lab: Lab, phase: Phase, seconds: float) -> None:
    """The phase in a child that is ended when its time is over; what it wrote is read back."""
    lab.tidy()
    lab.write()
    command = [sys.executable, str(Path(__file__).resolve()), "--json", str(lab.path), "--device", lab.device, "--phases", str(phase.number)]
    command += ["--seconds", str(seconds), "--alone", *(["--tiny"] if lab.tiny else [])]
    child = subprocess.Popen(command)
    try:
        child.wait(seconds)
        late = False
    except subprocess.TimeoutExpired:
        late = True
    finally:
        child.kill()
        child.wait()
    again = Lab(lab.device, lab.tiny, lab.path, {})
    lab.results = again.results
    lab.now = lab.results["phases"][phase.name]
    if late:
        raise Late("its process was ended")
    if child.returncode:
        raise RuntimeError(f"its process ended with {child.returncode}")


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, default=Path("out/gpu_live.json"), help="the file of results")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and few repeats: tries the script, measures nothing")
    parser.add_argument("--phases", default="", help="numbers, such as 0,4,6; all by default")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="for all phases together; each gets its share")
    parser.add_argument("--alone", action="store_true", help="keep every phase in this process")
    return parser.parse_args(argv)


NEEDED = {
    "diffusers": ("AutoencoderKL", "AutoencoderTiny", "ControlNetModel", "UNet2DConditionModel", "StableDiffusionPipeline"),
    "transformers": ("CLIPTextModel", "CLIPTokenizer", "CLIPVisionModelWithProjection", "LlamaForCausalLM"),
}


def libraries() -> float:
    """Import what all phases need, under no deadline: on a machine just started that alone can take half a minute, and an import that is
    interrupted leaves modules that are broken for good. Returns the seconds it took. What cannot be imported, the phase that needs it says.
    """
    begun = time.monotonic()
    for module, names in NEEDED.items():
        try:
            found = __import__(module)
            for name in names:
                getattr(found, name)
        except Exception as error:
            print(f"{module}: {type(error).__name__}: {error}", file=sys.stderr)
    return round(time.monotonic() - begun, 1)


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """What a result is worth nothing without: what ran, where, in which version of the graphs."""
    from bench.common import machine
    from bench.gpu.options import presets

    return {"bench": "gpu_live", "date": time.strftime("%Y-%m-%d"), "tiny": args.tiny, "machine": machine(), "plans": presets()}


def main(argv: list[str] | None = None) -> int:
    args = options(argv)
    begun = time.monotonic()
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --tiny tries the script itself", file=sys.stderr)
        return 2
    print(f"libraries imported, {libraries()} s", flush=True)
    torch.manual_seed(0)
    if args.device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True  # for everybody alike
    wanted = [int(n) for n in args.phases.split(",") if n] or [phase.number for phase in PHASES]
    lab = Lab(args.device, args.tiny, args.json, {} if args.alone and args.phases else facts(args))
    phases = [phase for phase in PHASES if phase.number in wanted]
    # The last resort against a call that never comes back. Everything measured is in the file by then.
    guard = threading.Timer(args.seconds * GRACE + 5, os._exit, (3,))
    guard.daemon = True
    guard.start()
    try:
        for n, phase in enumerate(phases):
            left = args.seconds - (time.monotonic() - begun)
            share = sum(other.seconds for other in phases[n:])
            if left < 0.02 * args.seconds:
                print(f"{phase.name}: no time left")
                continue
            # What earlier phases did not need is there for the later ones.
            run_phase(lab, phase, left * phase.seconds / share, not args.alone and not args.tiny)
    finally:
        guard.cancel()
    if not args.alone:
        finish(lab)
    return 0


def finish(lab: Lab) -> None:
    """The table of targets, last, and in the file."""
    from bench.gpu.targets import show, table

    rows = lab.results["targets"] = table(lab.read)
    lab.write()
    print("tiny networks on a device that is none of those meant: no figure here is a result" if lab.tiny else "ratios within this run")
    print(show(rows, lab.tiny))


if __name__ == "__main__":
    sys.exit(main())
