"""Graphs for the tests of `sink.zmq` and `source.zmq`: a film whose pictures say which frame they are, and sessions on threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from engine import Operator, operator
from engine.graph import GraphBuilder
from engine.operator import HOST_RGB, Format, Stamped
from engine.payload import Image, Scalar
from engine.planning.compile import compile
from engine.session import Session

SIDE = 160  # 77 kB: more than what pyzmq would rather copy


@operator("test.wire_film")
class Film(Operator):
    """Pictures in pooled buffers whose every byte is seq % 251; `frames` of them, `period` ms apart (0: as fast as they are taken)."""

    def __init__(self, *, frames: int = 10**9, period: float = 20.0, cut_at: list[int] | None = None, side: int = SIDE) -> None:
        self.frames, self.period, self.cut_at, self.side = frames, round(period * 1e6), set(cut_at or ()), side

    def __call__(self) -> Iterator[Annotated[Image, HOST_RGB]]:
        start = self.site.clock.now()
        for seq in range(self.frames):
            if self.period and not self.site.sleep_until(start + seq * self.period):
                return
            out = self.site.empty((self.side, self.side, 3))
            out[:] = seq % 251
            yield Stamped(Image(out), pts=seq * max(self.period, 1000), cut=seq in self.cut_at)  # type: ignore[misc]


@operator("test.wire_floats")
def floats(image: Image) -> Annotated[Image, Format("float32", "chw", "bgr", "cpu")]:
    """The picture as planes of floats, channels reversed."""
    planes = np.ascontiguousarray(image.data[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
    return Image(planes, "chw", "bgr")


@operator("test.wire_level")
def level(image: Image) -> Scalar:
    """What every byte of the picture is."""
    return Scalar(float(image.data[0, 0, 0]))


class Running:
    """A session on a thread of its own. Leaving the block stops it, and checks that no packet was lost and no buffer kept."""

    def __init__(self, graph: GraphBuilder, **options: Any) -> None:
        self.session = Session(compile(graph.build()), **options)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="test session")

    def _run(self) -> None:
        try:
            self.session.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.session.stop()
        self.join()
        if exc[0] is None:
            self.check()
        elif self.error is not None and isinstance(exc[1], BaseException):
            exc[1].add_note(f"the session: {self.error}")

    def join(self, seconds: float = 30.0) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the session does not end"

    def check(self) -> None:
        if self.error is not None:
            raise self.error
        self.session.check()
        assert self.session.pools.loaned == 0

    def events(self, what: str) -> list[dict[str, Any]]:
        return [event for event in self.session.events.copy() if event["what"] == what]

    def seen(self, node: str) -> list[Any]:
        """What a collecting operator has so far."""
        return list(getattr(self.operator(node), "seen", ()))

    def operator(self, node: str) -> Any:
        return self.session.nodes[node].operator


def film(url: str, clock: str = "live", *, name: str = "film", given: dict[str, Any] | None = None, **sink: Any) -> GraphBuilder:
    """A film into a sink at `url`."""
    graph = GraphBuilder(name, clock=clock)
    graph.node("film", "test.wire_film", **(given or {}))
    graph.node("out", "sink.zmq", url=url, frame="film", **sink)
    return graph
