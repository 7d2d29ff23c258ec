"""What WHEP and WHIP do with peer connections: the extra's package, ICE without strangers, a bound on how long a peer may take to come.

Invariant: no server outside is asked unless the graph names one. It knows aiortc, no HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from engine.errors import MissingError
from operators.webrtc.endpoint import Denied

COMING = 15.0  # s that a peer may take to connect after its answer


def need_aiortc() -> None:
    """Raises MissingError where the extra is not installed."""
    try:
        import aiortc  # noqa: F401
    except ImportError as error:
        raise MissingError(f"aiortc is not installed: {error}", fix='pip install "afterimage-engine[webrtc]"') from error


class Peers:
    """The peer connections of one endpoint. `changed` is called on the loop when their number changes."""

    def __init__(self, stun: str, most: int, changed: Callable[[], None]) -> None:
        self.stun, self.most, self.changed = stun, most, changed
        self.by_name: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, offer: str, prepare: Callable[[Any], None], ready: Callable[[Any], None]) -> tuple[str, str]:
        """Answer `offer`. `prepare(pc)` runs before it is read, `ready(pc)` before the answer is made. Raises Denied."""
        from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

        if len(self.by_name) >= self.most:
            raise Denied(503, "there are as many peers as there may be")
        servers = [RTCIceServer(self.stun)] if self.stun else []
        pc, name = RTCPeerConnection(RTCConfiguration(iceServers=servers)), secrets.token_hex(8)
        self.by_name[name] = pc
        try:
            prepare(pc)
            await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            ready(pc)
            await pc.setLocalDescription(await pc.createAnswer())
        except Denied:
            await self.leave(name)
            raise
        except Exception as error:  # an offer is a stranger's text, and aiortc raises what it stumbles over
            await self.leave(name)
            raise Denied(422, f"the offer cannot be answered: {type(error).__name__}") from error
        self._keep(self._watch(name, pc))
        self.changed()
        return pc.localDescription.sdp, name

    async def _watch(self, name: str, pc: Any) -> None:
        """Let go of a peer that does not come, or that went."""
        came = asyncio.Event()
        went = asyncio.Event()

        @pc.on("connectionstatechange")  # type: ignore[untyped-decorator]
        def _() -> None:
            if pc.connectionState == "connected":
                came.set()
                self.changed()
            elif pc.connectionState in ("failed", "closed"):
                came.set()
                went.set()

        if pc.connectionState == "connected":
            came.set()
        try:
            await asyncio.wait_for(came.wait(), COMING)
            await went.wait()
        except TimeoutError:
            pass
        await self.leave(name)

    def _keep(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def leave(self, name: str) -> bool:
        """End the peer `name`; False where there is none."""
        pc = self.by_name.pop(name, None)
        if pc is None:
            return False
        await pc.close()
        self.changed()
        return True

    async def close(self) -> None:
        for name in list(self.by_name):
            await self.leave(name)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
