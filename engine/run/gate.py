"""The entrance of a graph: credits bound the frames in flight, and the newest frame waits in one slot.

Live graphs drop here, before work is spent; offline graphs make the source wait. Each frame's fate is decided here too, so that
in = out + in flight + drops by cause holds at every moment.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.packet import Frame, Packet

if TYPE_CHECKING:
    from engine.pool import Lease
    from engine.run.node import NodeRun
    from engine.session import Session


class Offer(NamedTuple):
    """A frame as the source made it, not yet admitted: the values of the source's outputs with their leases."""

    seq: int
    pts: int
    born: int
    values: tuple[tuple[str, Any, tuple[Lease, ...]], ...]
    cut: bool


class Gate:
    """Admits the frames of one source."""

    def __init__(self, source: NodeRun, session: Session, *, credits: int, lossy: bool) -> None:
        self.source, self.session, self.lossy = source, session, lossy
        self.credits = self.size = credits
        self.slot: Offer | None = None
        self.entered = self.out = self.in_flight = 0
        self.drops: Counter[str] = Counter()
        self.finished = self.retired = False
        self.lock = threading.RLock() if session.plan.live else session.together  # gates that keep in step are looked at together
        self.others: list[Gate] = []  # those it takes turns with
        self.turn = (0, source.plan.order)  # seq of the next frame, place among the gates
        self.offered = 0  # seq after the last frame that came
        self.emptied = threading.Condition(self.lock)
        self._pumping = self._cut = False
        self._last: tuple[int, int] = (-1, -(2**63))  # epoch and pts of the last frame admitted

    # ---- source side

    def offer(self, offer: Offer) -> None:
        """Hand over the newest frame. A live gate replaces the one still waiting; an offline source must wait until the slot is empty."""
        with self.lock:
            self.entered += 1
            self.in_flight += 1
            self.offered = offer.seq + 1
            if self.retired:
                self._refuse(offer, "reload")
                return
            replay = self.session.replay
            if replay is not None and (cause := replay.drop_at(self.source.gate_id, offer.seq)):
                self._refuse(offer, cause)
                return
            if self.session.paused and self.lossy:
                self._refuse(offer, "paused")
                return
            if self.slot is not None:
                old, self.slot = self.slot, None
                self._refuse(old, "gate")
            self.slot = offer
            self.pump()

    def _open(self) -> bool:
        """Whether a frame may go in. Sources that take turns keep in step, so that a reset meets the same frames of the others every time."""
        session = self.session
        if self.credits <= 0 or session.paused or session.aborting.is_set():
            return False
        if session.closing is not None and self.slot is not None and self.slot.seq >= session.closing.get(self.source.gate_id, 0):
            return False
        return all(gate.source.finished or gate.turn > self.turn for gate in self.others) and not self.source.blocked()

    def _end_waits(self) -> bool:
        """Whether the end of the stream, too, belongs to what comes after a reload."""
        session = self.session
        if session.replay is not None or session.closing is None:
            return False  # the source is tethered where its end waits
        return self.turn[0] >= session.closing.get(self.source.gate_id, 0)

    def finish(self) -> None:
        """The source has ended: the end marker follows the frame that still waits."""
        with self.lock:
            self.finished = True
            self.pump()

    def pump(self) -> None:
        """Admit the waiting frame if there is a credit and room for it; called again whenever either may have changed."""
        with self.lock:
            if self._pumping:
                return
            self._pumping = True
            try:
                if self.slot is not None and self.session.paused and self.lossy:
                    offer, self.slot = self.slot, None  # it would be old when the pause ends
                    self._refuse(offer, "paused")
                while self.slot is not None and self._open():
                    offer, self.slot = self.slot, None
                    self.turn = (offer.seq + 1, self.turn[1])
                    self._admit(offer)
                    for gate in self.others:
                        gate.pump()
                if self.finished and self.slot is None and not self.source.finished and not self._end_waits() and self.source.may_end():
                    self.source.finished = True
                    self.source.emit.eos()
                    for gate in self.others:
                        gate.pump()
                if self.slot is None:
                    self.emptied.notify_all()
                if self.session.closing is not None:
                    self.session.quiet.set()  # somebody waits for the frames under way to end
            finally:
                self._pumping = False

    def broken(self) -> None:
        """The stream begins anew: so does an epoch, with its first frame."""
        with self.lock:
            self._cut = True

    def close(self) -> None:
        """The session is over: the frame that still waits will not be admitted."""
        with self.lock:
            if self.slot is not None:
                offer, self.slot = self.slot, None
                self._refuse(offer, "gate")

    def retire(self) -> None:
        """The source leaves the graph: it is stopped, and what it still brings is not admitted."""
        self.source.site.stop.set()
        with self.lock:
            self.retired = self.source.finished = True
            if self.slot is not None:
                offer, self.slot = self.slot, None
                self._refuse(offer, "reload")
            self.emptied.notify_all()

    @property
    def drained(self) -> bool:
        """Whether every frame that holds a credit has ended."""
        return self.credits == self.size

    def resize(self, credits: int) -> None:
        """Let so many frames be under way from now on."""
        with self.lock:
            self.credits += credits - self.size
            self.size = credits

    def _admit(self, offer: Offer) -> None:
        session, cut = self.session, offer.cut or self._cut
        if session.replay is None and not cut and not session.resetting and self._last[0] == session.epoch and offer.pts <= self._last[1]:
            self._refuse(offer, "late")  # before anything is stamped: a change lands on a frame that goes on
            return
        self._cut = False
        version, epoch = session.stamp(self.source.gate_id, offer.seq, cut, offer.pts)
        if self._last[0] == epoch and offer.pts <= self._last[1]:
            self._refuse(offer, "late")
            return
        self._last = (epoch, offer.pts)
        if session.tap is not None:
            session.tap.entered(self, offer, version, epoch)
        frame = Frame(offer.seq, epoch, offer.born, self)
        self.credits -= 1
        self.hold(frame, True)  # held while its messages are being sent, so that it cannot end in the middle
        origin = self.source.site.stream
        for output, value, leases in offer.values:
            packet = Packet(offer.seq, offer.pts, epoch, offer.born, value, version=version, frame=frame, leases=leases, origin=origin)
            self.source.emit.packet(output, packet)
        if len(offer.values) < len(self.source.emit.outs):
            self.source.emit.missing({output for output, _, _ in offer.values}, offer.seq)
        for _, _, leases in offer.values:
            for lease in leases:
                lease.release()
        self.release(frame, True)

    def _refuse(self, offer: Offer, cause: str) -> None:
        for _, _, leases in offer.values:
            for lease in leases:
                lease.release()
        self.in_flight -= 1
        self.drops[cause] += 1
        if self.session.tap is not None:
            self.session.tap.refused(self, offer, cause)
        self._cut |= offer.cut  # the stream is broken here whether or not this very frame goes in
        if cause in ("gate", "paused"):
            self.session.recording.drop(self.source.gate_id, offer.seq, cause)

    # ---- the fate of frames

    def hold(self, frame: Frame, credit: bool) -> None:
        with self.lock:
            frame.total += 1
            frame.hard += credit

    def blame(self, frame: Frame, cause: str) -> None:
        """Note why a frame was dropped; the first cause stands, and a frame that reached a sink all the same is out."""
        if frame.cause is None:
            frame.cause = cause

    def release(self, frame: Frame, credit: bool) -> None:
        with self.lock:
            frame.total -= 1
            frame.hard -= credit
            if frame.total == 0:
                self.in_flight -= 1
                if frame.sunk is not None:
                    self.out += 1
                else:
                    self.drops[frame.cause or "skipped"] += 1
                self.session.frame_ended(frame)
            if credit and frame.hard == 0:
                self.credits += 1
                self.pump()
