"""What only a GPU shows of the captured loop: replays equal to the bit, one pool, captures beside replays, no waiting and no allocation.

    python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")


from diffusion_checkpoints import picture, stream  # noqa: E402

from engine.payload import Image, Latent, Prompt  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on(**changes: Any) -> Any:
    return stream(site_device="cuda:0", dtype="fp16", **changes)


def frame(bench: Any, n: int, carry: Any = None) -> Any:
    nets = len(bench.operator.controlnets)
    out = bench([Image(picture(n + 20 * k)) for k in range(nets)], Image(picture(n + 7)), carry, Prompt("a dancer"))
    kept = out.image.data.copy()
    bench.let_go()
    return kept, out.latent


def settle(bench: Any) -> None:
    for _ in range(200):
        if not bench.operator.idle():
            return
    raise AssertionError("there is always more to do")


def captured(bench: Any, frames: int = 4) -> Any:
    """A carry after some frames, everything captured."""
    carry = None
    for n in range(frames):
        _, carry = frame(bench, n, carry)
        settle(bench)
    return carry


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cfg": {"guidance": "cfg", "guidance_scale": 4.0},
    "onetime": {"guidance": "rcfg-onetime"},
    "noisy": {"scheduler": "lcm"},
    "reuse": {"reuse": {"every": 2, "cut": 1}, "steps": 8},
    "reuse across frames": {"reuse": {"every": 2, "cut": 1, "frames": 3}, "steps": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_replays_equal_the_plain_loop_to_the_bit(case: str) -> None:
    with on(graphs="off", **CASES[case]) as plain, on(graphs="on", **CASES[case]) as graphed:
        carries: list[Any] = [None, None]
        for n in range(7):
            (a, carries[0]), (b, carries[1]) = frame(plain, n, carries[0]), frame(graphed, n, carries[1])
            assert torch.equal(carries[0].data, carries[1].data), n
            assert (a == b).all(), n
            settle(graphed)
        assert graphed.operator._loop.graphs.ready >= 2
        assert not [facts for what, facts in graphed.events if what == "graph_failed"]


def test_steps_strength_and_scales_move_inside_what_was_captured() -> None:
    with on(graphs="off") as plain, on(graphs="on") as graphed:
        for bench in (plain, graphed):
            for n in range(3):
                frame(bench, n)
        settle(graphed)
        ready = graphed.operator._loop.graphs.ready
        for n, changes in enumerate(({"steps": 12}, {"strength": 0.9}, {"control_scale": 0.2}, {"prompt": "a fox"}, {"fresh_noise": 0.6})):
            for bench in (plain, graphed):
                bench.set(**changes)
                bench.seq = 100 + n
            a, b = frame(plain, n), frame(graphed, n)
            assert torch.equal(a[1].data, b[1].data), changes
        assert graphed.operator._loop.graphs.ready == ready


def test_all_captures_share_one_pool() -> None:
    """Sizes one after another take no more than the largest of them, about."""
    sizes = (96, 80, 64)
    alone = {}
    for size in sizes:
        with on(graphs="on", size=size) as bench:
            captured(bench)
            alone[size] = bench.operator._loop.graphs.capturer.held()
    with on(graphs="on", size=96) as bench:
        for size in sizes:
            bench.set(size=size)
            captured(bench, 2)
        assert bench.operator._loop.graphs.ready == 6
        assert bench.operator._loop.graphs.capturer.held() <= max(alone.values()) + 4 * 2**20


def test_a_capture_beside_replays_that_are_under_way_disturbs_nothing() -> None:
    """Another size is captured while frames of this one are still being computed: nothing waits for the device before."""
    with on(graphs="on", size=96, steps=40, strength=0.95) as bench, on(graphs="off", size=96, steps=40, strength=0.95) as plain:
        for each in (bench, plain):
            for n in range(3):
                frame(each, n)
        settle(bench)
        loop = bench.operator._loop
        with torch.inference_mode():
            rig = loop.rig
            loop.expect(bench.operator._shapes((64,)))
            for _ in range(20):  # some milliseconds of work on the lane's stream
                loop._entry(rig, "step", *next((k, list(nets)) for k, nets, _ in loop.courses)).run()
            settle(bench)
        for each in (bench, plain):
            each.seq = 50
        assert torch.equal(frame(bench, 9)[1].data, frame(plain, 9)[1].data)
        for each in (bench, plain):
            each.set(size=64)
        plainly = sum(entry.runs for entry in loop.graphs.all.values())
        assert torch.equal(frame(bench, 10)[1].data, frame(plain, 10)[1].data)
        assert sum(entry.runs for entry in loop.graphs.all.values()) == plainly  # the new size was there already


def test_a_capture_that_fails_leaves_the_lane_working() -> None:
    with on(graphs="on") as bench, on(graphs="off") as plain:
        for each in (bench, plain):
            each.operator.models.unet.conv_in.register_forward_hook(lambda module, args, out: out * float(out.abs().sum().item() > 0))
        for n in range(4):
            assert torch.equal(frame(bench, n)[1].data, frame(plain, n)[1].data)
            settle(bench)
        assert [facts["of"] for what, facts in bench.events if what == "graph_failed"]
        torch.cuda.synchronize()


def test_a_steady_frame_neither_waits_nor_allocates() -> None:
    """By torch's own account: no synchronisation but the one for the picture that leaves with the call, no call of cudaMalloc."""
    with on(graphs="on", strength=0.7) as bench:
        carry = captured(bench, 6)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
            for n in range(6, 9):
                _, carry = frame(bench, n, carry)
        after = torch.cuda.memory_stats()
        names = [event.key for event in profile.key_averages() for _ in range(event.count)]
        assert not any(name in ("cudaMalloc", "cudaFree", "cudaDeviceSynchronize") for name in names)
        assert sum(name in ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy") for name in names) <= 2 * 3
        assert sum(name == "cudaGraphLaunch" for name in names) >= 3 * 2
        assert after["num_device_alloc"] == before["num_device_alloc"]
        assert after["num_alloc_retries"] == before["num_alloc_retries"]


def test_pictures_land_later_without_a_wait_for_their_own_frame() -> None:
    with on(graphs="on", site_later=True, site_live=True) as bench, on(graphs="off") as plain:
        pending, carries = [], [None, None]
        for n in range(8):
            out = bench([Image(picture(n))], Image(picture(n + 7)), carries[0], Prompt("a dancer"))
            expected = plain([Image(picture(n))], Image(picture(n + 7)), carries[1], Prompt("a dancer"))
            carries = [out.latent, expected.latent]
            pending.append((out.image, expected.image.data.copy(), bench.site._landing))
            settle(bench)
        for image, expected, event in pending:
            event.synchronize()
            assert (image.data == expected).all()


def test_a_broken_frame_is_replaced_on_the_device() -> None:
    with on(graphs="off", site_later=True, site_live=True) as bench:
        outs, events = [], []
        for n in range(6):
            carry = Latent(torch.full((1, 4, 8, 8), float("nan"), device="cuda:0")) if n == 3 else None
            out = bench([Image(picture(0))], carry=carry)
            outs.append(out.image.data)
            events.append(bench.site._landing)
        for event in events:
            event.synchronize()
        assert (outs[3] == outs[2]).all()
        assert [facts["started"] for what, facts in bench.events if what == "not_finite"] == ["from the source"]


def test_half_precision_sums_pass_their_gate_or_stay_off() -> None:
    with on(accumulation="fp16") as bench:
        told = {what: facts for what, facts in bench.events if what.startswith("accumulation")}
        assert told
        taken = "accumulation" in told
        assert torch.backends.cuda.matmul.allow_fp16_accumulation is taken
        frame(bench, 0)
    torch.backends.cuda.matmul.allow_fp16_accumulation = False
