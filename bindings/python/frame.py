"""A frame as a subscriber gets it: what its header says, when it came, and its value, decoded when it is asked for.

Arrays are read-only, and may show the memory of the message itself: copy them before writing. Knows no sockets.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import decode, shm, wire


class Frame:
    """One frame. `header` has every field of the wire format; the ones that are used most can be read here.

    `gap`: frames that were lost on the way right before this one. `restarted`: the publisher was started anew before it.
    `received`: CLOCK_REALTIME ns. `payload`: the bytes as they came (one part, or none for shared memory).
    """

    def __init__(
        self, header: wire.Frame, payload: tuple[Any, ...], *, received: int, gap: int = 0, restarted: bool = False,
        load: Callable[[], Any] | None = None, rings: shm.Rings | None = None,
    ) -> None:  # fmt: skip
        self.header, self.payload, self.received, self.gap, self.restarted = header, payload, received, gap, restarted
        self._load, self._rings, self._value = load, rings, None

    # ---- identity and time

    @property
    def stream(self) -> str:
        return self.header.stream

    @property
    def seq(self) -> int:
        """The source's ordinal: the frame's identity through the whole graph."""
        return self.header.seq

    @property
    def epoch(self) -> int:
        return self.header.epoch

    @property
    def n(self) -> int:
        """How many frames the publisher had sent before this one."""
        return self.header.n

    @property
    def pts(self) -> int:
        """Presentation time, ns on the graph's clock."""
        return self.header.pts

    @property
    def params(self) -> int:
        """The parameter version it was made with: compare with a receipt's."""
        return self.header.params

    @property
    def type(self) -> str:
        """Image, Mask, Latent, Pose, Prompt, Scalar, Text or Data."""
        return self.header.type

    @property
    def key(self) -> bool:
        return self.header.key

    @property
    def discontinuity(self) -> bool:
        """The first frame of an epoch or of a run: what is remembered of earlier frames means nothing any more."""
        return self.header.discontinuity or self.restarted

    @property
    def degraded(self) -> bool:
        return self.header.degraded

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.header.meta

    @property
    def lat(self) -> Mapping[str, float]:
        return self.header.lat

    @property
    def age_ms(self) -> float:
        """From capture to arrival here. Across machines only as good as their clocks agree."""
        return (self.received - self.header.born) / 1e6

    @property
    def transit_ms(self) -> float:
        """From the publisher's socket to arrival here."""
        return (self.received - self.header.sent) / 1e6

    def age_now_ms(self) -> float:
        """From capture to now."""
        return (time.time_ns() - self.header.born) / 1e6

    # ---- value

    @property
    def value(self) -> Any:
        """An array for Image, Mask and Latent; for Pose a map with `people` (n, 18, 3), `size`, `stability`; for Prompt a map; float; str; map.

        Raises WireError where the payload is damaged, MissingDecoder where a package is needed, Overwritten for a frame in shared memory that
        was not copied in time."""
        if self._value is None:
            self._value = self._load() if self._load is not None else decode.value_of(self.header, self.payload)
        return self._value

    @property
    def array(self) -> Any:
        """The value of an Image, Mask or Latent, `header.shape` of `header.dtype`; TypeError for other types."""
        if self.type not in wire.ARRAYS:
            raise TypeError(f"a {self.type} is no array; read frame.value")
        return self.value

    @property
    def rgb(self) -> Any:
        """A picture as (H, W, 3) uint8 RGB, whatever it came as; a matte as grey."""
        return self._picture("rgb")

    @property
    def bgr(self) -> Any:
        """A picture as (H, W, 3) uint8 BGR, for OpenCV."""
        return self._picture("bgr")

    def _picture(self, order: str) -> Any:
        import numpy as np

        if self.type not in ("Image", "Mask"):
            raise TypeError(f"a {self.type} is no picture")
        array = self.array
        if self.type == "Mask":
            return np.repeat(array[..., None], 3, axis=2)
        if self.header.layout == "chw":
            array = array.reshape(array.shape[-3:]).transpose(1, 2, 0)
        if array.dtype != np.uint8:
            array = np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(array if self.header.color["order"] == order else array[..., ::-1])

    @contextlib.contextmanager
    def lease(self) -> Iterator[Any]:
        """The array where it lies. A frame in shared memory that was not copied (`copy=False`) is kept from being overwritten inside the block,
        for a second at most; Overwritten on leaving says that it was overwritten all the same. Other frames are simply handed out."""
        place = self.header.shm
        if place is None or self._rings is None or self._value is not None:
            yield self.array
            return
        with self._rings.lease(place, self.header.dtype, self.header.shape) as array:
            yield array

    # ---- for people

    def __repr__(self) -> str:
        what = f"{self.type} {self.header.enc}"
        shape = f" {'x'.join(map(str, self.header.shape))}" if self.header.shape else ""
        return f"<{self.stream} {self.seq} (epoch {self.epoch}): {what}{shape}, {self.age_ms:.1f} ms old>"

    def _repr_png_(self) -> bytes | None:
        if self.type not in ("Image", "Mask"):
            return None
        from .notebook import png

        return png(self.array if self.type == "Mask" else self.rgb)
