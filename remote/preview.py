"""`engine run … --preview`: taps in the graph, a stage for the session, and the web server, from start to end.

Invariant: the graph that runs is the graph that was written, with taps beside it: on a lane of their own, lossy, unwatched while nobody looks.
Nothing is tapped that would change what else is compiled: neither what no sink needs, nor what another node writes to in place.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import UsageError
from engine.graph import Graph, Input, Node, Ref
from engine.payload import Image
from remote.attachment import Carrier

if TYPE_CHECKING:
    from engine.operator import Spec
    from engine.session import Session
    from remote.stage import Stage
    from remote.web import WebServer

LANE = "preview"
MAIN = "preview"  # the tap of the main picture
OUTPUTS = 12  # that can be chosen in the page
TOKEN = "ENGINE_WEB_TOKEN"
_in_use: set[str] = set()


class Preview(Carrier):
    """The preview page along with a run. `web`: HOST:PORT, "" for the default; `of`: outputs to show, the first one first; `origins`: of other
    pages that may embed it and use its WebSocket, with the token."""

    def __init__(self, web: str = "", *, insecure: bool = False, of: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        from remote.guard import origin_of
        from remote.web import Address

        self.address = Address.parse(web) if web else Address()
        if self.address.beyond_loopback and not insecure:
            raise UsageError(
                f"{web} can be reached from other machines, and what travels to the preview is not encrypted",
                fix="listen on 127.0.0.1 and tunnel to it (ssh -L 8060:127.0.0.1:8060 HOST), or add --insecure",
            )
        try:
            self.origins = tuple(origin_of(origin) for origin in origins)
        except ValueError as error:
            fix = "write it exactly, as http://127.0.0.1:9000 or https://studio.example; a page in a local file has none"
            raise UsageError(f"--web-origin: {error}", fix=fix) from None
        self.token = _token()
        self.of = tuple(of)
        # The same in every run, so that a plan's hash is; another one only beside a preview in the same process.
        self.prefix = next(prefix for n in itertools.count(1) if (prefix := f"preview{n if n > 1 else ''}/") not in _in_use)
        _in_use.add(self.prefix)
        self.stage: Stage | None = None
        self.server: WebServer | None = None

    def graph(self, graph: Graph) -> Graph:
        return tapped(graph, self.prefix, self.of)

    def attached(self, session: Session) -> None:
        from remote.stage import Stage
        from remote.verbs import Verbs
        from remote.web import WebServer, announce

        self.verbs = Verbs(session)
        self.stage = Stage(session, self.verbs, self.prefix)
        self.server = WebServer(self.stage, self.token, self.address, origins=self.origins)
        self.server.start()
        announce(self.server)

    def shut(self, session: Session) -> None:
        if self.stage is not None:
            self.stage.close()
        if self.server is not None:
            self.server.stop()
        self.stage = self.server = None
        _in_use.discard(self.prefix)


def _token() -> str:
    """A random token, or the one that the environment gives, for addresses that have to stay the same."""
    given = os.environ.get(TOKEN, "")
    if given and not re.fullmatch(r"[A-Za-z0-9_.~-]{16,256}", given):
        raise UsageError(f"{TOKEN} is no token", fix="16 to 256 letters, digits and _ . ~ -")
    return given or secrets.token_urlsafe(24)


def tapped(graph: Graph, prefix: str, of: Iterable[str] = ()) -> Graph:
    """`graph` with a `sink.tap` for every picture that can be looked at, the main one (or `of`) first. Raises UsageError for an unknown one."""
    specs = {node.name: spec for node in graph.nodes if (spec := _spec(node.op)) is not None}
    known = [ref for ref in _pictures(graph, specs) if ref not in _written_in_place(graph, specs)]
    wanted = [_named(ref, known, specs) for ref in of]
    main = wanted or [ref for ref in [_main(graph, specs)] if ref in known]
    chosen = [*dict.fromkeys([*main, *known])][:OUTPUTS]
    taken = {node.name for node in graph.nodes}
    taps = []
    for i, ref in enumerate(chosen):
        # Named by what they show, so that a reload which adds a picture leaves the other taps as they are.
        plain = MAIN if i == 0 else f"{MAIN}_{ref.replace('.', '_')}"
        name = next(n for n in itertools.chain([plain], (f"{plain}_{k}" for k in itertools.count(2))) if n not in taken)
        taken.add(name)
        source = Input("image", (Ref(*ref.split(".", 1)),), policy="latest")
        taps.append(Node(name, "sink.tap", {"box": prefix + ref}, (source,), lane=LANE))
    return replace(graph, nodes=(*graph.nodes, *taps))


def main_picture(graph: Graph) -> str | None:
    """`node.output` of the picture that goes into the graph's main sink, where it can be looked at."""
    specs = {node.name: spec for node in graph.nodes if (spec := _spec(node.op)) is not None}
    main = _main(graph, specs)
    return main if main and main not in _written_in_place(graph, specs) else None


def _spec(op: str) -> Spec | None:
    try:
        return registry.find(op)
    except Exception:  # the compiler will say what is wrong with it
        return None


def _output(ref: Ref, specs: dict[str, Spec]) -> str | None:
    """`node.output` for a reference that may leave the output out."""
    spec = specs.get(ref.node)
    if spec is None:
        return None
    if ref.output is None:
        return f"{ref.node}.{spec.outputs[0].name}" if len(spec.outputs) == 1 else None
    return f"{ref.node}.{ref.output}" if spec.output(ref.output) else None


def _read(node: Node, specs: dict[str, Spec]) -> list[tuple[str, str]]:
    """What a node reads: (port, node.output)."""
    found = [(put.port, ref, _output(ref, specs)) for put in node.inputs for ref in put.refs]
    return [(port, out or _first_fit(node, port, ref, specs)) for port, ref, out in found]


def _first_fit(node: Node, port: str, ref: Ref, specs: dict[str, Spec]) -> str:
    """The output that the compiler takes where none is named: the only one of the port's type."""
    kind = specs[node.name].port(port) if node.name in specs else None
    fits = [o.name for o in specs[ref.node].outputs if kind is not None and o.type is kind.type] if ref.node in specs else []
    return f"{ref.node}.{fits[0]}" if len(fits) == 1 else ""


def _needed(graph: Graph, specs: dict[str, Spec]) -> set[str]:
    """Nodes that some sink needs: the others are culled, and a tap must not bring them back."""
    by_name = {node.name: node for node in graph.nodes}
    found: set[str] = set()
    todo = [name for name, spec in specs.items() if spec.sink]
    while todo:
        name = todo.pop()
        if name in by_name and name not in found:
            found.add(name)
            todo += [ref.node for put in by_name[name].inputs for ref in put.refs]
    return found


def _pictures(graph: Graph, specs: dict[str, Spec]) -> list[str]:
    needed = _needed(graph, specs)
    return [
        f"{node.name}.{output.name}" for node in graph.nodes if node.name in needed and node.name in specs
        for output in specs[node.name].outputs if output.type is Image
    ]  # fmt: skip


def _written_in_place(graph: Graph, specs: dict[str, Spec]) -> set[str]:
    needed = _needed(graph, specs)  # who is culled writes nothing
    return {
        out for node in graph.nodes if node.name in needed and node.name in specs and specs[node.name].inplace is not None
        for port, out in _read(node, specs) if port == specs[node.name].inplace
    }  # fmt: skip


def _main(graph: Graph, specs: dict[str, Spec]) -> str:
    """The picture that goes into the graph's main sink: the first that takes one, measuring sinks last."""
    sinks = [node for node in graph.nodes if node.name in specs and specs[node.name].sink]
    sinks.sort(key=lambda node: node.op in ("sink.null", "sink.tap", "sink.images"))
    for sink in sinks:
        for port, out in _read(sink, specs):
            kind = specs[sink.name].port(port)
            if kind is not None and kind.type is Image:
                return out
    return ""


def _named(wanted: str, known: list[str], specs: dict[str, Any]) -> str:
    """An output as it was typed, NODE or NODE.OUTPUT. Raises UsageError."""
    fits = [ref for ref in known if ref == wanted or ref.partition(".")[0] == wanted]
    if len(fits) != 1:
        what = "has several pictures" if fits else "is no picture of this graph that can be shown"
        near = "there is " + ", ".join(fits or known) if fits or known else "no node of it makes pictures"
        raise UsageError(f"--preview-of {wanted}: it {what}", fix=near)
    return fits[0]
