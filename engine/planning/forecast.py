"""What a plan will cost on a card: operations a frame, the rate that physics allows, the memory at its worst moment.

A forecast is arithmetic on what operators say of themselves (`engine.planning.outlook`), on the memory plan and on a card's rates. It is
printed by `engine plan`, and a graph that asks for more than the card can do is told so there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.plan import Plan
from engine.planning import cards
from engine.planning.memory import MemoryPlan, orders, plan_memory, size_of
from engine.planning.outlook import Outlook, Way, outlooks

GB = 1e9
HOW = {"resident": "stays", "offload": "moved in for each use", "host": "computes on the processor"}


@dataclass(frozen=True)
class Forecast:
    """`tflop`: (least, most) a frame over all nodes. `warnings`: what cannot work as it is written."""

    nodes: Mapping[str, Outlook]
    memory: MemoryPlan
    tflop: tuple[float, float]
    card: cards.Card | None
    target_fps: float | None
    warnings: tuple[str, ...]

    def fps(self, rate: float) -> tuple[float, float]:
        """(least, most) frames a second at `rate` TFLOP/s."""
        low, high = self.tflop
        return (rate / high if high else 0.0, rate / low if low else 0.0)

    def reached(self, card: cards.Card) -> tuple[float, float]:
        """(least, most) frames a second at the rates that programs have reached on `card`."""
        return (self.fps(card.reached[0])[0], self.fps(card.reached[1])[1])

    def latency_ms(self, rate: float) -> tuple[float, float]:
        """(least, most) ms from a frame's start to its picture at `rate` TFLOP/s, where frames come as fast as they are made: its own work,
        that of the younger frames that it waits for, and that of those it is computed with."""

        def frames(which: int) -> float:
            return 1 + sum(node.behind[which] + node.together - 1 for node in self.nodes.values())

        return (1e3 * frames(0) * self.tflop[0] / rate, 1e3 * frames(1) * self.tflop[1] / rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        whole, spared = self.memory.whole, {node: asdict(way) for node, way in self.memory.spared}
        memory = {"peak": self.memory.peak, "budget": self.memory.budget, "fits": self.memory.fits, "whole": whole, "spared": spared}
        placed = [{**asdict(p), "how": p.how, "bus_ms": round(p.bus_ms, 2)} for p in self.memory.placements]
        fps = {
            card.name: {"limit": self.fps(card.peak), "reached": self.reached(card), "latency_ms": self.latency_ms(card.peak)}
            for card in self._cards()
        }  # fmt: skip
        return {
            "nodes": {name: asdict(o) for name, o in self.nodes.items()}, "tflop": self.tflop, "card": self.card.name if self.card else None,
            "fps": fps if self.tflop[1] else {}, "memory": {**memory, "placements": placed}, "warnings": list(self.warnings),
        }  # fmt: skip

    def _cards(self) -> tuple[cards.Card, ...]:
        return (self.card,) if self.card else cards.CARDS

    def __str__(self) -> str:
        lines = ["\ncost of a frame"]
        for name, node in self.nodes.items():
            if node.tflop[1]:
                lines.append(f"  {name}: {_span(node.evaluations)} full evaluations, {_span(node.tflop, 2)} TFLOP")
            if node.counts:
                lines.append("    " + ", ".join(f"{_count(pair)} {what}" for what, pair in node.counts.items()))
            if node.behind[1]:
                with_them = f", and is computed with {node.together - 1} others" if node.together > 1 else ""
                lines.append(f"    a picture waits for {_count(node.behind)} younger frames{with_them}")
        if self.tflop[1]:
            lines.append("  on           at most fps    reached by tuned programs    latency, ms at least")
            for card in self._cards():
                reached, latency = _span(self.reached(card)), _span(self.latency_ms(card.peak), 0)
                lines.append(f"  {card.name:12} {_span(self.fps(card.peak)):14} {reached:28} {latency}")
        budget = f" of {self.memory.budget / GB:.2f}" if self.memory.budget else ""
        lines.append(f"memory on the card: {self.memory.peak / GB:.2f}{budget} GB at the worst moment")
        if self.memory.whole > self.memory.peak:
            lines.append(f"  all of it as is best would take {self.memory.whole / GB:.2f} GB; what costs a frame least gave way first")
        for p in self.memory.placements:
            size = f"{p.weights.bytes / GB:6.2f} GB" if p.weights.bytes else "     ? GB"
            source = "size from its file" if p.weights.exact else "size from the table" if p.weights.bytes else "size not known"
            lines.append(f"  {size}  {p.node + ' ' + p.weights.name:22} {_told(p.way)} ({source})")
        lines.append(f"  {self.memory.activations / GB:6.2f} GB  activations")
        lines += [f"           {node}: {_told(way)}" for node, way in self.memory.spared]
        if self.memory.pools:
            lines.append(f"  {self.memory.pools / GB:6.2f} GB  captured steps, at most: the largest one's activations once more")
        lines += [f"  {size / GB:6.2f} GB  {node + ' ' + what:22} kept from frame to frame" for node, what, size in self.memory.kept]
        lines.append(f"  {self.memory.reserve / GB:6.2f} GB  kept back for the driver, libraries and fragments")
        lines += [f"  note: {note}" for node in self.nodes.values() for note in node.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def forecast(plan: Plan, card: str | None = None) -> Forecast:
    """The forecast of `plan` on `card`, or on the card its [memory] names. Raises UsageError for a card nobody knows."""
    said = outlooks(plan)
    named = card or plan.memory.get("card")
    known = cards.find(str(named)) if named else None
    budget = size_of(str(plan.memory["vram"])) if "vram" in plan.memory else known.memory if known else None
    memory = plan_memory(said, budget, **orders(plan.memory))
    tflop = (sum(o.tflop[0] for o in said.values()), sum(o.tflop[1] for o in said.values()))
    target = plan.govern.target_fps if plan.live else None
    made = Forecast(said, memory, tflop, known, target, ())
    warnings = []
    if known is not None and target and tflop[1]:
        slow, quick = made.fps(known.peak)
        if quick < target:
            warnings.append(f"{target:g} fps cannot be had on {known.name}: at most {quick:.2g} at its full rate; take fewer steps")
        elif slow < target:
            warnings.append(f"at its greatest strength a frame allows at most {slow:.2g} fps on {known.name}, the target is {target:g}")
    if memory.fits is False:
        warnings.append(f"{memory.peak / GB:.2f} GB are needed and {(budget or 0) / GB:.2f} GB are there; take a smaller size or model")
    return Forecast(said, memory, tflop, known, target, tuple(warnings))


def _told(way: Way) -> str:
    """A way in words: what is done, what stays on the card where that is not the whole, what it costs."""
    cost = f", about {way.cost_ms:.1f} ms a frame" if way.cost_ms and way.how != "host" else ""
    stays = f", {(way.stays + way.visits) / GB:.2f} GB on the card" if way.says and way.stays else ""
    return (way.says or HOW.get(way.how, way.how)) + stays + cost


def _count(pair: tuple[float, float]) -> str:
    low, high = (f"{value:.0f}" if value == round(value) else f"{value:.1f}" for value in pair)
    return low if low == high else f"{low} to {high}"


def _span(pair: tuple[float, float], digits: int = 1) -> str:
    low, high = (f"{value:.{digits}f}" for value in pair)
    return low if low == high else f"{low} to {high}"
