"""Colour of pictures as operators: brightness and its kin, blur, edges. Pure and deterministic; every pixel by the same rule."""

from __future__ import annotations

from typing import Annotated

from engine.operator import HOST_RGB, Live, operator
from engine.payload import Image
from engine.site import Site


@operator("image.color")
def color(
    image: Annotated[Image, HOST_RGB], *, brightness: Annotated[float, Live(-1, 1)] = 0.0, contrast: Annotated[float, Live(0, 4)] = 1.0,
    saturation: Annotated[float, Live(0, 4)] = 1.0, gamma: Annotated[float, Live(0.1, 10)] = 1.0, site: Site,
) -> Annotated[Image, HOST_RGB]:  # fmt: skip
    """`image` with other colours, in codes 0..1: gamma first (v ** (1 / gamma)), then contrast around the middle grey 0.5, then brightness
    added, last saturation around BT.709 luma. The defaults change nothing."""
    import cv2
    import numpy as np

    if (brightness, contrast, saturation, gamma) == (0.0, 1.0, 1.0, 1.0):
        return image
    out = site.empty((image.height, image.width, 3))
    codes = np.arange(256) / 255
    table = np.clip(((codes ** (1 / gamma) - 0.5) * contrast + 0.5 + brightness) * 255, 0, 255).round().astype(np.uint8)
    cv2.LUT(image.data, table, dst=out)
    if saturation != 1.0:
        luma = np.array([0.2126, 0.7152, 0.0722], np.float32)
        cv2.transform(out, saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * luma, dst=out)
    return Image(out)


@operator("image.blur")
def blur(image: Annotated[Image, HOST_RGB], *, radius: Annotated[float, Live(0, 200)] = 4.0, site: Site) -> Annotated[Image, HOST_RGB]:
    """`image` under a Gaussian of standard deviation `radius` pixels; 0 changes nothing. Edges are mirrored."""
    import cv2

    if radius == 0:
        return image
    out = site.empty((image.height, image.width, 3))
    cv2.GaussianBlur(image.data, (0, 0), radius, dst=out, borderType=cv2.BORDER_REFLECT_101)
    return Image(out)


@operator("image.canny")
def canny(
    image: Annotated[Image, HOST_RGB], *, low: Annotated[int, Live(0, 255)] = 100, high: Annotated[int, Live(0, 255)] = 200, site: Site
) -> Annotated[Image, HOST_RGB]:
    """Edges of `image`, white on black, as ControlNet-canny expects (Canny 1986). `low`, `high`: thresholds of the hysteresis."""
    import cv2

    edges = cv2.Canny(image.data, low, high)
    out = site.empty((image.height, image.width, 3))
    cv2.cvtColor(edges, cv2.COLOR_GRAY2RGB, dst=out)
    return Image(out)
