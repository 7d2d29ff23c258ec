"""What the web server shows of a session: its outputs, their feeds, the recording, and the verbs.

Invariant: all of it follows the running plan, so that a graph that was reloaded is shown as it is now; a viewer of an output that is gone
sees nothing until it chooses another. `close` lets go of every thread. It knows no HTTP.
"""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.sink.tap import Mailbox, forget, mailbox
from remote.feed import Feed
from remote.film import Film

if TYPE_CHECKING:
    from engine.session import Session
    from remote.verbs import Verbs


class Stage:
    """One session on show. `prefix`: what the names of its taps' mailboxes begin with. All methods may be called from any thread."""

    def __init__(self, session: Session, verbs: Verbs, prefix: str, *, folder: Path | None = None) -> None:
        self.session, self.verbs, self.prefix = session, verbs, prefix
        self.run: str = getattr(verbs, "run", "") or secrets.token_hex(8)
        self.folder = folder
        self.closed = False
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}
        self._film: Film | None = None
        self._film_of = ""

    # ---- pictures

    def outputs(self) -> list[dict[str, Any]]:
        """What can be looked at, the main picture first: `of` (node.output) and `main`."""
        taps = [node for node in self.session.plan.nodes if self._is_tap(node)]
        main = min(taps, key=lambda node: len(node.name), default=None)  # `preview` beside `preview_paint_image`
        taps = sorted(taps, key=lambda node: node is not main)
        found = [str(n.params["box"]).removeprefix(self.prefix) for n in taps]
        return [{"of": of, "main": i == 0} for i, of in enumerate(found)]

    def _is_tap(self, node: Any) -> bool:
        return node.op == "sink.tap" and str(node.params.get("box", "")).startswith(self.prefix)

    def choose(self, of: str | None) -> str:
        """`of` where it can be looked at, the main picture for None. Raises UsageError."""
        known = [output["of"] for output in self.outputs()]
        if of is None and known:
            return str(known[0])
        if of is None or of not in known:
            what = "no picture" if of is None else f"no picture {of!r}"
            fix = "there is " + ", ".join(known) if known else "no node of this graph makes pictures"
            raise UsageError(f"there is {what} to look at", fix=fix)
        return of

    def box(self, of: str) -> Mailbox:
        return mailbox(self.prefix + of)

    def feed(self, of: str) -> Feed:
        """The feed of an output that `choose` found."""
        with self._lock:
            if self.closed:
                raise UsageError("the run has ended")
            return self._feeds.setdefault(of, Feed(of, self.box(of)))

    # ---- recording

    def record(self, on: bool | None, of: str | None = None) -> dict[str, Any]:
        """Start or stop recording, or neither; how it goes. May wait for the file to be finished. Raises UsageError and MediaError."""
        if on:
            chosen = self.choose(of)
            with self._lock:
                if self.closed:
                    raise UsageError("the run has ended")
                if self._film is None or not self._film.running:
                    tell = lambda **facts: self.session.event("recording", "preview", -1, **facts)  # noqa: E731
                    self._film = Film(self.box(chosen), self._folder(), self.session.plan.name, tell=tell)
                    self._film_of = chosen
                    self.session._site_output(str(self._film.path))
        elif on is False and (film := self._film) is not None:
            film.stop()
        return self.filming()

    def filming(self) -> dict[str, Any]:
        """How the recording goes, or how the last one went."""
        film = self._film
        if film is None:
            return {"recording": False, "of": "", "path": "", "frames": 0, "seconds": 0.0, "missed": 0, "fault": ""}
        return {
            "recording": film.running, "of": self._film_of, "path": str(film.path), "frames": film.frames, "seconds": round(film.seconds, 1),
            "missed": film.missed, "fault": film.fault,
        }  # fmt: skip

    def _folder(self) -> Path:
        """Where the graph's own files go, else out/."""
        if self.folder is not None:
            return self.folder
        own = [Path(output) for output in self.session.outputs if "://" not in output]
        return own[0].parent if own else Path("out")

    # ---- the end

    def close(self) -> None:
        """Finish the recording and let go of every thread and mailbox."""
        with self._lock:
            self.closed = True
            feeds, film = list(self._feeds.values()), self._film
        for feed in feeds:
            feed.close()
        if film is not None:
            film.stop()
        for output in [*self.outputs(), *({"of": feed.of} for feed in feeds)]:
            forget(self.prefix + output["of"])
