"""Which parameters of diffusion.stream stand for which technique, and what is measured of each.

A technique is named by the parameter that turns it on. Names that this version of the operator does not know make the line a skipped one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# parameter: (on, off)
GRAPHS: dict[str, tuple[Any, Any]] = {"graphs": ("auto", "off")}
REUSES: dict[str, dict[str, Any]] = {
    "reuse 2, cut 1": {"reuse": {"every": 2, "cut": 1}},
    "reuse 3, cut 1": {"reuse": {"every": 3, "cut": 1}},
    "reuse 3, cut 0": {"reuse": {"every": 3, "cut": 0}},
    "reuse 5, cut 1": {"reuse": {"every": 5, "cut": 1}},
    "reuse 3, cut 1, 4 frames": {"reuse": {"every": 3, "cut": 1, "frames": 4, "motion": 1.0}},
}
# frames or rows of one pass, and the parameters
BATCHES: dict[str, tuple[int, dict[str, Any]]] = {
    "stream batch": (4, {"batching": {"stream": True}}), "frame batch 4": (4, {"batching": {}}), "frame batch 8": (8, {"batching": {}}),
}
COMPILED: dict[str, Any] = {"compile": "blocks"}


def chosen(wish: Mapping[str, Any], *, off: bool = False) -> dict[str, Any]:
    """Parameters for `wish`. Of those given as (on, off) the default is left alone where turning off is meant and there is nothing to turn."""
    from bench.gpu.paint import known, needs

    found = {}
    for name, value in wish.items():
        if isinstance(value, tuple):
            if off and known(name) is None:
                continue
            value = value[1] if off else value[0]
        needs(name)
        found[name] = value
    return found


def wished(wish: Mapping[str, Any]) -> dict[str, Any]:
    """Like `chosen`, without what this version does not know."""
    from bench.gpu.paint import known

    return chosen({name: value for name, value in wish.items() if known(name) is not None})


EIGHTS: dict[str, dict[str, Any]] = {
    "kept in 8-bit floats": {"placement": {"unet": "fp8", "controlnets": "fp8"}}, "moved in layer by layer": {"placement": {"unet": "group"}},
    "quantised to 8 bits": {"quantise": {"bits": 8}},
}


def presets() -> dict[str, str]:
    """The hashes of the plans that ship, so that a result says which graphs it was made with."""
    from engine.planning.compile import compile
    from engine.text.layers import shipped_graphs
    from engine.text.load import load

    return {name: compile(load(name)).hash for name in sorted(shipped_graphs()) if name.startswith("live_")}
