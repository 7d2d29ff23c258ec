"""The pose family: people in a picture, as OpenPose-18 joints, and what is done with them."""

from operators.pose import draw, mediapipe

__all__ = ["draw", "mediapipe"]
