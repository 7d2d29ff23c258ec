"""What the control socket and the preview page have in common as companions of a run: the verbs, told what happens and ended in order.

Invariant: whoever waits for an answer has it before the carrier goes, and the verbs' threads end after the carrier. It knows no carrier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cli.attach import Attachment

if TYPE_CHECKING:
    from engine.session import Session
    from remote.verbs import Verbs


class Carrier(Attachment):
    """Base: a subclass makes `verbs` and its server in `attached`, and lets go of the server in `shut`."""

    verbs: Verbs | None = None

    def shut(self, session: Session) -> None:
        """The run is over, and every client has been told: end the server."""
        raise NotImplementedError

    def event(self, event: dict[str, Any]) -> None:
        if self.verbs is not None:
            self.verbs.event(event)

    def ended(self, session: Session, error: BaseException | None) -> None:
        verbs, self.verbs = self.verbs, None
        if verbs is not None:
            verbs.ended(error)
        self.shut(session)
        if verbs is not None:
            verbs.close()
