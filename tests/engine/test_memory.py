"""The memory plan and the forecast: pure functions of what operators say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toys

from engine.errors import GraphError, UsageError
from engine.graph import Govern, GraphBuilder, as_input
from engine.plan import Plan
from engine.planning import cards
from engine.planning.compile import compile
from engine.planning.forecast import forecast
from engine.planning.memory import RESERVE, MemoryPlan, orders, plan_memory, size_of
from engine.planning.outlook import Outlook, Way, Weights, outlooks
from engine.session import Session
from engine.text.load import load

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


NET = Weights("net", 2 * GB, True, 10, ways=(
    Way("resident", stays=2 * GB), Way("small", stays=GB, cost_ms=5.0), Way("tiny", stays=GB // 10, cost_ms=50.0, says="kept in crumbs"),
))  # fmt: skip
BIG = Outlook((NET, Weights("words", GB, True, 0.0)), GB, spares=(Way("tiling", live=GB // 4, cost_ms=9.0, says="in tiles"),))


@pytest.mark.parametrize(
    ("budget", "net", "words", "spared"),
    [
        (4 * GB, "resident", "resident", False),
        (4 * GB - 1, "small", "resident", False),  # moving the words away is free, but they would visit all the same
        (3 * GB - 1, "small", "resident", True),
        (2 * GB, "tiny", "resident", True),
        (GB + GB // 2, "tiny", "resident", True),
        (GB, "tiny", "offload", True),  # does not fit at all: as little as can be
    ],
)
def test_ways_are_taken_in_order_of_cost(budget: int, net: str, words: str, spared: bool) -> None:
    plan = plan_memory({"paint": BIG}, budget, reserve=0)
    assert ways(plan) == {"net": net, "words": words}
    assert dict(plan.spared) == ({"paint": BIG.spares[0]} if spared else {})
    assert plan.placed("paint").get("activations") == ("tiling" if spared else None)
    assert plan.whole == 4 * GB
    assert plan.fits == (budget != GB)
    chosen = [p.way for p in plan.placements]
    assert plan.peak == sum(w.stays for w in chosen) + max(w.visits for w in chosen) + plan.activations


def test_what_is_kept_and_what_is_captured_counts() -> None:
    """Memory that no way of a model gives back, and pools that shrink with the activations they were made for."""
    tiled = Way("tiling", live=GB // 4, pool=GB // 8, cost_ms=9.0)
    outlook = Outlook((Weights("net", GB, True, 10),), GB, spares=(tiled,), pool=GB // 2, kept={"attention": GB // 5, "nothing": 0})
    roomy = plan_memory({"paint": outlook, "look": WATCHER}, None, reserve=7)
    assert roomy.peak == roomy.whole == GB + GB + GB // 2 + GB // 5 + sum(w.bytes for w in WATCHER.weights) + WATCHER.activations + 7
    assert (roomy.pools, roomy.kept) == (GB // 2, (("paint", "attention", GB // 5),))
    tight = plan_memory({"paint": outlook}, 2 * GB, reserve=7)
    assert tight.peak == GB + GB // 4 + GB // 8 + GB // 5 + 7
    assert (tight.activations, tight.pools) == (GB // 4, GB // 8)


def test_whoever_nobody_waits_for_goes_before_a_picture_is_changed() -> None:
    """Eight bits would be cheap, and enough: but then somebody would see it."""
    net = Weights("net", 2 * GB, True, ways=(Way("resident", stays=2 * GB), Way("fp8", stays=GB, cost_ms=1.0, alters=True)))
    eyes = Weights("eyes", GB, True, 1.0, anywhere=True)
    plan = plan_memory({"paint": Outlook((net,)), "look": Outlook((eyes,))}, 2 * GB + 1, reserve=0)
    assert ways(plan) == {"net": "resident", "eyes": "host"}
    tight = plan_memory({"paint": Outlook((net,)), "look": Outlook((eyes,))}, GB + GB // 2, reserve=0)
    assert ways(tight) == {"net": "fp8", "eyes": "host"}


def test_what_turned_out_not_to_be_needed_is_taken_back() -> None:
    """Five cheap steps come before the one that helps: only that one stays."""
    small = tuple(
        Weights(f"s{n}", GB // 100, True, ways=(Way("resident", stays=GB // 100), Way("gone", cost_ms=float(n)))) for n in range(5)
    )
    large = Weights("large", 2 * GB, True, ways=(Way("resident", stays=2 * GB), Way("gone", cost_ms=100.0)))
    plan = plan_memory({"paint": Outlook((*small, large))}, GB, reserve=0)
    assert ways(plan) == {**{f"s{n}": "resident" for n in range(5)}, "large": "gone"}


def test_a_graph_forbids_ways_and_keeps_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ways(plan_memory({"paint": BIG}, 3 * GB, reserve=0, forbid={"small"}))["net"] == "tiny"
    both = Outlook((Weights("net", 2 * GB, ways=(Way("resident", stays=2 * GB), Way("fp8+group", stays=1, cost_ms=1.0))),))
    assert ways(plan_memory({"paint": both}, GB, reserve=0))["net"] == "fp8+group"
    assert ways(plan_memory({"paint": both}, GB, reserve=0, forbid={"group"}))["net"] == "resident"
    assert orders({"headroom": "1GB", "forbid": ["fp8"], "vram": "6GB"}) == {"reserve": GB, "forbid": {"fp8"}}
    monkeypatch.setattr(toys.Heavy, "outlook", classmethod(lambda cls, asked: BIG))
    plain, roomy, strict = (
        forecast(graph(vram="4.7GB", fed=False, **more)).memory for more in ({}, {"headroom": "1GB"}, {"headroom": "1GB", "forbid": ["tiling"]})
    )
    assert (plain.reserve, roomy.reserve) == (RESERVE, GB)
    assert ways(plain)["net"] == "resident"
    assert ways(roomy)["net"] == "small"
    assert strict.spared == ()


def test_a_file_may_not_forbid_what_there_is_not(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    for line, expected in (('forbid = ["fp9"]', "fp8"), ("forbid = []", "a list of"), ('headroom = "much"', "a size")):
        file.write_text(f"[memory]\n{line}\n[node.a]\nop = 'toy.count'\n[node.b]\nop = 'toy.collect'\nin.a = 'a'\n")
        with pytest.raises(GraphError, match=expected):
            load(file)
    nodes = "[node.a]\nop = 'toy.count'\n[node.b]\nop = 'toy.collect'\nin.a = 'a'\n"
    file.write_text(f"[memory]\nforbid = ['fp8', 'host']\nheadroom = '500MB'\n{nodes}")
    assert load(file).memory == {"forbid": ["fp8", "host"], "headroom": "500MB"}


def test_a_plan_says_how_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys.Heavy, "outlook", classmethod(lambda cls, asked: BIG))
    told = str(forecast(graph(vram="2.2GB", fed=False)))
    assert "all of it as is best would take 4.63 GB" in told
    assert "2.00 GB  paint net              kept in crumbs, 0.10 GB on the card, about 50.0 ms a frame (size from its file)" in told
    assert "paint: in tiles, about 9.0 ms a frame" in told
    assert "0.63 GB  kept back" in told
    assert "as is best" not in str(forecast(graph(vram="9GB", fed=False)))


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


def graph(
    *, card: str | None = None, vram: str | None = None, fps: float | None = None, embedded: bool = False, fed: bool = True, **more: Any
) -> Plan:
    memory = {key: value for key, value in {"card": card, "vram": vram, **more}.items() if value is not None}
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
    assert told["ratio"] is None
    assert told["expected_mb"] + told["reserve_mb"] == pytest.approx(told["planned_mb"], abs=1)
    assert session.nodes["paint"].site.device == device
    assert Session(graph(fed=False), executor="inline").summary().memory is None


def test_what_was_planned_is_told_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like with like: tensors against the plan without its reserve, the allocator's hold against all of it."""
    monkeypatch.setattr("engine.live.summary.measured_peak", lambda device: (3_000_000_000, 3_500_000_000))
    told = Session(graph(vram="9GB", fed=False), executor="inline").summary().memory
    assert told is not None
    assert (told["tensors_mb"], told["measured_mb"], told["expected_mb"]) == (3000, 3500, 3100)
    assert told["ratio"] == pytest.approx(3100 / 3000, abs=1e-3)
    assert told["models"]["paint.net"] == {"mb": 2000, "card_mb": 2000, "how": "resident"}
    more = Outlook((Weights("net", 2 * GB, True, 10.0),), GB, pool=GB // 2, kept={"attention": GB // 5})
    monkeypatch.setattr(toys.Heavy, "outlook", classmethod(lambda cls, asked: more))
    told = Session(graph(vram="9GB", fed=False), executor="inline").summary().memory
    assert told is not None
    assert (told["expected_mb"], told["pools_mb"]) == (round(3.2 * GB / 1e6), round(GB / 2e6))
    assert told["kept"] == {"paint.attention": round(GB / 5e6)}
    assert told["planned_mb"] == round((3.7 * GB + RESERVE) / 1e6)


def test_an_operator_is_told_what_to_keep_off_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    three = (Weights("net", 2 * GB, True, 10), Weights("eyes", GB, True, 0.1), Weights("words", GB, True, 0.0))
    monkeypatch.setattr(toys.Heavy, "outlook", classmethod(lambda cls, asked: Outlook(three)))
    session = Session(graph(vram="3.7GB", fed=False), executor="inline")
    assert session.nodes["paint"].site.placed == {"net": "resident", "eyes": "offload", "words": "offload"}
    assert session.nodes["src"].site.placed == {}
