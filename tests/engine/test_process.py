"""Operators in child processes: the same as in this one, errors and all, and nothing ever hangs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import registry
from engine.clock import StepClock
from engine.errors import Cancelled, MissingError, OperatorError, RunError
from engine.graph import GraphBuilder
from engine.operator import StreamInfo
from engine.packet import Packet
from engine.payload import Data, Image, Latent, Mask, Pose, Scalar
from engine.planning.compile import compile
from engine.pool import Pools
from engine.run.ladder import is_out_of_memory
from engine.run.process import ChildTraceback, ProcessOperator
from engine.session import Session
from engine.site import Site

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """The operators of process_operators, known for the length of this module only."""
    before = dict(registry._specs)
    sys.modules.pop("process_operators", None)
    import process_operators  # noqa: F401

    yield
    registry._specs.clear()
    registry._specs.update(before)


class Held:
    """A ProcessOperator under test, opened on enter, closed and without leftovers on exit."""

    def __init__(self, name: str, timeout_s: float = 20.0, **params: Any) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.resets: list[str] = []
        self.outputs: list[str] = []
        self.site = Site("kid", seed=5, clock=StepClock(123), pools=Pools(poison=True))
        self.site._event = lambda what, node, seq, **facts: self.said.append((what, facts))
        self.site._reset = lambda node, reason: self.resets.append(reason)
        self.site._output = self.outputs.append
        spec = registry.find(name)
        self.operator = ProcessOperator(name, dict(spec.model()(**params)), timeout_s=timeout_s)
        self.frame(0)

    def frame(self, seq: int, epoch: int = 0) -> None:
        self.site.packet = Packet(seq, seq * 40, epoch, 77, Data(), origin=StreamInfo(fps=25.0))

    def __enter__(self) -> Held:
        self.operator.open(self.site)
        return self

    def __exit__(self, *exc: object) -> None:
        self.operator.close()
        assert not multiprocessing.active_children()


def picture(height: int = 64, width: int = 48) -> Image:
    return Image(np.random.default_rng(0).integers(0, 20, (height, width, 3), "uint8"))


def test_payloads_come_back_as_in_this_process() -> None:
    image, pose = picture(), Pose(np.random.default_rng(1).random((40, 18, 3), "float32"), (64, 48), 0.5)
    latent = Latent(torch.arange(8, dtype=torch.bfloat16).reshape(1, 2, 2, 2))
    with Held("child.parts", gain=3) as held:
        out = held.operator(image, latent, pose=pose, masks=[Mask(np.zeros((80, 80), "uint8"))] * 2)
        assert type(out).__name__ == "Parts"
        np.testing.assert_array_equal(out.image.data, image.data * 3)
        assert out.mask.data.shape == (90, 70)
        assert out.mask.data.min() == 255
        np.testing.assert_array_equal(out.pose.people, pose.people)
        assert (out.pose.size, out.pose.stability) == ((64, 48), 0.5)
        assert out.latent.data.dtype == torch.bfloat16
        assert torch.equal(out.latent.data, latent.data * 2)
        assert out.data.values["masks"] == 2
        assert out.data.values["pid"] != os.getpid()
        # what came is in pooled buffers of this side
        assert any(np.shares_memory(lease.array, out.image.data) for lease in held.site._leases)


def test_the_frame_in_hand_and_its_random_numbers_are_the_same_there() -> None:
    with Held("child.parts") as held:
        for seq, epoch in ((7, 0), (9, 2)):
            held.frame(seq, epoch)
            facts = held.operator(picture(), Latent(np.zeros(1))).data.values
            assert (facts["seq"], facts["pts"], facts["epoch"], facts["born"], facts["fps"]) == (seq, seq * 40, epoch, 77, 25.0)
            assert facts["key"] == held.site.key()
            assert facts["draw"] == held.site.rng().random()
            assert facts["now"] == 123
            assert facts["node"] == "kid"


def test_what_it_says_is_heard_here() -> None:
    with Held("child.parts") as held:
        held.frame(3)
        held.operator(picture(), Latent(np.zeros(1)))
        assert [what for what, _ in held.said] == ["opened"]
        assert held.resets == ["a cut"]
        assert held.outputs == ["out/here.mp4"]


def test_update_reset_flush_relieve_and_close_reach_it(tmp_path: Path) -> None:
    path = tmp_path / "closed"
    with Held("child.parts", path=str(path)) as held:
        assert held.operator.gain == 1  # type: ignore[attr-defined]
        assert held.operator.relieve() is True
        held.operator.update(gain=2)
        assert held.operator.gain == 2  # type: ignore[attr-defined]
        assert held.operator.relieve() is False
        image = picture()
        np.testing.assert_array_equal(held.operator(image, Latent(np.zeros(1))).image.data, image.data * 2)
        held.operator.reset()
        assert held.operator(image, Latent(np.zeros(1))).data.values["calls"] == 101
        assert held.operator.flush().data.values == {"last": True}
        assert not path.exists()
    assert path.read_text() == "closed\n"


def test_bigger_and_smaller_pictures_follow_each_other() -> None:
    with Held("child.parts") as held:
        for size in (10, 300, 1200, 20, 700):
            image = picture(size, size + 1)
            np.testing.assert_array_equal(held.operator(image, Latent(np.zeros(1))).image.data, image.data)
        names = held.operator._out.name, held.operator._in.name
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_a_function_takes_its_parameters_and_site() -> None:
    with Held("child.add", amount=4) as held:
        held.frame(2)
        np.testing.assert_array_equal(held.operator(picture()).data, picture().data + 6)
        held.operator.update(amount=10)
        np.testing.assert_array_equal(held.operator(image=picture()).data, picture().data + 12)


def test_a_source_yields_its_frames_and_describes_its_stream() -> None:
    with Held("child.count") as held:
        frames = list(held.operator())
        assert [(int(f.value.data[0, 0, 0]), f.pts) for f in frames] == [(0, 0), (1, 80), (2, 160)]
        assert held.site.stream == StreamInfo(url="count", fps=12.5)


def test_errors_keep_their_type_and_traceback() -> None:
    with Held("child.naughty") as held:
        pid = held.operator(Scalar(0)).value
        with pytest.raises(ZeroDivisionError, match="by nought") as caught:
            held.operator(Scalar(1))
        assert isinstance(caught.value.__cause__, ChildTraceback)
        assert "process_operators.py" in str(caught.value.__cause__)
        with pytest.raises(MissingError, match="weights are not here; fetch them") as missing:
            held.operator(Scalar(2))
        assert missing.value.exit_code == 3
        with pytest.raises(MemoryError) as memory:
            held.operator(Scalar(5))
        assert is_out_of_memory(memory.value)
        with pytest.raises(RunError, match="Odd: quite odd"):
            held.operator(Scalar(6))
        assert held.operator(Scalar(0)).value == pid, "an error does not cost the process"


def test_a_constructor_that_refuses_fails_the_open() -> None:
    held = Held("child.naughty", refuse=True)
    with pytest.raises(MissingError, match="engine models pull x"):
        held.operator.open(held.site)
    held.operator.close()
    assert not multiprocessing.active_children()


def test_a_child_that_dies_is_an_error_and_the_next_call_starts_another() -> None:
    with Held("child.naughty") as held:
        pid = held.operator(Scalar(0)).value
        with pytest.raises(RunError, match=r"child.naughty died \(exit code 7\)"):
            held.operator(Scalar(3))
        assert held.operator(Scalar(0)).value != pid
        assert [what for what, _ in held.said] == ["process restarted"]


def test_a_child_that_hangs_is_killed() -> None:
    with Held("child.naughty", timeout_s=1.0) as held:
        start = time.monotonic()
        with pytest.raises(RunError, match="said nothing for 1 s and was killed"):
            held.operator(Scalar(4))
        assert time.monotonic() - start < 10
        assert not multiprocessing.active_children()


def test_a_slow_child_that_speaks_is_left_alone() -> None:
    with Held("child.naughty", timeout_s=1.0) as held:
        held.operator(Scalar(7))
        assert [what for what, _ in held.said] == ["alive"] * 4


def test_a_close_that_hangs_ends_all_the_same(tmp_path: Path) -> None:
    held = Held("child.naughty", timeout_s=1.0, path=str(tmp_path))
    held.operator.open(held.site)
    with pytest.raises(RunError, match="said nothing"):
        held.operator.close()
    assert not multiprocessing.active_children()


def test_an_abort_interrupts_a_call() -> None:
    held = Held("child.naughty", timeout_s=60.0)
    held.operator.open(held.site)
    threading.Timer(0.3, held.site.stop.set).start()
    with pytest.raises(Cancelled):
        held.operator(Scalar(4))
    start = time.monotonic()
    held.operator.close()
    assert time.monotonic() - start < 10
    assert not multiprocessing.active_children()


def test_an_abort_lets_a_call_end_and_close_its_files(tmp_path: Path) -> None:
    path = tmp_path / "closed"
    with Held("child.late", path=str(path)) as held:
        held.site.stop.set()
        with pytest.raises(Cancelled):
            held.operator(Scalar(0))
    assert path.read_text() == "1 calls"


def test_a_picture_there_and_back_costs_little_more_than_copying_it_through_a_pipe_and_no_memory() -> None:
    image = picture(512, 512)

    def pipe() -> float:
        """Seconds to send the same bytes through a pipe and take them out again, within one process: no process in between."""
        ours, theirs = multiprocessing.Pipe()
        data = image.data.tobytes()
        reader = threading.Thread(target=lambda: theirs.send_bytes(theirs.recv_bytes()))
        reader.start()
        start = time.perf_counter()
        ours.send_bytes(data)
        ours.recv_bytes()
        spent = time.perf_counter() - start
        reader.join()
        return spent

    with Held("child.add") as held:
        times, bare = [], []
        for n in range(30):
            bare.append(pipe())
            start = time.perf_counter()
            held.operator(image)
            times.append(time.perf_counter() - start)
            held.site.let_go()
            if n == 9:
                allocated = held.site.pools.allocated
        assert held.site.pools.allocated == allocated
        assert min(times) < 20 * min(bare)


def chain(**settings: Any) -> Session:
    """Numbers through `child.naughty` in a process of its own: the third kills it."""
    graph = GraphBuilder("chain")
    graph.node("deeds", "child.deeds", deeds=[0, 0, 3, 0])
    graph.node("kid", "child.naughty", number="deeds", process=True, **settings)
    graph.node("sink", "child.pids", number="kid")
    return Session(compile(graph.build()))


def test_in_a_session_a_child_that_dies_costs_one_frame() -> None:
    session = chain(on_error="skip")
    frames = session.run().frames
    assert frames["out"] == 3
    assert frames["drops"] == {"error": 1}
    assert [e["what"] for e in session.events if e["node"] == "kid"] == ["error", "process restarted"]
    assert not multiprocessing.active_children()


def test_in_a_session_that_tolerates_nothing_it_is_the_error() -> None:
    with pytest.raises(OperatorError, match=r"node kid, frame 2 \(epoch 0\): the process of child.naughty died \(exit code 7\)"):
        chain().run()
    assert not multiprocessing.active_children()
