"""Where frames come from: `source.video`, `source.images`, `source.figure`, `source.zmq`."""

from operators.source import figure, images, video, zmq

__all__ = ["figure", "images", "video", "zmq"]
