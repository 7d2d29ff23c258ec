"""`engine run … --report FILE`: watches a run from its beginning and writes one HTML file about it, also when the run fails.

Invariant: the graph that runs is the one that was written, with watchers beside it on a lossy lane of their own: a few pictures kept, and
colours of face, hair and clothes measured where the graph has poses. Without numbers of a kind there is no plot of it.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.cli.attach import Attachment
from engine.errors import writing
from engine.graph import Graph, Input, Node, Ref
from engine.payload import Image, Latent, Payload, Pose

if TYPE_CHECKING:
    from engine.session import Session
    from remote.report.device import DeviceTimes

LANE = "report"
KEPT, METER, PALETTE = "report_pictures", "report_identity", "report_palette"
PAUSE_MS = 5.0  # of the garbage collector: shorter ones are not told one by one


class Report(Attachment):
    """Collects and writes. `path`: the file; its folder has to be there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = ("--report", path)
        self.memory: list[tuple[int, dict[str, float]]] = []  # when (ns on the session's clock), MB by name
        self.ages: list[tuple[int, float, float]] = []  # when, p50 and p95 of the frames since the last tick, ms
        self.pauses: deque[tuple[int, float]] = deque(maxlen=20_000)  # when (monotonic ns), ms
        self.device: DeviceTimes | None = None
        self._collecting = self._told = 0
        self._seen = 0
        self.palette: list[tuple[int, int, dict[str, Any]]] = []  # seq, pts, colours by region

    def graph(self, graph: Graph) -> Graph:
        from remote.preview import main_picture

        picture = main_picture(graph)
        if picture is None:
            return graph
        image = Input("image", (Ref(*picture.split(".", 1)),), policy="latest")
        more = [Node(KEPT, "sink.keep", {}, (image,), lane=LANE)]
        poses, painted = _outputs(graph, Pose), _outputs(graph, Latent)
        if poses:
            # What is painted, before anything is set beside it, is what the skeleton fits.
            source = next((of for of in _outputs(graph, Image) if painted and of.split(".")[0] == painted[0].split(".")[0]), picture)
            image = Input("image", (Ref(*source.split(".", 1)),), policy="latest")
            # Live, the meter samples: the newest pose that is not after the picture is near enough.
            live = {"policy": "latest"} if graph.clock == "live" else {"missing": "skip"}
            pose = Input("pose", (Ref(*poses[-1].split(".", 1)),), **live)
            more += [
                Node(METER, "metric.identity", {}, (image, pose), lane=LANE),
                Node(f"{METER}_end", "sink.measure", {}, (Input("values", (Ref(METER, "parts"),), listed=True),), lane=LANE),
                Node(PALETTE, "sink.palette", {}, (image, pose), lane=LANE),
            ]
        return replace(graph, nodes=(*graph.nodes, *more))

    def attached(self, session: Session) -> None:
        from remote.report.device import device_times

        self.device = device_times(session)
        gc.callbacks.append(self._collected)

    def tick(self, session: Session) -> None:
        from engine.live.summary import percentile
        from remote.facts import memory, recent

        now = session.clock.now()
        self._tell(session)
        if self.device is not None:
            self.device.look()
        facts = memory(session)
        sample = {"process": (facts["rss"] or 0) / 1e6}
        if "device" in facts:
            sample["reserved on the card"] = facts["device"]["reserved"] / 1e6
        if not self.memory or now - self.memory[-1][0] >= 500_000_000:
            self.memory.append((now, sample))
            fresh = session.frames_out - self._seen
            if fresh > 0:
                ages = [age / 1e6 for age in recent(session.ages, min(fresh, 4096))]
                self.ages.append((now, percentile(ages, 50), percentile(ages, 95)))
                self._seen = session.frames_out

    def _tell(self, session: Session) -> None:
        """Put long pauses into the run's log, from here: a collection may begin anywhere, also where the log is being written."""
        pauses = list(self.pauses)
        for at, ms in pauses[self._told :] if len(pauses) < (self.pauses.maxlen or 0) else ():
            if ms >= PAUSE_MS and session.first_out is not None and at >= session.first_out:  # while models load there are many
                session.event("gc_pause", "", -1, ms=round(ms, 2), ended_ms_ago=round((time.monotonic_ns() - at) / 1e6 - ms, 1))
        self._told = len(pauses)

    def ended(self, session: Session, error: BaseException | None) -> None:
        gc.callbacks.remove(self._collected)
        from remote.report.facts import gather
        from remote.report.page import page

        keeper: Any = session.nodes[KEPT].operator if KEPT in session.nodes else None
        pictures = list(keeper.kept) if keeper is not None else []
        palette: Any = session.nodes[PALETTE].operator if PALETTE in session.nodes else None
        self.palette = list(palette.kept) if palette is not None else []
        if self.device is not None:
            self.device.look()
        text = page(session, gather(session, self.device.times if self.device is not None else {}), self, pictures, error)
        with writing(f"the report {self.path}", "name a file that can be written"):
            self.path.write_text(text, encoding="utf-8")
        session._site_output(str(self.path))

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.monotonic_ns()
        elif self._collecting:
            self.pauses.append((self._collecting, (time.monotonic_ns() - self._collecting) / 1e6))


def _outputs(graph: Graph, kind: type[Payload]) -> list[str]:
    """`node.output` of every output of one kind in the graph."""
    found = []
    for node in graph.nodes:
        spec = registry.get(node.op)
        found += [f"{node.name}.{output.name}" for output in spec.outputs if output.type is kind] if spec is not None else []
    return found
