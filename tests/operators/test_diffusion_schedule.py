"""Sampler rows against diffusers' schedulers, driven by the same random model outputs; and the arithmetic of strength and guidance."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from engine.errors import UsageError  # noqa: E402
from operators.diffusion.steps.schedule import FRESH, LAST, SOURCE, WITH, WITHOUT, Noise, Rows, X, executed, table  # noqa: E402

CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
}
SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO = {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {**SD, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    "leading": {**SD, "steps_offset": 1, "timestep_spacing": "leading", "clip_sample": False},
    "trailing": {**SD, "timestep_spacing": "trailing", "clip_sample": False},
    "linspace": {**SD, "timestep_spacing": "linspace", "clip_sample": False},
    "linear": {**SD, "beta_schedule": "linear", "clip_sample": False},
    "v": {**SD, "prediction_type": "v_prediction", "clip_sample": False},
    "sample": {**SD, "prediction_type": "sample", "clip_sample": False},
    "zero": {**ZERO, "clip_sample": False},
}


def walk(rows: Any, begin: int, latent: Any, outputs: list[Any], draws: list[Any]) -> Any:
    """Run the rows by hand on flat latents."""
    basis = torch.zeros(6, latent.numel())
    basis[X] = latent
    for k, i in enumerate(range(begin, rows.n)):
        basis[WITH], basis[FRESH] = outputs[i], draws[i]
        following, clean = (rows.later[i] if k else rows.first[i]) @ basis
        basis[X], basis[LAST] = following, clean
    return basis[X]


PAIRS = [p for p in itertools.product(CLASSES, CONFIGS) if p not in (("euler", "sample"), ("euler_a", "sample"))]  # not in diffusers


@pytest.mark.parametrize(("sampler", "config"), PAIRS)
@pytest.mark.parametrize(("steps", "begin"), [(1, 0), (7, 0), (20, 0), (12, 8)])
def test_rows_follow_the_scheduler(sampler: str, config: str, steps: int, begin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = CLASSES[sampler].from_config(CONFIGS[config])
    torch.manual_seed(7)
    outputs, draws = list(torch.randn(steps, 40)), list(torch.randn(steps, 40))
    clean, noise = torch.randn(40), torch.randn(40)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    ours = table(sampler, Noise.read(CONFIGS[config]), steps)  # type: ignore[arg-type]
    rows = Rows(ours, "none", 1.0, torch.device("cpu"))
    assert torch.equal(torch.as_tensor(ours.t, dtype=torch.float32), scheduler.timesteps.float())
    left = {"draws": list(draws[begin:])}
    for name in ("euler_ancestral_discrete", "lcm"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", lambda *a, **k: left["draws"].pop(0))
    if begin:
        start = scheduler.add_noise(clean[None], noise[None], scheduler.timesteps[begin : begin + 1])[0]
        keep, add = rows.start[begin]
        assert torch.allclose(clean * keep + noise * add, start, rtol=1e-5, atol=1e-5)
    else:
        start = noise * scheduler.init_noise_sigma
        assert float(scheduler.init_noise_sigma) == pytest.approx(rows.pure, rel=1e-5)
    latent = start
    for i in range(begin, steps):
        t = scheduler.timesteps[i]
        scaled = scheduler.scale_model_input(latent, t)
        assert torch.allclose(scaled, latent * rows.scale[i], rtol=1e-5, atol=1e-6)
        latent = scheduler.step(outputs[i], t, latent, return_dict=False)[0]
    found = walk(rows, begin, start, outputs, draws)
    # A start at zero signal has noise levels up to 4096, over which float32 itself is good to a few 1e-4.
    atol = 2e-3 if config == "zero" and sampler in ("euler", "euler_a") else 1e-5 * max(1.0, float(latent.abs().max()))
    assert float((found - latent).abs().max()) <= atol


@pytest.mark.parametrize(
    ("n", "strength", "runs"), [(15, 1.0, 15), (15, 0.6, 9), (15, 0.05, 1), (15, 0.0, 0), (4, 0.3, 1), (10, 0.29, 2), (22, 0.999, 21)]
)
def test_executed_steps(n: int, strength: float, runs: int) -> None:
    assert executed(n, strength) == runs


def test_guidance_is_a_linear_map() -> None:
    plain = table("ddim", Noise.read(CONFIGS["sd15"]), 5)
    device = torch.device("cpu")
    torch.manual_seed(1)
    x, without, with_, source = torch.randn(4, 30)
    basis = torch.zeros(6, 30)
    basis[X], basis[WITHOUT], basis[WITH], basis[SOURCE] = x, without, with_, source
    mixed = basis.clone()
    mixed[WITH] = without + 3.0 * (with_ - without)
    assert torch.allclose(Rows(plain, "cfg", 3.0, device).later[2] @ basis, Rows(plain, "none", 1.0, device).later[2] @ mixed, atol=1e-5)
    clean = (Rows(plain, "none", 1.0, device).later[2] @ basis)[1]
    residual = (Rows(plain, "rcfg-self", 1.4, device).later[2] @ basis)[1]
    assert torch.allclose(residual, 1.4 * clean - 0.4 * source, atol=1e-5)


@pytest.mark.parametrize("change", [{"beta_schedule": "squaredcos_cap_v2"}, {"prediction_type": "flow"}])
def test_unknown_processes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        Noise.read({**SD, **change})


def test_noise_prediction_cannot_start_at_zero_signal() -> None:
    with pytest.raises(UsageError, match="zero signal"):
        table("ddim", Noise.read({**ZERO, "prediction_type": "epsilon"}), 4)


def test_lcm_has_a_longest_schedule() -> None:
    with pytest.raises(UsageError, match="50"):
        table("lcm", Noise.read(SD), 51)
