"""Nothing of ours grows with frames, changes, reloads, viewers or subscribers: objects are counted, with books of bounded length made short."""

from __future__ import annotations

import collections
import gc
import json
import threading
from typing import Any

import pytest
from remote_runs import until
from shown import Told, film

import engine.live.changes
import engine.live.record
import engine.run.node
import engine.session
import engine.trace
from bindings.python import Subscriber
from bindings.python.control import Control as Client
from bindings.python.control import Watch
from engine.graph import Graph, Node, as_input
from engine.planning.compile import compile
from remote.preview import Preview
from remote.server import Control

FRAMES = 1500
NOISE = 0.02  # of all objects: what comes and goes between two looks


class Short(collections.deque):  # type: ignore[type-arg]
    """A deque whose bound is reached within the test."""

    def __init__(self, items: Any = (), maxlen: int | None = None) -> None:
        super().__init__(items, None if maxlen is None else min(maxlen, 64))


def both(preview: Preview, control: Control, url: str, more: bool) -> Graph:
    base = film(fps=200.0)
    nodes = [*base.nodes, Node("wire", "sink.zmq", {"url": url}, (as_input("frame", "keep"),))]
    nodes += [Node("extra", "sink.null", {}, (as_input("image", "keep"),))] if more else []
    return control.graph(preview.graph(Graph("growth", tuple(nodes), clock="live")))


@pytest.mark.slow
def test_no_object_stays_behind_a_frame_a_change_or_a_reload(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(engine.run.node, "deque", Short)
    monkeypatch.setattr(engine.session, "deque", Short)
    monkeypatch.setattr(engine.live.record, "LIMIT", 64)
    monkeypatch.setattr(engine.live.changes, "KEPT", 32)
    monkeypatch.setattr(Watch, "KEPT", 16)  # nobody reads it
    monkeypatch.setattr(engine.trace.Ring.__init__, "__defaults__", (64,))
    url = f"ipc://{tmp_path}/live.sock"
    preview, control = Preview("127.0.0.1:0"), Control("tcp://127.0.0.1:*")
    session = Told(compile(both(preview, control, url, False)))
    session.preview = preview
    preview.attached(session)
    control.attached(session)
    thread = threading.Thread(target=session.run)
    thread.start()
    done: collections.Counter[str] = collections.Counter()

    def live(frames: int, client: Client) -> None:
        """So many frames, and everything that people do."""
        until_frame = session.gates["film"].entered + frames
        while session.gates["film"].entered < until_frame:
            done["round"] += 1
            client.set({"keep.level": done["round"] % 10}).wait_applied(20)
            client.ramp({"keep.level": 1}, frames=3).wait_done(20)
            client.stats()
            if done["round"] % 5 == 0:
                client.reset("growth").wait_applied(20)
                client.describe()
                session.reload(compile(both(preview, control, url, done["round"] % 10 == 0))).wait(30)
                with Subscriber(url) as late:
                    late.read(20)

    def objects() -> dict[str, int]:
        for _ in range(3):
            gc.collect()
        return collections.Counter(type(one).__name__ for one in gc.get_objects())

    try:
        assert control.server is not None
        with Client(control.server.endpoint, timeout=20) as client, Subscriber(url) as frames, client.watch("stats", every=0.05) as watch:
            import websockets.sync.client

            where = f"ws://127.0.0.1:{preview.server.port}/ws?token={preview.token}"  # type: ignore[union-attr]
            with websockets.sync.client.connect(where, max_size=None, compression=None, proxy=None) as viewer:
                viewer.send(json.dumps({"v": 1, "id": 1, "op": "view", "codecs": ["jpeg"]}))
                draining = threading.Event()

                def drain() -> None:
                    while not draining.is_set():
                        try:
                            viewer.recv(timeout=0.5)
                        except TimeoutError:
                            continue

                reader = threading.Thread(target=drain)
                reader.start()
                try:
                    live(FRAMES, client)  # books fill, caches too
                    before = objects()
                    live(2 * FRAMES, client)
                    after = objects()
                finally:
                    draining.set()
                    reader.join()
            until(lambda: frames.latest() is not None and watch.next(5))
    finally:
        session.stop()
        thread.join(20)
        preview.ended(session, None)
        control.ended(session, None)
    grown = {name: after[name] - before[name] for name in after if after[name] - before[name] > 50}
    assert sum(after.values()) - sum(before.values()) < NOISE * sum(before.values()), grown
    assert done["round"] >= 20
