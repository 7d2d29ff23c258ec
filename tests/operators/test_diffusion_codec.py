"""diffusion.encode and diffusion.decode against diffusers' autoencoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import checkpoints, picture, skeleton, stream  # noqa: E402

from engine.errors import MediaError, UsageError  # noqa: E402
from engine.payload import Image, Latent  # noqa: E402
from engine.testing import Bench  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_encode_is_the_mean_in_the_scale_of_the_unet() -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(Path(checkpoints().model) / "vae", local_files_only=True)
    data = picture(3, 64, 96)
    with Bench("diffusion.encode", vae=checkpoints().model) as bench:
        found = bench(Image(data)).data
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(data).permute(2, 0, 1)[None].float() / 127.5 - 1).latent_dist.mean
    assert tuple(found.shape) == (1, 4, 8, 12)
    assert torch.allclose(found, mean * vae.config.scaling_factor, atol=1e-5)


def test_decode_paints_what_the_stream_paints() -> None:
    with stream() as bench:
        painted = bench(skeleton())
    with Bench("diffusion.decode", vae=checkpoints().taesd) as bench:
        assert np.array_equal(bench(painted.latent).data, painted.image.data)
    with Bench("diffusion.decode", vae=checkpoints().model, width=40, height=24) as bench:
        other = bench(painted.latent).data
    assert other.shape == (24, 40, 3)


def test_relief_changes_nothing_but_place() -> None:
    latent = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    with Bench("diffusion.decode", vae=checkpoints().taesd) as bench:
        plain = bench(latent).data.copy()
        assert bench.operator.relieve()
        assert not bench.operator.relieve()
        assert np.array_equal(bench(latent).data, plain)
        bench.operator.restore()
        assert bench.operator.relieve()


def test_bad_input() -> None:
    with Bench("diffusion.decode", vae=checkpoints().taesd) as bench:
        with pytest.raises(UsageError, match=r"expected \(1, 4, h, w\), found \(1, 8, 8, 8\)"):
            bench(Latent(torch.zeros(1, 8, 8, 8)))
        with pytest.raises(MediaError, match="not finite"):
            bench(Latent(torch.full((1, 4, 8, 8), float("nan"))))
    with Bench("diffusion.encode", vae=checkpoints().taesd) as bench, pytest.raises(MediaError, match="at least 8 x 8"):
        bench(Image(np.zeros((4, 64, 3), np.uint8)))


# ---------------------------------------------------------------- snapshots, memory spared


def test_snapshots_come_when_due_and_when_asked() -> None:
    from engine.payload import Latent

    latents = [Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(n))) for n in range(6)]
    with Bench("diffusion.snapshot", vae=checkpoints().model, every=3) as bench, Bench("diffusion.decode", vae=checkpoints().model) as full:
        found = [bench(latent) for latent in latents]
        assert [n for n, picture in enumerate(found) if picture is not None] == [0, 3]
        assert np.array_equal(found[3].data, full(latents[3]).data)
        bench.set(every=0, take=1)
        found = [bench(latent) for latent in latents]
        assert [n for n, picture in enumerate(found) if picture is not None] == [0]
        bench.set(take=5)  # several asked for between two frames are one picture
        found = [bench(latent) for latent in latents]
        assert [n for n, picture in enumerate(found) if picture is not None] == [0]


def test_a_number_that_is_there_at_open_asks_for_nothing() -> None:
    from engine.payload import Latent

    with Bench("diffusion.snapshot", vae=checkpoints().model, take=7) as bench:
        assert bench(Latent(torch.zeros(1, 4, 8, 8))) is None


def test_tiles_and_slices_are_switched_on() -> None:
    """A picture of many tiles differs at their seams only; one of a single tile does not differ."""
    from engine.payload import Latent

    small, large = (Latent(torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))) for side in (8, 24))
    vae = checkpoints().model
    with Bench("diffusion.decode", vae=vae, tiling=True, slicing=True) as tiled, Bench("diffusion.decode", vae=vae) as whole:
        assert tiled.operator.coder.module.use_tiling
        assert tiled.operator.coder.module.use_slicing
        assert not whole.operator.coder.module.use_tiling
        assert np.array_equal(tiled(small).data, whole(small).data)
        a, b = tiled(large).data.astype(int), whole(large).data
        assert a.shape == b.shape == (192, 192, 3)
        assert np.abs(a - b).max() > 0
        assert np.abs(a - b).mean() < 20
    with stream(vae=None, vae_tiling=True, vae_slicing=True) as bench:
        assert bench.operator.models.coder.module.use_tiling
        assert bench.operator.models.coder.module.use_slicing
        bench(skeleton())


def test_a_snapshot_holds_to_its_contract() -> None:
    from engine.testing import conform

    conform("diffusion.snapshot", vae=checkpoints().taesd, every=2)
