"""What diffusion.stream says it costs: against counts on the meta device, against files, and policy by policy."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.planning.outlook import Asked, Outlook
from operators.diffusion.weights.sizes import TEXT
from operators.diffusion.work import HINT, KL, SD1, SD2, SDXL, TINY, family_of, outlook, spent
from operators.models.sizes import count

BENCH = Path(__file__).parents[2] / "bench"
BASE: dict[str, Any] = {
    "model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "controlnets": [{"model": "net"}], "vae": "madebyollin/taesd", "steps": 15,
    "size": 512, "strength": 1.0, "guidance": "none", "reuse": None,
}  # fmt: skip


def ask(fed: tuple[float, float] | None = None, inputs: frozenset[str] = frozenset({"control", "carry"}), **more: Any) -> Outlook:
    told = outlook(Asked({**BASE, **more}, inputs, {"strength": fed} if fed else {}, batch=more.pop("batch", 1)))
    assert told is not None
    return told


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_table_is_what_torch_counts() -> None:
    """The bench counts every pass of the first family anew and fails where the table differs."""
    run = subprocess.run([sys.executable, str(BENCH / "meta_work.py"), "--only", "sd1"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert '"wrong": {}' in run.stdout
    assert '"wrong_policies": {}' in run.stdout


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


# ---------------------------------------------------------------- passes: the table and the operator say the same


POLICIES: dict[str, dict[str, Any]] = {
    "every third": {"reuse": {"every": 3, "cut": 1}}, "to a half": {"reuse": {"every": 2, "cut": 0, "end": 0.5}},
    "for three frames": {"reuse": {"every": 2, "cut": 1, "frames": 3}}, "one full": {"reuse": {"every": 12, "cut": 1, "frames": 3}},
    "part of a net": {"controlnets": [{"model": "net", "start": 0.2, "end": 0.7}], "reuse": {"every": 2, "cut": 1}},
}  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("strength", [0.3, 0.6])
def test_the_operator_runs_the_passes_that_are_said(policy: str, strength: float) -> None:
    """Passes of UNet, shallow layers and ControlNet, counted where they happen, over as many frames as live on one."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusion_checkpoints import checkpoints, skeleton, stream

    from engine.payload import Latent

    params: dict[str, Any] = {"steps": 12, "strength": strength, "guidance": "none", **POLICIES[policy]}
    nets = [{**net, "model": checkpoints().control} for net in params.get("controlnets", [{}])]
    frames = params["reuse"].get("frames", 1)
    for still in (True, False):
        count = {"deep": 0, "any": 0, "net": 0}
        with stream(**{**params, "controlnets": nets}) as bench:
            models = bench.operator.models
            for name, module in (("deep", models.unet.mid_block), ("any", models.unet.conv_out), ("net", models.nets[0].module)):
                module.register_forward_hook(lambda *a, name=name, count=count: count.update({name: count[name] + 1}))
            for n in range(frames):
                bench(skeleton(0 if still else n), carry=Latent(torch.zeros(1, 4, 8, 8)))
        said = spent({**params, "controlnets": nets}, strength, still=still)
        assert (count["any"], count["deep"]) == pytest.approx((frames * said.run, frames * said.full))
        assert count["net"] == pytest.approx(frames * said.nets[0])
        assert said.short == pytest.approx(said.run - said.full)


def test_frames_that_live_on_others_give_a_span() -> None:
    calm = ask(reuse={"every": 15, "cut": 1, "frames": 5})
    key = ask(reuse={"every": 15, "cut": 1})
    assert calm.tflop[1] == pytest.approx(key.tflop[1])
    step = SD1.unet.at(1) + SD1.control.at(1) - HINT.at(1)
    assert key.tflop[1] - calm.tflop[0] == pytest.approx(0.8 * (step - SD1.cuts[1].at(1)) / 1000)
    assert calm.counts["full passes"] == pytest.approx((0.2, 1.0))
    assert calm.counts["executed"] == (15, 15)
    assert "nothing moves" in calm.notes[-1]
    assert calm.activations > key.activations > ask().activations  # what is kept takes room


def test_batches_say_what_they_cost_and_how_late_they_are() -> None:
    alone = ask(steps=4)
    rows = ask(steps=4, batch=4, batching={"stream": True})
    together = ask(steps=4, batch=4)
    assert rows.tflop == together.tflop == alone.tflop
    assert (alone.behind, alone.together) == ((0, 0), 1)
    assert (rows.behind, rows.together) == ((3, 3), 1)
    assert (together.behind, together.together) == ((3, 3), 4)
    assert rows.activations > alone.activations
    late = ask(fed=(0.5, 1.0), steps=8, batch=8, batching={"stream": True})
    assert late.behind == (3, 7)
    small = ask(steps=8, batch=4, batching={"stream": True})
    assert small.behind == (0, 0)
    assert "painted alone" in small.notes[-1]
    inner = ask(steps=8, strength=0.5, batch=4, batching={"stream": True, "carry": True}, inputs=frozenset({"control"}))
    assert inner.behind == (3, 3)


def test_short_passes_of_the_large_family_are_counted() -> None:
    told = ask(model="stabilityai/sdxl-turbo", steps=4, controlnets=[], reuse={"every": 2, "cut": 1})
    assert told.tflop[1] == pytest.approx((2 * SDXL.unet.at(1) + 2 * SDXL.cuts[1].at(1) + TINY[1].at(1)) / 1000)


def test_a_calm_strength_is_the_least() -> None:
    assert ask(strength=0.6, calm=0.2).counts["executed"] == (3, 9)


def test_the_plan_says_steps_passes_and_latency(tmp_path: Path) -> None:
    from engine.planning.compile import compile
    from engine.planning.forecast import forecast
    from engine.text.load import load

    (tmp_path / "g.toml").write_text(
        '[node.film]\nop = "source.video"\nurl = "x.mp4"\n'
        '[node.paint]\nop = "diffusion.stream"\nmodel = "sd15"\nvae = "taesd"\nguidance = "none"\nscheduler = "lcm"\nsteps = 8\n'
        'strength = 0.5\nbatch = 4\nbatching = { stream = true }\nreuse = { every = 1, cut = 1, frames = 2 }\nin.image = "film"\n'
        '[node.out]\nop = "sink.video"\nurl = "y.mp4"\nin.image = "paint.image"\n'
    )
    made = forecast(compile(load(tmp_path / "g.toml")), "rtx-4080")
    text = str(made)
    assert "8 nominal steps, 4 executed, 2 to 4 full passes, 2 to 0 passes of the shallow layers (cut 1)" in text
    assert "a picture waits for 3 younger frames" in text
    least, most = made.latency_ms(97.5)
    assert most == pytest.approx(4 * made.tflop[1] / 97.5 * 1e3)
    assert f"{least:.0f} to {most:.0f}" in text
    assert made.to_dict()["fps"]["rtx-4080"]["latency_ms"] == (least, most)


# ---------------------------------------------------------------- weights, and the ways to keep them


def parts(**more: Any) -> dict[str, Any]:
    return {w.name: w for w in ask(**more).weights}


def hows(weights: Any) -> list[str]:
    return [way.how for way in weights.ways]


def test_every_part_is_counted_once() -> None:
    twice = [{"model": "net"}, {"model": "net"}, {"model": "other"}]
    found = parts(controlnets=twice, ip_adapters=[{"model": "h94/IP-Adapter"}], inputs=frozenset({"image"}))
    assert list(found) == ["unet", "text", "controlnet 1", "controlnet 3", "vae", "vae encoder", "ip adapter 1"]
    assert found["ip adapter 1"].bytes == 2 * 19_169_280
    assert "vae encoder" not in parts()  # nobody encodes
    assert parts(model="stabilityai/sdxl-turbo")["text"].bytes == 2 * (123_060_480 + 694_659_840)


def test_a_full_autoencoder_is_counted_in_the_precision_it_computes_in(tmp_path: Path) -> None:
    """It overflows in half precision, unless its configuration says that this one does not."""
    wide = ask(vae=None)
    assert {w.name: w for w in wide.weights}["vae"].bytes == 4 * 49_490_199
    assert wide.activations == pytest.approx(2 * KL[2] * 1e6)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL", "force_upcast": false}')
    half = ask(vae=str(tmp_path))
    assert {w.name: w for w in half.weights}["vae"].bytes == 2 * 49_490_199
    assert half.activations == pytest.approx(KL[2] * 1e6)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    assert ask(vae=str(tmp_path)).activations == pytest.approx(TINY[2] * 1e6)


def test_a_checkpoint_in_one_file_is_counted_part_by_part(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    fake_weights(
        file, **{
            "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": [10, 2048],
            "model.diffusion_model.out.2.weight": [4, 3],
            "conditioner.embedders.0.transformer.x.weight": [7, 2], "conditioner.embedders.1.model.y.weight": [5, 2],
            "first_stage_model.decoder.conv.weight": [3, 3, 3, 3], "first_stage_model.encoder.conv.weight": [2, 2],
        }
    )  # fmt: skip
    found = parts(model=str(file), vae=None, inputs=frozenset({"image"}))
    assert {name: w.bytes for name, w in found.items() if w.exact} == {
        "unet": 2 * (20480 + 12), "text": 2 * 24, "vae": 4 * 81, "vae encoder": 4 * 4,
    }  # fmt: skip
    assert family_of(str(file)) == (SDXL, True)


def test_what_may_be_chosen_and_in_which_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from operators.models import quantise

    monkeypatch.setattr(quantise, "installed", lambda bits=8, device="cuda": ["torchao"])
    found = parts()
    assert hows(found["unet"]) == ["resident", "fp8", "fp8+group", "group"]
    assert hows(found["controlnet 1"]) == ["resident", "fp8", "offload", "fp8+offload", "fp8+group", "group"]
    assert hows(found["text"]) == hows(found["vae"]) == ["resident", "offload"]
    assert found["text"].ways[1].cost_ms == 0
    assert [way.alters for way in found["unet"].ways] == [False, True, True, False]
    assert "int8" in hows(parts(quantise="auto")["unet"])
    assert hows(parts(quantise={"parts": ["unet"]})["unet"]) == ["int8"]
    assert hows(parts(placement={"unet": "fp8", "text": "staged"})["unet"]) == ["fp8"]
    moving = ask(loras=[{"model": "x"}])
    assert hows(next(w for w in moving.weights if w.name == "unet")) == ["resident", "group"]
    assert any("fuse_loras = true" in note for note in moving.notes)
    assert "fp8" in hows(parts(loras=[{"model": "x"}], fuse_loras=True)["unet"])
    refused = ask(loras=[{"model": "x"}], placement={"unet": "fp8"})
    assert any("unet cannot be kept as fp8" in note for note in refused.notes)


def test_tiles_are_offered_where_they_help() -> None:
    assert ask().spares == ()
    (tiles,) = ask(size=1024, width=1024, height=1024, vae=None).spares
    assert tiles.how == "tiling"
    assert tiles.live < 0.35 * ask(size=1024, width=1024, height=1024, vae=None).activations
    assert ask(size=1024, width=1024, height=1024, vae_tiling=False).spares == ()


def test_captured_steps_have_a_pool_as_large_as_the_largest_body() -> None:
    """One pool for all: the largest of UNet and decoder once more, less where pictures are decoded in tiles or in batches, none where off."""
    plain = ask()
    assert plain.pool == plain.activations == pytest.approx(max(SD1.live + SD1.steered, TINY[2]) * 1e6, abs=1)
    assert ask(graphs="off").pool == 0
    kept = ask(reuse={"every": 3, "cut": 1})
    assert kept.pool == pytest.approx(plain.pool, abs=1)
    assert kept.activations > plain.activations  # deep features lie outside
    large = ask(size=1024, width=1024, height=1024, vae=None)
    (tiles,) = large.spares
    assert large.pool == large.activations
    assert tiles.pool == tiles.live < large.pool
    four = outlook(Asked({**BASE, "vae": None}, frozenset({"control"}), batch=4))
    assert four.pool == pytest.approx(4 * (SD1.live + SD1.steered) * 1e6, abs=1)
    assert four.pool < four.activations


ATTENTION = 2 * 2 * (5 * 1024 * 640 + 5 * 256 * 1280 + 64 * 1280)  # of SD 1.5 at 512 x 512: keys and values, 16-bit, without the largest layers


def test_what_attention_remembers_is_counted() -> None:
    assert ask().kept == {}

    def count(**more: Any) -> int:
        return ask(**{"strength": 1.0, "steps": 4, "remember": {}, **more}).kept["remembered attention"]

    assert count() == (2 * 4 + 1) * ATTENTION  # two banks a step, and the places that all steps share
    assert count(remember={"anchor": True}) == (3 * 4 + 2) * ATTENTION
    assert count(guidance="cfg") == 2 * count()
    assert count(guidance="rcfg-onetime") == (2 * 5 + 3) * ATTENTION
    assert count(dtype="fp32") == 2 * count()
    assert count(steps=50) == (2 * 12 + 1) * ATTENTION <= 512 * 2**20 < (2 * 13 + 1) * ATTENTION
    assert count(steps=50, remember={"megabytes": 4096}) == 101 * ATTENTION
    assert count(remember={"megabytes": 4}) == 4 * 1024 * 640  # one layer's places, and no room for a step
    assert count(size=256, width=512, height=512) == (2 * 4 + 1) * 2 * 2 * (5 * 1024 * 320 + 5 * 256 * 640 + 5 * 64 * 1280 + 16 * 1280)
    assert count(model="stabilityai/stable-diffusion-2-1-base") == count()
    assert count(strength=0.5) == count()  # a first frame runs all steps
    assert ask(inputs=frozenset({"image"}), strength=0.5, steps=4, remember={}).kept["remembered attention"] == 5 * ATTENTION
    assert outlook(Asked({**BASE, "remember": {}}, batch=2)).kept == {}


REMEMBERS: list[dict[str, Any]] = [
    {}, {"remember": {"anchor": True}}, {"guidance": "cfg", "guidance_scale": 3.0}, {"guidance": "rcfg-onetime", "negative": "blur"},
    {"reuse": {"every": 2, "cut": 1}, "steps": 6}, {"reuse": {"every": 3, "cut": 0, "end": 0.5}, "steps": 9, "strength": 0.7},
    {"reuse": {"every": 2, "cut": 1, "frames": 2, "motion": 1.0}, "steps": 4},
    {"size": 96, "width": 160, "height": 96, "remember": {"cells": 128}},
    {"remember": {"cells": 30}}, {"remember": {"megabytes": 1, "cells": 4096}, "steps": 12, "strength": 1.0, "size": 256},
]  # fmt: skip


@pytest.mark.parametrize("settings", REMEMBERS, ids=repr)
def test_what_attention_remembers_is_what_it_holds(settings: dict[str, Any]) -> None:
    """The plan's number beside live bytes, after two epochs of frames."""
    pytest.importorskip("diffusers")
    import torch
    from diffusion_checkpoints import skeleton, stream
    from test_diffusion_carry_flow import alive

    torch.set_num_threads(1)
    with stream(**{"remember": {}, **settings}) as bench:
        carry = None
        for n in range(6):
            if n == 3:
                bench.new_epoch()
                carry = None
            carry = bench(skeleton(0), carry=carry).latent
        memory = bench.operator._tools.memory
        told = outlook(Asked(bench.params, frozenset({"control", "carry"})))
        planned, live = told.kept["remembered attention"], alive(memory)
    assert live == memory.held > 0
    assert live <= planned <= 1.05 * live


def test_what_a_controlnet_answers_is_held_while_the_unet_runs() -> None:
    """Two rows of guidance are more than the tiny decoder takes, and the residuals come on top."""
    bare, steered = (ask(guidance="cfg", controlnets=nets).activations for nets in ([], [{"model": "net"}]))
    assert bare == pytest.approx(2 * SD1.live * 1e6)
    assert steered == pytest.approx(2 * (SD1.live + SD1.steered) * 1e6)
