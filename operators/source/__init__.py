"""Where frames come from: `source.video`, `source.images`, `source.figure`."""

from importlib.util import find_spec

from operators.source import images, video

if find_spec("operators.source.figure"):
    from operators.source import figure  # noqa: F401

__all__ = ["images", "video"]
