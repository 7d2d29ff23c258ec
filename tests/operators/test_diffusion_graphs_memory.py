"""Captured steps whose self-attentions remember earlier frames: the same bits as plain ones, whatever changes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import same, skeleton, stream  # noqa: E402
from diffusion_tape import Recorder, events, recording, settle  # noqa: E402
from test_diffusion_carry_flow import alive  # noqa: E402
from test_diffusion_graphs import ready  # noqa: E402

from engine.payload import Latent  # noqa: E402
from operators.diffusion.carry import memory as memories  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What every stream with graphs = "on" records on."""
    return recording(monkeypatch)


REMEMBER: dict[str, dict[str, Any]] = {
    "last": {},
    "anchor": {"remember": {"anchor": True}, "remember_weight": 0.6},
    "cfg": {"guidance": "cfg", "guidance_scale": 4.0, "negative": "blur"},
    "onetime": {"guidance": "rcfg-onetime", "negative": "blur"},
    "held": {"hold": 0.7},
    "reuse": {"reuse": {"every": 2, "cut": 1}, "steps": 8},
    "reuse across frames": {"reuse": {"every": 2, "cut": 1, "frames": 3, "motion": 1.0}, "steps": 8, "remember_weight": 0.5},
}


@pytest.mark.parametrize("case", REMEMBER)
def test_attention_that_remembers_is_captured(case: str, recorder: Recorder) -> None:
    """Epochs, each with a first frame that finds nothing; another prompt within two of them; the same bits, and in the end no new capture."""
    settings = {"remember": {}, **REMEMBER[case]}
    with stream(**settings) as plain, stream(**settings, graphs="on") as taped, stream(**{**settings, "remember": None}) as forgetful:
        benches = (plain, taped, forgetful)
        carry: list[Any] = [None] * 3
        for n in range(14):
            if n in (5, 9):
                carry = [None] * 3
                for bench in benches:
                    bench.new_epoch()
            if n in (7, 11):
                for bench in benches:
                    bench.set(prompt=f"a fox {n}")
            if n == 9:
                before = recorder.replays, len(recorder.tapes)
            found = [bench(skeleton(n % 3), carry=carry[i]) for i, bench in enumerate(benches)]
            assert same(*found[:2]), n
            assert n in (0, 5, 9) or not same(found[0], found[2]), n  # what was remembered is seen
            carry = [each.latent for each in found]
            settle(taped)
        passes = sum(entry.key[1] != "decode" for entry in taped.operator._loop.graphs.all.values())
        assert ready(taped) == passes + 1  # nothing is left that runs plainly
        assert len(recorder.tapes) == before[1]
        assert recorder.replays >= before[0] + 2 * 5
        assert events(taped, "graph_failed") == []


def test_how_much_memory_counts_moves_without_a_capture(recorder: Recorder) -> None:
    """Between 0 and 1, which have passes of their own that are captured once."""
    with stream(remember={"anchor": True}) as plain, stream(remember={"anchor": True}, graphs="on") as taped:

        def paint(weight: float) -> Any:
            found = []
            for bench in (plain, taped):
                bench.set(remember_weight=weight)
                found.append(bench(skeleton(1), carry=Latent(torch.full((1, 4, 8, 8), 0.5))))
            assert same(*found), weight
            settle(taped)
            return found[0]

        for weight in (1.0, 1.0, 0.5, 0.0, 1.0):
            paint(weight)
        captures, replays = len(recorder.tapes), recorder.replays
        seen = [paint(weight) for weight in (0.2, 3.0, 0.0, 1.0, 0.5, 2.0)]
        assert len(recorder.tapes) == captures
        assert recorder.replays >= replays + 6 * 2
        assert not any(same(a, b) for a, b in itertools.combinations(seen, 2))


def full(*args: Any, **more: Any) -> None:
    raise torch.OutOfMemoryError("none left")


def test_what_is_remembered_outlives_other_sizes_captures_and_a_frame_tried_again(recorder: Recorder) -> None:
    settings = {"size": 96, "remember": {"anchor": True}, "steps": 3}
    with stream(**settings) as plain, stream(**settings, graphs="on", site_choices={"size": (96, 64)}) as taped:
        for n, size in enumerate((96, 96, 96, 64, 64, 64, 96, 96, 64, 64)):
            found = []
            for bench in (plain, taped):
                bench.set(size=size)
                found.append(bench(skeleton(n % 3)))
            assert same(*found), n
            settle(taped)
            if n == 2:
                captures = len(recorder.tapes)
            if n == 4:  # what a size goes on by was captured before it came; its first frame was not
                assert len(recorder.tapes) == captures + 1
            if n == 5:
                captures = len(recorder.tapes)
        assert len(recorder.tapes) == captures  # back and forth: what was there still is
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(taped.operator._outlet, "emit", full)
            with pytest.raises(torch.OutOfMemoryError):
                taped(skeleton(1))
        assert same(plain(skeleton(2), seq=40), taped(skeleton(2), seq=40))


def test_places_that_had_to_go_are_never_replayed(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "STAGES", 1)
    settings = {"size": 96, "remember": {}}
    with stream(**settings) as plain, stream(**settings, graphs="on") as taped:
        for n, size in enumerate((96, 96, 64, 64, 96, 96, 96)):
            for bench in (plain, taped):
                bench.set(size=size)
            assert same(plain(skeleton(n % 3)), taped(skeleton(n % 3))), n
            settle(taped)
            memory = taped.operator._tools.memory
            assert len(memory.stages) == 1
            assert alive(memory) == memory.held
        assert recorder.replays


def test_a_recalled_memory_is_captured_anew(recorder: Recorder) -> None:
    settings = {"remember": {"anchor": True}, "remember_weight": 0.7}
    with stream(**settings) as plain, stream(**settings, graphs="on") as taped:
        for n in range(3):
            plain(skeleton(n))
        for n in range(2):
            taped(skeleton(5 + n))
            settle(taped)
        taped.operator.reset()
        taped.operator.recall(plain.operator.snapshot())
        for n in range(3, 6):
            assert same(plain(skeleton(n), seq=n), taped(skeleton(n), seq=n)), n
            settle(taped)
        assert recorder.replays > 3
