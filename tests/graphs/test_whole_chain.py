"""The whole chain on the embedded models: every shipped graph runs, and what comes out is a painting of the motion that went in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.planning.compile import compile
from engine.session import Session
from engine.text.load import load
from operators.embedded import root
from operators.models import store

CLIP = Path(__file__).resolve().parents[3] / "shared" / "clips" / "juggle.mp4"
GRAPHS = sorted(p.stem for p in (Path(__file__).resolve().parents[2] / "graphs").glob("*.toml"))

pytestmark = pytest.mark.usefixtures("one_thread")
needs_weights = pytest.mark.skipif(not (root() / "unet").is_dir(), reason="the embedded weights are not in this checkout")


def needs_pose_model() -> None:
    try:
        store.find("pose")
    except Exception as error:
        pytest.skip(f"pose model: {error}")


def decode(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a rendered dancer, encoded by the engine itself."""
    folder = tmp_path_factory.mktemp("clip")
    graph = folder / "clip.toml"
    path = folder / "dancer.mp4"
    graph.write_text(f"""
[graph]
clock = "offline"
[node.dancer]
op = "source.figure"
size = 256
width = 320
frames = 48
seed = 3
[node.file]
op = "sink.video"
url = {json.dumps(str(path))}
in.image = "dancer"
""")
    with Session(compile(load(graph))) as session:
        session.run()
        session.check()
    assert len(decode(path)) == 48
    return path


@needs_weights
@pytest.mark.parametrize("name", GRAPHS)
def test_every_shipped_graph_runs_on_the_embedded_models(name: str, clip: Path, tmp_path: Path):
    out = tmp_path / "out.mp4"
    sets = [f"screen.url={out}"]
    if name != "demo":
        needs_pose_model()
        sets += [f"camera.url={clip}", "me.among=1"]
    if name == "live_lcm":
        sets += [f"stills.url={tmp_path / 'stills'}", "still.every=8"]
    plan = compile(load(name, sets=sets), embedded=True)
    with Session(plan, frames=24, poison=True) as session:
        summary = session.run()
        session.check()
        assert session.pools.loaned == 0
    frames = summary.frames
    assert frames["in"] == 24
    assert frames["in"] == frames["out"] + sum(frames["drops"].values())
    assert frames["in_flight"] == 0
    assert frames["out"] >= (24 if plan.clock == "offline" else 1)
    painted = decode(out)
    assert len(painted) == summary.nodes["screen"]["count"] == summary.nodes["paint"]["count"]
    assert all(picture.std() > 10 for picture in painted), "a picture without content"
    if name != "demo":
        assert summary.nodes["eyes"]["count"] == summary.events.get("picked", 0) <= 1  # looked at once, if somebody was there to be picked
    if name == "live_lcm":
        assert list((tmp_path / "stills").glob("*.png")), "no still was taken"
    else:
        assert len(painted) == frames["out"]
        assert summary.outputs == [str(out)]


@needs_weights
def test_a_reference_is_made_once_of_somebody_who_was_there(clip: Path, tmp_path: Path):
    """Offline, where every picture is looked at: one is picked among four, and one reference is made of it."""
    needs_pose_model()
    small = [f"paint.{side}=64" for side in ("size", "width", "height")]
    graph = load("live_2060", sets=[f"screen.url={tmp_path / 'out.mp4'}", f"camera.url={clip}", "graph.clock=offline", *small])
    with Session(compile(graph, embedded=True), frames=8) as session:
        summary = session.run()
    assert summary.events["picked"] == 1
    assert summary.nodes["me"]["count"] == 8
    assert summary.nodes["eyes"]["count"] == 1


@needs_weights
def test_the_demo_repeats_itself_and_a_seed_changes_it(tmp_path: Path):
    def paint(file: str, *sets: str) -> list[np.ndarray]:
        path = tmp_path / file
        with Session(compile(load("demo", sets=[f"screen.url={path}", *sets]), embedded=True), frames=6) as session:
            session.run()
        return decode(path)

    first, again, other = paint("a.mp4"), paint("b.mp4"), paint("c.mp4", "graph.seed=8")
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@needs_weights
def test_a_real_person_painted_from_the_command_line(tmp_path: Path):
    """`engine run live_2060 --embedded --set camera.url=CLIP`: the painted figure stands where the person stands."""
    if not CLIP.is_file():
        pytest.skip(f"the clip of a real person is not here: {CLIP.name}")
    needs_pose_model()
    out, skeleton = tmp_path / "painted.mp4", tmp_path / "skeleton.mp4"
    graph = tmp_path / "person.toml"
    shipped = Path(__file__).resolve().parents[2] / "graphs" / "live_2060.toml"
    # The shipped graph, and beside it the skeleton it paints from, to compare with.
    graph.write_text(f"""
include = {json.dumps(str(shipped))}
[node.bones]
op = "sink.video"
url = {json.dumps(str(skeleton))}
in.image = "skeleton"
""")
    command = [
        sys.executable, "-m", "engine", "run", str(graph), "--embedded", "--clock", "offline", "--frames", "30", "--json", "--quiet",
        "--set", f"camera.url={CLIP}", "--set", f"screen.url={out}", "--set", "paint.steps=2", "--set", "paint.threads=1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["frames"]["in"] == 30 == summary["frames"]["out"]
    assert {"fps", "age_ms", "nodes", "knobs", "outputs"} <= set(summary)
    painted, bones = decode(out), decode(skeleton)
    assert len(painted) == len(bones) == 30
    hits = []
    for picture, bone in zip(painted[5:], bones[5:], strict=True):
        scene = picture.astype(float)
        width = bone.shape[1]
        on_body = bone.max(axis=2) > 60
        ys, xs = np.nonzero(on_body)
        assert len(ys) > 50, "no person was found"
        # The strip beside the body, at the same heights, is what the background looks like there.
        left = np.clip(xs.min() - round(0.12 * width), 0, width - 1)
        background = scene[:, left]
        distance = np.abs(scene[ys, xs] - background[ys]).sum(axis=1)
        hits.append((distance > 60).mean())
    assert np.mean(hits) > 0.6, f"the figure covers {np.mean(hits):.0%} of the skeleton"
