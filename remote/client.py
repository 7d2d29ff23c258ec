"""One WebSocket of the preview: verbs as JSON, pictures as binary messages.

Invariants: whatever the other side sends is answered or ignored, and ends nothing but its own connection; a viewer that cannot keep up
gets fewer pictures, never older ones, and makes nobody wait. `reply` and `give` may be called from any thread, everything else runs on the
server's loop. It knows what a request looks like, not what a verb does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocketDisconnect, WebSocketState

from remote.encode import available
from remote.feed import Feed, Frame, Watcher
from remote.request import VERSION, Fields, Refused, checked, number_of, told

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from remote.stage import Stage

OWN = ("view", "record", "clock")
UNSHOWN = 8  # pictures sent and not yet drawn, for a viewer that says what it has drawn
BACKLOG = 2000  # messages that wait for a viewer which does not read
KEY, DISCONTINUITY = 1, 2  # flags of the wire format


class Client(Watcher):
    """Somebody at the other end. `drained`: waits until what was sent has left this process, where that can be known."""

    def __init__(self, socket: WebSocket, stage: Stage, drained: Callable[[], Awaitable[Any]] | None = None) -> None:
        super().__init__()
        self.socket, self.stage = socket, stage
        self.loop = asyncio.get_running_loop()
        self.reply = self._reply  # one object, whatever is asked: the verbs know a client by it
        self.feed: Feed | None = None
        self._drained = drained
        self._texts: deque[str] = deque()
        self._frame: Frame | None = None
        self._busy = self._acknowledges = self._gone = False
        self._sent = self._shown = 0
        self._epoch: int | None = None
        self._wake = asyncio.Event()

    # ---- from other threads

    def free(self) -> bool:
        return not self._busy and not (self._acknowledges and self._sent - self._shown >= UNSHOWN)

    def give(self, frame: Frame) -> None:
        self._busy = True
        self._soon(self._put_frame, frame)

    def _reply(self, message: dict[str, Any]) -> None:
        self._soon(self._put_text, dumped(message))

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop has closed
            pass

    # ---- on the loop

    def _put_frame(self, frame: Frame) -> None:
        self._frame = frame
        self._wake.set()

    def _put_text(self, text: str) -> None:
        if self._gone:
            return
        if len(self._texts) >= BACKLOG:
            self.end(1013)
            return
        self._texts.append(text)
        self._wake.set()

    def end(self, code: int = 1001) -> None:
        """Close the connection, after what waits has been sent."""
        self._gone = True
        self._code = code
        self._wake.set()

    async def run(self) -> None:
        """Serve this client until either side has had enough."""
        await self.socket.accept()
        sender = asyncio.create_task(self._send_all())
        try:
            while not self._gone:
                message = await self.socket.receive()
                if message["type"] != "websocket.receive":
                    break
                text = message.get("text")
                if text is None:
                    self.end(1003)
                    break
                await self._receive(text)
            if self._gone:
                await asyncio.wait([sender], timeout=2.0)
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self._gone = True
            self._leave()
            self.stage.verbs.forget(self.reply)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    def _leave(self) -> None:
        if self.feed is not None:
            self.feed.remove(self)
            self.feed = None

    async def _send_all(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._texts:
                    await self.socket.send_text(self._texts.popleft())
                if self._gone:
                    if self.socket.application_state is WebSocketState.CONNECTED:
                        await self.socket.close(getattr(self, "_code", 1001))
                    return
                frame, self._frame = self._frame, None
                if frame is not None:
                    if self.feed is not None and frame.header["stream"] == self.feed.of:
                        await self.socket.send_bytes(self._packed(frame))
                        if self._drained is not None:
                            await self._drained()
                    self._busy = False
        except (WebSocketDisconnect, RuntimeError, OSError):  # it has gone; the receiving side ends the rest
            self._gone = True

    def _packed(self, frame: Frame) -> bytes:
        self._sent += 1
        flags = KEY * frame.key | DISCONTINUITY * (self._epoch != frame.seen.epoch)
        self._epoch = frame.seen.epoch
        header = {**frame.header, "run": self.stage.run, "n": self._sent, "flags": flags, "sent": time.time_ns(), "size": [len(frame.payload)]}
        if frame.codec:
            header["codec"] = frame.codec
        head = json.dumps(header).encode()
        return struct.pack("<I", len(head)) + head + frame.payload

    # ---- requests

    async def _receive(self, text: str) -> None:
        request: Any = None
        try:
            request = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self._refuse(None, Refused("BadRequest", f"this is no JSON: {str(error)[:120]}", expected="one map"))
            return
        op = request.get("op") if isinstance(request, dict) else None
        if op == "shown":
            self._note_shown(request.get("n"))
        elif op in OWN:
            await self._own(request)
        else:
            self.stage.verbs.handle(request, self.reply)

    def _note_shown(self, n: Any) -> None:
        if type(n) is int and 0 <= n <= self._sent:
            self._acknowledges, self._shown = True, max(self._shown, n)

    async def _own(self, request: Any) -> None:
        number = number_of(request)
        try:
            fields = Fields(checked(request, OWN))
            answer = await getattr(self, f"_{fields.op}")(fields)
        except Exception as error:
            self._refuse(number, error)
        else:
            self.reply({"v": VERSION, "id": number, "kind": "answer", **answer})

    def _refuse(self, number: int | None, error: BaseException) -> None:
        described, more = told(error)
        self.reply({"v": VERSION, "id": number, "kind": "refused", "error": described, **more})

    async def _view(self, fields: Fields) -> dict[str, Any]:
        wanted = fields.request.get("of")
        of = fields.text("of")
        codecs = fields.paths("codecs") or ["jpeg"]
        fields.end()
        outputs = self.stage.outputs()
        if wanted == "":
            self._leave()
            return {"of": "", "enc": "", "outputs": outputs}
        chosen = self.stage.choose(of or None)
        h264 = "h264" in codecs and await asyncio.to_thread(available)
        if not h264 and "jpeg" not in codecs:
            expected = "h264 (where this machine encodes it), jpeg"
            raise Refused("BadRequest", "none of these codecs can be sent", expected=expected, found=", ".join(codecs))
        self._leave()
        self._busy, self._frame = False, None
        self.enc = "h264" if h264 else "jpeg"
        self.feed = self.stage.feed(chosen)
        self.feed.add(self)
        return {"of": chosen, "enc": self.enc, "outputs": outputs}

    async def _record(self, fields: Fields) -> dict[str, Any]:
        on = fields.truth("on", False) if "on" in fields.request else None
        of = fields.text("of") or (self.feed.of if self.feed else None)
        fields.end()
        return await asyncio.to_thread(self.stage.record, on, of)

    async def _clock(self, fields: Fields) -> dict[str, Any]:
        fields.end()
        return {"now": time.time_ns()}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def dumped(message: Any) -> str:
    """`message` as JSON: bytes in base64, what is not finite as null."""
    try:
        return json.dumps(message, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(message), default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, (bytes, bytearray, memoryview)) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value
