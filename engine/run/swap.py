"""From one plan to another while frames fly.

1. What is new is made and opened in the background, on lanes of its own, while the old graph goes on.
2. The gates are shut at one frame, and what is under way is finished: at least every frame that holds a credit. A slow branch, which holds
   none, is not waited for; what it still brings for edges that are gone is dropped as `reload`. What only one can hold changes hands now
   (`engine.run.handover`).
3. Every node that stays gets its inputs and outputs anew, on its own lane; edges that are the same at both ends keep their queue, with the
   values that holds and carries have in them. Nodes that go are closed.
4. The gates open. The first frame of the new wiring is the one that the receipt names.

Invariants: an operator never changes its thread; a frame goes wholly through the old wiring or wholly through the new; what did not get
through in time is dropped as `reload`, and nobody waits for it, since a new queue counts everything before the boundary as settled.
Where a carry does not survive, or a stream begins anew, the first frame starts an epoch. Executors open lanes and run jobs on them; when
which step is due is theirs to know.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.live.control import Governing
from engine.live.receipt import Receipt
from engine.live.record import Reloaded
from engine.plan import Plan, PlanNode
from engine.planning.diff import Diff, diff, reader
from engine.planning.memory import MemoryPlan, memory_of
from engine.run.build import device_of, keep_step, make_lane, make_node
from engine.run.channel import EOS, Channel
from engine.run.handover import Handover, claim, claims, part
from engine.run.lane import Lane
from engine.run.life import rewire
from engine.run.node import NodeRun
from engine.run.side import Side, make_side

if TYPE_CHECKING:
    from engine.session import Session

SEGMENT = 1 << 20  # edges and sources of the plans that follow count on from here

Job = Callable[[], None]


class Swap:
    """One reload, from the plan in force when it begins to `plan`."""

    def __init__(self, session: Session, plan: Plan, receipt: Receipt) -> None:
        self.session, self.plan, self.receipt = session, plan, receipt
        self.old = session.plan
        self.diff = receipt.diff = self._diff()
        self.fresh: dict[str, NodeRun] = {}
        self.lanes: list[Lane] = []
        self.late: list[Lane] = []  # those of `lanes` whose nodes need what old ones still hold
        self.handovers: list[Handover] = []
        self.memory: MemoryPlan | None = None

    def _diff(self) -> Diff:
        """The difference, where nodes that have ended already can take neither other inputs nor those of a source made anew."""
        force: set[str] = set()
        while True:
            found = diff(self.old, self.plan, force=force)
            now = {reader(edge) for edge in self.plan.edges if not edge.source or edge.source in found.kept}
            before = {reader(edge) for edge in self.old.edges}
            changed = [edge for edge in self.old.edges if reader(edge) not in now]
            changed += [edge for edge in self.plan.edges if reader(edge) not in before]
            more = {edge.node for edge in changed if edge.node in found.kept and self.session.nodes[edge.node].ended}
            if more <= force:
                return found
            force |= more

    # ---- 1: what is new

    def prepare(self) -> None:
        """Make the nodes that are new, on lanes that are new; nothing of the session knows them yet."""
        session, plan = self.session, self.plan
        session.segment += SEGMENT
        session.device = session.device if session.device != "cpu" else device_of(session, plan)
        self.memory = memory_of(plan, session.device)
        planned = {lane.name: lane for lane in plan.lanes}
        made: dict[tuple[str, bool], Lane] = {}
        held = claims(self.old, self.diff.kept)
        for node in plan.nodes:
            if node.name in self.diff.kept:
                continue
            holder = held.get(claim(node) or "")
            lane = made.get((node.lane, holder is not None))
            if lane is None:
                lane = made[node.lane, holder is not None] = make_lane(session, planned[node.lane])
                self.lanes.append(lane)
                if holder is not None:
                    self.late.append(lane)
            if holder is not None and holder not in [handover.node.name for handover in self.handovers]:
                self.handovers.append(Handover(session.nodes[holder]))
            params = {key: value for key, value in self._carried(node).items() if not key.startswith("in.")}
            run = self.fresh[node.name] = make_node(session, plan, node, lane, self.memory, params)
            run.version = session.version

    def _carried(self, node: PlanNode) -> dict[str, Any]:
        """What was changed live on a node that is made anew and is still as the graph says it was: the change outlives the rebuild."""
        if node.name not in self.diff.rebuilt:
            return {}
        before, spec = self.old.node(node.name), registry.find(node.op)
        if (node.op, node.version) != (before.op, before.version):
            return {}
        written = {f"in.{e.port}": e.hold for e in self.old.edges if e.node == node.name}
        now = {f"in.{e.port}": e.hold for e in self.plan.edges if e.node == node.name}
        same = {p.name for p in spec.params if p.live and before.params.get(p.name) == node.params.get(p.name)}
        same |= {f"in.{port.name}" for port in spec.ports if written.get(f"in.{port.name}") == now.get(f"in.{port.name}")}
        return {key: value for key, value in self.session.changing.landed_on(node.name).items() if key in same}

    @property
    def early(self) -> list[Lane]:
        """The new lanes that need nothing of what old nodes hold."""
        return [lane for lane in self.lanes if lane not in self.late]

    def tether(self) -> None:
        """From here on nobody ends who has not ended yet, until it has the new wiring."""
        with self.session.ends:
            for node in self.session.nodes.values():
                node.tethered = not node.ended

    def stale(self) -> bool:
        """Whether a node has ended meanwhile that was to stay and take other inputs: what was prepared is of no use then."""
        return self._diff().kept != self.diff.kept

    def discard(self) -> None:
        """What was prepared will not be put in force."""
        session = self.session
        session.segment -= SEGMENT
        session.closing = None
        for node in [node for node in session.nodes.values() if node.tethered]:
            node.tethered = False
            if node.gate is None:
                node.lane.post(node)
        session.pump()

    def refuse(self, reason: str) -> None:
        """Nothing has been changed, and nothing will be."""
        session = self.session
        session.event("reload failed", "", -1, reason=reason)
        session.changing.post(self.receipt, "failed", reason=reason)

    def adopt(self) -> None:
        """A plan that differs in live values only, or in nothing: no wiring changes."""
        session = self.session
        if self.plan == self.old:
            session.changing.add(self.receipt)
            return
        session.segment += SEGMENT
        ends, ended = self._ends()
        session.recording.note("plans", Reloaded(ends, ended, ends, self.plan))
        session.plan = self.plan
        session.changing.reload(self.receipt, self._values(), {}, False)
        session.event("reload", "", -1, plan=self.plan.hash, diff=str(self.diff))

    # ---- 2: the boundary

    def shut(self) -> None:
        """Admit nothing more. Offline, sources that keep in step stop at the same frame."""
        session = self.session
        gates = [gate for gate in session.gates.values() if not gate.source.finished]
        last = 0 if session.plan.live else max((gate.turn[0] for gate in gates), default=0)
        session.quiet.clear()
        session.closing = {gate.source.gate_id: last for gate in gates}
        session.pump()

    def drained(self) -> bool:
        gates = self.session.gates.values()
        even = self.session.plan.live or len({gate.turn[0] for gate in gates if not (gate.source.finished or gate.finished)}) <= 1
        ends = any(c.producer is not None and c.producer.finished and not c.consumer.finished and c.consumer.trigger is c for c in
                   self.session.channels)  # fmt: skip
        return even and not ends and all(gate.drained for gate in gates)

    def waits_for(self, lane: Lane) -> bool:
        """Whether the boundary waits for a lane: for every one that has part in a frame's credit."""
        return any(node.trigger is None or node.trigger.edge.credit for node in lane.nodes)

    # ---- 3: the new wiring

    def commit(self, on_lane: Callable[[Lane, Job], None]) -> None:
        """Put the new wiring in force; `on_lane` runs a job on a lane, at once or when its call under way has ended."""
        session, plan = self.session, self.plan
        starts = self._starts()
        old_nodes, old_gates = session.nodes, session.gates
        nodes = {node.name: self.fresh.get(node.name) or old_nodes[node.name] for node in plan.nodes}
        gates = {name: node.gate for name, node in nodes.items() if node.gate is not None}
        cut = self._cut()
        session.recording.note("plans", Reloaded(*self._ends(), starts, plan))
        session.plan, session.nodes, session.memory = plan, nodes, self.memory
        for gate in gates.values():
            gate.turn = (starts[gate.source.gate_id], plan.node(gate.source.name).order)
            gate.offered = max(gate.offered, gate.turn[0])
            gate.resize(plan.in_flight)
        wires = self._wires(nodes, starts)
        for name, node in nodes.items():
            node.site.budget_ms = plan.budget_ms
            if node.gate is not None:
                with node.gate.lock:
                    self._connect(node, wires)
                    node.tethered = False
            elif name in self.fresh:
                self._connect(node, wires)
        for name, node in old_nodes.items():
            if nodes.get(name) is not node and node.gate is not None:
                node.gate.retire()
        for lane in list(session.lanes.values()):
            on_lane(lane, self._job(lane, nodes, wires))
        session.channels = [wire for wire in wires.values() if wire is not None]
        stay = {id(channel) for channel in session.channels}
        session.past.add(
            [channel for channel in self._channels if id(channel) not in stay], [g for n, g in old_gates.items() if gates.get(n) is not g]
        )
        session.gates = gates
        before, session.lanes = session.lanes, self._lanes(nodes)
        session.past.traces.extend((lane.name, lane.trace) for lane in before.values() if lane not in session.lanes.values())
        with session.together:
            keep_step(gates)
        self._finish(nodes, wires, cut)

    def _ends(self) -> tuple[dict[int, int], tuple[str, ...]]:
        """Per source the seq of the first frame that does not go through the old wiring; and which nodes have ended."""
        session = self.session
        ends = {gate.source.gate_id: gate.turn[0] for gate in session.gates.values()}
        return ends, tuple(name for name, node in session.nodes.items() if node.ended)

    def _starts(self) -> dict[int, int]:
        """Per source the seq of its first frame in the new wiring. One that is made anew goes on counting; a new one begins with the others."""
        session = self.session
        recorded = session.replay.starts_of(session.segment // SEGMENT) if session.replay is not None else {}
        furthest = max((gate.turn[0] for gate in session.gates.values()), default=0)
        starts: dict[int, int] = {}
        for node in self.plan.nodes:
            old = session.gates.get(node.name)
            run = self.fresh.get(node.name)
            if run is None and old is not None:
                starts[old.source.gate_id] = old.turn[0]
            elif run is not None and run.gate is not None:
                first = max(furthest, old.offered if old is not None else 0)
                starts[run.gate_id] = recorded.get(run.gate_id, first)
        return starts

    def _cut(self) -> bool:
        """Whether what earlier frames left cannot go on: a carry lost an end, or a stream begins anew."""
        kept = self.diff.kept
        now = {reader(edge) for edge in self.plan.edges if edge.source in kept and edge.node in kept}
        lost = any(edge.role == "carry" and reader(edge) not in now for edge in self.old.edges)
        gone = {node.name for node in self.old.nodes if node.kind == "source"} - set(kept)
        return lost or bool(gone) or any(run.gate is not None for run in self.fresh.values())

    def _wires(self, nodes: dict[str, NodeRun], starts: dict[int, int]) -> dict[int, Channel | None]:
        """The queue of every edge: that of before where both ends stay, else a new one."""
        session, kept = self.session, set(self.diff.kept)
        self._channels = list(session.channels)
        before = {reader(channel.edge): channel for channel in self._channels}
        stream = self._streams()
        self._since = {name: starts.get(nodes[source].gate_id, 0) for name, source in stream.items()}
        wires: dict[int, Channel | None] = {}
        for edge in self.plan.edges:
            channel = before.get(reader(edge)) if edge.source in kept and edge.node in kept else None
            if channel is not None:
                channel.edge = edge
                if edge.role == "exact":  # behind a source made anew: what it does not bring any more, nobody may wait for
                    channel.settled = max(channel.settled, self._since[edge.source] - 1)
            elif edge.role != "constant":
                channel = Channel(edge, nodes[edge.node], session)
                channel.producer = nodes[edge.source]
                channel.settled = self._since[edge.source] - 1
            wires[edge.id] = channel
        return wires

    def _streams(self) -> dict[str, str]:
        """Node to the source whose frames fire it."""
        fires = {edge.node: edge.source for edge in self.plan.edges if edge.role == "trigger"}
        stream: dict[str, str] = {}
        for node in self.plan.nodes:  # what converts a carried value comes before the node that fires it: the order of the plan is no help
            source = node.name
            while source in fires:
                source = fires[source]
            stream[node.name] = source
        return stream

    def _connect(self, node: NodeRun, wires: dict[int, Channel | None]) -> None:
        """Give a node its inputs and outputs; those that are the same keep their reader."""
        trigger: Channel | None = None
        sides: list[Side] = []
        for edge in self.plan.edges:
            if edge.node != node.name:
                continue
            channel = wires[edge.id]
            if edge.role == "trigger":
                trigger = channel
                continue
            side = next((s for s in node.sides if s.channel is channel and (channel is not None or reader(s.edge) == reader(edge))), None)
            if side is None:
                side = make_side(edge, node, channel)
            side.edge = edge
            sides.append(side)
        outs = [channel for edge in self.plan.edges if edge.source == node.name and (channel := wires[edge.id]) is not None]
        other, since = node.trigger is not None and trigger is not node.trigger, self._since.get(node.name, 0)
        rewire(node, self.plan.node(node.name), trigger, sides, outs, since)
        if other:  # what was on the way here is gone: whoever looks back to it waits for nothing
            node.emit.bound(since - 1)
        for channel in (trigger, *(side.channel for side in sides)):
            if channel is not None:
                channel.settle()

    def _job(self, lane: Lane, nodes: dict[str, NodeRun], wires: dict[int, Channel | None]) -> Job:
        """What a lane has to do with its own nodes."""

        def job() -> None:
            for node in list(lane.nodes):
                if nodes.get(node.name) is not node:
                    if node.gate is None:
                        part(node)
                        lane.drop(node)
                elif node.gate is None:
                    self._connect(node, wires)
                    node.tethered = False
                    lane.look(node)

        return job

    def _lanes(self, nodes: dict[str, NodeRun]) -> dict[str, Lane]:
        """The lanes by name: as in the plan; where nodes of one lane live on several threads, because some are older, `main`, `main~2`."""
        lanes = {node.lane: node.plan.lane for node in reversed(nodes.values())}  # to the name that the plan has for them
        taken: set[str] = set()
        for lane, wanted in sorted(lanes.items(), key=lambda item: (item[0] in self.lanes, len(item[0].name), item[0].name)):
            names = (wanted if n == 1 else f"{wanted}~{n}" for n in itertools.count(1))
            lane.rename(next(name for name in names if name not in taken))
            taken.add(lane.name)
        first = {lane: min(n.plan.order for n in nodes.values() if n.lane is lane) for lane in lanes}
        return {lane.name: lane for lane in sorted(lanes, key=first.__getitem__)}

    # ---- 4: on with it

    def open(self) -> None:
        """Admit frames again."""
        session = self.session
        session.closing = None
        if session.draining.is_set():
            session.stop(drain=not session.aborting.is_set())  # sources that came since must stop too
        for gate in list(session.gates.values()):
            with gate.lock:
                gate.emptied.notify_all()
        session.pump()
        session.event("reload", "", -1, plan=self.plan.hash, diff=str(self.diff))

    def _finish(self, nodes: dict[str, NodeRun], wires: dict[int, Channel | None], cut: bool) -> None:
        session, changing = self.session, self.session.changing
        for name, run in self.fresh.items():
            run.version, run.epoch = session.version, session.epoch
            for key, value in self._carried(self.plan.node(name)).items():
                if key.startswith("in."):
                    run.inputs.write(key.removeprefix("in."), value)
                elif run.params.get(key) != value:
                    run.late[key] = value
        changing.reload(self.receipt, self._values(), {name: run.params | run.late for name, run in self.fresh.items()}, cut)
        if self.plan.govern != self.old.govern:
            session.governing = Governing(session, enabled=session.governing.wanted, held=session.governing.held)
        else:
            session.governing.rest()
        for channel in wires.values():
            if channel is not None and channel.producer is not None and channel.producer.finished and channel.settled < EOS.seq:
                self._end_of(channel)
        for run in self.fresh.values():
            if run.gate is not None:  # a source made anew may count on from a frame that was not let in: whoever joins it waits for none before
                with run.gate.lock:
                    run.emit.bound(run.gate.turn[0] - 1)

    def _values(self) -> dict[tuple[str, str], Any]:
        """The live values that the new plan brings."""
        found: dict[tuple[str, str], Any] = {}
        for path in self.diff.params:
            name, _, key = path.partition(".")
            port = key.removeprefix("in.")
            edge = next((e for e in self.plan.edges if (e.node, e.port) == (name, port)), None)
            found[name, key] = self.plan.node(name).params[key] if port == key or edge is None else edge.hold
        return found

    @staticmethod
    def _end_of(channel: Channel) -> None:
        """The producer had ended before: the new queue learns it."""
        if not channel.items or channel.items[-1] is not EOS:
            channel.put_eos()
        if channel.consumer.finished:
            channel.close("reload")

