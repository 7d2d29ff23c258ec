"""Who may reach what listens: the rule that every server of this project keeps.

Invariant: beyond this machine nothing listens without a password, or the words `insecure = true`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError, UsageError

if TYPE_CHECKING:
    import asyncio


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_listen(host: str, *, guarded: bool, insecure: bool, how: str) -> None:
    """Refuse to listen beyond this machine without protection. `how`: what to write to be protected. Raises UsageError."""
    if is_loopback(host) or guarded or insecure:
        return
    raise UsageError(f"listening on {host} lets everyone on the network watch", fix=f"{how}; or insecure = true, or listen on 127.0.0.1")


def listening(loop: asyncio.AbstractEventLoop, listen: Coroutine[Any, Any, int], host: str, port: int) -> int:
    """The port that `listen` got, run on `loop`, which is closed where it got none. Raises MediaError."""
    try:
        return loop.run_until_complete(listen)
    except OSError as error:
        loop.close()
        why = error.strerror or str(error)
        fix = "another program listens there: choose another port, or 0 for any"
        raise MediaError(f"cannot listen on {host}:{port}: {why}", fix=fix) from error
