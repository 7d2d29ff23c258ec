"""Where frames go: `sink.video`, `sink.images`, `sink.null`, `sink.tap`."""

from operators.sink import images, null, tap, video

__all__ = ["images", "null", "tap", "video"]
