"""Weights that cross to the device layer by layer: right in any order, two at a time, each copied while the one before it computes.

`Late` stands in for a device with two queues: a copy happens no sooner than computing waits for it, and every piece of work has a time at
which it began and ended. What forgets to wait reads what lay there before.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import checkpoints, same, skeleton, stream  # noqa: E402

from operators.diffusion.weights import ferry as ferries  # noqa: E402
from operators.diffusion.weights.ferry import Ferry  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(eq=False)
class Event:
    at: float = 0.0


@dataclass
class Work:
    """`what` of the place at `where`, in the time of the queues; `seen`: how many pieces had been submitted before."""

    what: str
    where: int
    begun: float
    ended: float
    seen: int


@dataclass
class Late:
    """Copies take `copying`, layers `computing`."""

    copying: float = 1.0
    computing: float = 1.0
    done: list[Work] = field(default_factory=list)
    pending: list[tuple[Event, Any, Any]] = field(default_factory=list)
    clocks: dict[str, float] = field(default_factory=lambda: {"copy": 0.0, "compute": 0.0})
    where: dict[int, int] = field(default_factory=dict)  # event of a copy: its place
    waited: int = 0  # the place that computing waited for, 0: none
    settled: int = 0
    count: int = 0

    def note(self, what: str, where: int, after: float, takes: float) -> float:
        begun = max(self.clocks[what], after)
        self.clocks[what] = begun + takes
        self.done.append(Work(what, where, begun, begun + takes, self.count))
        self.count += 1
        return begun + takes

    def mark(self, event: Event | None) -> Event:
        event = event or Event()
        if self.waited:
            self.note("compute", self.waited, 0.0, self.computing)
            self.waited = 0
        event.at = self.clocks["compute"]
        return event

    def wait(self, event: Event) -> None:
        assert event is not None
        while self.pending and any(each is event for each, _, _ in self.pending):
            _, into, weight = self.pending.pop(0)
            into.copy_(weight)
        self.clocks["compute"] = max(self.clocks["compute"], event.at)
        self.waited = self.where[id(event)]

    def copy(self, into: Any, weight: Any, after: Event, event: Event | None) -> Event:
        assert after is not None
        event = event or Event()
        self.where[id(event)] = into.data_ptr()
        event.at = self.note("copy", into.data_ptr(), after.at, self.copying)
        self.pending.append((event, into, weight))
        return event

    def settle(self) -> None:
        self.settled += 1
        while self.pending:
            _, into, weight = self.pending.pop(0)
            into.copy_(weight)


class Layer:
    def __init__(self, seed: int, size: int = 6) -> None:
        self.weight = torch.nn.Parameter(torch.randn(size, 3, generator=torch.Generator().manual_seed(seed)), requires_grad=False)


def carried(layers: list[Layer], late: Late | None = None) -> Ferry:
    ferry = Ferry(torch.device("cpu"), late)
    for layer in layers:
        ferry.add(layer)
    return ferry


def passed(ferry: Ferry, layers: list[Layer]) -> None:
    for layer in layers:
        assert torch.equal(ferry.take(layer), layer.weight)
        ferry.give(layer)


def sound(done: list[Work]) -> None:
    """Two places, and in each one thing at a time."""
    places = {work.where for work in done}
    assert len(places) <= 2
    for where in places:
        mine = sorted((work for work in done if work.where == where), key=lambda work: (work.begun, work.ended))
        assert all(a.ended <= b.begun for a, b in itertools.pairwise(mine))


@pytest.mark.parametrize(("copying", "computing"), [(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)])
def test_a_layer_is_copied_while_the_one_before_it_computes(copying: float, computing: float) -> None:
    layers, late = [Layer(n) for n in range(8)], Late(copying, computing)
    ferry = carried(layers, late)
    passed(ferry, layers)  # the order is not known yet: a layer is sent for when it is taken
    assert all(copied.where == computed.where for copied, computed in zip(late.done[::2], late.done[1::2], strict=True))
    assert max(late.clocks.values()) <= 8 * max(copying, computing) + 2 * min(copying, computing)  # but into the place that is free
    passed(ferry, layers)  # and now what comes after the last is known too
    for _ in range(4):
        begun, at = max(late.clocks.values()), len(late.done)
        passed(ferry, layers)
        took = max(late.clocks.values()) - begun
        assert took <= 8 * max(copying, computing) + 1e-9
        work = late.done[at:]
        assert [w.what for w in work] == ["copy", "compute"] * 8  # one copy a layer
        for copied, computed in zip(work[::2], work[1::2], strict=True):
            assert copied.where != computed.where  # the next layer's, submitted before this one
            assert copied.begun < computed.ended
    sound(late.done)
    assert late.settled == 0


def test_any_order_finds_the_right_weights() -> None:
    dice = random.Random(5)
    layers = [Layer(n, size) for n, size in enumerate((6, 2, 9, 4, 7))]
    late = Late()
    ferry = carried(layers, late)
    for _ in range(300):
        passed(ferry, [dice.choice(layers)] * dice.choice((1, 1, 2)))
    sound(late.done)
    assert sum(work.what == "compute" for work in late.done) >= 300


def test_a_layer_larger_than_was_said_is_brought_all_the_same() -> None:
    layers = [Layer(0), Layer(1, 40), Layer(2)]
    late = Late()
    ferry = carried(layers[:1], late)
    for _ in range(3):
        passed(ferry, layers)


def test_a_weight_that_was_written_is_sent_for_again() -> None:
    layers, late = [Layer(n) for n in range(2)], Late()
    ferry = carried(layers, late)
    passed(ferry, [*layers, *layers])  # both lie there now
    ferry.written(layers[0])
    assert late.settled == 1  # a copy that is on its way reads the host's memory
    with torch.no_grad():
        layers[0].weight.mul_(2)
    passed(ferry, layers)


def test_a_copy_that_fails_leaves_nothing_that_looks_right() -> None:
    class Failing(Late):
        def copy(self, *args: Any) -> Event:
            if self.count >= 4:
                raise torch.OutOfMemoryError("none left")
            return super().copy(*args)

    layers, late = [Layer(0, 6), Layer(1, 5), Layer(2, 4)], Failing()
    ferry = carried(layers, late)
    passed(ferry, layers[:2])
    with pytest.raises(torch.OutOfMemoryError):
        passed(ferry, layers[2:])
    late.count = 0
    late.__class__ = Late  # type: ignore[assignment]
    passed(ferry, layers)


# ---------------------------------------------------------------- a whole node


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    """The queues of every node on this device."""
    made: list[Late] = []

    def queues() -> Late:
        made.append(Late())
        return made[-1]

    monkeypatch.setattr(ferries, "One", queues)
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"reuse": {"every": 2, "cut": 1}, "steps": 8}, {"control": 2, "control_ends": [1.0, 0.5]}, {"remember": {}},
        {"guidance": "cfg", "guidance_scale": 3.0},
    ],
    ids=repr,
)  # fmt: skip
def test_frames_are_those_of_weights_on_the_device(settings: dict[str, Any], late: list[Late]) -> None:
    """UNet and ControlNets share two places, whichever layers a pass leaves out."""
    with stream(**settings) as plain, stream(placement={"unet": "group", "controlnets": "group"}, **settings) as moved:
        for n in range(3):
            control = [skeleton(n)[0] for _ in plain.operator.controlnets]
            assert same(plain(control), moved(control)), n
        (queues,) = late
        sound(queues.done)
        assert sum(work.what == "compute" for work in queues.done) > 60
        begun, at = max(queues.clocks.values()), len(queues.done)
        moved(control)
        work = queues.done[at:]
        copies, computed = (sum(w.what == what for w in work) for what in ("copy", "compute"))
        assert computed <= copies <= 1.25 * computed  # few were expected in vain
        assert max(queues.clocks.values()) - begun <= 0.7 * (copies + computed)
        assert queues.settled == 0


def test_loras_move_on_the_host(late: list[Late], tmp_path: Path) -> None:
    """Also in the layers that lie on the device when the weights change."""
    from diffusers import UNet2DConditionModel
    from diffusion_adapters import lora_file

    path = lora_file(tmp_path / "one.safetensors", UNet2DConditionModel.from_pretrained(f"{checkpoints().model}/unet"), {}, style="diffusers")
    settings = {"loras": [{"model": str(path), "weight": 0.4}]}
    with stream(**settings) as plain, stream(placement={"unet": "group"}, **settings) as moved:
        for weight in (0.4, 1.5, 0.0, 2.0):
            for bench in (plain, moved):
                bench.set(lora_weights=[weight])
            assert same(plain(skeleton()), moved(skeleton())), weight
        loras = moved.operator._loras
        module = loras.layers[0].module
        with torch.inference_mode():
            before = module.take().clone()  # it lies there now
            module.give()
            loras.set([0.7])
            after = module.take()
        assert torch.equal(after, module.weight)
        assert not torch.equal(after, before)
