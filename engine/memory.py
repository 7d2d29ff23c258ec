"""Which models stay on the card, which are moved away between uses, and how much that needs at the worst moment.

`plan_memory` is pure: outlooks and a budget in, decisions out. Models that cost least to move are moved first: their size over the
bus, as often as they are used; the network that runs on every step never moves. A model nobody waits for may have to compute on the
processor. What still does not fit then is said, not hidden. It knows sizes and rates of use, not what the models are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from engine.keys import SIZE
from engine.outlook import Outlook, Weights, outlooks
from engine.plan import Plan

RESERVE = 600 * 2**20  # the driver's context, libraries' workspaces and fragments: a guess until measured on the card
BUS = 12e9  # bytes a second from pinned memory over PCIe 3.0 x16, about
POWERS = "KMGT"


@dataclass(frozen=True, slots=True)
class Placement:
    """`how`: "resident"; "offload": on the card only while it works; "host": computes on the processor."""

    node: str
    weights: Weights
    how: str

    @property
    def bus_ms(self) -> float:
        """Milliseconds a frame, on average, that moving it in costs; nothing needs to be copied back."""
        return 0.0 if self.how != "offload" else 1e3 * self.weights.bytes * min(1.0, self.weights.per_frame) / BUS


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`peak`: bytes at the worst moment, reserve included. `fits`: None where no budget is known."""

    placements: tuple[Placement, ...]
    activations: int
    peak: int
    budget: int | None

    @property
    def fits(self) -> bool | None:
        return None if self.budget is None else self.peak <= self.budget

    def offloaded(self, node: str) -> frozenset[str]:
        """Names of the models of `node` that are moved away between uses."""
        return frozenset(p.weights.name for p in self.placements if p.node == node and p.how == "offload")

    def on_host(self, node: str) -> bool:
        """Whether `node` has to compute on the processor."""
        return any(p.node == node and p.how == "host" for p in self.placements)


def plan_memory(outlooks: Mapping[str, Outlook], budget: int | None) -> MemoryPlan:
    """Decide for every model. Without a budget all are resident."""
    models = [(node, weights) for node, outlook in outlooks.items() for weights in outlook.weights]
    activations = max((outlook.activations for outlook in outlooks.values()), default=0)
    how = ["resident"] * len(models)
    # What costs least to move first, and never the one that costs most: it is the network that runs on every step.
    order = sorted(range(len(models)), key=lambda i: (min(1.0, models[i][1].per_frame) * models[i][1].bytes, i))[: max(0, len(models) - 1)]

    def peak() -> int:
        stay = sum(w.bytes for (_, w), h in zip(models, how, strict=True) if h == "resident")
        visit = max((w.bytes for (_, w), h in zip(models, how, strict=True) if h == "offload"), default=0)
        return stay + visit + activations + RESERVE

    def give_way(to: str, among: list[int]) -> None:
        for i in among:
            if budget is None or peak() <= budget:
                return
            how[i] = to

    give_way("offload", order)
    give_way("host", [i for i in order if models[i][1].anywhere])
    for i in reversed(order):  # what moved before a big one went to the host may come back
        before, how[i] = how[i], "resident" if how[i] == "offload" else how[i]
        if budget is not None and peak() > budget:
            how[i] = before
    placements = tuple(Placement(node, w, h) for (node, w), h in zip(models, how, strict=True))
    return MemoryPlan(placements, activations, peak(), budget)


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
        return plan_memory(said, size_of(str(plan.memory["vram"])))
    import torch

    return plan_memory(said, int(torch.cuda.get_device_properties(torch.device(device)).total_memory))


def measured_peak(device: str) -> int | None:
    """Bytes that torch's allocator held at most on `device` since the process began; None on the host."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return None
    return int(torch.cuda.max_memory_reserved(torch.device(device)))


def size_of(text: str) -> int:
    """Bytes of a size as a graph writes it: "6GB", "5.5 GiB". Raises ValueError."""
    if SIZE.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is no size; write 6GB or 6000MB")
    number, unit = re.split(r"(?<=[\d.])\s*(?=[A-Z])", text.strip())
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** (POWERS.find(unit[0]) + 1))
