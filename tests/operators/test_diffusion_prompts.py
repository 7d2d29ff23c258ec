"""Prompts: weights and parts as written, texts longer than one chunk, schedules, and what happens to those that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UsageError
from operators.diffusion.words.cues import Schedule
from operators.diffusion.words.syntax import Fragment, Part, WeightError, parse

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_adapters import plain, sdxl  # noqa: E402
from diffusion_checkpoints import SIZE, skeleton, stream  # noqa: E402
from diffusion_pairs import differ  # noqa: E402

from engine.payload import Prompt  # noqa: E402
from engine.testing import Bench  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def weights(text: str, syntax: Any = "weights") -> list[tuple[str, float]]:
    (part,) = parse(text, syntax)
    return [(f.text, round(f.weight, 4)) for f in part.fragments]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dancer", [("a dancer", 1.0)]),
        ("a (red:1.3) coat", [("a ", 1.0), ("red", 1.3), (" coat", 1.0)]),
        ("((red)) [blue]", [("red", 1.21), (" ", 1.0), ("blue", 0.9091)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        (r"\(smile\) \[x\]", [("(smile) [x]", 1.0)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("(note: blue)", [("note: blue", 1.1)]),
        ("16:9, a :) b", [("16:9, a :) b", 1.0)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("", [("", 1.0)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert weights(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red++ coat", [("a ", 1.0), ("red", 1.21), (" coat", 1.0)]),
        ("blur-- x", [("blur", 0.81), (" x", 1.0)]),
        ("(two words)1.3 x", [("two words", 1.3), (" x", 1.0)]),
        ("(two words)+, x", [("two words", 1.1), (", x", 1.0)]),
        ("well-known a+b", [("well-known a+b", 1.0)]),
        (r"\(x\)", [("(x)", 1.0)]),
    ],
)
def test_compel(text: str, expected: list[tuple[str, float]]) -> None:
    assert weights(text, "compel") == expected


def test_parts_and_their_shares() -> None:
    assert parse("a :3 AND b") == (Part((Fragment("a"),), 0.75), Part((Fragment("b"),), 0.25))
    assert parse('("a", "b").blend(3, 1)', "compel") == (Part((Fragment("a"),), 0.75), Part((Fragment("b"),), 0.25))
    assert len(parse("LAND AND SANDY")) == 2
    assert parse("a BREAK b") == (Part((Fragment("a", 1.0, True), Fragment(" b"))),)


@pytest.mark.parametrize(
    ("text", "syntax", "position"),
    [
        ("(red:1.x)", "weights", 5), ("a (red:abc) b", "weights", 7), ("a (red", "weights", 2), ("[a", "weights", 0), ("(a:99)", "weights", 3),
        ("a :x AND b", "weights", 3), ("a :1 AND b :-1", "weights", 0), ("(a", "compel", 0), ('("a", "b").blend(1)', "compel", 17),
    ],
)  # fmt: skip
def test_a_weight_that_cannot_be_read_says_where(text: str, syntax: Any, position: int) -> None:
    with pytest.raises(WeightError) as caught:
        parse(text, syntax)
    assert caught.value.position == position
    assert f"character {position + 1}" in str(caught.value)


@given(st.text(alphabet="ab ()[]:.,+-\\\"10B", max_size=24), st.sampled_from(["weights", "compel", "plain"]))
def test_every_text_is_read_or_refused(text: str, syntax: Any) -> None:
    try:
        parts = parse(text, syntax)
    except WeightError as error:
        places = range(len(text) + 1)
        if error.position not in places:
            pytest.fail(f"the place {error.position} is not in the text")
        return
    assert sum(part.share for part in parts) == pytest.approx(1)
    if not set(text) & set("()[]:+-\\\""):
        assert parts == (Part((Fragment(text),)),)


# ---------------------------------------------------------------- encoding


def heard(text: str, **more: Any) -> Any:
    with stream(control=0, model=plain().model, prompt=text, **more) as bench:
        bench()
        return bench.operator._conditioning.value.text


def test_a_weight_scales_its_tokens_and_keeps_the_mean() -> None:
    even, odd = heard("a b c d"), heard("a (b c:1.5) d")
    scale = torch.ones(1, 77, 1)
    scale[0, 2:4] = 1.5
    expected = even * scale
    expected = expected * (even.mean() / expected.mean())
    assert torch.allclose(odd, expected, atol=1e-6)
    differ(odd, even)
    assert torch.equal(heard("(a b c d:1.0)"), even)


def test_parts_are_mixed_by_their_shares() -> None:
    assert torch.allclose(heard("red :3 AND blue"), 0.75 * heard("red") + 0.25 * heard("blue"), atol=1e-6)


def test_long_texts_take_more_chunks() -> None:
    short, long = "x " * 75, "x " * 75 + "y " * 10
    found = heard(long)
    assert tuple(found.shape) == (1, 154, 32)
    assert torch.equal(found[:, :77], heard(short))
    assert torch.equal(found[:, 77:], heard("y " * 10))
    assert torch.equal(heard("a BREAK b"), torch.cat([heard("a"), heard("b")], dim=1))


def test_what_exceeds_the_chunks_is_told() -> None:
    with stream(prompt="x" * 151, chunks=2) as bench:
        bench(skeleton())
    (facts,) = [facts for what, facts in bench.events if what == "prompt_cut"]
    assert (facts["tokens"], facts["limit"], facts["lost"]) == (153, 152, "x")


def test_two_encoders_and_the_pooled_text() -> None:
    said = {"prompt": "a :3 AND b", "guidance": "cfg", "negative": "z" * 80}
    with Bench("diffusion.stream", model=sdxl().model, size=SIZE, dtype="fp32", **said) as bench:
        bench()
        text, pooled = bench.operator._conditioning.value
    assert tuple(text.shape) == (2, 154, 64)  # the shorter one is filled up with empty chunks
    assert tuple(pooled.shape) == (2, 32)


def test_a_prompt_of_another_length_arrives_in_shares() -> None:
    with stream(control=1, model=plain().model) as bench:
        bench(skeleton(), prompt=Prompt("red"))
        shapes = []
        for _ in range(3):
            bench(skeleton(), prompt=Prompt("b" * 100, blend=3))
            shapes.append(tuple(bench.operator._conditioning.value.text.shape))
        for _ in range(3):
            bench(skeleton(), prompt=Prompt("red", blend=3))
            shapes.append(tuple(bench.operator._conditioning.value.text.shape))
    assert [shape[1] for shape in shapes] == [154, 154, 154, 154, 154, 77]


def test_straight_and_round_ways() -> None:
    def middle(way: str) -> Any:
        with stream(model=plain().model, interpolation=way) as bench:
            bench(skeleton(), prompt=Prompt("red"))
            bench(skeleton(), prompt=Prompt("blue", blend=2))
            return bench.operator._conditioning.value.text

    assert torch.allclose(middle("lerp"), (heard("red") + heard("blue")) / 2, atol=1e-6)
    assert float(middle("slerp").norm()) > float(middle("lerp").norm())


# ---------------------------------------------------------------- at open and later


@pytest.mark.parametrize("where", ["prompt", "negative", "schedule"])
def test_a_bad_weight_in_a_graph_is_an_error(where: str) -> None:
    value: Any = [{"frame": 0, "text": "(red:1.x)"}] if where == "schedule" else "(red:1.x)"
    with pytest.raises(WeightError, match="character 6"), stream(**{where: value}):
        pass
    with stream(**{where: value}, syntax="plain"):
        pass


def test_a_bad_weight_that_arrives_is_told_once_and_taken_as_text() -> None:
    with stream(model=plain().model) as bench:
        for _ in range(2):
            bench(skeleton(), prompt=Prompt("(red:1.x)"))
        found = bench.operator._conditioning.value.text
    (facts,) = [facts for what, facts in bench.events if what == "prompt_weight"]
    assert facts["position"] == 5
    assert torch.equal(found, heard("(red:1.x)", syntax="plain"))


# ---------------------------------------------------------------- schedules


def test_a_schedule_by_frame() -> None:
    cues = [{"frame": 2, "text": "blue"}, {"frame": 4, "text": "green", "negative": "red", "blend": 2}]
    schedule = Schedule(cues)
    assert [cue and cue.text for cue in (schedule.at(n, 0) for n in range(6))] == [None, None, "blue", "blue", "green", "green"]
    with stream(model=plain().model, prompt="red", schedule=cues) as bench:
        found = []
        for n in (0, 1, 2, 5, 6):  # frames that are dropped change nothing but how far a blend has come
            bench(skeleton(), seq=n)
            found.append(bench.operator._conditioning.value.text)
        assert torch.equal(found[0], heard("red"))
        assert torch.equal(found[2], heard("blue"))
        assert torch.equal(found[4], heard("green"))
        differ(found[3], found[4])
        bench(skeleton(), prompt=Prompt("other"))
        assert torch.equal(bench.operator._conditioning.value.text, heard("other"))


def test_a_schedule_by_time() -> None:
    schedule = Schedule([{"time": 0.0, "text": "a"}, {"time": 1.5, "text": "b"}])
    assert [schedule.at(0, int(t * 1e9)).text for t in (0, 1.4, 1.5, 99)] == ["a", "a", "b", "b"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("cues", "message"),
    [
        ([{"text": "a"}], r"schedule\[0\].*found neither"),
        ([{"text": "a", "frame": 1, "time": 1.0}], "either frame or time"),
        ([{"text": "a", "frame": 1}, {"text": "b", "time": 2.0}], r"schedule\["),
        ([{"text": "a", "frame": 2}, {"text": "b", "frame": 2}], r"schedule\[1\].*after 2, found 2"),
    ],
)
def test_a_schedule_that_cannot_be(cues: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(cues)


def test_a_schedule_is_checked_before_it_runs() -> None:
    from pydantic import ValidationError

    for wrong in ({"frame": -1, "text": "a"}, {"frame": 0}, {"frame": 0, "text": "a", "colour": 1}, {"frame": "0", "text": "a"}):
        with pytest.raises(ValidationError):
            stream(schedule=[wrong])
