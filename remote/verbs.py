"""The control verbs over a running session, whatever carries them: a ROUTER socket, a WebSocket, a test.

`Verbs.handle(request, reply)` checks a request, carries it out and answers through `reply`; what comes later (applied, done, failed, the
messages of a watch) comes through the same `reply`, from other threads. Invariants: handle never waits for a frame, a file or a peer; every
accepted change is followed by exactly one `applied` or `failed`, and those of one client come in the order of its requests. It knows no
socket.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.live.describe import plain
from remote import facts, prompts, watch
from remote.request import VERSION, Fields, Refused, checked, number_of, told
from remote.worker import Worker

if TYPE_CHECKING:
    from engine.live.receipt import Receipt
    from engine.session import Session

Reply = Callable[[dict[str, Any]], None]
PENDING = 4096  # changes of one client that are accepted and have not landed
REASON = 200  # characters of a reason that are kept
READING = ("hello", "describe", "get", "stats", "unwatch", "snapshot")  # what is answered also when the run is over


class Verbs:
    """All verbs over one session. `reply` must be hashable, cheap, safe from any thread, and the same object for every request of a client.

    `run` names this run; a client that sees another one knows that the engine was restarted. Call `event` with what happens (for watches),
    `forget` when a client has gone, `ended` when the run is over, and `close` at last.
    """

    def __init__(self, session: Session, *, run: str | None = None) -> None:
        self.session = session
        self.run = run or secrets.token_hex(8)
        self.over = False
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending: dict[Reply, set[_Pending]] = {}
        self._stops: list[_Pending] = []
        self._rates = facts.Rates()
        self._watches = watch.Watches(session, self._rates)
        self._worker = Worker("control work")
        self._verbs: dict[str, Callable[[Fields, int, Reply], None]] = {
            "hello": self._hello, "describe": self._describe, "get": self._get, "set": self._set, "ramp": self._ramp, "reset": self._reset,
            "release": self._release, "pause": self._pause, "resume": self._resume, "reload": self._reload, "snapshot": self._snapshot,
            "stats": self._stats, "watch": self._watch, "unwatch": self._unwatch, "stop": self._stop,
        }  # fmt: skip

    # ---- from the carrier

    def handle(self, request: Any, reply: Reply) -> None:
        """Deal with one request. Never raises and never blocks; whatever is wrong is answered."""
        number = number_of(request)
        try:
            asked = checked(request, tuple(self._verbs))
            fields = Fields(asked)
            if self.over and fields.op not in READING:
                raise Refused("Ended", "the run has ended")
            self._verbs[fields.op](fields, asked["id"], reply)
        except Exception as error:
            self.refuse(number, error, reply)

    def refuse(self, number: int | None, error: BaseException, reply: Reply) -> None:
        """Tell a client why its request is not carried out."""
        described, more = told(error)
        reply({"v": VERSION, "id": number, "kind": "refused", "error": described, **more})
        if not isinstance(error, (Refused, EngineError)):
            self.session.event("control fault", "", -1, message=f"{type(error).__name__}: {error}")

    def busy(self, reply: Reply) -> bool:
        """Whether something is still to be said to a client."""
        return bool(self._pending.get(reply)) or self._watches.has(reply)

    def forget(self, reply: Reply) -> None:
        """A client has gone: nothing more is sent to it. What it changed stays."""
        self._watches.remove(reply)
        with self._lock:
            for gone in self._pending.pop(reply, ()):
                gone.silent = True

    def event(self, event: dict[str, Any]) -> None:
        """Something happened in the session; from any thread."""
        self._watches.event(event)

    def ended(self, error: BaseException | None) -> None:
        """The run is over: a wanted stop has been applied, and what has not landed never will."""
        self.over = True
        self._watches.flush()
        with self._lock:
            stops, self._stops = self._stops, []
            left = [one for pending in self._pending.values() for one in pending]
        for one in stops:
            one.move("applied", {"seq": None, **self._now()})
        for one in left:
            one.fail(Refused("Ended", "the run ended before it landed"))

    def close(self) -> None:
        """End the threads of its own."""
        self._watches.close()
        self._worker.close()

    # ---- reading

    @staticmethod
    def _answer(reply: Reply, number: int, **answer: Any) -> None:
        reply({"v": VERSION, "id": number, "kind": "answer", **answer})

    def _now(self) -> dict[str, Any]:
        return {"epoch": self.session.epoch, "params": self.session.version}

    def _hello(self, fields: Fields, number: int, reply: Reply) -> None:
        fields.text("client")
        fields.text("version")
        fields.end()
        self._answer(reply, number, **facts.hello(self.session, self.run, tuple(self._verbs)))

    def _describe(self, fields: Fields, number: int, reply: Reply) -> None:
        fields.end()
        self._answer(reply, number, **facts.describe(self.session))

    def _get(self, fields: Fields, number: int, reply: Reply) -> None:
        paths = fields.paths("paths")
        fields.end()
        self._answer(reply, number, values=self.session.values(paths), params=self.session.version)

    def _stats(self, fields: Fields, number: int, reply: Reply) -> None:
        fields.end()
        self._answer(reply, number, **facts.stats(self.session, self._rates))

    def _snapshot(self, fields: Fields, number: int, reply: Reply) -> None:
        of = fields.text("of")
        format = fields.text("format", "png", among=("png", "jpeg"))
        fields.end()
        from remote.picture import find, take

        mailbox, what = find(self.session, of)
        self._slowly(number, reply, lambda: self._answer(reply, number, **take(mailbox, what, format)))

    # ---- watching

    def _watch(self, fields: Fields, number: int, reply: Reply) -> None:
        every = fields.number("every_ms", 500, 50, 3_600_000)
        what = fields.names("what", ("stats",), watch.KINDS)
        fields.end()
        if self.over:
            raise Refused("Ended", "the run has ended")
        begin = partial(self._answer, reply, number, what=list(what), every_ms=every)
        if not self._watches.add(watch.Watch(reply, number, every / 1000, frozenset(what)), begin):
            raise Refused("TooMany", f"{watch.PER_CLIENT} watches of this client run already", fix="end one with unwatch")

    def _unwatch(self, fields: Fields, number: int, reply: Reply) -> None:
        which = fields.number("watch", None, 0, 2**63 - 1, whole=True)
        fields.end()
        self._answer(reply, number, ended=self._watches.remove(reply, which))

    # ---- changing

    def _set(self, fields: Fields, number: int, reply: Reply) -> None:
        changes = fields.changes()
        blend = fields.number("blend", None, 0, prompts.MAX_BLEND, whole=True)
        keep = fields.keep()
        fields.end()
        self._room(reply)
        changes = prompts.with_prompts(self.session, changes, blend, keep)
        self._accept(self.session.set(changes, by="control"), number, reply)

    def _ramp(self, fields: Fields, number: int, reply: Reply) -> None:
        changes = fields.changes()
        frames = fields.number("frames", None, 1, 10_000_000, whole=True)
        seconds = fields.number("seconds", None, 0, 86_400)
        curve = fields.text("curve", "linear", among=("linear", "ease"))
        keep = fields.keep()
        fields.end()
        self._room(reply)
        words = [path for path in changes if prompts.is_prompt(self.session, path)]
        if not words:
            if keep is not None:
                raise Refused("BadRequest", "no prompt among the changes that could take keep", found=", ".join(changes)[:200])
            self._accept(self.session.ramp(changes, frames=frames, seconds=seconds, curve=curve, by="control"), number, reply)
            return
        if len(words) < len(changes):
            fix = "ramp the numbers and the prompt in two requests; both may begin on one frame"
            raise Refused("BadRequest", "a ramp moves numbers, or blends prompts, and not both", found=", ".join(changes)[:200], fix=fix)
        if frames is None or frames > prompts.MAX_BLEND:
            found = f"seconds = {seconds:g}" if frames is None and seconds is not None else f"frames = {frames}"
            raise Refused("BadRequest", "a prompt is blended over frames", expected=f"frames = 1 to {prompts.MAX_BLEND}", found=found)
        changes = prompts.with_prompts(self.session, changes, frames, keep)
        self._accept(self.session.ramp(changes, frames=frames, curve="blend", by="control"), number, reply)

    def _reset(self, fields: Fields, number: int, reply: Reply) -> None:
        reason = fields.text("reason", "asked for")[:REASON]
        fields.end()
        self._room(reply)
        self._accept(self.session.reset(reason), number, reply)

    def _release(self, fields: Fields, number: int, reply: Reply) -> None:
        paths = fields.paths("paths") or ()
        fields.end()
        self._room(reply)
        self._accept(self.session.release(paths, by="control"), number, reply)

    def _pause(self, fields: Fields, number: int, reply: Reply) -> None:
        fields.end()
        self._room(reply)
        self._accept(self.session.pause(by="control"), number, reply)

    def _resume(self, fields: Fields, number: int, reply: Reply) -> None:
        fields.end()
        self._room(reply)
        self._accept(self.session.resume(by="control"), number, reply)

    def _reload(self, fields: Fields, number: int, reply: Reply) -> None:
        path, text = fields.text("path"), fields.text("text")
        fields.end()
        if path and text:
            raise Refused("BadRequest", "reload takes a path or a text", expected="one of them, or neither", found="both")
        self._room(reply)
        from remote.reload import planned

        def load() -> None:
            self._accept(self.session.reload(planned(self.session, path, text), by="control"), number, reply)

        self._slowly(number, reply, load)

    def _stop(self, fields: Fields, number: int, reply: Reply) -> None:
        drain = fields.truth("drain", True)
        fields.end()
        one = self._enter(reply, number, next(self._numbers))
        with self._lock:
            self._stops.append(one)
        one.say("accepted", {})
        self.session.stop(drain=drain)

    # ---- receipts

    def _slowly(self, number: int, reply: Reply, work: Callable[[], None]) -> None:
        """Do on the worker's thread what takes time; what it raises is answered."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                self.refuse(number, error, reply)

        if not self._worker.put(run):
            raise Refused("TooMany", "too many requests that take time are waiting", fix="try again in a moment")

    def _room(self, reply: Reply) -> None:
        if len(self._pending.get(reply, ())) >= PENDING:
            fix = "wait for receipts; is the graph getting frames?"
            raise Refused("TooMany", f"{PENDING} changes of this client have not landed yet", fix=fix)

    def _enter(self, reply: Reply, number: int, receipt: int) -> _Pending:
        one = _Pending(reply, number, receipt, self._leave)
        with self._lock:
            self._pending.setdefault(reply, set()).add(one)
        return one

    def _leave(self, one: _Pending) -> None:
        with self._lock:
            mine = self._pending.get(one.reply)
            if mine is not None:
                mine.discard(one)
                if not mine:
                    del self._pending[one.reply]

    def _accept(self, receipt: Receipt, number: int, reply: Reply, **more: Any) -> None:
        one = self._enter(reply, number, receipt.number)
        one.say("accepted", more)
        receipt.on(partial(_moved, one))
        if self.over:
            one.fail(Refused("Ended", "the run ended before it landed"))


class _Pending:
    """One accepted change of one client: tells each step once, and in order."""

    def __init__(self, reply: Reply, number: int, receipt: int, leave: Callable[[_Pending], None]) -> None:
        self.reply, self.number, self.receipt, self._leave = reply, number, receipt, leave
        self.silent = self.applied = self.over = False
        self.lock = threading.RLock()

    def say(self, kind: str, more: dict[str, Any]) -> None:
        if not self.silent:
            self.reply({"v": VERSION, "id": self.number, "kind": kind, "receipt": self.receipt, **more})

    def move(self, kind: str, more: dict[str, Any], *, last: bool = True) -> None:
        with self.lock:
            if self.over or (kind == "applied" and self.applied):
                return
            self.applied |= kind == "applied"
            self.over = last
            self.say(kind, more)
        if last:
            self._leave(self)

    def fail(self, error: BaseException, kind: str = "failed", more: dict[str, Any] | None = None) -> None:
        described, problems = told(error)
        self.move(kind, {"error": described, **problems, **(more or {})})


def _moved(one: _Pending, receipt: Receipt, state: str) -> None:
    """A receipt moved; called on whatever thread moved it."""
    with one.lock:  # two transitions may be told by two threads, the later one first
        if receipt.applied_at is not None and state != "refused":
            facts = {"seq": receipt.applied_at, "epoch": receipt.epoch, "params": receipt.params}
            if receipt.diff is not None:
                facts["diff"] = _diff(receipt.diff)
            one.move("applied", facts, last=receipt.what != "ramp")
        if state == "done":
            more = {"problems": dict(receipt.problems)} if receipt.problems else {}
            one.move("done", {"seq": receipt.done_at, **more})
        elif state in ("failed", "refused"):
            more = {"problems": receipt.problems if isinstance(receipt.problems, list) else dict(receipt.problems)} if receipt.problems else {}
            one.fail(Refused("NotApplied", receipt.reason or "it did not come to its end"), state, more)


def _diff(diff: Any) -> Any:
    return plain(diff.to_dict() if hasattr(diff, "to_dict") else diff)
