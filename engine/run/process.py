"""An operator in a child process: for CPU-bound Python, which would hold this process's interpreter lock, and for what may hang or crash.

`ProcessOperator` looks like the operator it stands for. Its calls travel over a pipe, arrays through shared memory: one block each way, grown
until it fits and then reused, copied on arrival into pooled buffers of the receiving side, so buffers keep to the same rules there.
The invariants: one call is under way at a time; no wait is endless, because a child that dies or says nothing for `timeout_s` is killed and
becomes an error; `close` always returns. The child is started by spawn, on every system alike, and talks pickle: both ends are this program.

Errors come back as what they were: the engine's own with their fix and exit code, Python's by type, out of memory as MemoryError, others as
RunError naming their type; the child's traceback is the cause. A child that was lost is started again by the next call.
"""

from __future__ import annotations

import builtins
import copy
import importlib
import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

from engine import errors, registry
from engine.clock import RealClock, StepClock
from engine.errors import Cancelled, EngineError, RunError
from engine.operator import Operator, StreamInfo
from engine.packet import Packet
from engine.payload import Data
from engine.run.shared import Block, pack, unpack
from engine.site import Site

SLICE_S = 0.05  # how often a wait looks whether the session stops
OPENING = 10  # opening may load weights: it has so many times the time of a call


class ChildTraceback(Exception):
    """The traceback of an error in a child process, as text; the `__cause__` of the error raised here."""

    def __str__(self) -> str:
        return f"in the child process:\n{self.args[0]}"


class ProcessOperator(Operator):
    """The operator `name` with `params`, run in a child process of its own.

    `timeout_s`: how long a call may take without a sign of life before the child is killed (opening: ten times that). A source may wait for
    its next frame as long as it likes: it is watched for dying only.
    """

    _IDLE: ClassVar[set[str]] = {"update", "reset", "flush", "relieve", "restore"}  # of no use to a child that is yet to start

    def __init__(self, name: str, params: dict[str, Any], *, timeout_s: float = 30.0) -> None:
        self._spec = registry.find(name)
        self._params, self._timeout_s = dict(params), timeout_s
        self._child: Any = None
        self._pipe: Connection[Any, Any]
        self._out, self._in = Block(), Block()
        self._owed = False  # an answer is still to come
        for param in self._spec.params:
            if param.live and param.name in params:
                setattr(self, param.name, params[param.name])

    # ---- what the engine calls

    def open(self, site: Site) -> None:
        """Start the child and open the operator there. Raises what its constructor or its open raises."""
        super().open(site)
        self._start()

    def __call__(self, *ports: Any, **named: Any) -> Any:
        return self._frames() if self._spec.source else self._ask("call", ports, named)

    def call_batch(self, *ports: Any, **named: Any) -> Any:
        return self._ask("call_batch", ports, named)

    def update(self, **changes: Any) -> None:
        super().update(**changes)
        self._params.update(changes)
        self._ask("update", (), changes)

    def reset(self) -> None:
        self._ask("reset")

    def snapshot(self) -> Any:
        return copy.deepcopy(self._ask("snapshot"))  # arrays arrive in buffers that are lent for this call only

    def recall(self, state: Any) -> None:
        self._ask("recall", (state,))

    def flush(self) -> Any:
        return self._ask("flush")

    def relieve(self) -> bool:
        return bool(self._ask("relieve"))

    def restore(self) -> None:
        self._ask("restore")

    def close(self) -> None:
        """Close the operator and end the child. One that does not answer in the time of a call, in two seconds when aborting, is killed."""
        try:
            if self._child is not None:
                patience = min(self._timeout_s, 2.0) if self.site.stopping else self._timeout_s
                if self._owed:  # a call was given up: let it end, so that files are closed in order
                    self._answer(patience, patient=True, silent=True)
                self._send("close", (), {})
                self._answer(patience, patient=True)
        except RunError:
            if not self.site.stopping or self._child is not None:
                raise
        finally:
            self._end(gently=not self._owed)
            self._out.free()
            self._in.free()

    # ---- the child

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        facts = {name: getattr(self.site, name) for name in ("node", "seed", "live", "embedded", "device", "budget_ms", "base")}
        clock = None if isinstance(self.site.clock, RealClock) else self.site.clock.now()
        where = (self._spec.name, str(self._spec.target.__module__))
        self._child = context.Process(target=_serve, args=(theirs, *where, facts, clock), name=self.site.node, daemon=True)
        self._child.start()
        theirs.close()
        self._ask("open", (), self._params, OPENING * self._timeout_s)

    def _end(self, *, gently: bool = False) -> None:
        child, self._child, self._owed = self._child, None, False
        if child is not None:
            child.join(1.0 if gently else 0.0)
            if child.is_alive():
                child.kill()
                child.join()
            child.close()
            self._pipe.close()

    def _died(self) -> RunError:
        self._child.join(1.0)
        return self._lost(f"died (exit code {self._child.exitcode})")

    def _lost(self, what: str) -> RunError:
        self._end()
        return RunError(f"the process of {self._spec.name} {what}", fix="with `on_error` skip or hold the next frame starts it again")

    # ---- asking

    def _frames(self) -> Iterator[Any]:
        while (frame := self._ask("next", timeout_s=None)) is not None:
            yield frame[0]

    def _ask(self, what: str, args: Any = (), named: Any = None, timeout_s: float | None = 0.0) -> Any:
        if self._child is None:
            if what in self._IDLE:
                return None
            self.site.event("process restarted", op=self._spec.name)
            self._start()
        self._send(what, args, named or {})
        return self._answer(self._timeout_s if timeout_s == 0.0 else timeout_s)

    def _send(self, what: str, args: Any, named: Any) -> None:
        packet = self.site.packet
        head = None if packet is None else (packet.seq, packet.pts, packet.epoch, packet.born, packet.version, packet.origin)
        message, arrays, size = pack((what, args, named, head, self.site.clock.now()))
        self._out.fit(size)
        self._out.write(arrays)
        try:
            self._pipe.send((self._out.name, message))
        except OSError:
            raise self._died() from None
        self._owed = True

    def _answer(self, timeout_s: float | None, *, patient: bool = False, silent: bool = False) -> Any:
        """The answer to what was sent. `patient`: also while the session stops; `silent`: whatever it is."""
        left = timeout_s
        while True:
            if not wait([self._pipe, self._child.sentinel], SLICE_S):
                if self.site.stopping and not patient:
                    raise Cancelled
                left = None if left is None else left - SLICE_S
                if left is not None and left <= 0:
                    raise self._lost(f"said nothing for {timeout_s:g} s and was killed")
                continue
            try:
                if not self._pipe.poll():
                    raise EOFError
                kind, value = self._pipe.recv()
                if kind == "grow":
                    self._in.fit(value)
                    self._pipe.send(self._in.name)
            except (EOFError, OSError):
                raise self._died() from None
            left = timeout_s  # a sign of life
            if kind == "said":
                how, args, facts = value
                getattr(self.site, how)(*args, **facts)
            elif kind != "grow":
                self._owed = False
                if silent:
                    return None
                if kind == "error":
                    raise _revive(*value)
                return unpack(value, self._in, self.site.empty)


# ---------------------------------------------------------------- in the child


class _Said(Site):
    """A Site that passes on what the operator says. `pipe` is set by `_serve`."""

    pipe: Connection[Any, Any]

    def describe(self, info: StreamInfo) -> None:
        super().describe(info)
        self.pipe.send(("said", ("describe", (info,), {})))

    def event(self, what: str, **facts: Any) -> None:
        self.pipe.send(("said", ("event", (what,), facts)))

    def request_reset(self, reason: str) -> None:
        self.pipe.send(("said", ("request_reset", (reason,), {})))

    def output(self, path: Any) -> None:
        self.pipe.send(("said", ("output", (str(path),), {})))


class _Child:
    """The operator and its life, as the child sees it."""

    def __init__(self, name: str, module: str, site: Site) -> None:
        if registry.get(name) is None:  # registered by a module that is no installed family
            importlib.import_module(module)
        self.spec, self.site = registry.find(name), site
        self.params: dict[str, Any] = {}
        self.target: Any = None
        self.frames: Iterator[Any] | None = None

    def do(self, what: str, args: Any, named: Any) -> Any:
        if what == "open":
            self.params = named
            if self.spec.is_class:
                self.target = self.spec.target(**named)
                self.target.open(self.site)
            return None
        if what == "call" and not self.spec.is_class:
            extra = {"site": self.site} if self.spec.wants_site else {}
            return self.spec.target(*args, **named, **self.params, **extra)
        if what == "next":
            if self.frames is None:
                self.frames = iter(self.target() if self.spec.is_class else self.do("call", (), {}))
            return next(((frame,) for frame in self.frames), None)
        if what == "update":
            self.params.update(named)
        if self.target is None:
            return {} if what == "snapshot" else None
        if what == "recall":
            args = copy.deepcopy(args)
        return self.target(*args, **named) if what == "call" else getattr(self.target, what)(*args, **named)


def _serve(pipe: Connection[Any, Any], name: str, module: str, facts: dict[str, Any], clock: int | None) -> None:
    """The child's main: answer one request at a time until told to close, or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the session decides what it means
    site = _Said(**facts, clock=RealClock() if clock is None else StepClock(clock))
    site.pipe = pipe
    block, answers, child, what = Block(), Block(), None, ""
    while what != "close":
        try:
            where, message = pipe.recv()
        except (EOFError, OSError):
            if child is not None and child.target is not None:
                child.target.close()
            return
        try:
            block.attach(where)
            what, args, named, head, now = unpack(message, block, site.empty)
            child = child or _Child(name, module, site)
            if head is not None:
                seq, pts, epoch, born, version, origin = head
                site.packet = Packet(seq, pts, epoch, born, Data(), version=version, origin=origin)
            if isinstance(site.clock, StepClock):
                site.clock.sleep_until(now, site.stop)
            answer, arrays, size = pack(child.do(what, args, named))
            if size > answers.size:
                pipe.send(("grow", size))
                answers.attach(pipe.recv())
            answers.write(arrays)
            pipe.send(("done", answer))
        except Exception as error:
            pipe.send(("error", _describe(error)))
        site.let_go()


# ---------------------------------------------------------------- errors across the pipe


def _describe(error: Exception) -> tuple[str, str, tuple[Any, ...], str, int, str]:
    """Type, kind, arguments, fix, exit code and traceback of an error, as plain values."""
    from engine.run.ladder import is_out_of_memory

    text = "".join(traceback.format_exception(error))
    if isinstance(error, EngineError):
        return type(error).__name__, "engine", (error.message,), error.fix, error.exit_code, text
    kind = "memory" if is_out_of_memory(error) else "builtin" if type(error).__module__ == "builtins" else "other"
    plain = all(isinstance(a, (str, int, float, bytes, type(None))) for a in error.args)
    return type(error).__qualname__, kind, error.args if plain and kind == "builtin" else (str(error),), "", 5, text


def _revive(name: str, kind: str, args: tuple[Any, ...], fix: str, exit_code: int, text: str) -> Exception:
    """The error again, as near to its type as it can be made."""
    error: Exception | None = None
    if kind == "engine":
        known = getattr(errors, name, EngineError)  # types with a constructor of their own come back as the root, with their exit code
        error = (known if known.__init__ is EngineError.__init__ else EngineError)(args[0], fix=fix)
        error.exit_code = exit_code
    elif kind == "memory":
        error = MemoryError(*args)
    elif kind == "builtin":
        try:
            error = getattr(builtins, name)(*args)
        except TypeError:
            pass
    error = error or RunError(f"{name}: {args[0] if args else ''}")
    error.__cause__ = ChildTraceback(text)
    return error
