"""Where frames go: `sink.video`, `sink.images`, `sink.null`, `sink.table`, `sink.tap`, `sink.zmq`."""

from operators.sink import images, null, table, tap, video, zmq

__all__ = ["images", "null", "table", "tap", "video", "zmq"]
