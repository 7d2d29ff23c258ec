"""Samplers as tables: for every step, how the next latent follows linearly from what is at hand.

All samplers here are linear in the latent x, the model's output m, the last clean estimate and fresh noise:

    x0   = p x + q m                               the clean latent that the model's output implies
    next = a x + b x0 + c x0_last + d noise

so a sampler is nothing but rows (p, q, a, b, c, d), computed once in float64 and kept on the device; a step is one small matrix product,
the same for every sampler, without a branch and without a word to the host. Timesteps, spacing and end points agree with diffusers'
schedulers of the same names for the same `scheduler_config.json`.

Sources: DDIM, Song et al. 2021 (arXiv 2010.02502); Euler and Euler ancestral, Karras et al. 2022 (2206.00364); DPM-Solver++ 2M, Lu et al. 2022
(2211.01095); latent consistency, Luo et al. 2023 (2310.04378); spacing and zero terminal SNR, Lin et al. 2023 (2305.08891).

It knows tables, not models; torch enters only in `Rows`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Vector = np.ndarray[Any, np.dtype[np.float64]]

Sampler = Literal["ddim", "euler", "euler_a", "dpm++", "lcm"]

# What `auto` takes for the scheduler class that a checkpoint names. PNDM, the first one of Stable Diffusion, wants a warm-up that a stream of
# frames cannot pay; DPM++ 2M gives its quality in fewer steps.
FROM_CLASS: dict[str, Sampler] = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "LCMScheduler": "lcm",
}
SPACING: dict[Sampler, str] = {"ddim": "leading", "euler": "linspace", "euler_a": "linspace", "dpm++": "linspace", "lcm": "leading"}
LCM_ORIGIN = 50  # the schedule that latent consistency models were distilled on
LCM_SIGMA = 0.5  # sigma_data of the boundary condition
LCM_TIME = 10.0  # its time scaling
KARRAS_RHO = 7.0  # of the paper


@dataclass(frozen=True, slots=True)
class Noise:
    """The forward process of a checkpoint, read from its `scheduler_config.json`."""

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    shape: str = "scaled_linear"
    prediction: str = "epsilon"
    zero_snr: bool = False
    spacing: str | None = None
    offset: int = 0
    alpha_one: bool = True
    lcm_origin: int = LCM_ORIGIN
    karras: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Noise:
        """From a scheduler's configuration. Raises UsageError where it asks for what no sampler here does."""
        noise = cls(
            steps=int(config.get("num_train_timesteps", 1000)),
            beta_start=float(config.get("beta_start", 0.0001)),
            beta_end=float(config.get("beta_end", 0.02)),
            shape=str(config.get("beta_schedule", "linear")),
            prediction=str(config.get("prediction_type", "epsilon")),
            zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
            spacing=config.get("timestep_spacing"),
            offset=int(config.get("steps_offset", 0)),
            alpha_one=bool(config.get("set_alpha_to_one", True)),
            lcm_origin=int(config.get("original_inference_steps", LCM_ORIGIN)),
            karras=bool(config.get("use_karras_sigmas", False)),
        )
        for name, found, known in (
            ("beta_schedule", noise.shape, ("linear", "scaled_linear")),
            ("prediction_type", noise.prediction, ("epsilon", "v_prediction", "sample")),
        ):
            if found not in known:
                raise UsageError(f"scheduler_config.json: {name}: expected one of {', '.join(known)}, found {found!r}")
        return noise

    def alphas(self) -> Vector:
        """Cumulative products of alpha, (steps,). Betas are rounded to float32 as every trainer has them."""
        import numpy as np
        import torch

        if self.shape == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float32)
        else:
            betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float32) ** 2
        cumulative = np.cumprod((1.0 - betas).numpy().astype(np.float64))
        if self.zero_snr:
            # Shift and scale the square roots so that the last is 0 and the first stays (2305.08891, algorithm 1).
            root = np.sqrt(cumulative)
            cumulative = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return cumulative


@dataclass(frozen=True, eq=False)
class Table:
    """One sampler with `n` nominal steps. `rows` and `first` are (n, 6): p, q, a, b, c, d for a step with and without a last estimate.

    `t` (n,): timesteps for the model. `scale` (n,): what the model's input is multiplied by. `start` (n, 2): a run that begins at step i
    begins from start[i, 0] * clean + start[i, 1] * noise. `pure`: the standard deviation of a start from noise alone.
    """

    n: int
    t: Vector
    scale: Vector
    rows: Vector
    first: Vector
    start: Vector
    pure: float

    @property
    def noisy(self) -> bool:
        """Whether steps draw noise of their own."""
        return bool((self.rows[:, 5] != 0).any())


def executed(n: int, strength: float) -> int:
    """Steps run out of `n` nominal ones when a clean latent is repainted with `strength`.

    int(n * strength), as diffusers counts, but at least 1; 0 only for strength 0, which leaves the latent as it is.
    """
    return 0 if strength <= 0 else max(1, min(int(n * strength), n))


def table(sampler: Sampler, noise: Noise, n: int) -> Table:
    """The table of `sampler` for `n` nominal steps of the process `noise`."""
    build = {"ddim": _ddim, "euler": _euler, "euler_a": _euler, "dpm++": _dpm, "lcm": _lcm}[sampler]
    return build(sampler, noise, n)


def _timesteps(noise: Noise, sampler: Sampler, n: int) -> Vector:
    import numpy as np

    spacing, last = noise.spacing or SPACING[sampler], noise.steps
    extra = 1 if sampler == "dpm++" else 0  # DPM++ spreads n + 1 points and leaves the last, clean one out
    if spacing == "linspace":
        t = np.linspace(0, last - 1, n + extra)[::-1][:n]
        return t.astype(np.float32).astype(np.float64) if sampler.startswith("euler") else np.round(t)
    if spacing == "leading":
        return (np.arange(n + extra) * (last // (n + extra)))[::-1][:n].astype(np.float64) + noise.offset
    if spacing == "trailing":
        return np.round(np.arange(last, 0, -last / n)) - 1
    raise UsageError(f"scheduler_config.json: timestep_spacing: expected leading, linspace or trailing, found {spacing!r}")


def _clean(prediction: str, alpha: Vector) -> tuple[Vector, Vector]:
    """p and q: the clean latent from a variance-preserving latent and the model's output, per cumulative alpha."""
    import numpy as np

    if prediction == "v_prediction":
        return np.sqrt(alpha), -np.sqrt(1 - alpha)
    if prediction == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    if (alpha <= 0).any():
        raise UsageError("a checkpoint that predicts noise cannot start at zero signal", fix="its scheduler_config.json is not its own")
    return 1 / np.sqrt(alpha), -np.sqrt(1 - alpha) / np.sqrt(alpha)


def _stack(*columns: Vector) -> Vector:
    import numpy as np

    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _ddim(sampler: Sampler, noise: Noise, n: int) -> Table:
    import numpy as np

    alphas, t = noise.alphas(), _timesteps(noise, sampler, n)
    alpha = alphas[t.astype(int)]
    before = t.astype(int) - noise.steps // n
    last = np.where(before >= 0, alphas[np.maximum(before, 0)], 1.0 if noise.alpha_one else alphas[0])
    p, q = _clean(noise.prediction, alpha)
    a = np.sqrt(1 - last) / np.sqrt(1 - alpha)
    rows = _stack(p, q, a, np.sqrt(last) - a * np.sqrt(alpha), np.zeros(n), np.zeros(n))
    return Table(n, t, np.ones(n), rows, rows, _stack(np.sqrt(alpha), np.sqrt(1 - alpha)), 1.0)


def _sigmas(noise: Noise, sampler: Sampler, n: int) -> tuple[Vector, Vector]:
    """Timesteps (n,) and noise levels (n + 1,) ending in 0, in the variance-exploding view."""
    import numpy as np

    alphas, t = noise.alphas(), _timesteps(noise, sampler, n)
    if noise.zero_snr:
        alphas[-1] = 2.0**-24  # noise alone has no finite level: the largest that half precision can tell from it
    levels = np.sqrt((1 - alphas) / alphas)
    sigmas = np.interp(t, np.arange(len(levels)), levels)
    if noise.karras and sampler in ("euler", "dpm++"):
        # From the highest level to the lowest, evenly in the rho-th root (2206.00364, equation 5). Euler keeps to the levels of its own
        # timesteps, DPM++ to those of training, and rounds timesteps: so does diffusers.
        high, low = (sigmas[0], sigmas[-1]) if sampler == "euler" else (levels[-1], levels[0])
        root = np.linspace(high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO), n)
        sigmas = root**KARRAS_RHO
        t = np.interp(np.log(sigmas), np.log(levels), np.arange(len(levels)))
        t = np.round(t) if sampler == "dpm++" else t
    return t, np.append(sigmas, 0.0)


def _euler(sampler: Sampler, noise: Noise, n: int) -> Table:
    import numpy as np

    t, sigmas = _sigmas(noise, sampler, n)
    sigma, target = sigmas[:-1], sigmas[1:]
    if noise.prediction == "v_prediction":
        p, q = 1 / (sigma**2 + 1), -sigma / np.sqrt(sigma**2 + 1)
    elif noise.prediction == "sample":
        p, q = np.zeros(n), np.ones(n)
    else:
        p, q = np.ones(n), -sigma
    up = np.sqrt(target**2 * (sigma**2 - target**2) / sigma**2) if sampler == "euler_a" else np.zeros(n)
    down = np.sqrt(target**2 - up**2)
    rows = _stack(p, q, down / sigma, 1 - down / sigma, np.zeros(n), up)
    widest = float(sigmas.max())
    pure = widest if (noise.spacing or SPACING[sampler]) in ("linspace", "trailing") else math.hypot(widest, 1.0)
    return Table(n, t, 1 / np.sqrt(sigma**2 + 1), rows, rows, _stack(np.ones(n), sigma), pure)


def _dpm(sampler: Sampler, noise: Noise, n: int) -> Table:
    import numpy as np

    t, sigmas = _sigmas(noise, sampler, n)
    alpha = 1 / np.sqrt(sigmas**2 + 1)  # signal and noise of the variance-preserving view
    spread = sigmas * alpha
    p, q = _clean(noise.prediction, alpha[:-1] ** 2)
    a = spread[1:] / spread[:-1]
    b = alpha[1:] - a * alpha[:-1]  # alpha_next (1 - exp(-h)), with exp(-h) = sigma_next / sigma
    first = _stack(p, q, a, b, np.zeros(n), np.zeros(n))
    rows = first.copy()
    level = -np.log(np.maximum(sigmas, 1e-300))
    for i in range(1, n - 1):  # the last step goes to zero noise and is of first order
        ratio = (level[i + 1] - level[i]) / (level[i] - level[i - 1])  # 1 / r0
        rows[i, 3], rows[i, 4] = b[i] * (1 + 0.5 * ratio), -b[i] * 0.5 * ratio
    return Table(n, t, np.ones(n), rows, first, _stack(alpha[:-1], spread[:-1]), 1.0)


def _lcm(sampler: Sampler, noise: Noise, n: int) -> Table:
    import numpy as np

    if n > noise.lcm_origin:
        raise UsageError(f"the lcm sampler has at most {noise.lcm_origin} steps, found steps = {n}", fix="4 are usual")
    origin = (np.arange(noise.lcm_origin) + 1) * (noise.steps // noise.lcm_origin) - 1
    picks = np.floor(np.linspace(0, noise.lcm_origin, n, endpoint=False)).astype(int)
    t = origin[::-1][picks].astype(np.float64)
    alphas = noise.alphas()
    alpha = alphas[t.astype(int)]
    last = np.append(alpha[1:], 1.0)
    p, q = _clean(noise.prediction, alpha)
    time = t * LCM_TIME
    skip, out = LCM_SIGMA**2 / (time**2 + LCM_SIGMA**2), time / np.sqrt(time**2 + LCM_SIGMA**2)
    rows = _stack(p, q, np.sqrt(last) * skip, np.sqrt(last) * out, np.zeros(n), np.sqrt(1 - last))
    return Table(n, t, np.ones(n), rows, rows, _stack(np.sqrt(alpha), np.sqrt(1 - alpha)), 1.0)


# ---------------------------------------------------------------- on the device

# Rows of the basis that a step multiplies: latent, last clean estimate, model's output without and with the prompt, noise, the frame's source.
X, LAST, WITHOUT, WITH, FRESH, SOURCE = range(6)
ROW = 14  # numbers that a step is made of: timestep, scale of the model's input, a (2, 6) matrix


class Rows:
    """A table folded with guidance and moved to the device: per step a (2, 6) matrix that gives [next, x0] from the basis above.

    Guidance is one more linear map. Classifier-free (Ho & Salimans 2022, 2207.12598): m = without + g (with - without). Residual
    (Kodaira et al. 2023, 2312.12491): what the model would say without a prompt is taken to lead back to the frame's source, which in
    clean latents is x0 = g x0 + (1 - g) source and costs no second pass. With "rcfg-onetime" that source is what the negative prompt makes
    of the first executed step (the paper's onetime-negative): one pass more a frame, and `against` gives it from the basis.
    """

    def __init__(self, table: Table, guidance: str, g: float, device: torch.device) -> None:
        import numpy as np
        import torch

        self.n, self.pure, self.noisy = table.n, table.pure, table.noisy
        self.start = [(float(s), float(w)) for s, w in table.start]
        self.scaled = bool((table.scale != 1).any())
        self.residual = guidance == "rcfg-self"
        self.onetime = guidance == "rcfg-onetime"

        def fold(rows: Vector) -> torch.Tensor:
            p, q, a, b, c, d = rows.T
            out = np.zeros((table.n, 2, 6))
            clean, after = out[:, 1], out[:, 0]
            if guidance == "cfg":
                clean[:, X], clean[:, WITHOUT], clean[:, WITH] = p, q * (1 - g), q * g
            elif guidance in ("rcfg-self", "rcfg-onetime"):
                clean[:, X], clean[:, WITH], clean[:, SOURCE] = p * g, q * g, 1 - g
            else:
                clean[:, X], clean[:, WITH] = p, q
            after[:] = b[:, None] * clean
            after[:, X] += a
            after[:, LAST] += c
            after[:, FRESH] += d
            return torch.from_numpy(out.astype(np.float32)).to(device)

        self.against: list[torch.Tensor] = []
        if self.onetime:
            negative = np.zeros((table.n, 1, 6), np.float32)
            negative[:, 0, X], negative[:, 0, WITHOUT] = table.rows[:, 0], table.rows[:, 1]
            self.against = list(torch.from_numpy(negative).to(device).unbind(0))
        head = torch.from_numpy(np.stack([table.t, table.scale], axis=1).astype(np.float32)).to(device)

        def packed(rows: Vector) -> torch.Tensor:
            return torch.cat([head, fold(rows).flatten(1)], dim=1)

        # Lists of views, taken apart here once: indexing a tensor costs a dispatch on every step. All that a step needs to know lies in one
        # row of ROW numbers: timestep, scale of the input, matrix.
        self.row_later, self.row_first = list(packed(table.rows).unbind(0)), list(packed(table.first).unbind(0))
        self.later = [row[2:].view(2, 6) for row in self.row_later]
        self.first = [row[2:].view(2, 6) for row in self.row_first]
        self.t = [row[:1] for row in self.row_later]
        self.scale = [row[1] for row in self.row_later]
        self.draws = [bool(d != 0) for d in table.rows[:, 5]]
