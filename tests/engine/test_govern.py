"""The governor: bounds, direction, dwell, memory, signals; and that a constant load leaves it in peace."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import registered

from engine.errors import GraphError, ParamError, UsageError
from engine.govern import FULL, Decision, Follow, Rules, Scale, State, Window, govern
from engine.graph import Govern, GraphBuilder, KnobRule, as_input
from engine.operator import Knob, Operator, Stamped
from engine.payload import Scalar
from engine.planning.compile import compile
from engine.session import Session

MS = 1_000_000
SECOND = 1_000 * MS
KNOBS = (KnobRule("paint.steps", (10, 22)), KnobRule("paint.size", choices=(512, 448, 384)))
START = {"paint.steps": 15, "paint.size": 512}
RULES = Rules.of(Govern(knobs=KNOBS), START)
PERIOD = 40.0


def window(now_s: float = 0.0, busy: float = 30.0, **facts: Any) -> Window:
    return Window(**{"now": round(now_s * SECOND), "frames": 20, "period_ms": PERIOD, "busy_p50_ms": busy, "busy_p95_ms": busy, **facts})


class Loop:
    """The governor in a closed loop: `busy` tells the cost of the settings in ms; `every` seconds between two looks."""

    def __init__(self, busy: Callable[[dict[str, Any]], float], rules: Rules = RULES, **values: Any) -> None:
        self.busy, self.rules, self.values = busy, rules, dict(zip((s.set for s in rules.scales), rules.initial, strict=True)) | values
        self.state, self.now, self.every = State.start(rules), 0.0, 0.5
        self.moves: list[tuple[float, Decision]] = []

    def run(self, seconds: float, **facts: Any) -> Loop:
        end = self.now + seconds
        while self.now < end:
            self.now += self.every
            decision = govern(window(self.now, self.busy(self.values), **facts), self.state, self.rules)
            self.state = decision.state
            self.values.update(decision.settings)
            if decision.settings:
                self.moves.append((self.now, decision))
        return self


def linear(values: dict[str, Any]) -> float:
    return 4 + 2.0 * values["paint.steps"] * (values["paint.size"] / 512) ** 2  # 34 ms at the start


# ---------------------------------------------------------------- scales


def test_a_range_of_integers_has_every_integer_best_first() -> None:
    scale = Scale.of(KnobRule("a.b", (10.0, 22.0)), 15)
    assert scale.levels == tuple(range(22, 9, -1))
    assert all(type(v) is int for v in scale.levels)


def test_a_range_keeps_its_ends_whatever_the_step() -> None:
    assert Scale.of(KnobRule("a.b", (10, 22), step=5), 15).levels == (22, 17, 12, 10)
    assert Scale.of(KnobRule("a.b", (0.5, 1.0)), 1.0).levels[:2] == (1.0, 0.95)
    assert Scale.of(KnobRule("a.b", (0.5, 1.0), step=0.25), 1.0).levels == (1.0, 0.75, 0.5)


def test_where_less_is_better_the_range_is_written_from_worst_to_best() -> None:
    scale = Scale.of(KnobRule("refine.every", (96, 24), step=24), 48)
    assert scale.levels == (24, 48, 72, 96)
    assert list(scale.costs) == sorted(scale.costs, reverse=True)


def test_choices_may_be_words() -> None:
    rules = Rules.of(Govern(knobs=(KnobRule("a.vae", choices=("full", "tiny")),)), {"a.vae": "full"})
    assert govern(window(busy=60), State.start(rules), rules).settings == {"a.vae": "tiny"}


@pytest.mark.parametrize(("rule", "initial"), [(KnobRule("a.b"), 3), (KnobRule("a.b", (1, 2)), None)])
def test_a_knob_without_levels_or_start_is_refused(rule: KnobRule, initial: Any) -> None:
    with pytest.raises(UsageError, match=r"knob a\.b"):
        Rules.of(Govern(knobs=(rule,)), {"a.b": initial})


def test_a_start_that_is_no_level_goes_to_the_nearest() -> None:
    rules = Rules.of(Govern(knobs=KNOBS), {"paint.steps": 30, "paint.size": 500})
    first = govern(window(busy=38), State.start(rules), rules)
    assert first.settings == {"paint.steps": 22, "paint.size": 512}
    assert govern(window(1, busy=38), first.state, rules).settings == {}


# ---------------------------------------------------------------- down and up


def test_overload_takes_the_first_knob_as_far_as_the_model_asks() -> None:
    decision = govern(window(busy=50), State.start(RULES), RULES)
    assert decision.settings == {"paint.steps": 10}  # 50 -> 36 ms asks for 15 * 0.72 = 10.8
    assert decision.moved
    assert decision.causes == ("busy 50.0 ms (p95 50.0) of 40.0; paint.steps 15 -> 10",)


def test_heavy_overload_takes_the_next_knob_too() -> None:
    assert govern(window(busy=70), State.start(RULES), RULES).settings == {"paint.steps": 10, "paint.size": 448}
    assert govern(window(busy=400), State.start(RULES), RULES).settings == {"paint.steps": 10, "paint.size": 384}


def test_three_frames_prove_a_gross_overload_and_nothing_less() -> None:
    assert govern(window(busy=60, frames=3), State.start(RULES), RULES).settings
    assert not govern(window(busy=60, frames=2), State.start(RULES), RULES).settings
    assert not govern(window(busy=42, frames=FULL - 1), State.start(RULES), RULES).settings
    assert govern(window(busy=42, frames=FULL), State.start(RULES), RULES).settings == {"paint.steps": 12}


def test_slow_frames_count_not_only_the_middle_one() -> None:
    assert govern(window(busy=36, busy_p95_ms=39), State.start(RULES), RULES).settings
    assert not govern(window(busy=36, busy_p95_ms=36.5), State.start(RULES), RULES).settings


def test_a_load_that_just_fell_is_no_overload() -> None:
    """p50 from after, p95 from before: the line through both would lie far above either."""
    assert not govern(window(busy=15, busy_p95_ms=36), State.start(RULES), RULES).settings


def test_old_frames_are_an_overload_of_one_notch() -> None:
    decision = govern(window(busy=30, age_p95_ms=130, budget_ms=100), State.start(RULES), RULES)
    assert decision.settings == {"paint.steps": 14}
    assert "age 130 ms of 100" in decision.causes[0]


def test_knobs_come_back_in_reverse_one_notch_after_each_dwell() -> None:
    load = [3.0]
    loop = Loop(lambda v: load[0] * linear(v)).run(10)
    assert loop.values == {"paint.steps": 10, "paint.size": 384}
    load[0] = 0.5
    del loop.moves[:]
    loop.run(60)
    order = [next(iter(d.settings.items())) for _, d in loop.moves]
    assert order == [("paint.size", 448), ("paint.size", 512), *(("paint.steps", n) for n in range(11, 23))]
    times = [t for t, _ in loop.moves]
    assert min(b - a for a, b in pairwise(times)) >= 2.0


def test_the_dead_band_is_dead() -> None:
    loop = Loop(lambda v: 0.92 * PERIOD).run(120)
    assert not loop.moves


def test_with_every_knob_down_it_says_so_once() -> None:
    loop = Loop(lambda v: 500.0)
    said = []
    for _ in range(20):
        loop.now += 0.5
        decision = govern(window(loop.now, 500.0), loop.state, RULES)
        loop.state = decision.state
        said += [c for c in decision.causes if "no knob is left" in c]
    assert len(said) == 1


def test_without_a_target_there_is_no_load_to_govern() -> None:
    assert govern(window(busy=1e6, period_ms=None), State.start(RULES), RULES).settings == {}


def test_the_cost_model_learns_what_a_notch_does() -> None:
    loop = Loop(lambda v: 30 + 0.2 * v["paint.steps"]).run(200)  # steps hardly matter
    assert loop.state.slopes[0] < 0.5


def test_a_climb_that_load_undoes_waits_longer_each_time() -> None:
    """512 pixels cost twice what the model can know."""
    loop = Loop(lambda v: {512: 60.0, 448: 28.0, 384: 20.0}[v["paint.size"]], **{"paint.steps": 10}).run(1200)
    climbs = [t for t, d in loop.moves if d.settings.get("paint.size") == 512]
    waits = [b - a for a, b in pairwise(climbs)]
    assert len(climbs) <= 5
    assert waits == sorted(waits)


# ---------------------------------------------------------------- memory


def test_a_cap_of_the_ladder_holds_until_it_is_gone_and_the_climb_is_slow() -> None:
    loop = Loop(lambda v: 10.0, **{"paint.steps": 15})
    decision = govern(window(0.5, 10.0, caps={"paint.steps": 10, "paint.size": 448}), loop.state, RULES)
    assert decision.settings == {"paint.steps": 10, "paint.size": 448}
    assert decision.causes[0].startswith("out of memory")
    loop.state, loop.values = decision.state, dict(decision.settings)
    loop.run(30, caps={"paint.steps": 10, "paint.size": 448})
    assert not loop.moves
    loop.run(3)
    assert loop.values == {"paint.steps": 10, "paint.size": 512}
    loop.run(60)
    assert loop.values == {"paint.steps": 22, "paint.size": 512}


def test_a_node_that_ran_out_goes_down_a_rung_at_once() -> None:
    first = govern(window(0.5, 10.0, frames=1, out_of_memory=("paint",)), State.start(RULES), RULES)
    assert first.settings == {"paint.steps": 10}
    assert first.causes == ("out of memory: paint.steps 15 -> 10",)
    second = govern(window(0.6, 10.0, frames=1, out_of_memory=("paint",)), first.state, RULES)
    assert second.settings == {"paint.size": 448}
    assert govern(window(0.7, 10.0, frames=1, out_of_memory=("other",)), second.state, RULES).settings == {}


def test_little_free_memory_is_a_rung_and_bars_the_way_up() -> None:
    loop = Loop(lambda v: 10.0)
    first = govern(window(0.5, 10.0, vram_free_mb=100), loop.state, RULES)
    assert first.settings == {"paint.steps": 10}
    assert first.causes[0].startswith("100 MB of device memory left")
    loop.state, loop.values = first.state, loop.values | first.settings
    assert not loop.run(30, vram_free_mb=300.0).moves
    assert loop.run(30, vram_free_mb=2000.0).moves


# ---------------------------------------------------------------- signals

STRENGTH = Follow("paint.strength", "pose.stability", (1.0, 0.6))


def follow(rules: Rules, signals: list[float], step_s: float = 0.25) -> list[dict[str, Any]]:
    state, given = State.start(rules), []
    for i, signal in enumerate(signals):
        decision = govern(window(i * step_s, 37.0, signals={"pose.stability": signal}), state, rules)
        state = decision.state
        given.append(dict(decision.settings))
    return given


def test_an_unsteady_pose_raises_strength_to_its_end_and_a_steady_one_lowers_it() -> None:
    rules = Rules.of(Govern(), {}, [STRENGTH])
    given = [g["paint.strength"] for g in follow(rules, [0.0] + [1.0] * 40 + [0.0] * 40) if g]
    assert given[0] == 1.0
    assert min(given) == 0.6
    assert given[-1] == 1.0
    turn = given.index(0.6)
    assert given[: turn + 1] == sorted(given[: turn + 1], reverse=True)
    assert given[turn:] == sorted(given[turn:])


def test_a_trembling_signal_moves_nothing() -> None:
    rules = Rules.of(Govern(), {}, [STRENGTH])
    given = follow(rules, [0.55 + 0.1 * (-1) ** i for i in range(200)])
    assert sum(bool(g) for g in given) <= 2


def test_a_steady_pose_takes_steps_and_load_may_take_more() -> None:
    rules = Rules.of(Govern(knobs=KNOBS), START, [Follow("paint.steps", "pose.stability", (22, 10))])
    loop = Loop(linear, rules).run(20, signals={"pose.stability": 1.0})
    assert loop.values["paint.steps"] == 10
    loop.run(10, signals={"pose.stability": 0.0})
    assert loop.values["paint.steps"] >= 15
    assert type(loop.values["paint.steps"]) is int


def test_a_signal_that_is_missing_or_nonsense_changes_nothing() -> None:
    rules = Rules.of(Govern(), {}, [STRENGTH])
    state = govern(window(0, signals={"pose.stability": 0.5}), State.start(rules), rules).state
    for signals in ({}, {"pose.stability": math.nan}, {"other": 1.0}):
        assert govern(window(9, signals=signals), state, rules).settings == {}


# ---------------------------------------------------------------- properties

BUSY = st.floats(1.0, 200.0)


@st.composite
def look(draw: st.DrawFn) -> tuple[float, dict[str, Any]]:
    """The time since the last look, and what is measured at this one."""
    busy, signal = draw(BUSY), draw(st.none() | st.floats(0, 1))
    facts = {
        "busy_p50_ms": busy, "busy_p95_ms": busy * draw(st.floats(1, 2)), "frames": draw(st.integers(0, 64)),
        "age_p95_ms": draw(st.floats(0, 200)), "budget_ms": 100.0, "vram_free_mb": draw(st.none() | st.floats(0, 4000)),
        "signals": {} if signal is None else {"pose.stability": signal},
    }  # fmt: skip
    return draw(st.floats(0.05, 5.0)), facts


looks = st.lists(look(), max_size=30)
ALL = Rules.of(
    Govern(knobs=(*KNOBS, KnobRule("refine.every", (96, 24)), KnobRule("paint.strength", (0.5, 1.0)))),
    {**START, "refine.every": 48, "paint.strength": 0.8},
    [Follow("paint.steps", "pose.stability", (22, 12)), Follow("paint.scale", "pose.stability", (0.0, 1.0))],
)


def walk(given: list[tuple[float, dict[str, Any]]]) -> list[tuple[Window, State, Decision]]:
    state, now, steps = State.start(ALL), 0.0, []
    for gap, facts in given:
        now += gap
        seen = window(now, **facts)
        decision = govern(seen, state, ALL)
        steps.append((seen, state, decision))
        state = decision.state
    return steps


@settings(max_examples=80, deadline=None)
@given(looks)
def test_settings_stay_within_their_levels_and_the_state_agrees(given: list[tuple[float, dict[str, Any]]]) -> None:
    levels = {s.set: s.levels for s in ALL.scales}
    for _, before, decision in walk(given):
        for name, value in decision.settings.items():
            if name == "paint.scale":
                assert 0.0 <= value <= 1.0
            else:
                assert value in levels[name]
                assert type(value) is type(levels[name][0])
        after = decision.state.applied
        changed = {s.set for s, a, b in zip(ALL.scales, before.applied, after, strict=True) if a != b}
        assert changed == set(decision.settings) - {"paint.scale"}
        assert bool(decision.settings) <= bool(decision.causes), "a change without a cause"


@settings(max_examples=80, deadline=None)
@given(looks)
def test_the_way_up_is_one_notch_and_never_before_the_dwell_has_passed(given: list[tuple[float, dict[str, Any]]]) -> None:
    last = None
    for seen, before, decision in walk(given):
        gain = [a - b for a, b in zip(before.at, decision.state.at, strict=True)]
        if max(gain) > 0:
            assert sorted(gain) == [0] * (len(gain) - 1) + [1]
            assert last is None or seen.now - last >= ALL.dwell_ns
        if decision.moved:
            last = seen.now


@settings(max_examples=80, deadline=None)
@given(looks, BUSY, st.floats(1.0, 3.0))
def test_more_load_never_gives_a_better_setting(given: list[tuple[float, dict[str, Any]]], busy: float, more: float) -> None:
    steps = walk(given)
    state = steps[-1][2].state if steps else State.start(ALL)
    seen = window((state.seen or 0) / SECOND + 2.5, busy)
    lighter = govern(seen, state, ALL).state.applied
    heavier = govern(replace(seen, busy_p50_ms=busy * more, busy_p95_ms=busy * more), state, ALL).state.applied
    assert all(h >= x for x, h in zip(lighter, heavier, strict=True))


@settings(max_examples=40, deadline=None)
@given(looks)
def test_the_same_inputs_give_the_same_decision(given: list[tuple[float, dict[str, Any]]]) -> None:
    for seen, state, decision in walk(given):
        assert govern(seen, state, ALL) == decision


@settings(max_examples=80, deadline=None)
@given(
    base=st.floats(0, 20), steps=st.floats(0.2, 6), power=st.floats(0.3, 3), area=st.floats(0.3, 4), cliff=st.floats(1, 3),
    where=st.integers(10, 22), start=st.integers(10, 22),
)  # fmt: skip
def test_a_constant_load_is_left_in_peace(
    base: float, steps: float, power: float, area: float, cliff: float, where: int, start: int
) -> None:
    """Any plant whose cost rises with its settings, cliffs included: after two minutes hardly a move, and fewer the longer it lasts."""

    def busy(values: dict[str, Any]) -> float:
        n, size = values["paint.steps"], values["paint.size"] / 512
        return (base + steps * 15 * (n / 15) ** power * size**area) * (cliff if n >= where else 1.0)

    rules = Rules.of(Govern(knobs=KNOBS), {"paint.steps": start, "paint.size": 512})
    loop = Loop(busy, rules)
    loop.every = 1.0
    loop.run(120)
    early = len(loop.moves)
    loop.run(480)
    late = [d.state.applied for _, d in loop.moves[early:]]
    assert len(late) <= 8
    feasible = busy({"paint.steps": 10, "paint.size": 384}) <= PERIOD
    assert not feasible or busy(loop.values) <= PERIOD


# ---------------------------------------------------------------- simulation


def sim() -> Any:
    path = Path(__file__).parents[2] / "bench" / "govern_sim.py"
    spec = importlib.util.spec_from_file_location("govern_sim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["govern_sim"] = module
    spec.loader.exec_module(module)
    return module


SIM = sim()


@pytest.mark.parametrize("scenario", SIM.scenarios(), ids=lambda s: s.name)
def test_in_simulation_at_most_one_deadline_in_a_hundred_is_missed_once_settled(scenario: Any) -> None:
    numbers = SIM.judge(SIM.play(scenario, SIM.Governed()))
    assert numbers["missed_settled_pct"] <= 1.0
    assert numbers["overrun_settled_pct"] <= 1.0
    assert numbers["turns_per_min"] <= 4.0


@pytest.mark.parametrize("name", ["step up and down", "heavy step", "nonlinear cost"])
def test_in_simulation_it_settles_within_a_second_and_beats_fixed_settings(name: str) -> None:
    (scenario,) = (s for s in SIM.scenarios() if s.name == name)
    governed = SIM.judge(SIM.play(scenario, SIM.Governed()))
    best, worst = (SIM.judge(SIM.play(scenario, SIM.CONTROLLERS[c]())) for c in ("fixed best", "fixed worst"))
    assert governed["settling_s"] <= 1.0
    assert governed["missed_all_pct"] <= 1.0 < best["missed_settled_pct"]
    assert governed["quality"] >= worst["quality"] + 0.3


def test_in_simulation_a_rival_that_comes_again_and_again_is_reckoned_with() -> None:
    """Each time it undoes a climb the governor stays down longer: four visits in the first half, and soon they are not felt."""
    (scenario,) = (s for s in SIM.scenarios() if s.name == "periodic rival")
    run = SIM.play(scenario, SIM.Governed())
    places = [(t, place) for t, _, place in run.busy]
    felt = [t for (_, a), (t, b) in pairwise(places) if b > a]
    assert len([t for t in felt if t < 120]) >= 4
    assert len([t for t in felt if t >= 120]) <= 1


def test_a_simulation_repeats_itself() -> None:
    scenario = SIM.scenarios()[6]
    assert SIM.judge(SIM.play(scenario, SIM.Governed(), 3)) == SIM.judge(SIM.play(scenario, SIM.Governed(), 3))


# ---------------------------------------------------------------- in a session, on the step clock


class Camera(Operator):
    """A hundred seconds of frames at the target rate."""

    def __call__(self) -> Iterator[Scalar]:
        clock, period = self.site.clock, round(PERIOD * MS)
        start = clock.now()
        for i in range(2500):
            self.site.sleep_until(start + i * period)
            yield Stamped(Scalar(float(i)), pts=i * period, born=start + i * period)  # type: ignore[misc]


class Painter(Operator):
    """Takes virtual time as a diffusion would: by steps and area, more between the 20th and the 60th second."""

    def __init__(self, *, steps: Annotated[int, Knob(1, 60)] = 15, size: Annotated[int, Knob(64, 1024)] = 512) -> None:
        self.steps, self.size = steps, size

    def __call__(self, number: Scalar) -> Scalar:
        load = 1.8 if 500 <= number.value < 1500 else 1.0
        noise = 1 + 0.03 * float(self.site.rng().standard_normal())
        cost = 0.6 * PERIOD * MS * (0.15 + 0.85 * self.steps / 15 * (self.size / 512) ** 2) * load * noise
        self.site.clock.advance(round(cost))  # type: ignore[attr-defined]
        return number


def swallow(number: Scalar) -> None:
    """A sink."""


@pytest.fixture
def operators() -> Iterator[None]:
    with registered({"governed.camera": Camera, "governed.paint": Painter, "governed.sink": swallow}):
        yield


def governed_session() -> Session:
    graph = GraphBuilder("governed", clock="live", budget_ms=100.0, govern=Govern(1000 / PERIOD, KNOBS))
    graph.node("camera", "governed.camera")
    graph.node("paint", "governed.paint", number="camera")
    graph.node("sink", "governed.sink", number="paint")
    return Session(compile(graph.build()), executor="inline")


@pytest.mark.usefixtures("operators")
def test_a_session_keeps_its_rate_under_a_load_that_fixed_settings_cannot_bear() -> None:
    governed = governed_session()
    fixed = Session(governed.plan, executor="inline", govern=False)
    lost = [session.run().frames["drops"].get("gate", 0) for session in (governed, fixed)]
    assert lost[0] <= 5
    assert lost[1] >= 50
    moves = [e for e in governed.events if e["what"] == "govern"]
    assert moves
    assert all(e["cause"] for e in moves)
    assert not [e for e in fixed.events if e["what"] == "govern"]
    assert governed.knobs()["paint.size"] == 512
    assert governed.knobs()["paint.steps"] >= 20


@pytest.mark.usefixtures("operators")
def test_a_knob_set_by_hand_is_held_until_it_is_released_and_the_others_go_on() -> None:
    session = governed_session()
    receipts: list[Any] = []
    seen: dict[str, set[tuple[int, int]]] = {"held": set(), "free": set()}

    def tick(s: Session) -> None:
        at = s.gates["camera"].entered
        if not receipts and at >= 300:
            receipts.append(s.set({"paint.steps": 14}))
        elif len(receipts) == 1 and at >= 1800:
            assert s.describe()["knobs"][0]["held"] is True
            receipts.append(s.release(["paint.steps"]))
        knobs = s.knobs()
        when = "held" if len(receipts) == 1 and 310 <= at < 1800 else "free" if len(receipts) == 2 else ""
        if when:
            seen[when].add((knobs["paint.steps"], knobs["paint.size"]))

    session.run(tick)
    assert {steps for steps, _ in seen["held"]} == {14}
    assert len({size for _, size in seen["held"]}) > 1, "the other knob carries the load meanwhile"
    assert {steps for steps, _ in seen["free"]} - {14}, "and the released one moves again"
    causes = [e["cause"] for e in session.events if e["what"] == "govern"]
    assert "paint.steps is held where it was set" in causes
    assert "paint.steps is given back to the governor" in causes
    assert (receipts[1].what, receipts[1].state, session.describe()["knobs"][0]["held"]) == ("release", "applied", False)


@pytest.mark.usefixtures("operators")
def test_a_held_knob_out_of_its_bounds_comes_back_into_them_when_it_is_released() -> None:
    session = governed_session()
    receipts: list[Any] = []

    def tick(s: Session) -> None:
        at = s.gates["camera"].entered
        if len(receipts) < 2 and at >= 100 + 100 * len(receipts):
            receipts.append(s.set({"paint.steps": 2}) if not receipts else s.release())
        if at >= 400:
            s.stop()

    session.run(tick)
    steps = [values["paint.steps"] for _, values in session.recording.changes if "paint.steps" in values]
    assert 2 in steps
    assert KNOBS[0].set == "paint.steps"
    assert min(KNOBS[0].range or ()) <= steps[-1] <= max(KNOBS[0].range or ())


@pytest.mark.usefixtures("operators")
def test_what_is_no_knob_cannot_be_released_and_what_the_ladder_sets_holds_nothing() -> None:
    session = governed_session()
    with pytest.raises(ParamError, match="steps") as caught:
        session.release(["paint.step"])
    assert caught.value.problems["paint.step"].startswith('is no knob of the governor; did you mean "paint.steps"')
    session.set({"paint.steps": 12}, by="ladder")
    assert not session.governing.held


@pytest.mark.usefixtures("operators")
def test_a_knob_that_an_edge_feeds_does_not_compile() -> None:
    graph = GraphBuilder("governed", clock="live", govern=Govern(1000 / PERIOD, KNOBS))
    graph.node("camera", "governed.camera")
    graph.node("paint", "governed.paint", number="camera", steps=as_input("steps", {"from": "camera"}))
    graph.node("sink", "governed.sink", number="paint")
    with pytest.raises(GraphError, match=r"paint\.steps is fed by an edge, and the governor would fight with it"):
        compile(graph.build())
