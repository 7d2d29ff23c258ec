"""Programs that plug into a running Afterimage graph: read its frames, change its parameters. Needs numpy, pyzmq and msgpack only.

    from afterimage_client import Subscriber      # inside this repository: from bindings.python import Subscriber

    with Subscriber("tcp://127.0.0.1:5555", stream="live") as frames:
        for frame in frames:
            print(frame.seq, frame.age_ms, frame.array.shape)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncSubscriber as AsyncSubscriber
    from .control import AsyncControl as AsyncControl
    from .control import Control as Control
    from .frame import Frame as Frame
    from .notebook import show as show
    from .subscriber import Subscriber as Subscriber
    from .wire import WireError as WireError

_WHERE = {
    "AsyncControl": "control", "AsyncSubscriber": "aio", "Control": "control", "ControlError": "control", "Frame": "frame",
    "KeyProblem": "curve", "MissingDecoder": "decode", "Overwritten": "shm", "Subscriber": "subscriber", "WireError": "wire",
    "show": "notebook",
}  # fmt: skip

__all__ = list(_WHERE)
__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    """Each name from its module when it is asked for: a program that only reads the wire format imports no socket library."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
