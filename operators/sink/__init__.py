"""Where frames go: `sink.video`, `sink.images`, `sink.null`."""

from operators.sink import images, null, video

__all__ = ["images", "null", "video"]
