"""Each family against diffusers' own pipeline on the same tiny weights: text, pictures, ControlNets, guidance, schedules (1e-5, float32)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_adapters import plain, sdxl  # noqa: E402
from diffusion_checkpoints import SIZE, checkpoints, picture, skeleton, stream  # noqa: E402
from diffusion_pairs import Case, agree, close, differ, ours, theirs  # noqa: E402

from engine.errors import UsageError  # noqa: E402
from engine.payload import Image  # noqa: E402
from engine.testing import Bench  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("control", [0, 1, 2])
def test_sdxl(control: int, image: bool, scale: float) -> None:
    case = Case(sdxl(), xl=True, control=control, image=image, scale=scale)
    mine = agree(case)
    if control:
        differ(mine, ours(replace(case, control=0))[0])


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_sdxl_negative_prompts(negative: str) -> None:
    """An empty one is nothing at all for a model that was trained so, and not the encoding of an empty text."""
    agree(Case(sdxl(), xl=True, scale=5.0, negative=negative))


def test_pooled_text_and_sizes_reach_the_unet() -> None:
    case = Case(sdxl(), xl=True)
    mine = ours(case)[0]
    differ(mine, ours(replace(case, ours={"micro": {"original": [1024, 1024], "crop": [32, 0]}}))[0])


@pytest.mark.parametrize("image", [False, True])
def test_sdxl_turbo(image: bool) -> None:
    """One or two steps from the end of the schedule, by what its own scheduler says."""
    case = Case(sdxl("turbo"), "euler_a", xl=True, image=image, steps=2, strength=0.5)
    mine = agree(case)
    bare = {"scheduler": "auto", "guidance": "auto", "guidance_scale": None, "steps": None}
    assert torch.equal(ours(replace(case, ours=bare))[0], mine)


@pytest.mark.parametrize("skip", [1, 2])
@pytest.mark.parametrize("xl", [False, True])
def test_clip_skip(skip: int, xl: bool) -> None:
    if xl and skip == 2:
        pytest.skip("the tiny encoder has three layers, and SDXL leaves out one already")
    case = Case(sdxl() if xl else plain(), "euler", xl=xl, clip_skip=skip)
    differ(agree(case), ours(replace(case, clip_skip=0))[0])


@pytest.mark.parametrize("scheduler", ["euler", "dpm++"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("image", [False, True])
def test_karras_sigmas(scheduler: str, spacing: str, image: bool, tmp_path: Any) -> None:
    made = _respaced(tmp_path, spacing)
    changes = {"use_karras_sigmas": True}
    case = Case(made, scheduler, image=image, steps=5, scheduler_changes=changes, ours={"karras_sigmas": True})
    differ(agree(case), ours(replace(case, ours={}))[0])


def _respaced(root: Any, spacing: str) -> Any:
    import json
    import shutil
    from pathlib import Path

    from diffusion_checkpoints import Checkpoints

    shutil.copytree(checkpoints().root, root / "set")
    path = Path(root / "set" / "sd15" / "scheduler" / "scheduler_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestep_spacing": spacing}))
    return Checkpoints(root / "set")


@pytest.mark.parametrize("prediction", ["v", "sample"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_what_a_model_predicts_may_be_overridden(prediction: str, scheduler: str) -> None:
    changes = {"prediction_type": {"v": "v_prediction"}.get(prediction, prediction)}
    agree(Case(checkpoints(), scheduler, image=True, scheduler_changes=changes, ours={"prediction": prediction}))


# ---------------------------------------------------------------- what a family says


def told(bench: Bench, what: str) -> dict[str, Any]:
    (facts,) = [facts for name, facts in bench.events if name == what]
    return facts


@pytest.mark.parametrize(
    ("family", "sampler", "steps", "guidance"),
    [("sd15", "dpm++", 15, "cfg"), ("sd-turbo", "euler", 2, "none"), ("lcm", "lcm", 4, "none")],
)
def test_a_family_fills_in_what_a_graph_leaves_open(family: str, sampler: str, steps: int, guidance: str) -> None:
    open_ = {"scheduler": "auto", "guidance": "auto", "steps": None}
    with stream(family=family, **open_) as bench:
        facts = told(bench, "model")
        assert (facts["family"], facts["sampler"], facts["steps"], facts["guidance"]) == (family, sampler, steps, guidance)
        bench(skeleton())
    with stream(family=family, scheduler="ddim", guidance="none", steps=3) as bench:
        facts = told(bench, "model")
        assert (facts["sampler"], facts["steps"], facts["guidance"]) == ("ddim", 3, "none")


def test_turbo_starts_at_the_end_of_the_schedule() -> None:
    seen: list[float] = []
    with stream(family="sd-turbo", scheduler="auto", guidance="auto", steps=1) as bench:
        bench.operator.models.unet.register_forward_hook(lambda m, args, out: seen.append(float(args[1])))
        bench(skeleton())
    assert seen == [999.0]


def test_a_family_of_another_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'sdxl-turbo'.*expected|sdxl-turbo.*sdxl architecture.*found.*sd15"), stream(family="sdxl-turbo"):
        pass


def test_what_does_not_suit_the_family_is_told_in_one_event() -> None:
    with stream(family="sd-turbo", guidance="cfg", steps=30, scheduler="lcm") as bench:
        why = told(bench, "unlikely")["why"]
    assert "without guidance" in why
    assert "at most 4 steps" in why
    assert "latent consistency" in why
    with stream(steps=20) as bench:
        assert not [what for what, _ in bench.events if what == "unlikely"]


def test_a_controlnet_of_sdxl_is_refused_by_sd15() -> None:
    with pytest.raises(UsageError, match="does not fit"), stream(controlnets=[{"model": sdxl().control}]):
        pass


# ---------------------------------------------------------------- ControlNets that move


def test_start_and_end_of_a_controlnet_live() -> None:
    with stream(steps=6) as bench:
        whole = bench(skeleton()).latent.data
        bench.set(control_starts=[0.0], control_ends=[0.4])
        early = bench(skeleton()).latent.data
        bench.set(control_starts=None, control_ends=None)
        assert torch.equal(bench(skeleton()).latent.data, whole)
    with stream(steps=6, controlnets=[{"model": checkpoints().control, "end": 0.4}]) as bench:
        assert torch.equal(bench(skeleton()).latent.data, early)
    differ(early, whole)


def test_a_controlnet_that_has_no_step_left_is_told_once() -> None:
    def said(bench: Any) -> list[str]:
        return [facts["why"] for what, facts in bench.events if what == "unlikely"]

    with stream(steps=6, controlnets=[{"model": checkpoints().control, "end": 0.4}]) as bench:
        bench(skeleton())
        assert said(bench) == []
        bench.set(steps=1)  # its one step ends after 0.4
        bench(skeleton())
        bench(skeleton())
        assert said(bench) == ["ControlNet 1 takes part in no step: 1 executed, start 0, end 0.4"]


def test_a_condition_that_does_not_change_is_embedded_once() -> None:
    calls: list[int] = []
    with stream(control=2) as bench:
        for n, net in enumerate(bench.operator.models.nets):
            net.embedding.register_forward_hook(lambda *a, n=n: calls.append(n))
        still, pictures = Image(picture(0)), [Image(picture(n)) for n in (1, 2, 2, 3)]
        for moving in pictures:
            bench([still, moving])
    assert calls == [0, 1, 1, 1]


def test_sizes_are_those_of_the_frame() -> None:
    """A working size that is moved is told to the UNet, as diffusers does."""
    case = Case(sdxl(), xl=True)
    with Bench("diffusion.stream", model=sdxl().model, size=SIZE * 2, dtype="fp32", guidance="none", steps=2) as bench:
        seen: list[Any] = []
        hook = lambda m, a, k, o: seen.append(k["added_cond_kwargs"]["time_ids"].tolist())  # noqa: E731
        bench.operator.models.unet.register_forward_hook(hook, with_kwargs=True)
        bench()
        bench.set(size=SIZE)
        bench()
    assert seen[0] == [[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]
    assert seen[-1] == [[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]
    mine, noise = ours(case)
    close(mine, theirs(case, noise))
