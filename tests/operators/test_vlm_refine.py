"""When `vlm.refine` looks, what it says, and that real checkpoint formats work."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.clock import StepClock
from engine.errors import Cancelled, MediaError, MissingError, UsageError
from engine.payload import Image
from engine.testing import Bench
from operators.vlm.attributes import parse
from operators.vlm.backends import Look
from operators.vlm.refine import difference, thumbnail
from recorder.payloads import packed, unpacked


class Script:
    """An eye that says the lines of a script, one a look."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.questions: list[str] = []

    def look(self, picture: np.ndarray[Any, Any], question: str) -> Look:
        self.questions.append(question)
        line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        return Look(line, parse(line))

    def relieve(self) -> bool:
        return True

    def restore(self) -> None:
        pass


def picture(level: int, size: int = 64) -> Image:
    return Image(np.full((size, size, 3), level, np.uint8))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*lines: str, **params: Any) -> tuple[Bench, Script]:
        eye = Script(*lines)
        monkeypatch.setattr("operators.vlm.backends.Embedded", lambda: eye)
        return Bench("vlm.refine", backend="embedded", **params), eye

    return make


def test_a_drifted_colour_is_put_back_and_logged(scripted: Any) -> None:
    bench, _ = scripted("a man with red hair", "a man with green hair", prompt="a dancer", keep={"hair": "red"}, follow=0.0, blend=7)
    with bench:
        first, second = bench(picture(0)), bench(picture(10))
    assert first.prompt.text == "a dancer, red hair"
    assert second.prompt.text == "red hair, a dancer, red hair"
    assert second.prompt.blend == 7
    assert second.caption.text == "a man with green hair"
    what, facts = bench.events[-1]
    assert what == "prompt"
    assert facts["text"] == second.prompt.text
    assert "green hair" in facts["reason"]


def test_nothing_new_is_not_said_again(scripted: Any) -> None:
    bench, _ = scripted("a man", prompt="a dancer", follow=0.0)
    with bench:
        said = [bench(picture(i)).prompt for i in range(3)]
        bench.set(prompt="a singer")
        changed = bench(picture(9)).prompt
    assert [p is None for p in said] == [False, True, True]
    assert changed.text == "a singer"
    assert [what for what, _ in bench.events] == ["prompt", "prompt"]


def test_a_new_epoch_says_the_prompt_again_and_forgets_the_drift(scripted: Any) -> None:
    bench, _ = scripted("green hair", "a man", prompt="a dancer", keep={"hair": "red"}, follow=0.0)
    with bench:
        loud = bench(picture(0)).prompt
        bench.new_epoch()
        quiet = bench(picture(0)).prompt
    assert loud.text.startswith("red hair, ")
    assert quiet.text == "a dancer, red hair"


def test_only_scene_changes_are_looked_at_where_asked(scripted: Any) -> None:
    bench, eye = scripted("a man", scene_change=0.2, max_interval_ms=0.0)
    with bench:
        for level in (0, 20, 40, 90, 100, 0):
            bench(picture(level))
    assert len(eye.questions) == 3  # 0, 90 (0.35 away), 0 again


def test_time_limits_looks_both_ways(scripted: Any) -> None:
    bench, eye = scripted("a man", scene_change=0.5, min_interval_ms=100.0, max_interval_ms=300.0)
    with bench:  # 25 fps: a frame each 40 ms
        looked = []
        for index in range(12):
            before = len(eye.questions)
            bench(picture(255 * (index in (1, 4))))
            looked += [index] * (len(eye.questions) - before)
    assert looked == [0, 4, 7]  # 1: too soon; 4: changed; 5 and 6: too soon; 7: changed back, late enough


def test_a_scene_that_never_changes_is_looked_at_now_and_then(scripted: Any) -> None:
    bench, eye = scripted("a man", scene_change=0.5, max_interval_ms=300.0)
    with bench:
        looked = [(bench(picture(0)).caption is not None) * index for index in range(20)]
    assert [index for index in looked if index] == [8, 16]  # and the first
    assert len(eye.questions) == 3


def test_a_late_look_is_dropped(scripted: Any) -> None:
    clock = StepClock()
    bench, eye = scripted("a man", site_live=True, site_clock=clock, max_age_ms=1000.0)
    answer = eye.look

    def slow(pixels: Any, question: str) -> Look:
        clock.advance(2_000_000_000)
        return answer(pixels, question)

    with bench:
        eye.look = slow
        result = bench(picture(0))
    assert result.prompt is None
    assert bench.events[0][0] == "prompt_stale"
    assert bench.events[0][1]["age_ms"] == 2000


def test_nothing_is_looked_at_while_the_weights_are_off_the_device(scripted: Any) -> None:
    bench, eye = scripted("a man")
    with bench:
        assert bench.operator.relieve()
        assert not bench.operator.relieve()  # there is nothing more to free
        assert bench(picture(0)).caption is None
        bench.operator.restore()
        assert bench(picture(0)).caption.text == "a man"
    assert len(eye.questions) == 1


def test_thumbnails_see_light_not_detail() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 300, 500, 3), np.uint8)
    assert difference(thumbnail(noise[0]), thumbnail(noise[1])) < 0.1
    assert difference(thumbnail(np.zeros_like(noise[0])), thumbnail(np.full_like(noise[0], 255))) == pytest.approx(1, abs=1e-5)
    half = np.zeros((300, 500, 3), np.uint8)
    half[:, 250:] = 255
    assert difference(thumbnail(half), thumbnail(half[:, ::-1])) == pytest.approx(1, abs=0.02)
    assert thumbnail(np.zeros((3, 5, 3), np.uint8)).shape == (16, 16)


def test_the_embedded_captioner_keeps_a_prompt() -> None:
    """The captioner that ships, on a figure that it should know: what it sees goes into the caption, what was asked stays."""
    pytest.importorskip("torch").set_num_threads(1)
    from operators.models import find

    try:
        find("embedded")
    except MissingError as error:
        pytest.skip(f"the embedded weights are not here: {error.message}")
    from operators.figure.sequence import draw_scene, render

    scene = draw_scene(3, steady=True, kind="person", top="shirt", top_colour="blue", hair="short", hair_colour="brown", hat="none")
    seen = Image(render(scene, 0.5, 256).image)
    with Bench("vlm.refine", site_embedded=True, model="Qwen/Qwen2-VL-2B-Instruct", prompt="a dancer in a red shirt", follow=0.0) as bench:
        result = bench(seen)
    assert "blue shirt" in result.caption.text
    assert result.prompt.text.startswith("red shirt, a dancer")


# ---------------------------------------------------------------- real formats


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.set_num_threads(1)
    import vlm_checkpoints

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        return vlm_checkpoints.qwen(folder, kind) if kind.startswith("qwen") else vlm_checkpoints.smol(folder, kind)

    return make


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm"])
def test_every_family_loads_and_answers_the_same_twice(checkpoints: Any, kind: str) -> None:
    if kind == "smolvlm":
        pytest.importorskip("num2words", reason="the SmolVLM2 processor needs num2words")
    noise = Image(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    folder = str(checkpoints(kind))
    answers = []
    for _ in range(2):
        with Bench("vlm.refine", model=folder, max_tokens=6, prompt="a dancer") as bench:
            result = bench(noise)
            assert result.prompt.text.startswith("a dancer")
            answers.append(result.caption.text)
            blank = bench(picture(0)).caption.text
    assert answers[0] == answers[1]
    assert answers[0]
    assert isinstance(blank, str)


def test_the_picture_reaches_the_model(checkpoints: Any) -> None:
    """Random weights answer nonsense, but other nonsense for another picture."""
    with Bench("vlm.refine", model=str(checkpoints("qwen2_vl")), max_tokens=12, question="?") as bench:
        rng = np.random.default_rng(1)
        said = {bench(Image(rng.integers(0, 256, (56, 56, 3), np.uint8) // n * n)).caption.text for n in (1, 64, 128, 255)}
    assert len(said) > 1


def test_an_abort_is_noticed_between_two_tokens(checkpoints: Any) -> None:
    stop = threading.Event()
    with Bench("vlm.refine", model=str(checkpoints("qwen2_vl")), max_tokens=500, site_stop=stop) as bench:
        stop.set()
        with pytest.raises(Cancelled):
            bench(picture(0))


def test_pickled_weights_are_refused(checkpoints: Any) -> None:
    folder = checkpoints("qwen2_vl")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="pickle"), Bench("vlm.refine", model=str(folder)):
        pass


def test_a_damaged_checkpoint_says_so(checkpoints: Any) -> None:
    folder = checkpoints("qwen2_vl")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MediaError, match="bytes"), Bench("vlm.refine", model=str(folder)):
        pass


def test_what_is_no_picture_to_text_model_is_refused(checkpoints: Any) -> None:
    import json

    folder = checkpoints("qwen2_vl")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UsageError, match="no picture-to-text model"), Bench("vlm.refine", model=str(folder)):
        pass


def test_a_missing_model_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    name = "Qwen/Qwen2-VL-2B-Instruct"
    with pytest.raises(MissingError, match=f"engine models pull {name}"), Bench("vlm.refine", model=name):
        pass
    with pytest.raises(UsageError, match="no model"), Bench("vlm.refine"):
        pass


def test_it_goes_on_from_its_state(scripted: Any) -> None:
    lines = ["a man with green hair in a blue coat"] * 4 + ["a man with red hair in a blue coat", "a woman with green hair in a white coat"] * 4
    settings = {"prompt": "a dancer", "keep": {"hair": "red"}, "follow": 0.25, "scene_change": 0.05, "max_interval_ms": 150.0, "blend": 9}
    whole, eye = scripted(*lines, **settings)
    levels = [0, 0, 40, 40, 40, 80, 80, 0, 0, 120, 0, 120, 0, 120]
    with whole:
        made, states = [], []
        for n, level in enumerate(levels):
            states.append((json.loads(json.dumps(packed(whole.operator.snapshot()))), len(lines) - len(eye.lines)))
            made.append(whole(picture(level), seq=n, pts=n * 40_000_000))
    assert sum(result.prompt is not None for result in made) >= 4
    for at in range(1, len(levels)):
        state, looks = states[at]
        later, _ = scripted(*lines[looks:], **settings)
        with later:
            later.operator.recall(unpacked(state))
            again = [later(picture(level), seq=n, pts=n * 40_000_000) for n, level in enumerate(levels) if n >= at]
        assert again == made[at:], at
