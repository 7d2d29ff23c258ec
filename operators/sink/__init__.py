"""Where frames go: `sink.video`, `sink.images`, `sink.null`."""

from operators.sink import null, video

__all__ = ["null", "video"]
