"""`engine run --watch`: the graph file is watched, and what changes in it is put in force while the graph runs.

A file that does not compile changes nothing and says why; `[param]`, includes, `--set` and `--param` hold as they did when the run began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.cli import report
from engine.cli.attach import Attachment
from engine.errors import EngineError, GraphError
from engine.text.watch import Watch

if TYPE_CHECKING:
    from engine.live.receipt import Receipt
    from engine.plan import Plan
    from engine.session import Session


class Reload(Attachment):
    """Watches the files of the graph; the plan is made anew as the run itself did, with all that was typed and attached."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self._told: list[str] = []  # by receipts, on whichever thread; said from the tick

    def attached(self, session: Session) -> None:
        self.watch = Watch(files_of(session.plan))

    def tick(self, session: Session) -> None:
        while self._told:
            _say(session, self._told.pop(0))
        if self.watch is None or not (changed := self.watch.changed()):
            return
        from remote.reload import planned

        names = ", ".join(file.name for file in changed)
        try:
            plan = planned(session)
            self.watch.follow(files_of(plan))
            receipt = session.reload(plan, by="file")
        except EngineError as error:
            problems = [str(one) for one in error.diagnostics] if isinstance(error, GraphError) else [str(error)]
            session.event("reload refused", "", -1, files=names, problems=problems)
            _say(session, "\n".join([f"{names} changed, and nothing was changed for it:", *(f"  {problem}" for problem in problems)]))
            return
        receipt.on(self._moved)

    def _moved(self, receipt: Receipt, state: str) -> None:
        if state == "failed":
            self._told.append(f"the graph as it is now cannot run, and nothing was changed: {receipt.reason}")
        elif receipt.diff:
            self._told.append(f"changed at frame {receipt.applied_at}:\n{_indented(receipt.diff)}")


def files_of(plan: Plan) -> tuple[str, ...]:
    """The file of a plan's graph and those it includes."""
    return plan.graph.files if plan.graph is not None else ()


def _indented(diff: Any) -> str:
    return "\n".join(f"  {line}" for line in str(diff).splitlines())


def _say(session: Session, text: str) -> None:
    say: Callable[[str], None] = getattr(session, "say", report.say)
    say(text)
