"""The live graphs on the cards they are for: they fit, physics allows their rates, and what their comments say is what the forecast says."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main
from engine.planning.compile import compile
from engine.planning.forecast import Forecast, forecast
from engine.text.load import load

ROOT = Path(__file__).parents[2]
PRESETS = sorted(path.stem for path in (ROOT / "graphs").glob("live_*.toml"))
every_preset = pytest.mark.parametrize("name", PRESETS)


def told(name: str, *sets: str, card: str | None = None) -> Forecast:
    return forecast(compile(load(name, sets=list(sets))), card)


@every_preset
def test_its_own_card_can_do_it(name: str) -> None:
    found = told(name)
    assert found.card is not None, "a preset says which card it is for"
    assert found.warnings == ()
    assert found.memory.fits
    assert found.target_fps
    assert found.fps(found.card.peak)[0] >= found.target_fps


@every_preset
def test_its_comments_say_what_the_forecast_says(name: str) -> None:
    text = " ".join(line.lstrip("# ") for line in (ROOT / "graphs" / f"{name}.toml").read_text(encoding="utf-8").splitlines())
    found = told(name)
    (node,) = (node for node in found.nodes.values() if node.tflop[1])
    assert found.card is not None
    evaluations, tflop = span(node.evaluations), span(node.tflop, 2)
    limit, reached = span(found.fps(found.card.peak)), span(found.reached(found.card))
    assert f"{evaluations} full evaluations of UNet and ControlNet a frame, {tflop} TFLOP" in text
    assert f"on an {found.card.name} at most {limit} fps, {reached} fps at the rates" in text


def span(pair: tuple[float, float], digits: int = 1) -> str:
    """As the forecast prints it."""
    low, high = (f"{value:.{digits}f}" for value in pair)
    return low if low == high else f"{low} to {high}"


@every_preset
def test_it_has_a_pose_a_reference_and_a_key_frame_model(name: str) -> None:
    nodes = {node.name: node for node in compile(load(name)).nodes}
    ops = {node.op for node in nodes.values()}
    assert {"pose.mediapipe", "pose.draw", "vlm.refine", "image.pick", "diffusion.reference"} <= ops
    fed = {edge.port for edge in compile(load(name)).edges if edge.node == "paint"}
    assert {"control", "carry", "prompt", "reference"} <= fed
    assert all(nodes[slow].lane == "slow" for slow in ("refine", "eyes", "me")), "nothing of that may delay a frame"


# ---------------------------------------------------------------- what physics forbids


def test_eight_full_steps_at_24_fps_are_called_out_by_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked of the command line, as somebody would who wants more than there is."""
    assert main(["plan", "live_4080", "--set", "paint.steps=30", "--set", "paint.reuse.every=1"]) == 0
    assert "warning: 24 fps cannot be had on rtx-4080" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sets", "card", "expected"),
    [
        ("live_4080", ("paint.guidance=cfg", "paint.reuse.every=1"), "rtx-4080", "24 fps cannot be had on rtx-4080"),
        ("live_4080", (), "rtx-2060", "24 fps cannot be had on rtx-2060"),
        ("live_2060", ("paint.guidance=cfg", "paint.reuse.every=1", "paint.vae=sd15", "govern.target_fps=3"), None, "3 fps cannot be had"),
        ("live_turbo", ("govern.target_fps=60",), None, "at its greatest strength a frame allows at most"),
    ],
)
def test_what_physics_forbids_is_called_out(name: str, sets: tuple[str, ...], card: str | None, expected: str) -> None:
    assert any(expected in warning for warning in told(name, *sets, card=card).warnings)


def test_a_smaller_card_gets_the_fast_preset_at_a_lower_rate() -> None:
    assert told("live_turbo", "govern.target_fps=8", card="rtx-2060").warnings == ()


def test_a_model_that_a_card_cannot_hold_is_called_out() -> None:
    found = told("live_sdxl_turbo", "memory.vram=3GB")
    assert found.memory.fits is False
    assert any("GB are needed" in warning for warning in found.warnings)
