"""`pose.draw`: the skeleton picture that a pose ControlNet reads."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Len

from engine.errors import UsageError
from engine.operator import HOST_RGB, Live, Range, operator
from engine.payload import Image, Pose
from engine.site import Site

Level = Annotated[int, Ge(0), Le(255)]


@operator("pose.draw")
def draw(
    pose: Pose,
    *,
    width: Annotated[int, Range(0, 8192)] = 0,
    height: Annotated[int, Range(0, 8192)] = 0,
    min_visibility: Annotated[float, Live(0, 1)] = 0.3,
    background: Annotated[list[Level], Live(), Len(3, 3)] = [0, 0, 0],  # noqa: B006 - never written to
    site: Site,
) -> Annotated[Image, HOST_RGB]:
    """Draw people as OpenPose does (Cao et al. 2018): 18 coloured joints, 17 limbs at 0.6 of their colour, on black.

    width, height: of the picture, in px; 0 takes it from the pose's own picture. Lines are 4 px half wide at 512 px and scale with the
    shorter side. min_visibility: joints below it are left out with their limbs. background: red, green, blue, 0..255; a ControlNet was
    trained on black. Output: uint8 RGB (height, width, 3). Raises UsageError where no size is known.
    """
    from operators.figure.skeleton import draw_skeleton

    rows, columns = height or pose.size[0], width or pose.size[1]
    if rows < 1 or columns < 1:
        raise UsageError("pose.draw cannot tell how big its picture is: the pose has no size", fix="set width and height on this node")
    canvas = site.empty((rows, columns, 3), "uint8")
    draw_skeleton(pose.people, rows, columns, min_visibility=min_visibility, out=canvas)
    if any(background):
        canvas[~canvas.any(-1)] = background  # nothing that is drawn is black
    return Image(canvas)
