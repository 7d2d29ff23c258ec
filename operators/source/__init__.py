"""Where frames come from: `source.video`, `source.images`, `source.figure`, `source.webrtc`, `source.zmq`."""

from operators.source import figure, images, video, webrtc, zmq

__all__ = ["figure", "images", "video", "webrtc", "zmq"]
