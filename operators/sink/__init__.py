"""Where frames go: `sink.video`, `sink.images`, `sink.keep`, `sink.measure`, `sink.null`, `sink.palette`, `sink.rtsp`, `sink.table`,
`sink.tap`, `sink.virtual_camera`, `sink.webrtc`, `sink.zmq`."""

from operators.sink import images, keep, measure, null, palette, rtsp, table, tap, video, virtual_camera, webrtc, zmq

__all__ = ["images", "keep", "measure", "null", "palette", "rtsp", "table", "tap", "video", "virtual_camera", "webrtc", "zmq"]
