"""Afterimage: a frame-graph engine for live diffusion."""

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

__version__ = "0.1.0"

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
    "Stamped",
    "StreamInfo",
    "UsageError",
    "operator",
]
