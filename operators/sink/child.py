"""The child process of an output: takes pictures from shared memory, hands them to what encodes and sends, and says what became of each.

Invariants: every picture is answered by exactly one `done`; a fault ends the child with one `fault` that carries the error; when the parent
is gone, so is the child. It knows neither graphs nor addresses: what it serves is made by the function it is started with.

Messages to the child: (picture, slot, block, height, width, ns, what the first picture told or None) and (close,). From it: (ready, facts),
(opened,), (done, slot), (beat, facts), (said, event, facts), (fault, type, message, fix, fatal), (closed,).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import EngineError, MediaError
from engine.run.shared import Block
from operators.sink.pacing import Pacing

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np

    Array = np.ndarray[Any, Any]

Tell = Callable[..., None]
"""How an output speaks up: `tell(kind, *facts)`, from any of its threads."""


class Output(Protocol):
    """What a child serves. `facts`: told to the parent when it is ready. All calls come from one thread."""

    facts: dict[str, Any]

    def open(self, about: Any, height: int, width: int, ns: int) -> None:
        """Connect: the first picture is at hand, and with it `about`. Raises an EngineError; one with `fatal` set is not tried again."""

    def write(self, rgb: Array, ns: int) -> None: ...
    def close(self) -> None: ...


def serve(pipe: Connection[Any, Any], make: Callable[[Any, Tell], Output], settings: Any) -> None:
    """The child's main."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the session decides what it means
    _die_with_parent()
    lock = threading.Lock()

    def tell(kind: str, *facts: Any) -> None:
        with lock:
            try:
                pipe.send((kind, *facts))
            except OSError:
                pass  # the parent is gone; the next receive finds out

    output: Output | None = None
    try:
        output = make(settings, tell)
        tell("ready", output.facts)
        _loop(pipe, output, tell)
        done, output = output, None
        done.close()
        tell("closed")
    except (EOFError, OSError) as error:
        if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError) and not isinstance(error, EngineError):
            return  # the parent is gone
        _fault(tell, MediaError(f"{type(error).__name__}: {error}"))
    except EngineError as error:
        _fault(tell, error)
    except Exception as error:
        _fault(tell, MediaError(f"the output failed: {type(error).__name__}: {error}"))
    finally:
        if output is not None:
            try:
                output.close()
            except Exception:
                pass  # what went wrong first was told


def _fault(tell: Tell, error: EngineError) -> None:
    tell("fault", type(error).__name__, error.message, error.fix, getattr(error, "fatal", False))


def _loop(pipe: Connection[Any, Any], output: Output, tell: Tell) -> None:
    import numpy as np

    block = Block()
    pacing: Pacing | None = None
    zero: int | None = None
    late = False
    while True:
        due = pacing.due() if pacing else None
        if not pipe.poll(None if due is None else max(0, due - time.monotonic_ns()) / 1e9):
            assert pacing is not None
            assert zero is not None
            now, before = time.monotonic_ns(), pacing.showing
            output.write(pacing.repeat(now), now - zero)
            if not late and pacing.silent(now):
                late = True
                tell("said", "source late", {})
            if pacing.showing == "slate" != before:
                tell("said", "slate", {})
            tell("beat", {"repeated": pacing.repeated})
            continue
        message = pipe.recv()
        if message[0] == "close":
            return
        _, slot, where, height, width, ns, first = message
        block.attach(where)
        size = height * width * 3
        picture = np.ndarray((height, width, 3), np.uint8, block.view, slot * size)
        if zero is None:
            about, always_on = first
            output.open(about, height, width, ns)
            tell("opened")
            pacing = Pacing(always_on) if always_on is not None else None
            zero = time.monotonic_ns() if pacing else ns
        now = time.monotonic_ns()
        if pacing:
            if late:
                late = False
                tell("said", "source back", {"repeated": pacing.repeated})
            pacing.fresh(picture, now)
        output.write(picture, (now if pacing else ns) - zero)
        del picture  # the block may be another one next time
        tell("done", slot)


def _die_with_parent() -> None:
    """Where the system can, ask it to end this process with its parent: one that hangs in a connect with the interpreter lock held (PyAV 18)
    can notice nothing itself. Elsewhere such a child stays until its peer answers or goes."""
    if sys.platform.startswith("linux"):
        import ctypes

        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        except (OSError, AttributeError):
            pass
