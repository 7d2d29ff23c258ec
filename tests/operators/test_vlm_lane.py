"""The slow lane never delays the fast one, and what it says arrives: on the step clock, and in a real run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import toys  # noqa: F401 - registers toy.film

from engine import Live, Operator, operator
from engine.payload import Image, Prompt
from engine.planning.compile import compile
from engine.session import Session
from engine.text.load import load
from operators.vlm.attributes import parse
from operators.vlm.backends import Look

MS = 1_000_000
GRAPH = """
[graph]
clock     = "live"
in_flight = 2

[node.film]
op     = "toy.film"
count  = 100
period = 20.0
paced  = true

[node.paint]
op        = "test.paint"
in.image  = "film"
in.prompt = { from = "refine.prompt", hold = "nothing yet" }

[node.refine]
op       = "vlm.refine"
backend  = "embedded"
prompt   = "a dancer"
follow   = 1.0
in.image = { from = "paint", every = 5, policy = "latest" }

[node.out]
op       = "sink.null"
in.image = "paint"
"""


class Log:
    """What the painter was given, frame by frame."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.painted = threading.Event()  # ten frames are through


LOG = Log()


@operator("test.paint")
class Paint(Operator):
    """Passes pictures on and writes down the prompt."""

    def __init__(self, *, level: Annotated[int, Live(0, 9)] = 0) -> None:
        self.level = level

    def __call__(self, image: Image, prompt: Prompt) -> Image:
        LOG.prompts.append(prompt.text)
        if len(LOG.prompts) >= 10:
            LOG.painted.set()
        return Image(np.array(image.data))


class Eye:
    """Sees a colour more with every look; waits for `gate` first where there is one."""

    COLOURS = ("red", "green", "blue", "pink", "white", "black", "brown", "orange")

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate, self.looks, self.waited, self.inside, self.most = gate, 0, True, 0, 0

    def look(self, picture: np.ndarray[Any, Any], question: str) -> Look:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.gate is not None:
            self.waited = self.gate.wait(timeout=20)
        caption = f"a {self.COLOURS[self.looks % 8]} hat"
        self.looks += 1
        self.inside -= 1
        return Look(caption, parse(caption))

    def relieve(self) -> bool:
        return False

    def restore(self) -> None:
        pass


def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eye: Eye, **options: Any) -> Session:
    monkeypatch.setattr("operators.vlm.backends.Embedded", lambda: eye)
    LOG.__init__()  # type: ignore[misc]
    graph = tmp_path / "graph.toml"
    graph.write_text(GRAPH)
    return Session(compile(load(graph)), **options)


def test_on_the_step_clock_a_look_of_half_a_second_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eye = Eye()
    with session(tmp_path, monkeypatch, eye, executor="inline", costs={"refine": 500 * MS, "paint": 5 * MS}) as running:
        summary = running.run()
        running.check()
    assert len(LOG.prompts) == 100  # not one frame was dropped
    assert summary.age_ms["p99"] <= 6
    assert 3 <= eye.looks <= 6  # two seconds of film, half a second a look
    assert eye.most == 1
    assert LOG.prompts[0] == "nothing yet"
    assert LOG.prompts[-1].startswith("a dancer, ")
    assert len(dict.fromkeys(LOG.prompts)) >= 3
    # What was seen is there half a second, twenty-five frames, after the first frame.
    assert LOG.prompts.index("a dancer, red hat") in range(24, 30)


def test_in_a_real_run_frames_go_on_while_a_look_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look ends only once ten frames are painted: if the fast lane waited for it, neither would ever end."""
    eye = Eye(LOG.painted)
    with session(tmp_path, monkeypatch, eye) as running:
        eye.gate = LOG.painted
        running.run()
        running.check()
    assert eye.waited
    assert eye.looks >= 1
    assert LOG.prompts[:10] == ["nothing yet"] * 10
    assert LOG.prompts[-1].startswith("a dancer, ")
