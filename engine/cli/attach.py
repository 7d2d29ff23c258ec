"""What goes along with a run: a preview page, a control socket, a recorder. Each is one Attachment, made from a command-line option.

A run calls its attachments in order, all from the thread that called `Session.run`, so that none of them can hold a lane up. What one
raises ends the run like any other error. This module imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from engine.graph import Graph
    from engine.session import Session


class Attachment:
    """Base: does nothing. `writes`: the option that it comes from and the file that it will write, which is looked at before the run."""

    writes: tuple[str, Path] | None = None

    def graph(self, graph: Graph) -> Graph:
        """The graph to compile instead of `graph`: the place to add a sink of one's own."""
        return graph

    def options(self) -> dict[str, Any]:
        """Keyword arguments for the Session, such as a recording to replay."""
        return {}

    def attached(self, session: Session) -> None:
        """The session is built and not running yet: subscribe, listen, open files. Raise a typed error where that fails."""

    def event(self, event: dict[str, Any]) -> None:
        """Something happened; called from any thread, also from lanes: only put it into a queue."""

    def tick(self, session: Session) -> None:
        """Called ten times a second while the session runs."""

    def ended(self, session: Session, error: BaseException | None) -> None:
        """The run is over, every operator is closed: close what is open. Called once for every attachment that was attached."""
