"""`python -m afterimage_client URL`: what comes over a subscription, a line a second: whether frames flow, and how old they are."""

from __future__ import annotations

import argparse
import sys
import time

from .curve import KeyProblem
from .subscriber import Subscriber


def line(frames: Subscriber) -> str:
    """How the subscription stands, in one line."""
    facts, age = frames.stats(), frames.stats()["age_ms"]
    last = frames.latest() or facts["trouble"] or "no frame yet"
    counts = "  ".join(f"{name} {facts[name]}" for name in ("received", "lost", "dropped"))
    return f"{facts['state'] or '-':>10} {facts['fps']:7.2f} fps  age {age['p50']:8.2f} ms (p95 {age['p95']:.2f})  {counts}  {last}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m afterimage_client", description=__doc__)
    parser.add_argument("url", help="such as tcp://127.0.0.1:5555")
    parser.add_argument("--stream", default="live")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--server-key", help="the publisher's public key, or a file with it")
    parser.add_argument("--key", help="a file with a key pair of one's own")
    args = parser.parse_args()
    begun = time.monotonic()
    try:
        frames = Subscriber(args.url, args.stream, server_key=args.server_key, key=args.key, decode=False, follow=True)
    except KeyProblem as error:
        print(error, file=sys.stderr)
        return 2
    with frames:
        told = begun
        try:
            while args.seconds is None or time.monotonic() - begun < args.seconds:
                try:
                    frames.read(timeout=0.2)
                except TimeoutError:
                    pass
                if time.monotonic() - told >= 1.0:
                    told = time.monotonic()
                    print(line(frames), flush=True)
        except KeyboardInterrupt:
            pass
        received = frames.counts.received
    return 0 if received else 1


if __name__ == "__main__":
    sys.exit(main())
