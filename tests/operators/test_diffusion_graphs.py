"""Captured steps: what they compute is what plain steps compute, and what moves what."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402
from diffusion_tape import Dangling, Recorder, events, recording, settle  # noqa: E402

from engine.errors import DeviceError  # noqa: E402
from engine.payload import Image, Latent  # noqa: E402
from operators.diffusion.steps.graphs import PATIENCE, Graphs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What every stream with graphs = "on" records on."""
    return recording(monkeypatch)


def ready(bench: Any) -> int:
    return int(bench.operator._loop.graphs.ready)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "without control": {"control": 0},
    "two controls": {"control": 2, "control_ends": [1.0, 0.5]},
    "cfg": {"guidance": "cfg", "guidance_scale": 4.0, "negative": "blur"},
    "rcfg": {"guidance": "rcfg-self"},
    "onetime": {"guidance": "rcfg-onetime", "negative": "blur"},
    "noisy": {"scheduler": "lcm"},
    "scaled": {"scheduler": "euler_a"},
    "two memories": {"scheduler": "dpm++", "steps": 8},
    "reuse": {"reuse": {"every": 2, "cut": 1}, "steps": 8},
    "reuse across frames": {"reuse": {"every": 2, "cut": 0, "frames": 3}, "steps": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_frames_are_those_of_the_plain_loop(case: str, recorder: Recorder) -> None:
    """Every frame but the first two goes by replays, with another condition, carry and noise each time: the same bits."""
    changes = CASES[case]
    count = changes.get("control", 1)
    with stream(fresh_noise=0.5, **changes) as plain, stream(fresh_noise=0.5, **changes, graphs="on") as taped:
        carry = [None, None]
        for n in range(6):
            control = [Image(picture(n // 2 + k)) for k in range(count)]
            found = [bench(control, Image(picture(9)), carry[i]) for i, bench in enumerate((plain, taped))]
            assert same(*found), n
            carry = [each.latent for each in found]
            if n:
                settle(taped)
            if n == 1:
                assert recorder.tapes
                before = recorder.replays, len(recorder.tapes)
        assert recorder.replays > before[0] + 4
        runs = [entry.runs for entry in taped.operator._loop.graphs.all.values() if entry.graph is not None]
        assert runs, "nothing was captured"
        assert max(runs) < 30


def test_steps_strength_and_scales_move_without_a_capture(recorder: Recorder) -> None:
    with stream() as plain, stream(graphs="on") as taped:
        for bench in (plain, taped):
            bench(skeleton(), Image(picture(5)))
        settle(taped)
        captures = len(recorder.tapes)
        assert captures == 2  # a step and the decoder
        for n, changes in enumerate((
            {"steps": 9}, {"strength": 0.9}, {"control_scale": 0.3}, {"strength": 0.2, "steps": 20}, {"control_scale": 1.7}, {"carry_mix": 0.1},
        )):  # fmt: skip
            found = []
            for bench in (plain, taped):
                bench.set(**changes)
                found.append(bench(skeleton(n), Image(picture(n))))
            assert same(*found), changes
            assert not taped.operator.idle()
        assert len(recorder.tapes) == captures
        assert events(taped, "graph_failed") == []


def test_prompts_arrive_in_the_tensors_that_were_captured(recorder: Recorder) -> None:
    with stream(guidance="cfg", guidance_scale=5.0) as plain, stream(guidance="cfg", guidance_scale=5.0, graphs="on") as taped:
        for bench in (plain, taped):
            bench(skeleton())
        settle(taped)
        captures, seen = len(recorder.tapes), []
        for changes in ({"prompt": "a fox"}, {"negative": "grey"}, {"prompt": "a bear", "blend": 3}, {}, {}):
            found = []
            for bench in (plain, taped):
                bench.set(**changes)
                found.append(bench(skeleton()))
            assert same(*found), changes
            seen.append(found[1])
        assert len(recorder.tapes) == captures
        assert not any(same(a, b) for a, b in itertools.pairwise(seen))  # every change was heard


def test_another_way_of_guidance_is_painted_at_once_and_captured_later(recorder: Recorder) -> None:
    with stream(guidance="cfg", guidance_scale=1.0) as plain, stream(guidance="cfg", guidance_scale=1.0, graphs="on") as taped:
        for bench in (plain, taped):
            bench(skeleton())
        settle(taped)
        captures, replays = len(recorder.tapes), recorder.replays
        found = []
        for bench in (plain, taped):
            bench.set(guidance_scale=6.0)
            found.append(bench(skeleton()))
        assert same(*found)
        assert recorder.replays == replays  # two rows a pass: nothing captured fits
        settle(taped)
        assert len(recorder.tapes) == captures + 2
        assert same(plain(skeleton(3)), taped(skeleton(3)))
        assert recorder.replays > replays
        for bench in (plain, taped):
            bench.set(guidance_scale=1.0)
        assert same(plain(skeleton(4)), taped(skeleton(4)))
        assert len(recorder.tapes) == captures + 2  # what was there still is


def test_a_new_size_is_painted_at_once_and_captured_later(recorder: Recorder) -> None:
    with stream(size=96) as plain, stream(size=96, graphs="on") as taped:
        for bench in (plain, taped):
            bench(skeleton())
        settle(taped)
        captures, replays = len(recorder.tapes), recorder.replays
        found = []
        for bench in (plain, taped):
            bench.set(size=64)
            found.append(bench(skeleton()))
        assert same(*found)
        assert (len(recorder.tapes), recorder.replays) == (captures, replays)
        settle(taped)
        assert len(recorder.tapes) == captures + 2
        assert same(plain(skeleton(3)), taped(skeleton(3)))
        assert recorder.replays > replays


@pytest.mark.parametrize("reuse", [None, {"every": 2, "cut": 1}])
def test_sizes_that_the_governor_may_choose_are_captured_ahead(reuse: Any, recorder: Recorder) -> None:
    settings = {"size": 96, "reuse": reuse, "steps": 8}
    with stream(**settings) as plain, stream(**settings, graphs="on", site_choices={"size": (96, 80, 64)}) as taped:
        for bench in (plain, taped):
            bench(skeleton())
        settle(taped)
        captures, replays = len(recorder.tapes), recorder.replays
        assert captures == 3 * (2 if reuse is None else 3)
        for size in (64, 80, 96):
            for bench in (plain, taped):
                bench.set(size=size)
            assert same(plain(skeleton(size)), taped(skeleton(size))), size
            assert not taped.operator.idle(), size
        assert len(recorder.tapes) == captures
        assert recorder.replays >= replays + 3 * 5


def test_a_lane_that_is_never_idle_captures_before_a_frame(recorder: Recorder) -> None:
    with stream() as plain, stream(graphs="on") as taped:
        made = []
        for n in range(PATIENCE + 5):
            assert same(plain(skeleton(n)), taped(skeleton(n)))
            made.append(len(recorder.tapes))
        assert made[PATIENCE - 1] == 0
        assert made[-1] == 2
        assert max(b - a for a, b in itertools.pairwise(made)) == 1  # one a frame at most


def test_capturing_between_frames_leaves_what_outlives_them(recorder: Recorder) -> None:
    """Features kept for frames to come: were a warm-up to overwrite them, short passes would paint something else."""
    settings = {"reuse": {"every": 4, "cut": 0, "frames": 8}, "steps": 4, "strength": 0.9}
    with stream(**settings) as plain, stream(**settings, graphs="on") as taped:
        for n in range(5):
            for bench in (plain, taped):
                if n == 1:
                    bench.new_epoch()  # so that there is a full pass that is wanted, and short ones after it
            found = [bench(skeleton(), carry=Latent(torch.full((1, 4, 8, 8), float(n)))) for bench in (plain, taped)]
            assert same(*found), n
            settle(taped)
        assert ready(taped) == 3  # full, short, decoder


def test_lora_weights_move_in_place(recorder: Recorder, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from diffusion_adapters import lora_file
    from diffusion_checkpoints import checkpoints

    path = lora_file(tmp_path / "one.safetensors", UNet2DConditionModel.from_pretrained(f"{checkpoints().model}/unet"), {}, style="diffusers")
    settings = {"loras": [{"model": str(path), "weight": 0.4}]}
    with stream(**settings) as plain, stream(**settings, graphs="on") as taped:
        for bench in (plain, taped):
            first = bench(skeleton())
        settle(taped)
        captures = len(recorder.tapes)
        for bench in (plain, taped):
            bench.set(lora_weights=[1.5])
        after = taped(skeleton())
        assert same(plain(skeleton()), after)
        assert not same(first, after)
        assert len(recorder.tapes) == captures
        assert not taped.operator.idle()


def test_weights_that_lie_elsewhere_end_what_was_captured(recorder: Recorder) -> None:
    with stream(graphs="on") as bench:
        bench(skeleton())
        settle(bench)
        assert ready(bench) == 2
        parameter = next(bench.operator.models.unet.parameters())
        parameter.data = parameter.data.clone()
        bench(skeleton())
        assert ready(bench) == 0
        assert [facts["why"] for facts in events(bench, "graphs_stale")] == ["weights lie elsewhere"]
        settle(bench)
        assert ready(bench) == 2


def test_memory_is_given_back_first_and_captured_again_after(recorder: Recorder) -> None:
    with stream() as plain, stream(graphs="on") as taped:
        for bench in (plain, taped):
            bench(skeleton())
        settle(taped)
        assert taped.operator.relieve()
        assert ready(taped) == 0
        assert recorder.released == 1
        assert same(plain(skeleton(1)), taped(skeleton(1)))
        assert not taped.operator.idle()
        taped.operator.restore()
        taped(skeleton(2))
        settle(taped)
        assert ready(taped) == 2


def test_modules_that_come_and_go_are_not_captured(recorder: Recorder) -> None:
    with stream() as plain, stream(graphs="on", placement={"vae": "offload"}) as taped:
        for bench in (plain, taped):
            bench(skeleton())
        settle(taped)
        assert ready(taped) == 1  # the step, not the decoder
        assert [facts["why"] for facts in events(taped, "graph_failed")] == ["a module is on the device only while it works"]
        assert same(plain(skeleton(1)), taped(skeleton(1)))


def test_weights_that_move_while_they_compute_are_not_captured(recorder: Recorder) -> None:
    """As layers do that are kept in eight bits and cast for each pass."""
    with stream(graphs="on") as bench:
        layer = bench.operator.models.unet.conv_in

        def cast(module: Any, *rest: Any) -> None:
            module.weight.data = module.weight.data.clone()

        layer.register_forward_hook(cast)
        bench(skeleton())
        settle(bench)
        assert ready(bench) == 1
        assert "weights move while they compute" in [facts["why"] for facts in events(bench, "graph_failed")]


def test_what_asks_the_host_runs_plainly_and_says_why_once(recorder: Recorder) -> None:
    with stream() as plain, stream(graphs="on", steps=8, reuse={"every": 2, "cut": 0}) as bench:
        for each in (plain, bench):
            each.operator.models.unet.conv_in.register_forward_hook(lambda module, args, out: out * float(out.abs().sum().item() > 0))
        plain.set(steps=8)
        for n in range(3):
            bench(skeleton(n))
            settle(bench)
        assert ready(bench) == 1  # the decoder
        whys = [facts["why"] for facts in events(bench, "graph_failed")]
        assert len(whys) == 1
        assert "not permitted when stream is capturing" in whys[0]


def test_no_memory_for_a_capture_ends_capturing_until_there_is(recorder: Recorder) -> None:
    with stream(graphs="on") as bench:
        bench(skeleton())
        recorder.fail = torch.OutOfMemoryError("not for this")
        settle(bench)
        assert ready(bench) == 0
        bench(skeleton())
        assert not bench.operator.idle()
        assert [facts["why"] for facts in events(bench, "graphs_rest")] == ["memory ran out while a graph was made: not for this"]
        bench.operator.restore()
        bench(skeleton())
        settle(bench)
        assert ready(bench) == 2


def test_the_least_recently_used_go_first(recorder: Recorder) -> None:
    told: list[str] = []
    graphs, ran = Graphs(recorder, lambda what, **facts: told.append(what), bound=2), []

    def entry(name: str) -> Any:
        return graphs.get((name,), lambda: (lambda: ran.append(name), lambda: None))

    for name in ("a", "b"):
        entry(name).run()
    while graphs.idle():
        pass
    entry("a").run()
    entry("c").run()
    assert [key[0] for key in graphs.all] == ["a", "c"]
    assert [key[0] for key in graphs.wanted] == ["c"]
    while graphs.idle():
        pass
    assert graphs.ready == 2
    before = len(ran)
    entry("a").run()
    assert len(ran) == before  # a replay runs no Python


def test_a_tensor_that_was_replaced_is_missed(recorder: Recorder) -> None:
    """The stand-in is as unforgiving as a device: this is what every other test here relies on."""
    held = [torch.ones(3)]
    out = torch.zeros(3)
    tape = recorder.capture(lambda: out.copy_(held[0] * 2))
    held[0].fill_(4)
    tape.replay()
    assert out.tolist() == [8, 8, 8]
    held[0] = torch.ones(3)
    with pytest.raises(Dangling):
        tape.replay()


def test_graphs_on_a_device_that_has_none() -> None:
    with pytest.raises(DeviceError, match="found cpu: cpu has no graphs"), stream(graphs="on"):
        pass


def test_by_default_the_host_captures_nothing() -> None:
    with stream() as bench:
        bench(skeleton())
        assert bench.operator._loop.graphs is None
        assert not bench.operator.idle()


def test_references_arrive_in_place_and_other_numbers_of_tokens_are_captured_anew(recorder: Recorder, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from diffusion_adapters import ip_adapter
    from diffusion_checkpoints import checkpoints

    from operators.diffusion.reference import Reference

    path = ip_adapter(tmp_path / "ip.safetensors", UNet2DConditionModel.from_pretrained(f"{checkpoints().model}/unet"), "base")
    settings = {"ip_adapters": [{"model": str(path), "scale": 0.8}]}

    def reference(bench: Any, seed: int, pictures: int = 1) -> list[Any]:
        dice = torch.Generator().manual_seed(seed)
        width = bench.operator._looks.layers[0].to_k[0].shape[1]
        rows = [torch.randn(pictures, 4, width, generator=dice) for _ in range(2)]
        return [Reference(*rows, bench.operator._looks.marks[0])]

    with stream(**settings) as plain, stream(**settings, graphs="on") as taped:

        def both(seed: int, pictures: int = 1, **changes: Any) -> Any:
            found = []
            for bench in (plain, taped):
                bench.set(**changes)
                found.append(bench(skeleton(), reference=reference(bench, seed, pictures) if seed else None))
            assert same(*found)
            return found[1]

        first = both(1)
        settle(taped)
        captures, replays = len(recorder.tapes), recorder.replays
        assert not same(both(2), first)
        assert not same(both(2, reference_scale=0.2), both(2, reference_scale=2.0))
        assert len(recorder.tapes) == captures
        assert recorder.replays > replays
        replays = recorder.replays
        both(3, pictures=2)  # eight tokens lie elsewhere than four
        assert recorder.replays == replays + 1  # the decoder
        settle(taped)
        assert len(recorder.tapes) == captures + 1
        both(4, pictures=2)
        both(5, pictures=1)  # and four lie elsewhere again
        settle(taped)
        both(6, pictures=1)
        both(0)  # nobody is looked at: another course
        settle(taped)
        both(0)
        both(7)


@pytest.mark.parametrize("kind", ["frames", "stream"])
@pytest.mark.parametrize("way", ["control", "cfg", "reuse"])
def test_passes_of_several_frames_are_captured_too(way: str, kind: str, recorder: Recorder) -> None:
    """The rows of a pass lie in places that stay; a change of prompt, strength of a net or number of frames is noticed."""
    from test_diffusion_batching import STREAM, Gathered

    reuse = {"every": 1, "cut": 1, "frames": 3, "motion": 1.0} if kind == "stream" else {"every": 2, "cut": 1}
    more = {"control": {}, "cfg": {"guidance": "cfg", "guidance_scale": 4.0}, "reuse": {"reuse": reuse}}[way]
    settings = {"steps": 6, "strength": 0.67, "site_batch": 4, "batching": STREAM if kind == "stream" else None, **more}
    got: list[list[Any]] = [[], []]
    with stream(**settings) as plain, stream(**settings, graphs="on") as taped:
        calls = [Gathered(plain), Gathered(taped)]

        def paint(seeds: range) -> None:
            frames = [{"image": Image(picture(50 + n)), "control": skeleton(n % 3)} for n in seeds]
            for i, call in enumerate(calls):
                got[i] += [out for frame in frames for out in call([frame])] if kind == "stream" else call(frames)

        for turn in range(4):
            paint(range(4 * turn, 4 * turn + 4))
            settle(taped)
        captures, replays = len(recorder.tapes), recorder.replays
        assert captures == (2 if way == "reuse" else 1)  # the decoder of a batch is not
        for changes in ({"control_scale": 0.4}, {"prompt": "a fox"}, {"control_scale": 1.5}):
            for bench in (plain, taped):
                bench.set(**changes)
            paint(range(20, 24))
        assert recorder.replays > replays
        assert len(recorder.tapes) == captures
        if kind == "frames":
            paint(range(30, 32))  # two frames: other rows
            settle(taped)
            paint(range(32, 34))
            assert len(recorder.tapes) > captures
        paint(range(40, 44))
        got[0] += calls[0]([]) if kind == "stream" else []
        got[1] += calls[1]([]) if kind == "stream" else []
    assert len(got[0]) == len(got[1]) > 24
    for n, ((image, latent), (other, clean)) in enumerate(zip(*got, strict=True)):
        assert torch.equal(latent.data, clean.data), n
        assert (image.data == other.data).all()
