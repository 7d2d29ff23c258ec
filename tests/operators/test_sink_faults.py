"""Receivers that go, freeze and say nothing, a child that is killed, a source that falls silent: streams recover or end with a typed error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from push_peers import HERE, Feed, Receiver, balanced, free_port, listener, nothing_left, posix, receive, said, sending

from engine.errors import MediaError
from engine.testing import Bench

__all__ = ["receive"]  # a fixture


# ---------------------------------------------------------------- receivers that go, freeze and say nothing


@posix
def test_a_killed_receiver_is_met_again(receive: Callable[..., Receiver]) -> None:
    url, listening = listener("tcp", free_port())
    first = receive(*listening)
    with sending(url) as bench:
        feed = Feed(bench)
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 10)
        first.kill()
        feed.until(lambda: "lost" in said(bench))
        second = receive(*listening)
        feed.until(lambda: "reconnected" in said(bench))
        after = feed.count
        feed.until(lambda: feed.count >= after + 15)
    shown = second.rest()
    assert shown[0][0] > 10, "the newest picture first, not those of the time without a receiver"
    assert shown[-1][0] == feed.count - 1
    counts = balanced(bench)
    assert counts["reconnects"] == 1
    assert counts["lost"] + counts["replaced"] > 0
    assert feed.slowest < 1.0, "the graph never waited"
    nothing_left()


@posix
def test_a_frozen_receiver_is_left_and_met_again(receive: Callable[..., Receiver]) -> None:
    """Its sockets stay open and fill up; the watchdog ends the child that hangs in a write."""
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    url, listening = listener("tcp", free_port())
    first = receive(*listening)
    with sending(url, quality=100, timeout=0.8) as bench:
        feed = Feed(bench, lambda i: np.roll(noise, 8 * i, 0))
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 5)
        first.process.send_signal(signal.SIGSTOP)
        feed.until(lambda: "lost" in said(bench))
        first.kill()
        receive(*listening)
        feed.until(lambda: "reconnected" in said(bench))
    assert feed.slowest < 1.0
    balanced(bench)
    nothing_left()


def test_a_silent_rtmp_server_holds_only_the_child() -> None:
    """PyAV 18 holds the interpreter lock in this handshake for good: with the push in this process, not even a time limit would run."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/key"
        start = time.monotonic()
        with sending(url, timeout=1.0) as bench:
            feed = Feed(bench)
            with pytest.raises(MediaError, match="took nothing") as caught:
                feed.forever()
        assert time.monotonic() - start < 15
    assert "stalled" in said(bench)
    assert feed.slowest < 1.0
    assert "timeout" in caught.value.fix
    nothing_left()


@posix
def test_a_killed_child_is_started_again(receive: Callable[..., Receiver]) -> None:
    url, listening = listener("udp", free_port())
    receiver = receive(*listening)
    with sending(url) as bench:
        feed = Feed(bench)
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 10)
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        feed.until(lambda: "reconnected" in said(bench))
        sent = bench.operator.tally()["sent"]
        feed.until(lambda: bench.operator.tally()["sent"] >= sent + 30)
    assert "exit code -9" in next(facts["why"] for what, facts in bench.events if what == "lost")
    balanced(bench)
    assert receiver.rest()[-1][0] >= feed.count - 4
    nothing_left()


def test_a_receiver_that_is_not_there() -> None:
    url = f"tcp://user:s3cret@127.0.0.1:{free_port()}"
    with sending(url) as bench, pytest.raises(MediaError) as caught:
        Feed(bench).forever()
    assert "refused" in str(caught.value).lower()
    assert "s3cret" not in str(caught.value) + repr(bench.events) + repr(bench.outputs)


def test_a_stream_key_is_not_told() -> None:
    with sending(f"rtmp://127.0.0.1:{free_port()}/app/s3cret") as bench, pytest.raises(MediaError) as caught:
        Feed(bench).forever()
    assert "rtmp://127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(bench.events) + repr(bench.outputs)


def test_attempts_are_counted(receive: Callable[..., Receiver]) -> None:
    url, listening = listener("tcp", free_port())
    receiver = receive(*listening)
    with sending(url, max_reconnects=2) as bench:
        feed = Feed(bench)
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 3)
        receiver.kill()
        with pytest.raises(MediaError, match="2 attempts"):
            feed.forever()
    assert said(bench).count("lost") == 2
    nothing_left()


def test_offline_a_lost_receiver_ends_the_run_and_says_what_is_missing(receive: Callable[..., Receiver]) -> None:
    url, listening = listener("tcp", free_port())
    receiver = receive(*listening)
    with Bench("sink.video", url=url, max_reconnects=1, timeout=2.0) as bench:
        feed = Feed(bench)
        for _ in range(200):
            feed.one()
        receiver.until(1)
        receiver.kill()
        with pytest.raises(MediaError):
            feed.forever()
    counts = balanced(bench)
    assert counts["lost"] >= 1
    nothing_left()


def test_an_abort_does_not_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with sending(f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/key", timeout=60.0) as bench:
            Feed(bench).one()
            bench.site.stop.set()
            start = time.monotonic()
        assert time.monotonic() - start < 4
    nothing_left()


@posix
def test_the_child_goes_with_its_parent(receive: Callable[..., Receiver]) -> None:
    """Also when it hangs in a handshake that nothing can interrupt."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends a child that cannot look for its parent")
    program = """
import sys
from engine.clock import RealClock
from engine.payload import Image
from engine.testing import Bench
import multiprocessing, numpy, os
if __name__ == "__main__":
    with Bench("sink.video", url=sys.argv[1], timeout=60.0, site_live=True, site_clock=RealClock()) as bench:
        bench(Image(numpy.zeros((90, 160, 3), "uint8")))
        while bench.operator.outlet._state != "opening":
            pass
        print(multiprocessing.active_children()[0].pid, flush=True)
        os.kill(os.getpid(), 9)
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/key"
        script = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=False, cwd=HERE.parents[1])
        pid = int(script.stdout)
        limit = time.monotonic() + 5
        while _alive(pid) and time.monotonic() < limit:
            threading.Event().wait(0.02)
        assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------- always on


def test_a_stream_goes_on_without_its_source(receive: Callable[..., Receiver]) -> None:
    """The last picture at the stream's rate, then a dark one; pictures come back at once, and times only rise, also over a new epoch."""
    url, listening = listener("tcp", free_port())
    receiver = receive(*listening)
    with sending(url, always_on=True, slate="dim", slate_after=0.7, fps=20.0, timeout=10.0) as bench:
        feed = Feed(bench)
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 10)
        last = feed.count - 1
        limit = time.monotonic() + 20
        while "slate" not in said(bench) or bench.operator.outlet.facts.get("repeated", 0) < 25:  # the source is silent
            assert time.monotonic() < limit
            threading.Event().wait(0.02)
        bench.new_epoch()
        back = feed.count
        feed.until(lambda: feed.count >= back + 10)
    shown = receiver.rest()
    assert all(a[1] < b[1] for a, b in pairwise(shown)), "times rise"
    held = [s for s in shown if s[0] == last]
    light = held[0][2]
    assert sum(abs(s[2] - light) < 6 for s in held) >= 5, "the last picture as it was"
    dark = [s for s in shown if (last <= s[0] and s[2] < 0.6 * light) or (s[0] == 0 and s[2] < 0.6 * light)]
    assert len(dark) >= 5, "then the dark one"
    gaps = sorted(b[1] - a[1] for a, b in pairwise(held))
    assert gaps[len(gaps) // 2] == pytest.approx(50, abs=8), "at the stream's rate"
    assert shown[-1][0] == feed.count - 1
    assert [w for w in said(bench) if w in ("source late", "slate", "source back")] == ["source late", "slate", "source back"]
    nothing_left()


@posix
def test_a_stream_is_met_again_without_its_source(receive: Callable[..., Receiver]) -> None:
    """The receiver goes away while the source is silent: the new connection starts with the last picture."""
    url, listening = listener("tcp", free_port())
    first = receive(*listening)
    with sending(url, always_on=True, fps=20.0) as bench:
        feed = Feed(bench)
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 5)
        first.kill()
        limit = time.monotonic() + 20
        while "lost" not in said(bench):
            assert time.monotonic() < limit
            threading.Event().wait(0.02)
        shown = receive(*listening).until(10)
    assert {number for number, _, _ in shown} == {feed.count - 1}
