"""`sink.zmq`: frames to other programs, on this machine or another, in the wire format of docs/wire.md.

Invariant: nobody who listens can hold the graph up, and while nobody listens nothing is downloaded, encoded or sent. What is encoded is encoded
once for all subscribers. The socket and its thread are the publisher's (operators/link); this operator turns payloads into parts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import UsageError
from engine.operator import Live, Operator, Range, operator
from engine.payload import Image, Latent, Mask, Payload
from engine.site import Site
from operators.media.urls import port_of

if TYPE_CHECKING:
    from bindings.python.shm import Ring
    from operators.link.coder import H264
    from operators.link.header import Place
    from operators.link.publisher import Stream


KEY, DISCONTINUITY, DEGRADED = 1, 2, 4  # as in bindings.python.wire, which needs MessagePack to be imported


@operator("sink.zmq")
class Zmq(Operator):
    """Publish frames of any kind over ZeroMQ: pictures, mattes, latents, poses, prompts, numbers, texts, named values.

    `url`: where to listen, such as "tcp://127.0.0.1:5555" or "ipc://live.sock"; several sinks may share one. `stream`: its name there.
    `encoding` of pictures: "raw", "jpeg", "png", "h264", or "shm" (shared memory, for large frames on the same machine: subscribers on other
    machines cannot read it). Mattes are raw, PNG or shm, latents raw or shm, everything else MessagePack. `quality`: of jpeg and h264.
    `keep`: publish a raw picture in the format it comes in (a float tensor as floats); else it becomes 8-bit RGB.
    `hwm`: messages that wait for one slow subscriber before it loses some. `ring`: slots of the shared memory.
    `lossless`: wait for subscribers, the first and the slow ones, instead of dropping: for offline graphs. Not with "shm".
    `key`: a file with this side's CURVE key pair; `allow`: the subscribers' public keys, files of them, or folders of such files.
    Beyond this machine (also "tcp://*:5555") nothing is published without keys, unless `insecure` says so.
    `meta`: values to send with every frame. `imagezmq`: speak the two-part protocol of imagezmq (JSON, then BGR or JPEG bytes) instead.

    Frames that come while nobody has subscribed are dropped as `unwatched`. Raises UsageError and DeviceError in open.
    """

    def __init__(
        self, *, url: str, stream: str = "live", encoding: Literal["raw", "jpeg", "png", "h264", "shm"] = "raw",
        quality: Annotated[int, Live(1, 100)] = 85, keep: bool = False, hwm: Annotated[int, Range(1, 10_000)] = 8,
        ring: Annotated[int, Range(2, 1024)] = 8, lossless: bool = False, key: str = "", allow: list[str] = [], insecure: bool = False,  # noqa: B006
        meta: dict[str, str | int | float | bool] = {}, imagezmq: bool = False,  # noqa: B006
    ) -> None:  # fmt: skip
        self.url, self.name, self.encoding, self.quality, self.keep = url, stream, encoding, quality, keep
        self.hwm, self.slots, self.lossless, self.key, self.allow, self.insecure = hwm, ring, lossless, key, list(allow), insecure
        self.meta, self.imagezmq = dict(meta), imagezmq
        self.stream: Stream | None = None
        self._ring: Ring | None = None
        self._encoder: H264 | None = None
        self._joins = -1  # how many had come when the last key frame was made
        self._epoch: int | None = None
        self._told = 0
        self._last: Stream | None = None  # after close
        self._ended = False

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        return port_of(params["url"])

    def open(self, site: Site) -> None:
        super().open(site)
        from bindings.python.curve import Guard, KeyProblem, check_bind
        from bindings.python.wire import WireError, topic
        from operators.link.publisher import Settings, join

        if self.imagezmq and self.encoding not in ("raw", "jpeg"):
            raise UsageError(f'imagezmq knows no encoding = "{self.encoding}"', fix='use "raw" or "jpeg"')
        if self.lossless and self.encoding == "shm":
            raise UsageError("a ring in shared memory waits for nobody, so frames can be lost there", fix='use "raw" with lossless')
        try:
            topic(self.name)
            if bool(self.key) != bool(self.allow):
                missing = "allow: the subscribers' public keys" if self.key else "key: the file of this side's key pair"
                raise UsageError("CURVE needs both key and allow", fix=f"name {missing}, or leave both out")
            guard = Guard.load(self.key, self.allow) if self.key else None
            check_bind(self.url, secured=guard is not None, insecure=self.insecure, what="sink.zmq")
        except (KeyProblem, WireError) as error:
            raise UsageError(str(error)) from error
        if self.encoding == "h264":
            from operators.sink.writer import choose_encoder

            choose_encoder("h264", "auto")  # looked for now, not with the first frame
        self.stream = join(Settings(self.url, self.hwm, guard, self.lossless), self.name, silent=self.imagezmq)
        self.stream.stopping = self._stopping
        # Looked up once: an import statement within a call costs a microsecond each time.
        from operators.link import header, payloads

        self._forms, self._header, self.stream.health = payloads, header, lambda: site.health
        self.endpoint = self.stream.publisher.endpoint
        site.output(f"{self.endpoint} ({self.name})")
        site.event("publishing", url=self.endpoint, stream=self.name, run=self.stream.run)

    def _stopping(self) -> bool:
        return self.site.stopping or self.site.outcome != "eof"

    def wanted(self) -> bool:
        stream = self.stream
        assert stream is not None
        if stream.subscribers != self._told:
            self._told = stream.subscribers
            self.site.event("subscribers", stream=self.name, count=self._told)
        return self.lossless or stream.subscribers > 0

    def __call__(self, frame: Payload) -> None:
        stream = self.stream
        assert stream is not None
        while self.lossless and not stream.publisher.wait_for_subscriber(stream, 0.1):
            if self._stopping():
                return
        if self.imagezmq:
            self._compatible(frame)
            return
        self._store(frame)

    # ---- the header

    def _place(self, key: bool = True) -> Place:
        """Where the frame in hand stands in its stream, as the wire says it. `key`: it can be decoded alone."""
        site, flags = self.site, KEY if key else 0
        packet = site.packet
        seq, epoch, pts, born, version = (packet.seq, packet.epoch, packet.pts, packet.born, packet.version) if packet else (0, 0, 0, 0, 0)
        if epoch != self._epoch:
            self._epoch, flags = epoch, flags | DISCONTINUITY
        if site.health.startswith("degraded"):
            flags |= DEGRADED
        born += time.time_ns() - site.clock.now()  # capture on the clock that machines share
        return self._header.Place(max(seq, 0), epoch, pts, born, version, flags, site.spent, self.meta)

    # ---- the payload

    def _store(self, value: Payload) -> None:
        """Bring a payload into the form in which it is published, and publish it."""
        forms, stream = self._forms, self.stream
        assert stream is not None
        if not isinstance(value, (Image, Mask, Latent)):
            part = forms.plain.pack(forms.plain_of(value, self.site))
            stream.publish(self._header.Form(value.kind, "msgpack"), self._place(), (part,))
            return
        enc = self._encoding_of(value)
        picture: Any = forms.hosted(value, self.site, keep=self.keep and enc in ("raw", "shm"))
        data, form = picture.data, forms.form_of(picture, enc)
        if enc in ("jpeg", "png"):
            from operators.link.coder import file_of

            stream.publish(form, self._place(), (file_of(data, enc, self.quality),))
        elif enc == "h264":
            unit, whole = self._video(data)
            stream.publish(form, self._place(whole), (unit,))
        elif enc == "shm" and (shm := self._shared(data)) is not None:
            stream.publish(form, self._place(), (), shm=shm)
        else:
            stream.publish(form._replace(enc="raw") if enc == "shm" else form, self._place(), (data,), self.site.hold(picture))

    def _encoding_of(self, value: Payload) -> str:
        if isinstance(value, Image) or self.encoding in ("raw", "shm"):
            return self.encoding
        return "png" if isinstance(value, Mask) else "raw"

    def _video(self, picture: Any) -> tuple[bytes, bool]:
        """The picture as the next access unit: a key unit for whoever has come since the last one, and in a new epoch."""
        from operators.link.coder import H264

        assert self.stream is not None
        height, width = picture.shape[:2]
        encoder = self._encoder
        if encoder is None or (encoder.height, encoder.width, encoder.quality) != (height, width, self.quality):
            encoder = self._encoder = H264(height, width, self.quality)
        joins, self._joins = self._joins, self.stream.joins
        return encoder.encode(picture, self.site.pts, key=joins != self._joins or self.site.epoch != self._epoch)

    def _shared(self, data: Any) -> Any:
        """The frame in the next slot of the ring; None where readers have leased all of them. The ring grows with the frames."""
        assert self.stream is not None
        ring = self._ring
        if ring is None or ring.slot_bytes < data.nbytes:
            from bindings.python.shm import Ring

            if ring is not None:
                ring.close()
            ring = self._ring = Ring(data.nbytes, self.slots)
        return ring.write(self.stream.count, data)

    def _compatible(self, value: Payload) -> None:
        """Two parts, as imagezmq's own senders write them (github.com/jeffbass/imagezmq): pictures are BGR, for OpenCV."""
        import numpy as np

        from operators.link.coder import file_of
        from operators.link.payloads import hosted

        assert self.stream is not None
        if not isinstance(value, (Image, Mask)):
            raise UsageError(f"imagezmq carries pictures, no {value.kind}", fix="leave imagezmq out")
        data: Any = hosted(value, self.site, keep=False).data  # type: ignore[attr-defined]
        if self.encoding == "jpeg":
            head, part = {"msg": self.name}, file_of(data, "jpeg", self.quality)
        else:
            part = np.ascontiguousarray(data[..., ::-1]) if data.ndim == 3 else data.copy()
            head = {"msg": self.name, "dtype": str(data.dtype), "shape": data.shape}
        self.stream.publish_raw([json.dumps(head).encode()], [part])

    # ---- the end

    def tally(self) -> dict[str, int]:
        stream = self.stream or self._last
        return {} if stream is None else {"sent": stream.count, "subscribers": stream.subscribers}

    def flush(self) -> None:
        self._ended = True

    def close(self) -> None:
        from operators.link.publisher import leave

        stream, self.stream = self.stream, None
        if stream is not None:
            self._last = stream
            leave(stream, self.site.outcome if self._ended or self.site.outcome != "eof" else "stopped")
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._encoder = None
