"""Pictures that land while the next frame is computed: nobody reads them before, nothing is written over, broken ones are never seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402

from engine.errors import RunError  # noqa: E402
from engine.payload import Image  # noqa: E402
from engine.testing import Bench  # noqa: E402
from operators.diffusion.pictures import landing  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Event:
    """Happens when somebody waits for it: as late as can be."""

    def __init__(self, work: Any) -> None:
        self.work, self.waits = work, 0

    def synchronize(self) -> None:
        self.waits += 1
        if self.work is not None:
            work, self.work = self.work, None
            with torch.inference_mode():
                work()


class Slow:
    """A download that copies only when it has to, from what then lies in the source."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, pairs: Any) -> Event:
        def work() -> None:
            for source, target in pairs:
                target.copy_(source)

        self.events.append(Event(work))
        return self.events[-1]

    def wait(self, event: Event) -> None:
        event.synchronize()  # the device would see to the order; here the copy is made now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    found = Slow()
    monkeypatch.setattr("operators.diffusion.pictures.landing.later_for", lambda device, site: landing.Later(found) if site.later else None)
    return found


def late(**changes: Any) -> Bench:
    return stream(site_later=True, site_live=True, **changes)


def test_pictures_are_those_of_a_lane_that_waits(slow: Slow) -> None:
    with stream() as plain, late() as bench:
        found, events, carry = [], [], [None, None]
        for n in range(6):
            pair = [b(skeleton(n), Image(picture(n)), c) for b, c in zip((plain, bench), carry, strict=True)]
            carry = [each.latent for each in pair]
            found.append(pair)
            events.append(bench.site._landing)
        assert events == slow.events
        assert [event.work is None for event in events] == [True] * 5 + [False]  # the lane waited for all but its own
        events[-1].synchronize()
        assert all(same(*pair) for pair in found)


def test_a_picture_is_not_there_before_its_event(slow: Slow) -> None:
    with late() as bench:
        found = bench(skeleton())
        before = found.image.data.copy()
        bench.site._landing.synchronize()
        assert not np.array_equal(before, found.image.data)


def test_a_broken_frame_is_never_seen_and_the_one_after_the_next_starts_anew(slow: Slow) -> None:
    with late() as bench:
        models = bench.operator.models
        broken: list[bool] = []

        def spoil(module: Any, args: Any, out: Any) -> Any:
            return (out[0] * float("nan"),) if broken and broken.pop() else out

        models.unet.register_forward_hook(spoil)
        carry, pictures, events = None, [], []
        for n in range(7):
            if n == 2:
                broken.append(True)
            out = bench(skeleton(), carry=carry)
            carry = out.latent
            pictures.append(out.image.data)
            events.append(bench.site._landing)
        events[-1].synchronize()
        told = [facts for what, facts in bench.events if what == "not_finite"]
        assert told == [{"started": "from the source", "executed": 2}]
        assert np.array_equal(pictures[2], pictures[1])  # what was shown last stays
        assert np.array_equal(pictures[3], pictures[1])  # and so for the frame that was carried from it
        assert not np.array_equal(pictures[4], pictures[1])
        assert torch.isfinite(carry.data).all()


def test_noise_alone_that_is_not_finite_ends_the_run(slow: Slow) -> None:
    with late() as bench:
        bench.operator.models.unet.register_forward_hook(lambda module, args, out: (out[0] * float("nan"),))
        bench(skeleton())
        with pytest.raises(RunError, match="not finite after 4 steps from noise"):
            bench(skeleton())


def test_no_two_frames_share_a_flag() -> None:
    """A flag that was overwritten before it was read would call a broken frame whole."""
    slow = Slow()
    later = landing.Later(slow)
    with late_site() as site:
        raw = torch.zeros(4, 4, 3, dtype=torch.uint8)
        for n in range(9):
            later.emit(raw, torch.tensor(float("nan") if n % 3 == 1 else 1.0), site, n)
            bad = later.landed()
            assert bad == ([n - 1] if n % 3 == 2 else [])
            later.anew = False


def late_site() -> Any:
    from contextlib import nullcontext

    from engine.site import Site

    return nullcontext(Site(node="x", later=True))
