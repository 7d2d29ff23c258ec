"""`pose.draw`: the skeleton picture that a pose ControlNet reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, Len

from engine.errors import UsageError
from engine.operator import HOST_RGB, Live, Range, operator
from engine.payload import Image, Pose
from engine.site import Site

if TYPE_CHECKING:
    import numpy as np

Level = Annotated[int, Ge(0), Le(255)]


@operator("pose.draw")
def draw(
    pose: Pose,
    *,
    width: Annotated[int, Range(0, 8192)] = 0,
    height: Annotated[int, Range(0, 8192)] = 0,
    fit: Literal["cover", "contain", "stretch"] = "cover",
    min_visibility: Annotated[float, Live(0, 1)] = 0.3,
    line: Annotated[float, Live(0.25, 4)] = 1.0,
    background: Annotated[list[Level], Live(), Len(3, 3)] = [0, 0, 0],  # noqa: B006 - never written to
    site: Site,
) -> Annotated[Image, HOST_RGB]:
    """Draw people as OpenPose does (Cao et al. 2018): 18 coloured joints, 17 limbs at 0.6 of their colour, on black.

    width, height: of the picture, in px; 0 takes it from the pose's own picture. Lines are 4 px half wide at 512 px and scale with the
    shorter side. fit: how a pose from a picture of another shape comes in: "cover" fills this one and cuts off what does not fit, "contain"
    keeps everything, and both keep people's proportions; "stretch" does not. min_visibility: joints below it are left out with their limbs.
    line: times the usual line width.
    background: red, green, blue, 0..255; a ControlNet was trained on black. Output: uint8 RGB (height, width, 3). Raises UsageError where
    no size is known.
    """
    from operators.figure.skeleton import draw_skeleton

    rows, columns = height or pose.size[0], width or pose.size[1]
    if rows < 1 or columns < 1:
        raise UsageError("pose.draw cannot tell how big its picture is: the pose has no size", fix="set width and height on this node")
    canvas = site.empty((rows, columns, 3), "uint8")
    draw_skeleton(placed(pose, rows, columns, fit), rows, columns, min_visibility=min_visibility, line=line, out=canvas)
    if any(background):
        canvas[~canvas.any(-1)] = background  # nothing that is drawn is black
    return Image(canvas)


def placed(pose: Pose, height: int, width: int, fit: str) -> np.ndarray[Any, Any]:
    """The people of `pose` (n, 18, 3) in shares of a picture of another shape."""
    import numpy as np

    rows, columns = pose.size
    if fit == "stretch" or rows < 1 or columns < 1 or rows * width == columns * height:
        return np.asarray(pose.people)
    pick = max if fit == "cover" else min
    scale = pick(width / columns, height / rows)
    people = np.array(pose.people, np.float32)
    people[..., 0] = (people[..., 0] - 0.5) * (columns * scale / width) + 0.5
    people[..., 1] = (people[..., 1] - 0.5) * (rows * scale / height) + 0.5
    return people
