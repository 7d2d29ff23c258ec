"""What a node says, before anything runs, about what it will load and compute: the raw material of the memory plan and of predicted rates.

An operator answers `Operator.outlook` from its parameters and from files on disk alone, without torch. Numbers are exact where they were
read or counted, and say so where they were not. This module only holds the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine import registry

if TYPE_CHECKING:
    from engine.plan import Plan


@dataclass(frozen=True, slots=True)
class Asked:
    """What an operator is asked about: its parameters, what feeds it, and how far the fed ones may go.

    `fed`: live parameter to the (least, most) value that its edge can bring, or None where nobody knows. `every`: one call in so many frames.
    `batch`: as many frames are gathered into a call.
    """

    params: Mapping[str, Any]
    inputs: frozenset[str] = frozenset()
    fed: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    embedded: bool = False
    every: int = 1
    batch: int = 1

    def range(self, param: str) -> tuple[float, float]:
        """The least and the most a number can be."""
        value = self.params.get(param)
        return self.fed.get(param) or (value, value)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to keep a model, called `how`: bytes that stay on the card, that visit it while the model works, and of activations (`live`).
    `pool`: of memory that work recorded in advance has for itself, whether it runs or not.

    `cost_ms`: what it adds to a frame, estimated; the memory plan takes what costs least. `alters`: what comes out is not quite the same, so
    whatever nobody waits for gives way first. `says`: the way in words. The operator finds `how` in `Site.placed`; "resident", "offload" and
    "host" the engine knows, any other name is between the operator and itself.
    """

    how: str
    stays: int = 0
    visits: int = 0
    live: int = 0
    pool: int = 0
    cost_ms: float = 0.0
    alters: bool = False
    says: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """One model on the device. `exact`: `bytes` were read from the file's header. `per_frame`: how often it is used a frame. `anywhere`: it may
    compute on the host's processor instead, because nobody waits for it. `ways`: how it may be kept, the first where there is room; none: it
    may be moved between uses."""

    name: str
    bytes: int
    exact: bool = False
    per_frame: float = 1.0
    anywhere: bool = False
    ways: tuple[Way, ...] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """`activations`: bytes at the peak of a call. `tflop`: (least, most) a frame, 1 multiply-add = 2 FLOP. `evaluations`: full passes of the
    main network a frame, likewise. `notes`: what a reader should know. `spares`: ways to compute with fewer activations. `counts`: what a frame
    is made of, in words, likewise. `behind`: (least, most) younger frames that a frame waits for. `together`: frames computed in one call.
    `pool`: as of a `Way`, with `activations`. `kept`: bytes that lie there from frame to frame besides, by what they are."""

    weights: tuple[Weights, ...] = ()
    activations: int = 0
    tflop: tuple[float, float] = (0.0, 0.0)
    evaluations: tuple[float, float] = (0.0, 0.0)
    notes: tuple[str, ...] = ()
    spares: tuple[Way, ...] = ()
    counts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    behind: tuple[int, int] = (0, 0)
    together: int = 1
    pool: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)


def outlooks(plan: Plan) -> dict[str, Outlook]:
    """Node name to what its operator says; nodes that say nothing are left out."""
    found: dict[str, Outlook] = {}
    for node in plan.nodes:
        ask = getattr(registry.find(node.op).target, "outlook", None) if node.kind != "convert" else None
        if ask is None:
            continue
        edges = [edge for edge in plan.edges if edge.node == node.name]
        fed = {e.port: tuple(sorted(e.map)) if e.map else None for e in edges if e.feeds == "param"}
        every = max((e.every for e in edges if e.role == "trigger"), default=1)
        ports = frozenset(e.port for e in edges if e.feeds == "port")
        answer: Outlook | None = ask(Asked(node.params, ports, fed, plan.embedded, every, node.batch))  # type: ignore[arg-type]
        if answer is not None:
            found[node.name] = answer
    return found
