"""Several frames in one pass: a frame batch and a stream batch, each frame what it would be alone; order, resets, retries, refusals."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import checkpoints, picture, skeleton, stream  # noqa: E402

from engine import Stamped, operator  # noqa: E402
from engine.errors import GraphError, UsageError  # noqa: E402
from engine.graph import GraphBuilder  # noqa: E402
from engine.operator import HOST_RGB, Operator  # noqa: E402
from engine.packet import Packet  # noqa: E402
from engine.payload import Data, Image, Latent, Prompt  # noqa: E402
from engine.planning.compile import compile  # noqa: E402
from engine.session import Session  # noqa: E402
from remote.report.facts import gather  # noqa: E402

STREAM = {"stream": True}


pytestmark = pytest.mark.usefixtures("one_thread")


class Gathered:
    """Calls the operator of a bench as the engine would: with frames that have their own packets."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.site, self.seq = bench, bench.site, 0

    def packet(self) -> Packet:
        packet = Packet(self.seq, self.seq * 40_000_000, self.bench.epoch, 0, Data())
        self.seq += 1
        return packet

    def __call__(self, frames: Sequence[dict[str, Any]], packets: list[Packet] | None = None) -> list[Any]:
        self.site.packets = packets if packets is not None else [self.packet() for _ in frames]
        if self.site.packets:
            self.site.packet = self.site.packets[-1]
        return self.bench.operator.call_batch([dict(f) for f in frames])

    def slide(self, frames: Sequence[dict[str, Any]]) -> list[Any]:
        """One at a time, then all that is left."""
        found: list[Any] = []
        for frame in frames:
            found += self([frame])
        return found + self([])


def inputs(count: int, *, control: bool = True) -> list[dict[str, Any]]:
    return [{"image": Image(picture(50 + n)), **({"control": skeleton(n % 3)} if control else {})} for n in range(count)]


def singles(frames: Sequence[dict[str, Any]], **params: Any) -> list[Any]:
    with stream(**params) as bench:
        return [bench(**frame) for frame in frames]


def near(a: Any, b: Any) -> bool:
    """Within rounding: 1e-5 of the largest value, at most one level of a byte."""
    import numpy as np

    (image, latent), (other, clean) = a, b
    close = float((latent.data - clean.data).abs().max()) <= 1e-5 * max(1.0, float(clean.data.abs().max()))
    return close and int(np.abs(image.data.astype(int) - other.data).max()) <= 1


def agree(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(near(x, y) for x, y in zip(a, b, strict=True))


WAYS: dict[str, dict[str, Any]] = {
    "plain": {"control": 0}, "control": {}, "two nets": {"control": 2}, "cfg": {"guidance": "cfg"}, "residual": {"guidance": "rcfg-self"},
    "dpm++": {"scheduler": "dpm++"}, "ancestral": {"scheduler": "euler_a", "fresh_noise": 0.4},
    "latent consistency": {"scheduler": "lcm", "fresh_noise": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["frames", "stream"])
def test_a_frame_of_a_batch_is_what_it_is_alone(way: str, kind: str) -> None:
    params = {"steps": 6, "strength": 0.67, **WAYS[way]}
    count = params.get("control", 1)
    frames = [{"image": Image(picture(50 + n)), "control": [*skeleton(n % 3), *skeleton(5)][:count]} for n in range(7)]
    alone = singles(frames, **params)
    with stream(site_batch=4, batching=STREAM if kind == "stream" else None, **params) as bench:
        call = Gathered(bench)
        got = call.slide(frames) if kind == "stream" else [*call(frames[:4]), *call(frames[4:])]
    assert agree(got, alone)
    assert not agree(got[:-1], alone[1:])


# ---------------------------------------------------------------- what a stream batch is


PARAMS: dict[str, Any] = {"steps": 6, "strength": 0.5}  # three steps are executed


def passes(bench: Any) -> list[int]:
    """Rows of every pass from now on."""
    rows: list[int] = []
    bench.operator.models.unet.conv_in.register_forward_hook(lambda m, a, out: rows.append(len(out)))
    return rows


def test_a_stream_batch_has_one_pass_a_frame_and_answers_later() -> None:
    with stream(site_batch=5, batching=STREAM, **PARAMS) as bench:
        call, rows = Gathered(bench), passes(bench)
        said: list[tuple[int, float]] = []
        bench.site._measure = lambda node, seq, numbers: said.append((seq, numbers["behind"]))
        answered = [len(call([frame])) for frame in inputs(6)]
        assert answered == [0, 0, 1, 1, 1, 1]
        assert rows == [3] * 6
        assert len(call([])) == 2
        assert rows == [3] * 8
        assert call([]) == []
    assert said == [(n, 2) for n in range(6)]  # what is measured belongs to the frame that is shown


def test_a_frame_batch_has_one_pass_a_step() -> None:
    with stream(site_batch=4, **PARAMS) as bench:
        rows = passes(bench)
        Gathered(bench)(inputs(4))
        assert rows == [4, 4, 4]


def test_frames_under_way_keep_what_they_were_told() -> None:
    """Prompts, conditions and strengths of ControlNets differ from frame to frame; texts of another length wait for those before."""
    frames = [{**frame, "prompt": Prompt(f"a dancer number {n}")} for n, frame in enumerate(inputs(6))]
    frames[3]["prompt"] = Prompt("a dancer " * 40)
    with stream(site_batch=3, batching=STREAM, **PARAMS) as bench:
        got = Gathered(bench).slide(frames)
    with stream(site_batch=6, **PARAMS) as bench:
        together = Gathered(bench)(frames)
    assert agree(got, singles(frames, **PARAMS))
    assert agree(got, together)


def test_a_part_of_the_steps_is_that_of_each_row() -> None:
    params = {**PARAMS, "control_starts": [0.4], "control_ends": [0.9], "steps": 8}
    with stream(site_batch=4, batching=STREAM, **params) as bench:
        got = Gathered(bench).slide(inputs(6))
    assert agree(got, singles(inputs(6), **params))
    assert not agree(got, singles(inputs(6), **PARAMS, control_ends=[0.4]))


def test_changes_between_frames_do_not_reach_those_under_way() -> None:
    frames = inputs(8)
    want = []
    with stream(**PARAMS) as bench:
        for n, frame in enumerate(frames):
            if n == 4:
                bench.set(control_scale=0.3, strength=0.7, prompt="a horse")
            want.append(bench(**frame))
    with stream(site_batch=4, batching=STREAM, **PARAMS) as bench:
        call, got = Gathered(bench), []
        for n, frame in enumerate(frames):
            if n == 4:
                got += call([])  # so does the engine before a change
                bench.set(control_scale=0.3, strength=0.7, prompt="a horse")
            got += call([frame])
        got += call([])
    assert agree(got, want)


def test_a_frame_with_more_steps_than_rows_is_painted_alone_in_its_place() -> None:
    """The third frame has no picture to start from: from noise it takes every step."""
    frames = inputs(6)
    del frames[2]["image"]
    with stream(site_batch=3, batching=STREAM, **PARAMS) as bench:
        got = Gathered(bench).slide(frames)
        assert [what for what, _ in bench.events if what == "painted_alone"] == ["painted_alone"]
    assert agree(got, singles(frames, **PARAMS))
    with stream(site_batch=4, **PARAMS) as bench:
        assert agree(Gathered(bench)(frames[:4]), singles(frames[:4], **PARAMS))


@pytest.mark.parametrize("strength", [0.0, 0.2, 1.0])
def test_no_step_one_step_and_all_of_them(strength: float) -> None:
    params = {"steps": 5, "strength": strength}
    with stream(site_batch=5, batching=STREAM, **params) as bench:
        got = Gathered(bench).slide(inputs(4))
    assert agree(got, singles(inputs(4), **params))


def test_a_result_does_not_depend_on_who_is_beside_it() -> None:
    """To the bit: a frame's row is that of its step, in a full batch, a filling one and one that is brought out early."""
    frames = inputs(6)
    with stream(site_batch=3, batching=STREAM, **PARAMS) as bench:
        together = Gathered(bench).slide(frames)
    with stream(site_batch=3, batching=STREAM, **PARAMS) as bench:
        call = Gathered(bench)
        apart = [painted for frame in frames for painted in (*call([frame]), *call([]))]
    assert all(torch.equal(a[1].data, b[1].data) for a, b in zip(together, apart, strict=True))


# ---------------------------------------------------------------- carry


def test_a_frame_batch_carries_from_the_last_frame_of_the_one_before() -> None:
    frames = inputs(6)
    want, carry = [], None
    with stream(**PARAMS) as bench:
        for group in (frames[:3], frames[3:]):
            made = [bench(**frame, carry=carry) for frame in group]
            want, carry = want + made, made[-1].latent
    with stream(site_batch=3, batching={"carry": True}, **PARAMS) as bench:
        call = Gathered(bench)
        got = [*call(frames[:3]), *call(frames[3:])]
        state = bench.operator.snapshot()
        more = call(frames[:3])
        bench.new_epoch()
        again = call(frames[:3])
    assert agree(got, want)
    assert not agree(more, again)  # an epoch leaves nothing behind
    with stream(site_batch=3, batching={"carry": True}, **PARAMS) as bench:
        call = Gathered(bench)
        call.seq = 6
        bench.operator.recall(state)
        assert agree(call(frames[:3]), more)


def test_a_stream_batch_carries_what_the_first_step_before_estimated() -> None:
    """By hand: one step of the frame before, as if it were the last, gives its clean estimate."""
    frames = inputs(4)
    want, carry = [], None
    with stream(**PARAMS) as bench:
        for frame in frames:
            estimates: list[Any] = []
            step = bench.operator._loop.bases

            def note(m: Any, a: Any, bases: Any = step, found: list[Any] = estimates) -> None:
                found.append([b.clone() for basis in bases.values() for b in basis.last])

            hook = bench.operator.models.unet.conv_in.register_forward_pre_hook(note)
            want.append(bench(**frame, carry=carry))
            hook.remove()
            carry = Latent(estimates[1][1].clone())  # before the second step the second basis holds what the first one estimated
    with stream(site_batch=3, batching={"stream": True, "carry": True}, **PARAMS) as bench:
        got = Gathered(bench).slide(frames)
    assert agree(got, want)
    assert not agree(got, singles(frames, **PARAMS))


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("where", ["unet", "decoder"])
@pytest.mark.parametrize("kind", ["frames", "stream"])
def test_a_call_tried_again_after_memory_ran_out(where: str, kind: str) -> None:
    """The engine calls again with the same frames: every frame comes once, in order, as if nothing had been."""
    frames = inputs(6)
    want = singles(frames, **PARAMS)
    for fail in (2, 5):
        with stream(site_batch=3, batching=STREAM if kind == "stream" else None, **PARAMS) as bench:
            models, count = bench.operator.models, [0]

            def ran(m: Any, a: Any, out: Any, count: list[int] = count, fail: int = fail) -> None:
                count[0] += 1
                if count[0] == fail:
                    raise torch.OutOfMemoryError("planted")

            (models.unet.conv_out if where == "unet" else models.coder.module.decoder).register_forward_hook(ran)
            call, got = Gathered(bench), []
            for given in ([[f] for f in frames] + [[]] if kind == "stream" else [frames[:3], frames[3:]]):
                packets = [call.packet() for _ in given]
                try:
                    got += call(given, packets)
                except torch.OutOfMemoryError:
                    got += call(given, packets)
            assert agree(got, want), fail


@pytest.mark.parametrize("kind", ["frames", "stream"])
def test_a_result_that_is_not_finite_is_painted_anew_and_the_others_stay(kind: str) -> None:
    frames = inputs(6)
    want = singles(frames, **PARAMS)
    with stream(**PARAMS) as bench:
        bench.seq = 1
        anew = bench(control=frames[1]["control"])
    with stream(site_batch=3, batching=STREAM if kind == "stream" else None, **PARAMS) as bench:
        hurt: list[int] = []

        def spoil(m: Any, a: Any, out: Any) -> Any:
            hurt.append(1)
            row = 1 if kind == "frames" else 0
            if len(hurt) == (1 if kind == "frames" else 2):
                out = out.clone()
                out[row] = float("nan")
                return out
            return None

        bench.operator.models.unet.conv_out.register_forward_hook(spoil)
        call = Gathered(bench)
        got = call.slide(frames) if kind == "stream" else [*call(frames[:3]), *call(frames[3:])]
        assert [what for what, _ in bench.events if what == "not_finite"] == ["not_finite"]
    assert near(got[1], anew)
    assert agree([got[0], *got[2:]], [want[0], *want[2:]])


def test_an_error_leaves_nothing_under_way() -> None:
    """After an error the engine resets the operator: what comes then is painted as from the start."""
    frames = inputs(5)
    with stream(site_batch=3, batching=STREAM, **PARAMS) as bench:
        call = Gathered(bench)
        call([frames[0]])
        call([frames[1]])
        bench.operator.reset()
        call.seq = 2
        assert agree(call.slide(frames[2:]), singles(frames, **PARAMS)[2:])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a stream batch of one": ({"batching": STREAM}, "gathers no frames"),
    "reuse within a frame": ({"batching": STREAM, "site_batch": 3, "reuse": {"every": 2, "cut": 0}}, "rows of one pass are at different steps"),
    "onetime guidance": ({"site_batch": 3, "guidance": "rcfg-onetime"}, "one pass for all rows"),
    "flow": ({"site_batch": 3, "flow": {}}, "do not see each other"), "remember": ({"site_batch": 3, "remember": {}}, "do not see each other"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_together_says_why(what: str) -> None:
    params, why = REFUSED[what]
    with pytest.raises(UsageError, match=why), stream(**params):
        pass


def test_tools_that_follow_a_frame_to_the_next_are_left_out_and_told() -> None:
    with stream(site_batch=3, hold=0.5, skip=3, **PARAMS) as bench:
        got = Gathered(bench)(inputs(3))
        assert [facts["parameter"] for what, facts in bench.events if what == "batch_ignores"] == ["hold", "skip"]
    assert agree(got, singles(inputs(3), **PARAMS))


# ---------------------------------------------------------------- with deep-feature reuse


def test_rows_of_a_stream_batch_live_on_the_features_of_their_step() -> None:
    """A still picture with fixed noise: every frame is the same, so features of an older frame at the same step are the right ones, and a
    short pass gives what a full one would; with those of another row it would not."""
    still = [inputs(1)[0]] * 12
    want = singles(still, **PARAMS)
    with stream(site_batch=3, batching=STREAM, reuse={"every": 1, "cut": 0, "frames": 4}, **PARAMS) as bench:
        deep: list[int] = []
        bench.operator.models.unet.mid_block.register_forward_hook(lambda *a: deep.append(bench.site.packet.seq))
        call = Gathered(bench)
        got = [painted for frame in still for painted in call([frame])]
        assert deep == [0, 1, 2, 6, 10]  # while it fills, then every fourth
        got += call([])
    assert agree(got, want)


def test_any_row_that_moved_makes_the_pass_full() -> None:
    still, moved = inputs(2)
    with stream(site_batch=3, batching=STREAM, reuse={"every": 1, "cut": 0, "frames": 50}, **PARAMS) as bench:
        deep: list[int] = []
        bench.operator.models.unet.mid_block.register_forward_hook(lambda *a: deep.append(bench.site.packet.seq))
        call = Gathered(bench)
        for frame in [still] * 6 + [moved] * 6:
            call([frame])
    assert deep == [0, 1, 2, 6, 7, 8]  # the moved frame goes through three rows


def test_a_frame_batch_reuses_within_its_steps() -> None:
    params = {"steps": 6, "reuse": {"every": 3, "cut": 1}}
    frames = [{"control": skeleton(n)} for n in range(3)]
    with stream(site_batch=3, **params) as bench:
        assert agree(Gathered(bench)(frames), singles(frames, **params))


# ---------------------------------------------------------------- adapters and families


def test_pooled_text_and_pictures_to_look_at() -> None:
    from diffusion_adapters import sdxl

    check = sdxl()
    xl = {"model": check.model, "control": 0, "vae": None, "guidance": "cfg", "negative": "rain", "scheduler": "auto", **PARAMS}
    frames = [{**frame, "prompt": Prompt(f"dancer {n}")} for n, frame in enumerate(inputs(4, control=False))]
    want = singles(frames, **xl)
    with stream(site_batch=3, batching=STREAM, **xl) as bench:
        assert agree(Gathered(bench).slide(frames), want)
    with stream(site_batch=4, **xl) as bench:
        assert agree(Gathered(bench)(frames), want)


def test_references_are_looked_at_by_every_row() -> None:
    from test_diffusion_adapters import adapter, image_encoder, looked, referring

    look = [looked(adapter("base"), image_encoder(), [20])]
    frames = [{**frame, "reference": look} for frame in inputs(4, control=False)]
    with referring(guidance="cfg", **PARAMS) as bench:
        want = [bench(**frame) for frame in frames]
    with referring(guidance="cfg", site_batch=3, batching=STREAM, **PARAMS) as bench:
        assert agree(Gathered(bench).slide(frames), want)
    with referring(guidance="cfg", **PARAMS) as bench:
        assert not agree([bench(**{**frame, "reference": None}) for frame in frames], want)


# ---------------------------------------------------------------- in a session


@operator("toy.tpictures")
class Pictures(Operator):
    """Seven pictures, the sixth after a cut."""

    def __call__(self) -> Iterator[Image]:
        for n in range(7):
            yield Stamped(Image(picture(50 + n)), pts=n * 40_000_000, cut=n == 5)  # type: ignore[misc]


@operator("toy.tseen")
class Seen(Operator):
    """Notes what came, and under which frame."""

    found: ClassVar[list[tuple[int, int, int, Any]]] = []

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        self.found.append((self.site.seq, self.site.pts, self.site.epoch, image.data.copy()))


def play(executor: str, **batching: Any) -> list[tuple[int, int, int, Any]]:
    played(executor, **batching)
    return Seen.found


def played(executor: str, **batching: Any) -> Session:
    check = checkpoints()
    g = GraphBuilder("test", clock="offline", seed=3)
    g.node("film", "toy.tpictures")
    params = {"model": check.model, "vae": check.taesd, "size": 64, "dtype": "fp32", "guidance": "none", "scheduler": "ddim", **PARAMS}
    g.node("paint", "diffusion.stream", image="film", fresh_noise=1.0, **params, **batching)
    g.node("out", "toy.tseen", image="paint.image")
    Seen.found = []
    session = Session(compile(g.build()), executor=executor)
    session.run(tick_s=0.2)
    session.check()
    return session


@pytest.mark.parametrize("batching", [{}, {"batch": 3}, {"batch": 3, "batching": STREAM}], ids=["alone", "frames", "stream"])
def test_the_time_of_a_frame_is_split_as_for_a_frame_alone(batching: dict[str, Any]) -> None:
    """Words, conditions and sources of every frame are a part of its own, in traces and in the report; not the passes that it shares."""
    session = played("threaded", **batching)
    parts: dict[str, list[int]] = {}
    spans: dict[str, list[tuple[int, int]]] = {}
    for lane in session.lanes.values():
        for begun, ended, kind, name, seq, _ in lane.trace.records():
            if kind == "part":
                parts.setdefault(name, []).append(seq)
                spans.setdefault(name, []).append((begun, ended))
    assert parts["paint.conditioning"] == parts["paint.decode"] == list(range(7))
    denoised = spans["paint.denoise"]
    assert not any(a < end and b > begun for a, b in spans["paint.conditioning"] for begun, end in denoised)
    seqs, kinds = gather(session).kinds()
    assert seqs == list(range(7))
    assert all(kinds["conditioning"])
    assert any(kinds["UNet"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_carry_edge_around_a_batch_is_refused_with_what_to_write_instead(stream: bool) -> None:
    """And what is said to be written compiles."""

    def graph(batching: dict[str, Any], **edges: str) -> Any:
        g = GraphBuilder("test", clock="offline")
        g.node("film", "toy.tpictures")
        g.node("paint", "diffusion.stream", image="film", model="nowhere", batch=3, batching=batching, **edges)
        g.node("out", "toy.tseen", image="paint.image")
        return compile(g.build())

    with pytest.raises(GraphError) as caught:
        graph({"stream": stream}, carry="paint.latent@-1")
    (problem,) = caught.value.diagnostics
    assert "a batch inside a loop" in str(problem)
    assert problem.fix == "leave batch out, or leave node.paint.in.carry out and write batching = { carry = true } beside batch"
    asked = tomllib.loads(problem.fix.partition("write ")[2].partition(" beside")[0])
    assert graph({"stream": stream, **asked["batching"]}).nodes


@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_pictures_leave_under_their_own_frames(executor: str) -> None:
    """Noise is drawn anew for each frame, so a picture under another frame's number would be another picture."""
    want = play("inline")
    assert [entry[:3] for entry in want] == [(n, n * 40_000_000, int(n >= 5)) for n in range(7)]
    for batching in ({"batch": 3}, {"batch": 3, "batching": STREAM}):
        got = play(executor, **batching)
        assert [entry[:3] for entry in got] == [entry[:3] for entry in want]
        assert all(int(abs(a[3].astype(int) - b[3]).max()) <= 1 for a, b in zip(got, want, strict=True))
