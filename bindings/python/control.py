"""Change a running graph from another program, and hear when each change has landed (docs/control.md is the contract).

    from afterimage_client import Control          # inside this repository: from bindings.python.control import Control

    with Control("tcp://127.0.0.1:5570") as engine:
        receipt = engine.set({"paint.steps": 4, "paint.hold": 0.6})     # both on one frame
        print("from frame", receipt.wait_applied())

Every method may be called from any thread. Needs pyzmq and msgpack only.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .link import ControlError, Failed, Link, Lost, NoAnswer, Refused, Request, error_of

if TYPE_CHECKING:
    import os

__all__ = ["AsyncControl", "Control", "ControlError", "Failed", "Lost", "NoAnswer", "Receipt", "Refused", "Snapshot", "Watch"]

URL = "tcp://127.0.0.1:5570"


class Receipt:
    """An accepted change. `number` is the engine's own; `applied` and `done` hold its messages once they came.

    `seq` is the first frame that has the change, `epoch` and `params` (parameter version) hold from there on.
    """

    def __init__(self) -> None:
        self.number = -1
        self.applied: dict[str, Any] | None = None
        self.done: dict[str, Any] | None = None
        self.error: ControlError | None = None
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[Receipt], None]] = []

    @property
    def seq(self) -> int | None:
        return None if self.applied is None else self.applied.get("seq")

    @property
    def epoch(self) -> int | None:
        return None if self.applied is None else self.applied.get("epoch")

    @property
    def params(self) -> int | None:
        return None if self.applied is None else self.applied.get("params")

    @property
    def diff(self) -> Any:
        """What a reload changed."""
        return None if self.applied is None else self.applied.get("diff")

    def wait_applied(self, timeout: float | None = 10.0) -> int | None:
        """The first frame that has it. Raises Failed, Refused or Lost where it never lands, NoAnswer after `timeout` seconds."""
        self._wait(lambda: self.applied is not None, timeout, "landed")
        return self.seq

    def wait_done(self, timeout: float | None = 60.0) -> int | None:
        """The last frame of a ramp. Raises as `wait_applied`."""
        self._wait(lambda: self.done is not None, timeout, "come to its end")
        return None if self.done is None else self.done.get("seq")

    def on_change(self, callback: Callable[[Receipt], None]) -> None:
        """Call `callback(receipt)` when it is applied, done or failed: at once where that is so already, else from the client's thread."""
        with self._changed:
            self._callbacks.append(callback)
            known = self.applied is not None or self.error is not None
        if known:
            callback(self)

    def _wait(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: ready() or self.error is not None, timeout):
                raise NoAnswer(f"the change has not {what} in {timeout:g} s", fix="is the graph getting frames?")
            if not ready() and self.error is not None:
                raise self.error

    def _take(self, message: dict[str, Any] | ControlError) -> None:
        with self._changed:
            if isinstance(message, ControlError):
                self.error = self.error or message
            elif message.get("kind") == "applied":
                self.applied = message
            elif message.get("kind") == "done":
                self.applied, self.done = self.applied or message, message
            elif message.get("kind") in ("failed", "refused"):
                self.error = error_of(message, Failed if message["kind"] == "failed" else Refused)
            self._changed.notify_all()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(self)

    def __repr__(self) -> str:
        state = f"failed: {self.error}" if self.error else f"applied at {self.seq}" if self.applied else "accepted"
        return f"Receipt({self.number}, {state})"


@dataclass(frozen=True)
class Snapshot:
    """One picture as an encoded file: `data`, in `format` (png, jpeg), of the frame `seq` of `epoch`."""

    data: bytes
    format: str
    seq: int
    epoch: int


class Watch:
    """What an engine tells without being asked again: iterate over it, and close it (it is a context manager too).

    Yields maps with `kind` `stats`, `params` or `event`. One that is not read for long loses the oldest messages.
    """

    KEPT = 1024

    def __init__(self, control: Control) -> None:
        self._control = control
        self._messages: queue.Queue[dict[str, Any] | ControlError] = queue.Queue(self.KEPT)
        self._request: Request | None = None
        self.lost = 0

    def _answered(self, answer: Future[dict[str, Any]]) -> None:
        error = answer.exception()
        if isinstance(error, ControlError):
            self._take(error if isinstance(error, Lost) else Lost(error.message, fix=error.fix))

    def _take(self, message: dict[str, Any] | ControlError) -> None:
        while True:
            try:
                self._messages.put_nowait(message)
                return
            except queue.Full:
                try:
                    self._messages.get_nowait()
                    self.lost += 1
                except queue.Empty:
                    continue

    def next(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message. Raises NoAnswer after `timeout` seconds, Lost when the connection has gone."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            raise NoAnswer(f"nothing came in {timeout:g} s") from None
        if isinstance(message, ControlError):
            raise message
        return message

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                yield self.next()
            except Lost:
                return

    def close(self) -> None:
        """Tell the engine that nothing more is wanted."""
        request, self._request = self._request, None
        if request is not None:
            self._control._link.drop(request)
            try:
                self._control._ask("unwatch", watch=request.number)
            except ControlError:
                pass  # it has gone, and the watch with it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Control:
    """The control verbs of the engine at `url`.

    `timeout`: seconds for an answer. `server_key`: the engine's public CURVE key (a file or 40 characters), where it asks for keys; `key`: a
    file with a pair of one's own. Nothing is sent before the first verb. Raises Refused, NoAnswer and Lost, all of them ControlError.
    """

    def __init__(
        self, url: str = URL, *, timeout: float = 5.0, server_key: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        from .curve import Pass

        self.url, self.timeout = url, timeout
        self._link = Link(url, Pass.of(server_key, key))

    # ---- asking

    def hello(self) -> dict[str, Any]:
        """Who answers: `engine`, `graph`, `plan`, `run`, `state`, `verbs`."""
        return self._ask("hello", client="afterimage-client")

    def describe(self) -> dict[str, Any]:
        """`nodes` with their parameters as JSON Schema, `edges`, `streams`, `knobs`."""
        return self._ask("describe")

    def get(self, *paths: str) -> dict[str, Any]:
        """`node.param` to present value; of every parameter where no path is named."""
        values: dict[str, Any] = self._ask("get", paths=list(paths) or None)["values"]
        return values

    def stats(self) -> dict[str, Any]:
        """`frames`, `fps`, `age_ms`, `nodes`, `edges`, `knobs`, `state`, `memory`."""
        return self._ask("stats")

    def snapshot(self, of: str | None = None, *, format: str = "png") -> Snapshot:
        """The newest picture of an output (`paint.image`), png or jpeg."""
        answer = self._ask("snapshot", of=of, format=format)
        return Snapshot(answer["data"], answer["format"], answer["seq"], answer["epoch"])

    def watch(self, *what: str, every: float = 0.5, wait: bool = True) -> Watch:
        """Hear of `stats`, `params` and `events` (all of `what`; `stats` where nothing is named), stats every so many seconds.

        `wait=False` does not wait for the engine's answer: where it refuses, or does not come, the watch says so.
        """
        watch = Watch(self)
        fields = {"every_ms": round(every * 1000), "what": list(what) or ["stats"]}
        request = watch._request = self._link.ask("watch", fields, self.timeout, watch._take, kept=True)
        if wait:
            request.answer.result()
        else:
            request.answer.add_done_callback(watch._answered)
        return watch

    # ---- changing

    def set(
        self, changes: Mapping[str, Any], *, blend: int | None = None, keep: Sequence[str] | Mapping[str, str] | None = None
    ) -> Receipt:
        """Change live parameters (`node.param` to value) together, on one frame.

        For prompts: `blend` frames over which the new one comes in; `keep`: attributes of the old one that stay (`["hair"]`), or attributes
        that the new one must have (`{"hair": "red"}`).
        """
        return self._change("set", changes=dict(changes), blend=blend, keep=_plain(keep))

    def ramp(
        self, changes: Mapping[str, Any], *, frames: int | None = None, seconds: float | None = None, curve: str = "linear",
        keep: Sequence[str] | Mapping[str, str] | None = None,
    ) -> Receipt:  # fmt: skip
        """Move numbers to their targets over `frames` or `seconds`; prompts are blended over `frames`. `curve`: linear or ease."""
        return self._change("ramp", changes=dict(changes), frames=frames, seconds=seconds, curve=curve, keep=_plain(keep))

    def reset(self, reason: str = "") -> Receipt:
        """Start a new epoch: carries and holds forget what came before."""
        return self._change("reset", reason=reason or None)

    def release(self, *paths: str) -> Receipt:
        """Let the governor move knobs again that were set by hand: `paths`, or all where none is named."""
        return self._change("release", paths=list(paths) or None)

    def pause(self) -> Receipt:
        """Admit no frames until `resume`."""
        return self._change("pause")

    def resume(self) -> Receipt:
        return self._change("resume")

    def reload(self, path: str | None = None, *, text: str | None = None) -> Receipt:
        """Take up a changed graph while frames fly: the file that was loaded, another one, or TOML text."""
        return self._change("reload", path=path, text=text)

    def stop(self, *, drain: bool = True) -> Receipt:
        """End the run: what is under way is finished first (`drain`), or given up."""
        return self._change("stop", drain=drain)

    # ---- life

    def close(self) -> None:
        """Let go of the connection. What was changed stays changed."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self._begin(op, fields).answer.result()

    def _begin(self, op: str, fields: dict[str, Any], later: Callable[[Any], None] | None = None) -> Request:
        return self._link.ask(op, {name: value for name, value in fields.items() if value is not None}, self.timeout, later)

    def _change(self, op: str, **fields: Any) -> Receipt:
        receipt = Receipt()
        receipt.number = self._begin(op, fields, receipt._take).answer.result().get("receipt", -1)
        return receipt


class AsyncControl:
    """`Control` for asyncio: the same verbs as coroutines, on the same kind of link.

    async with AsyncControl() as engine:
        receipt = await engine.set({"paint.steps": 4})
        seq = await engine.applied(receipt)
    """

    def __init__(self, url: str = URL, **options: Any) -> None:
        self.control = Control(url, **options)

    async def call(self, verb: str, *args: Any, **fields: Any) -> Any:
        """Any verb of Control by name."""
        return await asyncio.to_thread(getattr(self.control, verb), *args, **fields)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb.startswith("_") or verb not in VERBS:
            raise AttributeError(verb)

        async def called(*args: Any, **fields: Any) -> Any:
            return await self.call(verb, *args, **fields)

        return called

    async def applied(self, receipt: Receipt, timeout: float | None = 10.0) -> int | None:
        """The first frame that has a change; raises as `Receipt.wait_applied`."""
        loop = asyncio.get_running_loop()
        known: Future[None] = Future()

        def tell(_: Receipt) -> None:
            if not known.done():
                known.set_result(None)

        receipt.on_change(tell)
        try:
            await asyncio.wait_for(asyncio.wrap_future(known, loop=loop), timeout)
        except TimeoutError:
            raise NoAnswer(f"the change has not landed in {timeout:g} s", fix="is the graph getting frames?") from None
        return receipt.wait_applied(0)

    async def watch(self, *what: str, every: float = 0.5) -> AsyncIterator[dict[str, Any]]:
        """The messages of a watch; leaving the loop ends it."""
        watch: Watch = await self.call("watch", *what, every=every)
        try:
            while True:
                try:
                    yield await asyncio.to_thread(watch.next, 0.2)
                except NoAnswer:
                    continue
                except Lost:
                    return
        finally:
            watch.close()

    async def close(self) -> None:
        await asyncio.to_thread(self.control.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


VERBS = ("hello", "describe", "get", "stats", "snapshot", "set", "ramp", "reset", "release", "pause", "resume", "reload", "stop")


def _plain(keep: Sequence[str] | Mapping[str, str] | None) -> Any:
    return dict(keep) if isinstance(keep, Mapping) else list(keep) if keep is not None else None
