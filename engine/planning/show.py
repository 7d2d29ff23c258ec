"""A plan for people: as text, and as a Mermaid or Graphviz drawing."""

from __future__ import annotations

from engine.graph import UNSET
from engine.plan import Edge, Plan


def plan_text(plan: Plan) -> str:
    """What runs where, in what order, and how every edge behaves."""
    head = f"{plan.name}: {plan.clock} clock, {plan.in_flight} frames in flight, seed {plan.seed}"
    lines = [head + (f", budget {plan.budget_ms:g} ms" if plan.budget_ms else "") + (", embedded models" if plan.embedded else "")]
    for lane in plan.lanes:
        lines.append(f"\nlane {lane.name}" + (" (one source)" if lane.source else ""))
        for name in lane.nodes:
            node = plan.node(name)
            extra = [f"batch {node.batch}" if node.batch > 1 else "", "own process" if node.process else ""]
            extra += [f"on_error {node.on_error}" if node.on_error != "fail" else ""]
            given = ", ".join(f"{k} = {_short(v)}" for k, v in node.params.items() if k in node.given or node.kind == "convert")
            tail = "  ".join(part for part in (f"[{given}]" if given else "", ", ".join(e for e in extra if e)) if part)
            lines.append(f"  {node.order:2d} {name}  {node.op}" + (f"  {tail}" if tail else ""))
            lines += [f"       {edge}" + ("  [crosses lanes]" if edge.crosses else "") for edge in plan.edges if edge.node == name]
    if plan.govern.knobs:
        aim = f" for {plan.govern.target_fps:g} fps" if plan.govern.target_fps else ""
        knobs = ", ".join(f"{k.set} {list(k.range) if k.range else list(k.choices)}" for k in plan.govern.knobs)
        lines.append(f"\ngovernor{aim}: {knobs}")
    lines += [f"\nnote: {note}" for note in plan.notes]
    bound = sum(e.cap for e in plan.edges if e.role != "constant")
    lines.append(f"\nat most {plan.in_flight} frames per source under way, {bound} packets queued in all; plan {plan.hash[:12]}")
    return "\n".join(lines)


def mermaid(plan: Plan) -> str:
    """The plan as a Mermaid flowchart: lanes as boxes, carries and holds dashed."""
    ids = {node.name: f"n{node.order}" for node in plan.nodes}
    lines = ["flowchart LR"]
    for i, lane in enumerate(plan.lanes):
        lines.append(f'  subgraph l{i}["lane {lane.name}"]')
        lines += [f'    {ids[name]}["{name}<br/>{plan.node(name).op}"]' for name in lane.nodes]
        lines.append("  end")
    for edge in plan.edges:
        if edge.role != "constant":
            arrow = "-.->" if edge.role in ("carry", "hold") else "-->"
            lines.append(f'  {ids[edge.source]} {arrow}|"{_label(edge)}"| {ids[edge.node]}')
    return "\n".join(lines)


def dot(plan: Plan) -> str:
    """The plan in Graphviz' language."""
    lines = [f'digraph "{plan.name}" {{', "  rankdir=LR; node [shape=box, style=rounded];"]
    for i, lane in enumerate(plan.lanes):
        lines.append(f'  subgraph cluster_{i} {{ label="lane {lane.name}";')
        lines += [f'    "{name}" [label="{name}\\n{plan.node(name).op}"];' for name in lane.nodes]
        lines.append("  }")
    for edge in plan.edges:
        if edge.role != "constant":
            style = "dashed" if edge.role in ("carry", "hold") else "solid"
            lines.append(f'  "{edge.source}" -> "{edge.node}" [label="{_label(edge)}", style={style}];')
    return "\n".join([*lines, "}"])


def _label(edge: Edge) -> str:
    parts = [edge.port, edge.role if edge.role not in ("trigger", "exact") else "", edge.policy if edge.lossy else ""]
    return " ".join([*(p for p in parts if p), *([f"every {edge.every}"] if edge.every > 1 else [])])


def _short(value: object) -> str:
    text = "—" if value is UNSET else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
