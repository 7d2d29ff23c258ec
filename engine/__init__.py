"""Afterimage: a frame-graph engine for live diffusion.

`load`, `compile` and `Session` are the way of a graph from its file to frames; they are imported when asked for, so that `import engine` costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import (
    Diagnostic,
    EngineError,
    GraphError,
    MissingError,
    OperatorError,
    ParamError,
    RunError,
    UsageError,
)
from engine.operator import Format, Knob, Live, Operator, Range, Stamped, StreamInfo, operator

if TYPE_CHECKING:
    from engine.planning.compile import compile
    from engine.session import Session
    from engine.text.load import load

__version__ = "0.1.0"

_LATER = {"load": "engine.text.load", "compile": "engine.planning.compile", "Session": "engine.session"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "Diagnostic",
    "EngineError",
    "Format",
    "GraphError",
    "Knob",
    "Live",
    "MissingError",
    "Operator",
    "OperatorError",
    "ParamError",
    "Range",
    "RunError",
    "Session",
    "Stamped",
    "StreamInfo",
    "UsageError",
    "compile",
    "load",
    "operator",
]
