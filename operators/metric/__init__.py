"""Meters that run in a graph: flicker, warp error, drift, identity. They watch pictures and answer with numbers, live or offline."""

from operators.metric import drift, flicker, identity, warp

__all__ = ["drift", "flicker", "identity", "warp"]
