"""`engine run … --record FILE`: a Recorder that goes along with a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.attach import Attachment
from engine.errors import EngineError
from engine.text.layers import Places
from recorder.recorder import Frames, Recorder

if TYPE_CHECKING:
    from engine.graph import Graph
    from engine.session import Session


class Record(Attachment):
    """Records the run to `path`; options as for Recorder. A recording that ends early is told to `say` and does not end the run."""

    def __init__(
        self, path: Path, *, say: Callable[[str], None], frames: Frames = "auto", snapshot_every: int = 240, sets: Sequence[str] = ()
    ) -> None:
        self.path, self.say, self.frames, self.every, self.sets = path, say, frames, snapshot_every, tuple(sets)
        self.writes = ("--record", path)
        self.recorder: Recorder | None = None
        self.name = ""
        self.texts: dict[str, str] = {}
        self.told = False

    def graph(self, graph: Graph) -> Graph:
        self.name = graph.file
        self.texts = graph.places.texts() if isinstance(graph.places, Places) else {}
        return graph

    def attached(self, session: Session) -> None:
        self.recorder = Recorder(
            self.path, frames=self.frames, snapshot_every=self.every, graph=self.name, files=self.texts, sets=self.sets
        )
        self.recorder.attach(session)
        session._site_output(str(self.path))

    def tick(self, session: Session) -> None:
        if self.recorder is not None and self.recorder.error is not None and not self.told:
            self._tell(self.recorder.error)

    def ended(self, session: Session, error: BaseException | None) -> None:
        if self.recorder is None:
            return
        try:
            self.recorder.close(error)
        except EngineError as failure:
            if not self.told:
                self._tell(failure)

    def _tell(self, error: EngineError) -> None:
        self.told = True
        self.say(f"warning: {error}")
