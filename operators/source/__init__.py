"""Where frames come from: `source.video`, `source.images`, `source.figure`."""

from operators.source import figure, images, video

__all__ = ["figure", "images", "video"]
