"""The control verbs, without a carrier: what is answered, what is refused, and that receipts come once and in order."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_runs import Ear, graph, running, until

from engine import Knob, operator
from engine.payload import Scalar
from remote.request import MESSAGE_BYTES, Refused, checked, weigh
from remote.verbs import PENDING, Verbs


@operator("toy.turned")
def turned(a: Scalar, *, steps: Annotated[int, Knob(1, 9)] = 5) -> Scalar:
    """A knob for the governor."""
    return a


def ask(verbs: Verbs, ear: Ear, number: int, op: str, **fields: Any) -> dict[str, Any]:
    verbs.handle({"v": 1, "id": number, "op": op, **fields}, ear)
    return ear.of(number)[0]


@pytest.fixture
def live(tmp_path):
    with running(graph(tmp_path)) as run:
        verbs = Verbs(run.session)
        yield run, verbs, Ear()
        verbs.close()


def test_hello_says_who_answers_and_what_may_be_asked(live):
    run, verbs, ear = live
    hello = ask(verbs, ear, 1, "hello", client="test")
    assert (hello["kind"], hello["server"], hello["graph"], hello["plan"]) == ("answer", "afterimage", "toys", run.session.plan.hash)
    assert hello["run"] == verbs.run != Verbs(run.session).run
    for op in hello["verbs"]:  # what is offered is known: nothing of it is refused as unknown
        verbs.handle({"v": 1, "id": 50, "op": op, "nonsense": 1}, ear)
        assert "takes no 'nonsense'" in ear.messages[-1]["error"]["message"] or ear.messages[-1]["error"]["message"].startswith(op), op


def test_describe_has_a_schema_and_a_value_for_every_parameter(live):
    _, verbs, ear = live
    nodes = ask(verbs, ear, 1, "describe")["nodes"]
    assert list(nodes) == ["source", "add", "more", "sink"]
    amount = nodes["add"]["params"]["amount"]
    assert (amount["live"], amount["knob"], amount["fed"], amount["value"]) == (True, False, None, 0.0)
    assert (amount["schema"]["minimum"], amount["schema"]["maximum"], amount["schema"]["type"]) == (-100, 100, "number")
    assert nodes["source"]["params"]["count"]["live"] is False


def test_a_transaction_lands_on_one_frame_and_is_read_back(live):
    run, verbs, ear = live
    accepted = ask(verbs, ear, 7, "set", changes={"add.amount": 5.0, "more.amount": 7.0})
    assert accepted["kind"] == "accepted"
    applied = ear.one(7, "applied")
    assert [m["kind"] for m in ear.of(7)] == ["accepted", "applied"]
    assert (applied["receipt"], applied["params"]) == (accepted["receipt"], 1)
    answer = ask(verbs, ear, 8, "get", paths=["add.amount", "more.amount"])
    assert (answer["values"], answer["params"]) == ({"add.amount": 5.0, "more.amount": 7.0}, 1)
    until(lambda: run.session.nodes["sink"].operator.taken[-1].seq > applied["seq"])
    taken = run.session.nodes["sink"].operator.taken
    assert {t.value - t.seq for t in taken if t.seq >= applied["seq"]} == {12.0}
    assert {t.value - t.seq for t in taken if t.seq < applied["seq"]} == {0.0}


def test_what_has_landed_is_read_also_while_the_node_has_not_come_to_it(live):
    run, verbs, ear = live
    ask(verbs, ear, 1, "pause")  # nothing moves: the node still has what it had
    run.session.changing.landed["add"]["amount"] = 3.0
    assert run.session.nodes["add"].params["amount"] == 0.0
    assert ask(verbs, ear, 2, "get", paths=["add.amount"])["values"] == {"add.amount": 3.0}


def test_one_wrong_value_refuses_the_whole_transaction_and_says_why(live):
    run, verbs, ear = live
    refused = ask(verbs, ear, 1, "set", changes={"add.amount": 1e6, "more.amount": 1.0, "more.amuont": 1, "sink.fail_at": 3, "nobody.x": 1})
    assert (refused["kind"], refused["error"]["type"]) == ("refused", "ParamError")
    assert set(refused["problems"]) == {"add.amount", "more.amuont", "sink.fail_at", "nobody.x"}
    assert 'did you mean "amount"' in refused["problems"]["more.amuont"]
    assert ask(verbs, ear, 2, "get", paths=["more.amount"])["values"] == {"more.amount": 0.0}
    assert run.session.version == 0


@pytest.fixture
def fed(tmp_path):
    more = 'in.amount = { from = "source", map = [0.0, 0.5] }\n[node.end]\nop = "toy.collect"\nin.a = "turned"\n'
    knob = '[govern]\ntarget_fps = 1000\n[[govern.knob]]\nset = "turned.steps"\nrange = [1, 9]\n'
    path = graph(tmp_path, more='[node.turned]\nop = "toy.turned"\nin.a = "source"\n' + knob)
    path.write_text(path.read_text().replace('in.a = "add"\n', 'in.a = "add"\n' + more))
    with running(path) as run:
        verbs = Verbs(run.session)
        yield run, verbs, Ear()
        verbs.close()


def test_a_parameter_that_an_edge_feeds_is_refused_and_its_value_of_now_is_told(fed):
    run, verbs, ear = fed
    assert ask(verbs, ear, 1, "describe")["nodes"]["more"]["params"]["amount"]["fed"] == "source.scalar"
    for number, op, over in ((2, "set", {}), (3, "ramp", {"frames": 3})):
        refused = ask(verbs, ear, number, op, changes={"more.amount": 5.0}, **over)
        assert (refused["kind"], refused["error"]["type"]) == ("refused", "ParamError")
        assert refused["problems"]["more.amount"].startswith("is fed by source.scalar with every frame")
    ask(verbs, ear, 4, "watch", every_ms=50, what=["params"])
    values = until(lambda: (m := [m["values"]["more.amount"] for m in ear.of(4, "params") if "more.amount" in m["values"]])[2:] and m)
    assert values == sorted(set(values))  # it moves with the frames, and nobody set it
    assert run.session.version == 0


def test_a_knob_that_is_set_is_held_until_it_is_released(fed):
    _, verbs, ear = fed
    assert ask(verbs, ear, 1, "stats")["held"] == []
    ask(verbs, ear, 2, "set", changes={"turned.steps": 4})
    assert ask(verbs, ear, 3, "stats")["held"] == ["turned.steps"]
    assert ask(verbs, ear, 4, "describe")["knobs"][0]["held"] is True
    refused = ask(verbs, ear, 5, "release", paths=["turned.step"])
    assert refused["problems"] == {"turned.step": 'is no knob of the governor; did you mean "turned.steps"?'}
    assert ask(verbs, ear, 6, "release")["kind"] == "accepted"
    assert ear.one(6, "applied")["seq"] > 0
    assert ask(verbs, ear, 7, "stats")["held"] == []


def test_a_ramp_is_applied_at_its_first_frame_and_done_at_its_last(live):
    _, verbs, ear = live
    ask(verbs, ear, 1, "ramp", changes={"add.amount": 10.0}, frames=20)
    done = ear.one(1, "done")
    applied = ear.one(1, "applied")
    assert [m["kind"] for m in ear.of(1)] == ["accepted", "applied", "done"]
    assert done["seq"] > applied["seq"]
    assert ask(verbs, ear, 2, "get", paths=["add.amount"])["values"] == {"add.amount": 10.0}
    assert ask(verbs, ear, 3, "ramp", changes={"add.amount": 10.0})["error"]["message"] == "a ramp takes either frames or seconds"
    assert ask(verbs, ear, 4, "ramp", changes={"add.amount": 10.0}, frames=3, curve="round")["kind"] == "refused"


def test_a_ramp_that_is_overtaken_fails_and_says_so(live):
    _, verbs, ear = live
    ask(verbs, ear, 1, "ramp", changes={"add.amount": 10.0}, seconds=600)
    ear.one(1, "applied")
    ask(verbs, ear, 2, "set", changes={"add.amount": 1.0})
    failed = ear.one(1, "failed")
    assert "a later change took over" in failed["error"]["message"]
    assert "add.amount" in failed["problems"]


def test_a_reset_starts_an_epoch(live):
    run, verbs, ear = live
    ask(verbs, ear, 1, "reset", reason="scene")
    assert ear.one(1, "applied")["epoch"] == 1
    assert run.session.recording.resets[-1][1] == "scene"


def test_pause_holds_the_frames_and_resume_lets_them_go(live):
    run, verbs, ear = live
    ask(verbs, ear, 1, "pause")
    ear.one(1, "applied")
    until(lambda: run.session.gates["source"].in_flight <= 1)
    out = run.session.frames_out
    ask(verbs, ear, 2, "set", changes={"add.amount": 1.0})
    entered = run.session.gates["source"].entered
    until(lambda: run.session.gates["source"].entered > entered + 5)
    assert run.session.frames_out <= out + 1
    assert not ear.of(2, "applied")
    ask(verbs, ear, 3, "resume")
    assert ear.one(2, "applied")["seq"] == ear.one(3, "applied")["seq"]
    until(lambda: run.session.frames_out > out + 5)


def test_stop_is_applied_when_the_run_has_ended_and_what_waits_fails(tmp_path):
    with running(graph(tmp_path)) as run:
        verbs, ear = Verbs(run.session), Ear()
        ask(verbs, ear, 1, "pause")
        ask(verbs, ear, 2, "ramp", changes={"add.amount": 1.0}, seconds=1000)
        assert ask(verbs, ear, 3, "stop")["kind"] == "accepted"
        run.wait()
        assert not ear.of(3, "applied")
        verbs.ended(None)
        assert ear.of(3)[-1]["kind"] == "applied"
        assert ear.of(2)[-1]["kind"] == "failed"
        assert ask(verbs, ear, 4, "set", changes={"add.amount": 1.0})["error"]["type"] == "Ended"
        assert ask(verbs, ear, 5, "stats")["frames"]["in_flight"] == 0
        verbs.close()


def test_stats_add_up(live):
    _, verbs, ear = live
    stats = ask(verbs, ear, 1, "stats")
    frames = stats["frames"]
    assert frames["in"] == frames["out"] + frames["in_flight"] + sum(frames["drops"].values())
    assert set(stats) >= {"fps", "age_ms", "nodes", "edges", "knobs", "state", "memory", "epoch", "params", "rungs"}
    assert stats["nodes"]["add"]["count"] > 0
    until(lambda: 50 < ask(verbs, Ear(), 1, "stats")["fps"] < 600)


def test_a_watch_tells_again_until_it_is_ended(live):
    run, verbs, ear = live
    assert ask(verbs, ear, 1, "watch", every_ms=50, what=["stats", "params", "events"])["kind"] == "answer"
    until(lambda: len(ear.of(1, "stats")) >= 3)
    (first,) = ear.of(1, "params")
    assert first["values"]["add.amount"] == 0.0
    ask(verbs, ear, 2, "set", changes={"add.amount": 2.0})
    until(lambda: len(ear.of(1, "params")) == 2)
    assert ear.of(1, "params")[1]["values"] == {"add.amount": 2.0}
    run.session.event("noted", "add", 3, why="test rtsp://me:secret@host/x")
    verbs.event(run.session.events[-1])
    assert ear.of(1, "event")[0]["event"]["why"] == "test rtsp://***@host/x"
    assert ask(verbs, ear, 3, "unwatch", watch=1)["ended"] == 1
    told = len(ear.of(1))
    assert not verbs.busy(ear)
    run.session.event("noted", "add", 4)
    verbs.event(run.session.events[-1])
    assert len(ear.of(1)) <= told + 1  # one may have been under way


def test_a_client_that_has_gone_hears_nothing_more(live):
    _, verbs, ear = live
    ask(verbs, ear, 1, "pause")
    ask(verbs, ear, 2, "set", changes={"add.amount": 3.0})
    ask(verbs, ear, 3, "watch", every_ms=50)
    verbs.forget(ear)
    told = len(ear.messages)
    other = Ear()
    ask(verbs, other, 9, "resume")
    other.one(9, "applied")
    assert ask(verbs, other, 10, "get", paths=["add.amount"])["values"] == {"add.amount": 3.0}  # what it changed stays
    assert [m for m in ear.messages[told:] if m["kind"] != "stats"] == []


def test_too_many_open_changes_are_refused_until_some_have_landed(live):
    _, verbs, ear = live
    ask(verbs, ear, 1, "pause")
    for number in range(2, PENDING + 2):
        verbs.handle({"v": 1, "id": number, "op": "set", "changes": {"add.amount": 1.0}}, ear)
    assert {m["kind"] for m in ear.messages[2:]} == {"accepted"}
    assert ask(verbs, ear, PENDING + 5, "set", changes={"add.amount": 1.0})["error"]["type"] == "TooMany"
    verbs.session.resume()
    until(lambda: len([m for m in ear.messages if m["kind"] == "applied"]) == PENDING + 1)
    assert ask(verbs, ear, PENDING + 6, "set", changes={"add.amount": 1.0})["kind"] == "accepted"


def test_a_storm_from_many_threads_is_answered_once_each_and_in_order(live):
    verbs = live[1]
    ears = [Ear() for _ in range(8)]

    def storm(ear: Ear, which: int) -> None:
        for number in range(250):
            verbs.handle({"v": 1, "id": number, "op": "set", "changes": {"add.amount": float((number + which) % 100)}}, ear)

    threads = [threading.Thread(target=storm, args=(ear, i)) for i, ear in enumerate(ears)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ear in ears:
        until(lambda ear=ear: len([m for m in ear.messages if m["kind"] == "applied"]) == 250)
        applied = [m for m in ear.messages if m["kind"] == "applied"]
        assert [m["id"] for m in applied] == list(range(250))
        assert [m["seq"] for m in applied] == sorted(m["seq"] for m in applied)
        assert len([m for m in ear.messages if m["kind"] == "accepted"]) == 250


# ---------------------------------------------------------------- prompts


PROMPTED = """
[node.words]
op = "toy.tells"
in.a = "source"
in.prompt = { hold = "a woman in a red coat, long blond hair, at sunset" }
[node.heard]
op = "toy.read"
in.text = "words"
"""


@pytest.fixture
def painted(tmp_path):
    with running(graph(tmp_path, more=PROMPTED)) as run:
        verbs = Verbs(run.session)
        yield run, verbs, Ear()
        verbs.close()


def test_a_prompt_is_set_with_blend_and_keeps_what_should_stay(painted):
    run, verbs, ear = painted
    assert ask(verbs, ear, 1, "set", changes={"words.prompt": "a man on a beach"}, blend=24, keep=["hair", "clothes"])["kind"] == "accepted"
    ear.one(1, "applied")
    value = ask(verbs, ear, 2, "get", paths=["words.prompt"])["values"]["words.prompt"]
    assert value == {"text": "a man on a beach, long blond hair, red coat", "negative": "", "blend": 24}
    until(lambda: run.session.nodes["heard"].operator.taken[-1].value.endswith("|24"))
    ask(verbs, ear, 3, "set", changes={"words.prompt": {"text": "a man with black hair", "keep": {"hair": "red"}}})
    ear.one(3, "applied")
    value = ask(verbs, ear, 4, "get", paths=["words.in.prompt"])["values"]["words.in.prompt"]
    assert value == {"text": "a man with black hair, red hair", "negative": "", "blend": 24}


def test_a_ramp_of_a_prompt_is_a_blend(painted):
    run, verbs, ear = painted
    assert ask(verbs, ear, 1, "ramp", changes={"words.prompt": "a man"}, frames=48)["kind"] == "accepted"
    first = ear.one(1, "applied")["seq"]
    assert ask(verbs, ear, 2, "get", paths=["words.prompt"])["values"]["words.prompt"]["blend"] == 48
    last = ear.one(1, "done")["seq"]
    assert last - first >= 47
    assert run.session.version == 1  # one change, however many frames it takes
    ask(verbs, ear, 5, "ramp", changes={"words.prompt": "a cat"}, frames=10**3)
    ask(verbs, ear, 6, "set", changes={"words.prompt": "a dog"})
    assert "a later change took over" in ear.one(5, "failed")["error"]["message"]
    assert "frames" in ask(verbs, ear, 3, "ramp", changes={"words.prompt": "a man"}, seconds=2)["error"]["message"]
    assert ask(verbs, ear, 4, "ramp", changes={"words.prompt": "a man", "add.amount": 1.0}, frames=4)["kind"] == "refused"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"changes": {"add.amount": 1.0}, "blend": 4}, "no prompt among the changes"),
        ({"changes": {"words.prompt": "x"}, "keep": ["shoes"]}, "says nothing of 'shoes'"),
        ({"changes": {"words.prompt": "x"}, "keep": "hair"}, "keep is wrong"),
        ({"changes": {"words.prompt": "x"}, "blend": -1}, "blend is wrong"),
        ({"changes": {"words.prompt": 7}}, "words.prompt"),
        ({"changes": {"words.prompt": "x" * 10_001}}, "a text of 10,001 characters"),
        ({"changes": {"words.prompt": {"text": "x", "negative": "x" * 10_001}}}, "a text of 10,001 characters"),
        ({"changes": {"words.prompt": {"text": "x", "loud": 1}}}, "words.prompt"),
    ],
)
def test_a_wrong_prompt_is_refused(painted, fields, word):
    run, verbs, ear = painted
    refused = ask(verbs, ear, 1, "set", **fields)
    assert refused["kind"] == "refused"
    assert word in refused["error"]["message"] + str(refused.get("problems", ""))
    assert run.session.version == 0


# ---------------------------------------------------------------- snapshots


def test_a_snapshot_without_a_tap_says_what_to_do(live):
    _, verbs, ear = live
    refused = ask(verbs, ear, 1, "snapshot")
    assert (refused["kind"], refused["error"]["type"]) == ("refused", "NoTap")
    assert "--preview" in refused["error"]["fix"]


# ---------------------------------------------------------------- what comes from outside


@pytest.mark.parametrize(
    "asked",
    [
        None, 3, "hello", [], {}, {"v": 1}, {"v": 2, "id": 1, "op": "hello"}, {"v": True, "id": 1, "op": "hello"}, {"v": 1, "op": "hello"},
        {"v": 1, "id": -1, "op": "hello"}, {"v": 1, "id": "1", "op": "hello"}, {"v": 1, "id": 1, "op": "nothing"},
        *(
            {"v": 1, "id": 1, **fields}
            for fields in (
                {"op": ["hello"]}, {"op": "hello", "client": "x" * (MESSAGE_BYTES // 2)}, {"op": "reset", "reason": 4},
                {"op": "set"}, {"op": "set", "changes": {}}, {"op": "set", "changes": [1]}, {"op": "set", "changes": {"a.b": 1 << 70}},
                {"op": "set", "changes": {"add.amount": float("nan")}}, {"op": "set", "changes": {"add.amount": b"x"}},
                {"op": "set", "changes": {f"a.{n}": 1 for n in range(300)}}, {"op": "get", "paths": "add.amount"},
                {"op": "get", "paths": ["x"]}, {"op": "stop", "drain": 1}, {"op": "watch", "every_ms": 1}, {"op": "watch", "what": ["all"]},
                {"op": "snapshot", "format": "gif"},
            )
        ),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_in_one_typed_answer(live, asked):
    run, verbs, ear = live
    verbs.handle(asked, ear)
    (answer,) = ear.messages
    assert answer["kind"] == "refused"
    assert set(answer["error"]) == {"type", "message", "expected", "found", "fix"}
    assert answer["error"]["type"] != "InternalError"
    assert answer["error"]["message"]
    assert run.session.version == 0
    assert not run.session.draining.is_set()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4), max_leaves=12,
)  # fmt: skip
OPS = ("hello", "describe", "get", "set", "ramp", "reset", "pause", "resume", "snapshot", "stats", "watch", "unwatch")
FIELDS = (
    "changes", "paths", "frames", "seconds", "curve", "reason", "of", "format", "every_ms", "what", "watch", "blend", "keep", "path", "text",
)  # fmt: skip
requests = values | st.fixed_dictionaries(
    {"v": st.just(1), "id": st.integers(0, 10) | values, "op": st.sampled_from(OPS)},
    optional={name: values | st.dictionaries(st.sampled_from(["add.amount", "source.count", "add.in.b", "x"]), values) for name in FIELDS},
)


@given(request=requests)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_is_answered_at_once_and_breaks_nothing(shared, request):
    run, verbs = shared
    ear = Ear()
    verbs.handle(request, ear)
    first = until(lambda: ear.messages)[0]
    assert first["kind"] in ("answer", "accepted", "refused")
    if first["kind"] == "refused":
        assert first["error"]["type"] != "InternalError", first
    assert run.error is None
    verbs.forget(ear)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running(graph(tmp_path_factory.mktemp("shared"))) as run:
        verbs = Verbs(run.session)
        yield run, verbs
        verbs.close()


def test_depth_and_number_of_values_are_bounded():
    deep: Any = 1
    for _ in range(13):
        deep = [deep]
    with pytest.raises(Refused, match="holds too much"):
        weigh(deep)
    with pytest.raises(Refused, match="holds too much"):
        weigh([0] * 20_001)
    weigh([[0] * 100] * 100)
    assert checked({"v": 1, "id": 0, "op": "hello"}, ("hello",))["op"] == "hello"


def test_no_thread_is_left(tmp_path):
    before = {t.name for t in threading.enumerate()}
    with running(graph(tmp_path)) as run:
        verbs, ear = Verbs(run.session), Ear()
        ask(verbs, ear, 1, "watch", every_ms=50)
        ask(verbs, ear, 2, "snapshot")
    verbs.ended(None)
    verbs.close()
    assert {t.name for t in threading.enumerate()} <= before


# ---------------------------------------------------------------- reloads


def test_a_reload_of_the_changed_file_is_applied_with_what_it_changes(tmp_path):
    path = graph(tmp_path)
    with running(path) as run:
        verbs, ear = Verbs(run.session), Ear()
        written = path.read_text()
        path.write_text(written.replace('[node.more]\nop = "toy.add"', '[node.more]\nop = "toy.add"\namount = 5.0') + PROMPTED)
        assert ask_later(verbs, ear, 1, "reload")["kind"] == "accepted"
        applied = ear.one(1, "applied")
        assert applied["diff"]["added"] == ["words", "heard"]
        assert applied["diff"]["params"] == {"more.amount": [0.0, 5.0]}
        until(lambda: run.session.nodes["sink"].operator.taken[-1].seq > applied["seq"])
        taken = [t for t in run.session.nodes["sink"].operator.taken if t.seq >= applied["seq"]]
        assert {t.value - t.seq for t in taken} == {5.0}
        assert "words" in ask(verbs, ear, 2, "describe")["nodes"]
        ask_later(verbs, ear, 3, "reload", text=written)
        assert ear.one(3, "applied")["diff"]["removed"] == ["words", "heard"]
        verbs.close()
    run.session.check()


def test_a_bad_file_changes_nothing_and_says_where(tmp_path):
    path = graph(tmp_path)
    with running(path) as run:
        verbs, ear = Verbs(run.session), Ear()
        plan = run.session.plan
        path.write_text(path.read_text().replace('op = "toy.add"\nin.a = "add"', 'op = "toy.ad"\nin.a = "add"'))
        refused = ask_later(verbs, ear, 1, "reload")
        assert refused["kind"] == "refused"
        (problem,) = [p for p in refused["problems"] if p["path"] == "node.more.op"]
        assert (problem["line"], "did you mean" in problem["fix"]) == (path.read_text().splitlines().index('op = "toy.ad"') + 1, True)
        assert ask_later(verbs, ear, 2, "reload", path="nothing.toml")["kind"] == "refused"
        assert ask_later(verbs, ear, 3, "reload", text="[graph")["kind"] == "refused"
        assert ask_later(verbs, ear, 4, "reload", text="x", path="y")["kind"] == "refused"
        assert run.session.plan is plan
        verbs.close()


def ask_later(verbs: Verbs, ear: Ear, number: int, op: str, **fields: Any) -> dict[str, Any]:
    """`ask` for a verb that is answered from another thread."""
    verbs.handle({"v": 1, "id": number, "op": op, **fields}, ear)
    until(lambda: ear.of(number))
    return ear.of(number)[0]
