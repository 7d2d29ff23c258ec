"""Where frames go: `sink.video`, `sink.images`, `sink.null`, `sink.tap`, `sink.zmq`."""

from operators.sink import images, null, tap, video, zmq

__all__ = ["images", "null", "tap", "video", "zmq"]
