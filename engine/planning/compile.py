"""Graph to Plan: every check that needs no data, every decision that can be made before the first frame.

Runs no operator code and imports no torch. All problems are collected and raised together as one GraphError. The steps, in order: resolve
operators and parameters; resolve references and types (`_resolve`); give every input its role (`engine.planning.wire`); order nodes, refuse
cycles, drop what no sink needs; assign lanes; plan format conversions (`engine.planning.convert`); freeze.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine import registry
from engine.errors import Diagnostic, EngineError, GraphError, MissingError, UsageError
from engine.graph import UNSET, Graph, Input, Node, Ref
from engine.operator import Output, Param, Port, Spec
from engine.payload import Prompt, Scalar, Text, from_plain
from engine.plan import Plan, PlanLane, PlanNode, reach
from engine.planning import cards, wire
from engine.planning.convert import plan_conversions
from engine.planning.wire import Link
from engine.text.keys import NODE

IN_FLIGHT = {"live": 2, "offline": 4}


def compile(graph: Graph, *, embedded: bool = False) -> Plan:
    """The plan of `graph`. `embedded` swaps every model for its stand-in that ships with the engine. Raises GraphError."""
    return _Compiler(graph, embedded).plan()


def altered(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """`plan` compiled anew with other values of parameters, `node.param` to value. Raises GraphError, and UsageError for unknown nodes."""
    graph = plan.graph
    if graph is None:
        raise UsageError("the graph of this plan is not known", fix="reload a graph file instead")
    wanted: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, param = path.partition(".")
        if not param or name not in {node.name for node in graph.nodes}:
            raise UsageError(f"there is no parameter {path!r}", fix=registry.suggest(name, [node.name for node in graph.nodes]))
        wanted.setdefault(name, {})[param] = value
    nodes = tuple(replace(node, params={**node.params, **wanted.get(node.name, {})}) for node in graph.nodes)
    return compile(replace(graph, nodes=nodes), embedded=plan.embedded)


class _Compiler:
    def __init__(self, graph: Graph, embedded: bool) -> None:
        self.graph, self.embedded = graph, embedded
        self.problems: list[Diagnostic] = []
        self.notes: list[str] = []
        self.specs: dict[str, Spec] = {}
        self.params: dict[str, dict[str, Any]] = {}
        self.nodes = {node.name: node for node in graph.nodes}

    def say(self, path: str, message: str, **facts: str) -> None:
        self.problems.append(self.graph.problem(path, message, **facts))

    def give_up_on_problems(self) -> None:
        if self.problems:
            raise GraphError(self.problems)

    def plan(self) -> Plan:
        graph = self.graph
        if not graph.nodes:
            self.say("", "the graph has no nodes", fix="add [node.NAME] tables, beginning with a source and ending with a sink")
        for node in graph.nodes:
            self._operator(node)
        links = [link for node in graph.nodes if node.name in self.specs for link in self._links(node)]
        self._knobs()
        self._card()
        self.give_up_on_problems()

        order = wire.order(self, links)
        self.give_up_on_problems()
        kept, culled = self._cull(order, links)
        links = [link for link in links if link.node in kept]
        wire.assign_roles(self, order, links)
        lanes = {name: self._lane(self.nodes[name]) for name in order if name in kept}
        in_flight = graph.in_flight or max(IN_FLIGHT[graph.clock], 1 + sum(self.nodes[n].batch - 1 for n in kept))
        wire.assign_policies(self, order, links, lanes, in_flight)
        wire.check_batches(self, links, kept, in_flight)
        self._check_nodes(kept, links)
        self.give_up_on_problems()

        nodes = [self._plan_node(name, lanes[name], place) for place, name in enumerate(n for n in order if n in kept)]
        edges = [link.edge(i) for i, link in enumerate(links)]
        nodes, edges = plan_conversions(nodes, edges, self.specs)
        edges = wire.flag_bounds(edges)
        self.notes += [f"{name} reaches no sink and is left out" for name in culled]
        return Plan(
            name=graph.name, clock=graph.clock, seed=graph.seed, in_flight=in_flight, nodes=tuple(nodes), edges=tuple(edges),
            lanes=_plan_lanes(nodes), budget_ms=graph.budget_ms, govern=graph.govern, memory=dict(graph.memory), embedded=self.embedded,
            culled=tuple(culled), notes=tuple(self.notes), file=graph.file, graph=graph,
        )  # fmt: skip

    # ---- operators and parameters

    def _operator(self, node: Node) -> None:
        path = f"node.{node.name}"
        try:
            spec = self.specs[node.name] = registry.find(node.op)
        except MissingError:
            raise  # a package is missing: nothing is wrong with the graph
        except EngineError as error:
            self.say(f"{path}.op", error.message, fix=error.fix)
            return
        fed = {given.port for given in node.inputs if spec.port(given.port) is None}
        self.params[node.name] = self._validate(spec, node.params, path, skip=fed)

    def _validate(self, spec: Spec, params: Mapping[str, Any], path: str, skip: set[str]) -> dict[str, Any]:
        from pydantic import ValidationError

        model = spec.model()
        try:
            return dict(model(**params))
        except ValidationError as error:
            for item in error.errors():
                where = ".".join(str(part) for part in item["loc"])
                name = str(item["loc"][0]) if item["loc"] else ""
                if item["type"] == "missing" and name in skip and not spec.is_class:
                    continue  # an edge feeds it; its first value arrives with the first frame
                self._param_problem(spec, f"{path}.{where}", name, dict(item))
        return {p.name: params.get(p.name, p.default) for p in spec.params if p.name in params or not p.required}

    def _param_problem(self, spec: Spec, path: str, name: str, item: dict[str, Any]) -> None:
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            fix = registry.suggest(name, [p.name for p in spec.params] + [p.name for p in spec.ports] + [k.name for k in NODE])
            fix = f'{name!r} is a port: write in.{name} = "NODE"' if spec.port(name) else fix or f'"engine ops {spec.name}" lists what it has'
            self.say(path, f"{spec.name} has no parameter {name!r}", fix=fix)
        elif item["type"] == "extra_forbidden":
            self.say(path, f"parameter {name!r} of {spec.name} has no key {item['loc'][-1]!r}")
        elif item["type"] == "missing":
            param = spec.param(name)
            wanted = _type_name(param) if param and len(item["loc"]) == 1 else ""
            self.say(path, f"parameter {item['loc'][-1]!r} of {spec.name} is required", expected=wanted)
        else:
            expected = str(item["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
            self.say(path, f"parameter {name!r} of {spec.name}", expected=expected, found=repr(item.get("input")))

    # ---- references

    def _links(self, node: Node) -> list[Link]:
        spec, links = self.specs[node.name], []
        for given in node.inputs:
            path = f"node.{node.name}.in.{given.port}"
            port, param = spec.port(given.port), spec.param(given.port)
            if port is None and (param is None or not param.live):
                self._no_port(spec, path, given.port, param)
            elif not given.refs:
                links += self._constant(node, spec, given, path)
            elif len(given.refs) > 1 and (port is None or not port.many):
                self.say(path, f"{given.port!r} takes one input", found=f"{len(given.refs)} inputs")
            else:
                many = port is not None and port.many
                for slot, ref in enumerate(given.refs):
                    where = f"{path}.{slot}" if given.listed else path
                    link = self._link(node, given, ref, port, param, where, slot if many else None)
                    links += [link] if link else []
        connected = {link.port for link in links} | {given.port for given in node.inputs}
        for port in spec.ports:
            if not port.optional and port.name not in connected:
                fix = f'add in.{port.name} = "NODE"' + self._candidates(port)
                self.say(f"node.{node.name}", f"port {port.name!r} of {spec.name} is not connected", expected=str(port), fix=fix)
        if spec.ports and all(p.optional for p in spec.ports) and not connected & {p.name for p in spec.ports}:
            self.say(f"node.{node.name}", f"no port of {spec.name} is connected", expected=", ".join(f"in.{p.name}" for p in spec.ports))
        return links

    def _no_port(self, spec: Spec, path: str, name: str, param: Param | None) -> None:
        if param is not None:
            self.say(path, f"parameter {name!r} of {spec.name} is fixed at open and cannot be fed by an edge", fix=f"write {name} = VALUE")
            return
        known = [p.name for p in spec.ports] + [p.name for p in spec.params if p.live]
        fix = f"{spec.name} is a source and takes no input" if spec.source else registry.suggest(name, known)
        self.say(path, f"{spec.name} has no port {name!r}", fix=fix)

    def _constant(self, node: Node, spec: Spec, given: Input, path: str) -> list[Link]:
        port = spec.port(given.port)
        if given.hold is UNSET:
            self.say(path, "neither a node nor a value", fix='write in.PORT = "NODE" or { hold = VALUE }')
            return []
        value = self._hold(node, given, path)
        return [] if value is UNSET else [Link("", "", node.name, given.port, None, given, port is None, "constant", hold=value)]

    def _hold(self, node: Node, given: Input, path: str) -> Any:
        """The value of `hold`, as the payload of its port or as the validated parameter; UNSET when not given or wrong."""
        if given.hold is UNSET:
            return UNSET
        spec = self.specs[node.name]
        port = spec.port(given.port)
        if port is None:
            before = len(self.problems)
            checked = self._validate(spec, {**self.params[node.name], given.port: given.hold}, path.rpartition(".in.")[0], set())
            return checked[given.port] if len(self.problems) == before else UNSET
        try:
            return from_plain(port.type, given.hold)
        except ValueError as error:
            self.say(f"{path}.hold", str(error), expected=str(port), found=type(given.hold).__name__)
            return UNSET

    def _link(
        self, node: Node, given: Input, ref: Ref, port: Port | None, param: Param | None, path: str, slot: int | None
    ) -> Link | None:  # fmt: skip
        if ref.node not in self.nodes:
            self.say(path, f"there is no node {ref.node!r}", fix=registry.suggest(ref.node, sorted(self.nodes)))
            return None
        producer = self.specs.get(ref.node)
        if producer is None:
            return None  # its operator is unknown, which has been said
        if ref.delay not in (0, -1):
            self.say(path, "a carry reaches back one frame", expected="@-1", found=f"@{ref.delay}")
            return None
        output = self._output(producer, ref, path)
        if output is None or not self._types_fit(node, given, ref, output, port, param, path):
            return None
        hold = self._hold(node, given, path)
        if ref.delay and port is not None and not port.optional and hold is UNSET:
            self.say(path, "a carry needs a start", expected=f"{port.name}: {port} | None", found=str(port), fix="give hold = VALUE")
        if given.map is not None and (param is None or param.kind not in (int, float)):
            self.say(path, "map works on a number that feeds a live parameter", found=str(port or (_type_name(param) if param else "")))
        return Link(ref.node, output.name, node.name, given.port, slot, given, port is None, "carry" if ref.delay else "", hold=hold)

    def _output(self, producer: Spec, ref: Ref, path: str) -> Output | None:
        if producer.sink:
            self.say(path, f"{ref.node} is a sink and has no output", found=producer.name)
        elif ref.output is None:
            return producer.outputs[0]
        elif producer.output(ref.output) is None:
            known = [o.name for o in producer.outputs]
            self.say(path, f"{producer.name} has no output {ref.output!r}", fix=registry.suggest(ref.output, known))
        else:
            return producer.output(ref.output)
        return None

    def _types_fit(
        self, node: Node, given: Input, ref: Ref, output: Output, port: Port | None, param: Param | None, path: str
    ) -> bool:  # fmt: skip
        if port is not None:
            if issubclass(output.type, port.type):
                return True
            expected = str(port)
            known = map(registry.find, registry.all_names())
            bridge = next((s for s in known if s.outputs and s.outputs[0].type is port.type and _takes(s, output.type)), None)
            other = next((o for o in self.specs[ref.node].outputs if issubclass(o.type, port.type)), None)
            fix = f'write "{ref.node}.{other.name}"' if other else f'add a node with op = "{bridge.name}" between them' if bridge else ""
        else:
            assert param is not None
            kind = param.kind
            if (kind in (int, float) and output.type is Scalar) or (kind is str and output.type in (Text, Prompt)):
                return True
            expected, fix = f"Scalar for {_type_name(param)}" if kind in (int, float) else "Text or Prompt", ""
        self.say(path, f"{ref} does not fit", expected=expected, found=f"{output.type.__name__} from {ref.node}.{output.name}", fix=fix)
        return False

    def _candidates(self, port: Port) -> str:
        nodes = [name for name, spec in self.specs.items() if any(issubclass(o.type, port.type) for o in spec.outputs)]
        return f" (of that type: {', '.join(nodes)})" if nodes else ""

    # ---- whole-graph checks

    def _card(self) -> None:
        if "card" in self.graph.memory:
            try:
                cards.find(str(self.graph.memory["card"]))
            except UsageError as error:
                self.say("memory.card", error.message, fix=error.fix)

    def _knobs(self) -> None:
        for i, rule in enumerate(self.graph.govern.knobs):
            path, (name, _, key) = f"govern.knob.{i}", rule.set.partition(".")
            spec = self.specs.get(name)
            param = spec.param(key) if spec else None
            if name not in self.nodes:
                self.say(path, f"there is no node {name!r}", fix=registry.suggest(name, sorted(self.nodes)))
            elif spec is None:
                continue
            elif param is None or not param.knob:
                knobs = [p.name for p in spec.params if p.knob]
                self.say(path, f"{spec.name} has no knob {key!r}", fix=registry.suggest(key, knobs))
            elif any(given.port == key for given in self.nodes[name].inputs if spec.port(given.port) is None):
                self.say(path, f"{rule.set} is fed by an edge, and the governor would fight with it", fix="leave the edge out, or the knob")
            else:
                for value in [*(rule.range or ()), *rule.choices]:
                    self._validate(spec, {**self.params[name], key: value}, f"node.{name}", set())
                if (rule.range is None) == (not rule.choices):
                    self.say(path, "a knob has either a range or choices", fix="write range = [WORST, BEST] or choices = [BEST, …]")
                if rule.follow and not all(isinstance(value, (int, float)) for value in rule.choices):
                    self.say(f"{path}.follow", "only a knob of numbers can follow a signal", found=str(list(rule.choices)))
                self._follow(path, rule.follow)

    def _follow(self, path: str, signal: str | None) -> None:
        if signal is None:
            return
        name, _, output = signal.partition(".")
        spec = self.specs.get(name)
        found = next((o for o in spec.outputs if o.name == output), None) if spec else None
        if found is None or found.type is not Scalar:
            scalars = [f"{n}.{o.name}" for n, s in self.specs.items() for o in s.outputs if o.type is Scalar]
            self.say(f"{path}.follow", f"there is no signal {signal!r}", expected="a Scalar output", fix=registry.suggest(signal, scalars))

    def _cull(self, order: list[str], links: list[Link]) -> tuple[set[str], list[str]]:
        feeding: dict[str, list[str]] = {}
        for link in links:
            if link.source:
                feeding.setdefault(link.node, []).append(link.source)
        sinks = [name for name in order if self.specs[name].sink]
        if not sinks:
            self.say("", "the graph has no sink, so nothing would come out", fix='add one, such as op = "sink.video"')
        kept = reach(sinks, feeding)
        return kept, [name for name in order if name not in kept]

    def _lane(self, node: Node) -> str:
        spec = self.specs[node.name]
        if spec.source:
            return node.lane or f"in:{node.name}"
        return node.lane or spec.lane or ("out" if spec.sink else "main")

    def _check_nodes(self, kept: set[str], links: list[Link]) -> None:
        lanes: dict[str, str] = {}
        for name in sorted(kept):
            node, spec, path = self.nodes[name], self.specs[name], f"node.{name}"
            if spec.source and node.lane:
                if node.lane in lanes or node.lane in {self._lane(self.nodes[o]) for o in kept if o != name}:
                    self.say(f"{path}.lane", f"a source has its lane to itself, and {node.lane!r} is taken")
                lanes[node.lane] = name
            if spec.inplace is not None:
                for link in links:
                    readers = [o for o in links if (o.source, o.output) == (link.source, link.output)]
                    if link.node == name and link.port == spec.inplace and len(readers) > 1:
                        others = ", ".join(o.node for o in readers if o is not link)
                        self.say(f"{path}.in.{link.port}", f"{spec.name} writes to its input, which others still read", found=others,
                                 fix='put op = "image.copy" before it')  # fmt: skip

    def _plan_node(self, name: str, lane: str, order: int) -> PlanNode:
        node, spec = self.nodes[name], self.specs[name]
        kind = "source" if spec.source else "sink" if spec.sink else "node"
        return PlanNode(
            name, node.op, spec.version, self.params[name], lane, order, kind, on_error=node.on_error or "fail", max_errors=node.max_errors,
            batch=node.batch, process=node.process, given=tuple(sorted(node.params)),
        )  # fmt: skip


def _takes(spec: Spec, kind: type) -> bool:
    return bool(spec.ports) and issubclass(kind, spec.ports[0].type) and all(p.optional for p in spec.ports[1:])


def _type_name(param: Param) -> str:
    return param.kind.__name__ if isinstance(param.kind, type) else str(param.kind).replace("typing.", "")


def _plan_lanes(nodes: list[PlanNode]) -> tuple[PlanLane, ...]:
    lanes: dict[str, list[PlanNode]] = {}
    for node in nodes:
        lanes.setdefault(node.lane, []).append(node)
    return tuple(
        PlanLane(name, tuple(n.name for n in members), -1 if name == "main" else 0, members[0].kind == "source")
        for name, members in lanes.items()
    )

