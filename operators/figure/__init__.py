"""Figures drawn by this project: the skeleton, its motions, its looks, and the picture of them.

Pure functions of their arguments and a seed. Importing this package loads numpy and nothing heavier.
"""

from operators.figure.skeleton import JOINTS, LIMBS, draw_skeleton

__all__ = ["JOINTS", "LIMBS", "draw_skeleton"]
