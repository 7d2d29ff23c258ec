"""The base of operators with a life: what the engine calls, when, and what a subclass may say.

All calls come on one thread, the operator's lane, unless a method says otherwise. It runs nothing and knows no graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from engine.planning.outlook import Asked, Outlook
    from engine.site import Site


class Operator:
    """Base of class operators. The engine calls, on one thread: open, then __call__ per frame, then flush, then close.

    Live parameters are plain attributes: keep `self.steps = steps` in the constructor, and the engine writes the new value between two
    frames through `update`. Random numbers come from `site.rng()`, frame buffers from `site.empty()`.
    State kept from frame to frame must be dropped in `reset`, which is called when a frame of a newer epoch arrives.
    """

    site: Site
    onlooker: ClassVar[bool] = False
    """For sinks that only watch beside others (a preview, a meter): a frame that reached nobody else is not out, and ages are not taken
    there. Where a graph has no other sink, it counts like any."""

    batch_carry: ClassVar[str] = ""
    """For operators with `call_batch`: what is written beside `batch` so that frames go on from earlier ones without a carry edge, which
    cannot close a loop around a batch. The compiler names it where somebody tries."""

    gives_way: ClassVar[bool] = False
    """For operators that nobody waits for (a picture-to-text model): when another node runs out of memory, this one is asked to `relieve`
    before that one gives anything up. `relieve` and `restore` may then come from any thread, also during a call, and `relieve` returns when
    the memory is free."""

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        """What this operator will load and compute, from its parameters and files alone, without torch; None: nothing worth saying."""
        return None

    def open(self, site: Site) -> None:
        """Acquire what the calls need; runs on the lane that will call. Raise MissingError, DeviceError, … in clear words."""
        self.site = site

    def update(self, **changes: Any) -> None:
        """Take new values of live parameters, already validated, between two frames."""
        for name, value in changes.items():
            setattr(self, name, value)

    def reset(self) -> None:
        """Forget what earlier frames left: a new epoch starts."""

    def snapshot(self) -> Any:
        """What earlier frames left, for `recall` in another process: plain values, NumPy arrays and tensors in dicts and lists, none of which
        is written to afterwards. Called before a frame, on the lane. By default {} where `reset` is not overridden, because then there is
        nothing to forget, else None: it cannot be said. Raise ReplayError to say why not."""
        return {} if type(self).reset is Operator.reset else None

    def recall(self, state: Any) -> None:
        """Go on from a `snapshot`; called after `open`, on the lane."""

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        """What only one can hold at a time, in words that are the same for all who would: a camera, a port, a file to write. None: nothing. A
        reload then closes the old node before it opens the new one, and opens the old one again where the new one does not open."""
        return None

    @classmethod
    def redirected(cls, params: Mapping[str, Any], folder: Path, node: str) -> dict[str, Any] | None:
        """For sinks: `params` changed so that what is written lies in `folder`, under a name made of `node`. A replay asks, because it must
        not write over what was recorded. None: this sink writes no files, and a replay does without it."""
        return None

    def idle(self) -> bool:
        """Called on the lane, between frames, when there is nothing to do: get ready for what may come, a little at a time, for a frame that
        arrives meanwhile waits. Whether there is more to get ready for. Not called where time is simulated."""
        return False

    def wanted(self) -> bool:
        """For sinks, asked before every call: False when nobody would see the frame. It is then neither converted nor downloaded nor handed
        over, and is dropped as `unwatched`."""
        return True

    def tally(self) -> dict[str, int]:
        """Numbers of its own for the summary and the metrics, such as what a sink sent and what a peer missed. Read from any thread, also after
        close."""
        return {}

    @classmethod
    def sliding(cls, params: Mapping[str, Any]) -> bool:
        """For operators with `call_batch`: whether frames are handed over one at a time, as they come, and answered later, in order. A call
        then gets one frame and returns the results, none or several, of those that waited longest; fewer than the node's `batch` are
        under way after it. A call with no frame asks for all that is. After an error nothing is under way: `reset` has been called."""
        return False

    def flush(self) -> Any:
        """Called once after the last frame; may return a last result, as a call would (None: nothing)."""
        return None

    def relieve(self) -> bool:
        """Free device memory by moving weights off the device (the last rung of the ladder); False where nothing can be freed."""
        return False

    def restore(self) -> None:
        """Undo `relieve`."""

    def close(self) -> None:
        """Release everything; runs on the same lane, also after a failure, at most once, and only after open was entered."""
