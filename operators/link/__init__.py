"""Frames to and from other programs over ZeroMQ: what `sink.zmq` and `source.zmq` share. The format itself is `bindings.python.wire`."""
