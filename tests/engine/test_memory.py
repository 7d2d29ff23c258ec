"""The memory plan and the forecast: pure functions of what operators say."""

from __future__ import annotations

import pytest
import toys

from engine import cards
from engine.compile import compile
from engine.errors import UsageError
from engine.forecast import forecast
from engine.graph import Govern, GraphBuilder, as_input
from engine.memory import RESERVE, MemoryPlan, plan_memory, size_of
from engine.outlook import Outlook, Weights, outlooks
from engine.plan import Plan
from engine.session import Session

GB = 10**9


def painter() -> Outlook:
    """Two gigabytes that run on every step, one that runs as often, and a little one."""
    return Outlook((Weights("net", 2 * GB, True, 10), Weights("guide", GB, True, 10), Weights("words", GB // 4, True, 0.0)), GB // 10)


WATCHER = Outlook((Weights("eyes", 4 * GB, True, 1 / 48, anywhere=True),))


def ways(plan: MemoryPlan) -> dict[str, str]:
    return {p.weights.name: p.how for p in plan.placements}


def test_without_a_budget_everything_stays() -> None:
    plan = plan_memory({"paint": painter(), "look": WATCHER}, None)
    assert set(ways(plan).values()) == {"resident"}
    assert plan.peak == (2 + 1 + 4) * GB + GB // 4 + GB // 10 + RESERVE
    assert plan.fits is None


def test_what_costs_least_to_move_goes_first() -> None:
    """The text encoder is used once in a while: moving it is free. The watcher costs more, but is big."""
    all_of_it = plan_memory({"paint": painter(), "look": WATCHER}, None).peak
    just = plan_memory({"paint": painter(), "look": WATCHER}, all_of_it)
    assert set(ways(just).values()) == {"resident"}
    # Words alone would have to visit, and visiting it would need its room all the same; with the eyes both take turns.
    tight = plan_memory({"paint": painter(), "look": WATCHER}, all_of_it - 1)
    assert ways(tight) == {"net": "resident", "guide": "resident", "words": "offload", "eyes": "offload"}
    assert tight.peak == all_of_it - GB // 4
    assert tight.fits


def test_the_network_of_every_step_never_moves() -> None:
    for budget in range(0, 9 * GB, GB // 4):
        plan = plan_memory({"paint": painter(), "look": WATCHER}, budget)
        assert "host" not in {ways(plan)["net"], ways(plan)["guide"], ways(plan)["words"]}  # somebody waits for these
        assert ways(plan)["net"] == "resident"
        assert plan.fits == (plan.peak <= budget)


def test_moving_is_counted_where_it_is_paid() -> None:
    """Two models that are moved are never on the card together; one that nobody waits for goes to the host when moving is not enough."""
    plan = plan_memory({"paint": painter(), "look": WATCHER}, 4 * GB)
    assert ways(plan)["eyes"] == "host"
    assert plan.on_host("look")
    assert not plan.on_host("paint")
    assert plan.peak == 3 * GB + GB // 4 + GB // 10 + RESERVE
    moved = plan_memory({"paint": painter()}, 1)
    assert moved.placed("paint") == {"net": "resident", "guide": "offload", "words": "offload"}
    assert moved.peak == 2 * GB + GB + GB // 10 + RESERVE  # the greater of the two visits
    assert moved.fits is False
    guide = next(p for p in moved.placements if p.weights.name == "guide")
    assert guide.bus_ms == pytest.approx(1e3 / 12)  # once a frame, however many steps


@pytest.mark.parametrize(
    ("text", "bytes_"), [("6GB", 6 * 10**9), ("5.5 GiB", int(5.5 * 2**30)), ("800MB", 8 * 10**8), ("12B", 12), ("2 KiB", 2048)]
)
def test_sizes(text: str, bytes_: int) -> None:
    assert size_of(text) == bytes_


@pytest.mark.parametrize("text", ["", "6", "GB", "6 gb", "six GB", "-1GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        size_of(text)


def test_cards_are_found_by_their_usual_names() -> None:
    assert {cards.find(n).name for n in ("rtx-2060", "RTX 2060", "2060", "NVIDIA GeForce RTX 2060")} == {"rtx-2060"}
    with pytest.raises(UsageError, match="rtx-4080"):
        cards.find("rtx-4081")


# ---------------------------------------------------------------- of a plan


def graph(*, card: str | None = None, vram: str | None = None, fps: float | None = None, embedded: bool = False, fed: bool = True) -> Plan:
    memory = {key: value for key, value in {"card": card, "vram": vram}.items() if value is not None}
    g = GraphBuilder("test", clock="live", memory=memory, govern=Govern(target_fps=fps))
    g.node("src", "toy.count", count=3)
    g.node("amount", "toy.add", a="src")
    given = {"amount": as_input("amount", {"from": "amount", "map": [4.0, 8.0]})} if fed else {"amount": 5.0}
    g.node("paint", "toy.heavy", a={"from": "src", "every": 4}, **given)
    g.node("sink", "toy.collect", a="paint")
    return compile(g.build(), embedded=embedded)


def test_an_operator_is_asked_with_what_feeds_it() -> None:
    said = outlooks(graph())
    assert list(said) == ["paint"]
    assert said["paint"].tflop == (4.0, 8.0)
    assert said["paint"].weights[1].per_frame == 0.25
    assert outlooks(graph(fed=False))["paint"].tflop == (5.0, 5.0)
    assert outlooks(graph(embedded=True)) == {}


def test_a_forecast_says_what_a_card_allows() -> None:
    told = forecast(graph(card="rtx-2060", fps=3.0))
    assert told.fps(25.8) == pytest.approx((25.8 / 8, 25.8 / 4))
    assert told.warnings == ()
    assert "rtx-2060     3.2 to 6.5" in str(told)
    assert "rtx-4080" not in str(told)
    assert told.to_dict()["fps"]["rtx-2060"]["limit"] == pytest.approx((3.225, 6.45))
    assert "rtx-4080" in str(forecast(graph()))
    assert "rtx-4090" in forecast(graph(card="rtx-2060"), "4090").to_dict()["fps"]  # what is asked for wins


def test_what_physics_forbids_is_called_out() -> None:
    assert "24 fps cannot be had on rtx-2060: at most 6.5" in forecast(graph(card="rtx-2060", fps=24.0)).warnings[0]
    assert "at most 3.2 fps on rtx-2060, the target is 5" in forecast(graph(card="rtx-2060", fps=5.0)).warnings[0]
    assert forecast(graph()).warnings == ()
    assert "are needed and 2.00 GB are there" in forecast(graph(vram="2GB")).warnings[0]


def test_the_budget_is_the_graph_s_else_the_card_s() -> None:
    assert forecast(graph(card="rtx-2060", vram="3GB")).memory.budget == 3 * GB
    assert forecast(graph(card="rtx-2060")).memory.budget == 6 * 2**30
    assert forecast(graph()).memory.budget is None


# ---------------------------------------------------------------- of a session


@pytest.mark.parametrize(("vram", "how", "device"), [("9GB", "resident", "cpu"), ("3.2GB", "host", "cpu")])
def test_a_session_places_models_as_planned(vram: str, how: str, device: str) -> None:
    """A graph with a budget is planned on any device, and the summary says what was planned beside what was measured."""
    session = Session(graph(vram=vram, fed=False), executor="inline")
    told = session.summary().memory
    assert told is not None
    assert {name: model["how"] for name, model in told["models"].items()} == {"paint.net": "resident", "paint.eyes": how}
    assert told["fits"]
    assert told["planned_mb"] == round(((3 if how == "resident" else 2) * GB + GB // 10 + RESERVE) / 1e6)
    assert told["measured_mb"] is None  # nothing to measure without a card
    assert session.nodes["paint"].site.device == device
    assert Session(graph(fed=False), executor="inline").summary().memory is None


def test_an_operator_is_told_what_to_keep_off_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    three = (Weights("net", 2 * GB, True, 10), Weights("eyes", GB, True, 0.1), Weights("words", GB, True, 0.0))
    monkeypatch.setattr(toys.Heavy, "outlook", classmethod(lambda cls, asked: Outlook(three)))
    session = Session(graph(vram="3.7GB", fed=False), executor="inline")
    assert session.nodes["paint"].site.placed == {"net": "resident", "eyes": "offload", "words": "offload"}
    assert session.nodes["src"].site.placed == {}
