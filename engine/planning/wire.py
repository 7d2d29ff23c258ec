"""How inputs become edges: their order, roles, policies, and who waits for whom.

Invariants kept here: a cycle passes through a carry or a hold; every queue has a bound; an exact join never waits for a frame that was
dropped on the way without being told; a slow branch holds no credit.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.graph import UNSET, Input
from engine.plan import LOSSY, Edge, reach

if TYPE_CHECKING:
    from engine.planning.compile import _Compiler


SLOW = "slow"
"""The lane of branches that must never delay a frame: under a live clock they sample the newest one."""


@dataclass
class Link:
    """An Edge in the making."""

    source: str
    output: str
    node: str
    port: str
    slot: int | None
    given: Input
    param: bool
    role: str = ""
    hold: Any = UNSET
    back: bool = False  # a hold that closes a cycle
    policy: str = "block"
    cap: int = 1
    lag: int | None = None
    missing: str = "skip"
    counted: bool = True
    credit: bool = True
    crosses: bool = False

    @property
    def path(self) -> str:
        return f"node.{self.node}.in.{self.port}"

    @property
    def keeps(self) -> bool:
        """Whether the port keeps a value from frame to frame, which lets it close a cycle."""
        return self.role in ("carry", "constant") or self.given.hold is not UNSET

    def edge(self, id: int) -> Edge:
        return Edge(
            id, self.source, self.output, self.node, self.port, self.slot, self.role, "param" if self.param else "port", self.policy, self.cap,
            self.given.every, self.given.max_age_ms, self.missing, self.hold, self.given.map, self.lag, self.counted, self.credit, False,
            self.crosses,
        )  # fmt: skip


def order(compiler: _Compiler, links: list[Link]) -> list[str]:
    """Nodes in topological order, ties in the order they are written. A cycle without a carry or a hold is reported."""
    names = [n.name for n in compiler.graph.nodes if n.name in compiler.specs]
    after: dict[str, set[str]] = defaultdict(set)  # node -> nodes that need its output in the same frame
    for link in links:
        if link.source and not link.keeps:
            after[link.source].add(link.node)
    for cycle in _cycles(names, after):
        round_trip = " -> ".join([*cycle, cycle[0]])
        link = next(ln for ln in links if ln.node == cycle[0] and ln.source == cycle[-1])
        compiler.say(link.path, f"a cycle: {round_trip}", fix=f'close it with a carry ("{cycle[-1]}.{link.output}@-1") or a hold')
    if compiler.problems:
        return names
    for link in links:  # a hold runs forward where it can, and closes a cycle where it must
        if link.source and link.keeps and link.role != "carry":
            link.back = link.source in reach([link.node], after)
            if not link.back:
                after[link.source].add(link.node)
    before = {name: sum(name in targets for targets in after.values()) for name in names}
    result: list[str] = []
    while ready := [n for n in names if n not in result and before[n] == 0]:
        result.append(ready[0])
        for target in after[ready[0]]:
            before[target] -= 1
    return result


def _cycles(names: list[str], after: dict[str, set[str]]) -> list[list[str]]:
    """One cycle through each group of nodes that feed each other."""
    found: list[list[str]] = []
    covered: set[str] = set()
    for start in names:
        if start in covered:
            continue
        parent: dict[str, str] = {}
        todo = [start]
        while todo and start not in parent:
            node = todo.pop(0)
            for target in sorted(after.get(node, ())):
                if target not in parent:
                    parent[target] = node
                    todo.append(target)
        if start in parent:
            cycle = [start]
            while parent[cycle[-1]] != start:
                cycle.append(parent[cycle[-1]])
            covered.update(cycle)
            found.append([start, *reversed(cycle[1:])])
    return found


def assign_roles(compiler: _Compiler, order: list[str], links: list[Link]) -> None:
    """The trigger of every node, and how its other ports read."""
    by_node: dict[str, list[Link]] = defaultdict(list)
    for link in links:
        by_node[link.node].append(link)
    for name in order:
        spec, node, mine = compiler.specs[name], compiler.nodes[name], by_node[name]
        ports = [p.name for p in spec.ports]
        if not mine or not ports:
            continue
        mine.sort(key=lambda ln: (ports.index(ln.port) if ln.port in ports else len(ports), ln.slot or 0))
        if node.trigger is not None and node.trigger not in {ln.port for ln in mine if not ln.param}:
            compiler.say(f"node.{name}.trigger", f"no connected port is called {node.trigger!r}", expected=", ".join(ports))
            continue
        fires = next((ln for ln in mine if not ln.param and not ln.keeps and node.trigger in (None, ln.port)), None)
        if fires is None:
            compiler.say(f"node.{name}", "nothing fires this node: every connected port keeps its value", fix="connect one without hold or @-1")
            continue
        fires.role = "trigger"
        for link in mine:
            if link.role == "":
                held = link.given.hold is not UNSET
                link.role = "hold" if held else "latest" if link.given.policy == "latest" else "exact"
            link.missing = link.given.missing or "skip"


def assign_policies(compiler: _Compiler, order: list[str], links: list[Link], lanes: dict[str, str], in_flight: int) -> None:
    """Queue policies and bounds, what waits for what, and which messages hold a credit."""
    live = compiler.graph.clock == "live"
    drops: dict[str, frozenset[str]] = {name: frozenset() for name in order}  # what may have dropped a frame before it reached a node
    lossy: dict[str, bool] = dict.fromkeys(order, False)
    stream: dict[str, str] = {name: name for name in order}  # the source whose frames fire a node
    for name in order:
        mine = sorted((ln for ln in links if ln.node == name), key=lambda ln: ln.role != "trigger")
        if not mine:
            drops[name] = frozenset({f"source {name}"})
            continue
        for link in mine:
            samples = live and lanes[name] == SLOW != lanes.get(link.source) and link.role == "trigger"
            default = "latest" if samples else "block"
            wanted = link.given.policy or default
            if wanted in LOSSY and not live and link.role in ("trigger", "exact"):
                wanted = "block"  # offline loses nothing
            link.policy = wanted if link.role in ("trigger", "exact") else "keep"
            link.cap = 1 if wanted == "latest" and link.role == "trigger" else (link.given.cap or in_flight)
            link.cap = link.cap if link.role in ("trigger", "exact") else in_flight + 1
            link.crosses = bool(link.source) and lanes[link.source] != lanes[name]
            link.counted = link.role in ("trigger", "exact")
            link.credit = link.counted and not (lossy[link.source] or wanted in LOSSY)
            if link.role == "carry":
                link.lag = 1
            elif link.role in ("hold", "latest") and not live:
                link.lag = 1 if link.back else 0  # offline runs repeat themselves: a kept value waits until it is settled
            elif link.role == "exact":
                link.lag = 0
        trigger = next((ln for ln in mine if ln.role == "trigger"), None)
        if trigger is None:
            continue
        stream[name] = stream[trigger.source]
        drops[name] = _drops(compiler, drops, trigger)
        lossy[name] = lossy[trigger.source] or trigger.policy in LOSSY
        for link in mine:
            if link.role == "exact":
                partner = _drops(compiler, drops, link)
                _check_join(compiler, link, partner - drops[name], live)
                drops[name] |= partner if link.given.missing == "skip" else frozenset()
            if live and link is not trigger:
                _check_wait(compiler, link, lossy, lanes)
        if compiler.nodes[name].on_error == "skip":
            drops[name] |= {f"{name}, which skips frames that fail"}
    for link in links:
        if link.role == "carry" and stream[link.source] != stream[link.node]:
            compiler.say(link.path, "a carry looks back within one stream", expected=f"a node fired by {stream[link.node]}",
                         found=f"{link.source}, fired by {stream[link.source]}", fix='read it with hold or policy = "latest"')  # fmt: skip
        if link.role == "latest" and link.given.cap:
            compiler.say(link.path, "a side input that reads the newest value has no queue", fix="leave cap out")


def _drops(compiler: _Compiler, drops: dict[str, frozenset[str]], link: Link) -> frozenset[str]:
    found = set(drops[link.source])
    if link.given.every > 1:
        found.add(f"every = {link.given.every} on {link.path}")
    if link.policy in LOSSY:
        found.add(f"policy = {link.policy} on {link.path}")
    output = compiler.specs[link.source].output(link.output)
    if output is not None and output.may_skip:
        found.add(f"{link.source}.{link.output}, which may skip frames")
    return frozenset(found)


def _check_join(compiler: _Compiler, link: Link, extra: frozenset[str], live: bool) -> None:
    """An exact partner that may be missing where the trigger is not: refused unless the graph says what to do."""
    extra = frozenset(e for e in extra if live or not e.startswith("source "))
    if extra and link.given.missing is None:
        compiler.say(
            link.path, "this input and the one that fires the node drop different frames", found="; ".join(sorted(extra)),
            fix='say what to do without it: missing = "skip", "reuse", "default" or "error", or read it with hold or policy = "latest"',
        )  # fmt: skip


def _check_wait(compiler: _Compiler, link: Link, lossy: dict[str, bool], lanes: dict[str, str]) -> None:
    """Live: what waits must not wait for a slow branch, nor may a branch that drops frames hold back those it does not want."""
    if link.role not in ("exact", "carry"):
        return
    fix = "read it with hold" + (' or policy = "latest"' if link.role == "exact" else "")
    if lanes[link.source] == SLOW != lanes[link.node]:
        compiler.say(link.path, "this would wait for the slow lane with every frame", found=f"{link.source} on lane {SLOW!r}", fix=fix)
    elif lossy[link.node] and not lossy[link.source] and (link.policy == "block" or link.role == "carry"):
        found = f"{link.source}, which drops none"
        compiler.say(link.path, "the node samples, and this input would keep every frame for it", found=found, fix=fix)


def check_batches(compiler: _Compiler, links: list[Link], kept: set[str], in_flight: int) -> None:
    """A batch is refused where the frames it gathers could wait for each other, or for more frames than may be under way."""
    nodes = [node for node in compiler.graph.nodes if node.name in kept and node.batch > 1]
    room = 1 + sum(node.batch - 1 for node in nodes)
    forward: dict[str, set[str]] = defaultdict(set)
    for link in links:
        if link.source and link.lag != 1:
            forward[link.source].add(link.node)

    def leads(start: str, goal: str) -> bool:
        return goal in reach([start], forward)

    for node in nodes:
        path = f"node.{node.name}.batch"
        if not compiler.specs[node.name].batches:
            compiler.say(path, f"{node.op} works frame by frame and takes no batch", fix="leave batch out")
        if in_flight < room:
            compiler.say(path, "the batches of this graph gather more frames than may be under way", expected=f"graph.in_flight >= {room}",
                         found=str(in_flight), fix=f"set graph.in_flight = {room}")  # fmt: skip
        awaited = any(link.lag is not None and leads(node.name, link.source) for link in links)
        starved = next((ln for ln in links if ln.role == "trigger" and ln.policy in LOSSY and leads(ln.node, node.name)), None)
        if awaited and starved is not None:
            compiler.say(path, "a batch may wait for frames that a join holds, when others are dropped before it",
                         found=f"policy = {starved.policy} on {starved.path}", fix="leave batch out")  # fmt: skip
        for link in links:
            if link.node == node.name and link.param and link.source:
                compiler.say(link.path, "a fed parameter changes from frame to frame, and a batch is one call", fix="leave batch out")
            inside = leads(link.node, node.name) and leads(node.name, link.source)
            if link.lag == 1 and inside:
                instead = getattr(compiler.specs[node.name].target, "batch_carry", "") if link.node == link.source else ""
                fix = f"leave batch out, or leave {link.path} out and write {instead} beside batch" if instead else "leave batch out"
                compiler.say(path, f"a batch inside a loop: {link.node} needs the frame before from {link.source}", fix=fix)
            short = link.counted and link.policy == "block" and link.given.cap is not None and link.given.cap < room
            if short:
                compiler.say(f"{link.path}.cap", f"a queue shorter than what {node.name} gathers can stop the graph", expected=f">= {room}",
                             found=str(link.given.cap), fix="leave cap out")  # fmt: skip


def flag_bounds(edges: list[Edge]) -> list[Edge]:
    """Mark the edges on which dropped frames must be announced: those that lead to a port that waits for settlement."""
    waiting = {edge.node for edge in edges if edge.lag is not None}  # their side inputs must learn which frames will not fire the node
    needed = [edge for edge in edges if edge.lag is not None or (edge.role == "trigger" and edge.node in waiting)]
    fires = [edge for edge in edges if edge.role in ("trigger", "exact")]
    feeding: dict[str, list[str]] = defaultdict(list)
    for edge in fires:
        feeding[edge.node].append(edge.source)
    asked = reach([edge.source for edge in needed], feeding)  # the nodes that have to tell
    bounds = {edge.id for edge in needed} | {edge.id for edge in fires if edge.node in asked}
    return [replace(edge, bounds=edge.id in bounds) for edge in edges]
