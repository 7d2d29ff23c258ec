"""The pose family: people in a picture, as OpenPose-18 joints, and what is done with them."""

from operators.pose import detect, draw, mediapipe, onnx, smooth, stability

__all__ = ["detect", "draw", "mediapipe", "onnx", "smooth", "stability"]
