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
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from remote import facts
from remote.request import VERSION, Fields, Refused, checked, number_of, told

if TYPE_CHECKING:
    from engine.session import Receipt, Session

Reply = Callable[[dict[str, Any]], None]
PENDING = 4096  # changes of one client that are accepted and have not landed


class Verbs:
    """All verbs over one session. `reply` must be hashable, cheap, safe from any thread, and the same object for every request of a client.

    `run` names this run; a client that sees another one knows that the engine was restarted.
    """

    def __init__(self, session: Session, *, run: str | None = None) -> None:
        self.session = session
        self.run = run or secrets.token_hex(8)
        self.over: BaseException | bool = False
        self._lock = threading.Lock()
        self._receipts = itertools.count(1)
        self._pending: dict[Reply, dict[int, int]] = {}  # client -> receipt -> request
        self._verbs: dict[str, Callable[[Fields, int, Reply], None]] = {
            "hello": self._hello, "describe": self._describe, "get": self._get, "set": self._set, "reset": self._reset, "stats": self._stats,
            "stop": self._stop,
        }  # fmt: skip
        self._rates: dict[Reply, facts.Rates] = {}
        self._stopping: list[tuple[Reply, int, int]] = []

    # ---- from the carrier

    def handle(self, request: Any, reply: Reply) -> None:
        """Deal with one request. Never raises and never blocks; whatever is wrong is answered."""
        number = number_of(request)
        try:
            asked = checked(request, tuple(self._verbs))
            fields = Fields(asked)
            if self.over and fields.op not in ("hello", "describe", "get", "stats"):
                raise Refused("Ended", "the run has ended")
            self._verbs[fields.op](fields, asked["id"], reply)
        except Exception as error:
            self.refuse(number, error, reply)

    def refuse(self, number: int | None, error: BaseException, reply: Reply) -> None:
        """Tell a client why its request is not carried out."""
        described, more = told(error)
        reply({"v": VERSION, "id": number, "kind": "refused", "error": described, **more})
        if not isinstance(error, (Refused, EngineError)):
            self.session.event("control_fault", "", -1, message=f"{type(error).__name__}: {error}")

    def forget(self, reply: Reply) -> None:
        """A client has gone: nothing more is sent to it. What it changed stays."""
        with self._lock:
            self._pending.pop(reply, None)
            self._rates.pop(reply, None)
            self._stopping = [entry for entry in self._stopping if entry[0] != reply]

    def ended(self, error: BaseException | None) -> None:
        """The run is over: a wanted stop has been applied, and what has not landed never will."""
        self.over = error or True
        with self._lock:
            stopping, self._stopping = self._stopping, []
            pending, self._pending = self._pending, {}
        for reply, number, receipt in stopping:
            reply(self._message(number, "applied", receipt=receipt, **self._now()))
        for reply, receipts in pending.items():
            for receipt, number in receipts.items():
                described, more = told(Refused("Ended", "the run ended before the change landed"))
                reply(self._message(number, "failed", receipt=receipt, error=described, **more))

    # ---- reading

    def _answer(self, reply: Reply, number: int, **answer: Any) -> None:
        reply(self._message(number, "answer", **answer))

    def _message(self, number: int, kind: str, **more: Any) -> dict[str, Any]:
        return {"v": VERSION, "id": number, "kind": kind, **more}

    def _now(self) -> dict[str, Any]:
        return {"seq": None, "epoch": self.session.epoch, "params": self.session.version}

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
        known = facts.values(self.session)
        unknown = [path for path in paths or () if path not in known]
        if unknown:
            from engine.registry import suggest

            raise Refused(
                "ParamError", f"there is no {unknown[0]!r}", found=unknown[0], fix=suggest(unknown[0], list(known)),
                problems={path: "there is no such parameter; " + suggest(path, list(known)) for path in unknown},
            )  # fmt: skip
        values = known if paths is None else {path: known[path] for path in paths}
        self._answer(reply, number, values=values, params=self.session.version)

    def _stats(self, fields: Fields, number: int, reply: Reply) -> None:
        fields.end()
        with self._lock:
            rates = self._rates.setdefault(reply, facts.Rates())
        self._answer(reply, number, **facts.stats(self.session, rates))

    # ---- changing

    def _set(self, fields: Fields, number: int, reply: Reply) -> None:
        changes = fields.changes()
        fields.end()
        self._room(reply)
        self._accept(self.session.set(changes, by="control"), number, reply)

    def _reset(self, fields: Fields, number: int, reply: Reply) -> None:
        reason = fields.text("reason", "asked for")[:PATH_OF_REASON]
        fields.end()
        self._room(reply)
        self._accept(self.session.reset(reason), number, reply)

    def _stop(self, fields: Fields, number: int, reply: Reply) -> None:
        drain = fields.truth("drain", True)
        fields.end()
        receipt = next(self._receipts)
        with self._lock:
            self._stopping.append((reply, number, receipt))
        reply(self._message(number, "accepted", receipt=receipt))
        self.session.stop(drain=drain)

    # ---- receipts

    def _room(self, reply: Reply) -> None:
        with self._lock:
            if len(self._pending.get(reply, ())) >= PENDING:
                fix = "wait for receipts; is the graph getting frames?"
                raise Refused("TooMany", f"{PENDING} changes of this client have not landed yet", fix=fix)

    def _accept(self, receipt: Receipt, number: int, reply: Reply) -> None:
        mark = next(self._receipts)
        with self._lock:
            self._pending.setdefault(reply, {})[mark] = number
        reply(self._message(number, "accepted", receipt=mark))
        threading.Thread(target=self._watch, args=(receipt, mark, reply), daemon=True).start()

    def _watch(self, receipt: Receipt, mark: int, reply: Reply) -> None:
        receipt.wait()
        with self._lock:
            number = self._pending.get(reply, {}).pop(mark, None)
        if number is not None:
            reply(self._message(number, "applied", receipt=mark, seq=receipt.applied_at, epoch=self.session.epoch, params=self.session.version))


PATH_OF_REASON = 200  # characters of a reason that are kept
