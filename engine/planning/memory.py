"""How each model is kept: on the card all the time, off it between uses, in another form, or computing on the host; and the peak of it all.

`plan_memory` is pure: outlooks and a budget in, decisions out. Where there is no room for everything as it would be best, the step that costs
a frame least is taken first, then the next, until all of it fits; then whatever turned out not to be needed is taken back, the dearest
first. What still does not fit is said, not hidden. It knows sizes and costs, not what the models are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.plan import Plan
from engine.planning.outlook import Outlook, Way, Weights, outlooks
from engine.text.keys import SIZE

RESERVE = 600 * 2**20  # the driver's context, libraries' workspaces and fragments: a guess until measured on the card
BUS = 12e9  # bytes a second from pinned memory over PCIe 3.0 x16, about
HOST_MS = 20.0  # what a model on the host is taken to cost frames: cores that decode and encode want too
ALTERS_MS = 25.0  # how much dearer a way counts that changes what comes out: more than that, so that it comes after it
POWERS = "KMGT"


@dataclass(frozen=True, slots=True)
class Placement:
    """`how` a model of `node` is kept: "resident"; "offload": on the card only while it works; "host": computes on the processor; or a way of
    the operator's own (`Way`)."""

    node: str
    weights: Weights
    way: Way

    @property
    def how(self) -> str:
        return self.way.how

    @property
    def bus_ms(self) -> float:
        """Milliseconds a frame, on average, that moving it in costs; nothing needs to be copied back."""
        return self.way.cost_ms if self.how == "offload" else 0.0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`activations`: bytes, all nodes together, for lanes compute at once. `spared`: nodes told how to do with fewer. `peak`: bytes at the
    worst moment, `reserve` included; `whole`: that with everything kept as is best. `pools`: bytes that recorded work has for itself. `kept`:
    node, what lies there from frame to frame, its bytes. `fits`: None where no budget is known."""

    placements: tuple[Placement, ...]
    activations: int
    peak: int
    budget: int | None
    reserve: int = RESERVE
    whole: int = 0
    spared: tuple[tuple[str, Way], ...] = ()
    pools: int = 0
    kept: tuple[tuple[str, str, int], ...] = ()

    @property
    def fits(self) -> bool | None:
        return None if self.budget is None else self.peak <= self.budget

    def placed(self, node: str) -> dict[str, str]:
        """How the models of `node` are kept, by name; "activations" where these are to be spared."""
        spared = dict(self.spared).get(node)
        return {p.weights.name: p.how for p in self.placements if p.node == node} | ({"activations": spared.how} if spared else {})

    def on_host(self, node: str) -> bool:
        """Whether `node` has to compute on the processor."""
        return any(p.node == node and p.how == "host" for p in self.placements)


def plan_memory(
    outlooks: Mapping[str, Outlook], budget: int | None, *, reserve: int = RESERVE, forbid: Collection[str] = ()
) -> MemoryPlan:
    """Decide for every model. Without a budget all are kept as is best. `forbid`: ways that must not be chosen."""
    models = [(node, weights) for node, outlook in outlooks.items() for weights in outlook.weights]
    busiest = max(range(len(models)), key=lambda i: (_move_ms(models[i][1]), i), default=-1)
    found = [_ways(weights, i != busiest) for i, (_, weights) in enumerate(models)]
    found += [(Way("whole", live=outlook.activations, pool=outlook.pool), *outlook.spares) for outlook in outlooks.values()]
    kept = tuple((node, what, size) for node, outlook in outlooks.items() for what, size in outlook.kept.items() if size)
    always = reserve + sum(size for _, _, size in kept)
    ways = [(first, *(way for way in rest if not any(each in forbid for each in way.how.split("+")))) for first, *rest in found]
    at = [0] * len(ways)

    def peak() -> int:
        chosen = [mine[k] for mine, k in zip(ways, at, strict=True)]
        return sum(w.stays + w.live + w.pool for w in chosen) + max((w.visits for w in chosen), default=0) + always

    def fits() -> bool:
        return budget is None or peak() <= budget

    whole = peak()
    for _, i, k in sorted((_price(way), i, k) for i, mine in enumerate(ways) for k, way in enumerate(mine) if k):
        if fits():
            break
        if _weight(ways[i][k]) < _weight(ways[i][at[i]]):
            at[i] = k
    for i in sorted(range(len(ways)), key=lambda i: -_price(ways[i][at[i]])) if fits() else ():
        now = at[i]
        for k in sorted(range(len(ways[i])), key=lambda k: (_price(ways[i][k]), k)):
            if k == now:
                break
            at[i] = k
            if fits():
                break
            at[i] = now
    chosen = [mine[k] for mine, k in zip(ways, at, strict=True)]
    placements = tuple(Placement(node, weights, way) for (node, weights), way in zip(models, chosen, strict=False))
    rest = list(zip(outlooks, chosen[len(models) :], strict=True))
    spared = tuple((node, way) for node, way in rest if way.how != "whole")
    live, pools = (sum(each) for each in zip(*((way.live, way.pool) for _, way in rest), strict=True)) if rest else (0, 0)
    return MemoryPlan(placements, live, peak(), budget, reserve, whole, spared, pools, kept)


def _ways(weights: Weights, moves: bool) -> tuple[Way, ...]:
    """How a model may be kept. What runs on every step, and is not said to have other ways, does not move."""
    if weights.ways:
        return weights.ways
    away = (Way("offload", visits=weights.bytes, cost_ms=_move_ms(weights)),) if moves else ()
    return (Way("resident", stays=weights.bytes), *away, *((Way("host", cost_ms=HOST_MS),) if weights.anywhere else ()))


def _move_ms(weights: Weights) -> float:
    return 1e3 * weights.bytes * min(1.0, weights.per_frame) / BUS


def _price(way: Way) -> float:
    return way.cost_ms + (ALTERS_MS if way.alters else 0.0)


def _weight(way: Way) -> float:
    """Bytes, where those of a visit count little: models take turns."""
    return way.stays + way.live + way.pool + way.visits / 4


def orders(memory: Mapping[str, Any]) -> dict[str, Any]:
    """What the section [memory] of a graph asks of the planner besides the budget."""
    said = {"reserve": size_of(str(memory["headroom"]))} if "headroom" in memory else {}
    return {**said, "forbid": frozenset(memory.get("forbid", ()))}


def memory_of(plan: Plan, device: str) -> MemoryPlan | None:
    """The memory plan of a session on `device`: within [memory] vram, else what the card has. None on the host, where nothing is planned
    unless the graph names a budget."""
    on_card = device.startswith("cuda")
    if not on_card and "vram" not in plan.memory:
        return None
    said = outlooks(plan)
    if not said:
        return None
    if "vram" in plan.memory:
        return plan_memory(said, size_of(str(plan.memory["vram"])), **orders(plan.memory))
    import torch

    total = int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    return plan_memory(said, total, **orders(plan.memory))


def measured_peak(device: str) -> tuple[int, int] | None:
    """Bytes that tensors took at most on `device` since the process began, and that torch's allocator held for them; None on the host."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return None
    at = torch.device(device)
    return int(torch.cuda.max_memory_allocated(at)), int(torch.cuda.max_memory_reserved(at))


def size_of(text: str) -> int:
    """Bytes of a size as a graph writes it: "6GB", "5.5 GiB". Raises ValueError."""
    if SIZE.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is no size; write 6GB or 6000MB")
    number, unit = re.split(r"(?<=[\d.])\s*(?=[A-Z])", text.strip())
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** (POWERS.find(unit[0]) + 1))
