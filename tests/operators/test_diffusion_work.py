"""What diffusion.stream says it costs: against counts on the meta device, against files, and policy by policy."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.outlook import Asked, Outlook
from operators.diffusion.sizes import TEXT
from operators.diffusion.work import HINT, SD1, SD2, SDXL, TINY, family_of, outlook
from operators.models.sizes import count

BENCH = Path(__file__).parents[2] / "bench"
BASE: dict[str, Any] = {
    "model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "controlnets": [{"model": "net"}], "vae": "madebyollin/taesd", "steps": 15,
    "size": 512, "strength": 1.0, "guidance": "none", "reuse": None,
}  # fmt: skip


def ask(fed: tuple[float, float] | None = None, inputs: frozenset[str] = frozenset({"control", "carry"}), **more: Any) -> Outlook:
    told = outlook(Asked({**BASE, **more}, inputs, {"strength": fed} if fed else {}))
    assert told is not None
    return told


@pytest.mark.timeout(300)
def test_the_table_is_what_torch_counts() -> None:
    """The bench counts every pass of the first family anew and fails where the table differs."""
    run = subprocess.run([sys.executable, str(BENCH / "meta_work.py"), "--only", "sd1"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert '"wrong": {}' in run.stdout


def test_passes_are_counted() -> None:
    step = (SD1.unet.at(1) + SD1.control.at(1) - HINT.at(1)) / 1000
    rest = (TINY[1].at(1) + HINT.at(1)) / 1000
    assert ask().tflop[1] == pytest.approx(15 * step + rest)
    assert ask(guidance="cfg").tflop[1] == pytest.approx(30 * step + rest)
    assert ask(steps=4).tflop[1] == pytest.approx(4 * step + rest)
    assert ask(controlnets=[]).tflop[1] == pytest.approx((15 * SD1.unet.at(1) + TINY[1].at(1)) / 1000)
    assert ask(inputs=frozenset({"image"})).tflop[1] - ask().tflop[1] == pytest.approx(TINY[0].at(1) / 1000)


def test_short_passes_cost_what_their_cut_costs() -> None:
    whole = ask().tflop[1]
    for cut in range(3):
        kept = ask(reuse={"every": 3, "cut": cut})
        saved = 10 * (SD1.unet.at(1) + SD1.control.at(1) - HINT.at(1) - SD1.cuts[cut].at(1)) / 1000
        assert whole - kept.tflop[1] == pytest.approx(saved)
    step = SD1.unet.at(1) + SD1.control.at(1) - HINT.at(1)
    assert ask(reuse={"every": 3, "cut": 1}).evaluations[1] == pytest.approx(5 + 10 * SD1.cuts[1].at(1) / step)


def test_strength_from_an_edge_gives_a_span() -> None:
    told = ask(fed=(0.6, 1.0))
    assert told.evaluations == pytest.approx((9.0, 15.0))
    assert ask(strength=0.3).evaluations == pytest.approx((4.0, 4.0))
    # With nothing to start from, every frame starts from noise, whatever the strength says.
    assert ask(strength=0.3, inputs=frozenset({"control"})).evaluations == pytest.approx((15.0, 15.0))


def test_size_counts_as_the_node_works_at_it() -> None:
    assert ask(size=256, width=512, height=512, controlnets=[]).tflop[1] == pytest.approx((15 * SD1.unet.at(0.25) + TINY[1].at(0.25)) / 1000)
    wide = ask(size=512, width=1024, height=512, controlnets=[])
    assert wide.tflop[1] == pytest.approx((15 * SD1.unet.at(2.0) + TINY[1].at(2.0)) / 1000)
    assert wide.activations == pytest.approx(2 * max(SD1.live, TINY[2]) * 1e6)


def test_nothing_is_said_of_the_embedded_model() -> None:
    assert outlook(Asked(BASE, embedded=True)) is None


def test_a_name_is_a_guess_and_says_so() -> None:
    assert family_of("stabilityai/sd-turbo") == (SD2, False)
    assert family_of("stabilityai/sdxl-turbo") == (SDXL, False)
    assert family_of("somebody/something") == (SD1, False)
    assert "taken from its name" in ask().notes[0]


def fake_weights(path: Path, **shapes: list[int]) -> None:
    """A safetensors file with nothing behind its header."""
    header = json.dumps({name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_sizes_come_from_headers_where_the_files_are(tmp_path: Path) -> None:
    """Both precisions of a model lie there: one counts. The UNet's settings decide the family, not the folder's name."""
    fake_weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", a=[10, 4], b=[7])
    fake_weights(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", a=[10, 4], b=[7])
    (tmp_path / "unet" / "config.json").write_text('{"cross_attention_dim": 1024}')
    assert count(tmp_path / "unet").total == 47
    assert family_of(str(tmp_path)) == (SD2, True)
    told = ask(model=str(tmp_path))
    unet = next(w for w in told.weights if w.name == "unet")
    assert (unet.bytes, unet.exact) == (94, True)
    text = next(w for w in told.weights if w.name == "text")
    assert (text.bytes, text.exact) == (2 * TEXT[1024].total, False)
    assert told.notes == ()
