"""`sink.null`: takes frames and does nothing with them. For measuring, and for graphs whose result is their side effect."""

from __future__ import annotations

from engine.operator import Operator, operator
from engine.payload import Image


@operator("sink.null")
class Null(Operator):
    """Count frames and drop them. `count` holds how many came, `checksum` is not computed: it must cost nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, image: Image) -> None:
        self.count += 1
