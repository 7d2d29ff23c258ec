"""Recordings: what is in them, what ends them, and how they run again."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from keep import KEPT

from engine import Operator, Stamped, operator, registry
from engine.errors import EngineError, MediaError, MissingError, ParamError, ReplayError, UsageError
from engine.graph import GraphBuilder, Input, Ref
from engine.live.record import Recording
from engine.payload import Data, Image, Latent, Mask, Mesh, Payload, Pose, Prompt, Scalar, Text
from engine.planning.compile import compile
from engine.session import Session
from recorder import foxglove
from recorder.payloads import deviation, digest, packed, unpacked
from recorder.recorder import Recorder
from recorder.replay import Wish, replay
from recorder.tape import Tape, read

ROOT = Path(__file__).resolve().parents[2]


@operator("recordertest.stills")
class Stills(Operator):
    """Pictures from a file of raw frames, as a source that can be read again."""

    def __init__(self, *, url: str, side: int = 8) -> None:
        self.url, self.side = url, side

    def open(self, site: Any) -> None:
        from engine.operator import StreamInfo

        super().open(site)
        site.describe(StreamInfo(self.url))

    def __call__(self) -> Iterator[Image]:
        frames = np.fromfile(self.url, np.uint8).reshape(-1, self.side, self.side, 3)
        for n, frame in enumerate(frames):
            yield Stamped(Image(frame), pts=n * 1000)  # type: ignore[misc]


@operator("recordertest.mean")
def mean(image: Image) -> Scalar:
    return Scalar(float(image.data.mean()))


@operator("recordertest.guess", lane="slow")
class Guess(Operator):
    """A slow node that says something else every time it is asked, as a model might."""

    asked = 0

    def __call__(self, a: Scalar) -> Prompt | None:
        Guess.asked += 1
        return Prompt(f"guess {Guess.asked} of {a.value:g}") if int(a.value) % 3 == 0 else None


@operator("recordertest.heard")
def heard(a: Scalar, prompt: Prompt) -> Text:
    return Text(f"{prompt.text} at {a.value:g}")


@operator("recordertest.picks")
class Picks(Operator):
    """Decides at open by what no replay must ask again."""

    answers: list[float] = []

    def open(self, site: Any) -> None:
        super().open(site)
        self.level = site.decide("level", lambda: Picks.answers.pop())

    def __call__(self, a: Scalar) -> Scalar:
        return Scalar(a.value + self.level)


def chain(count: int = 30, *, clock: str = "live", **source: Any) -> GraphBuilder:
    g = GraphBuilder("chain", clock=clock)
    g.node("in", "toy.count", count=count, period=1.0, paced=clock == "live", **source)
    g.node("mem", "toy.memory", a="in")
    g.node("sink", "toy.collect", a="mem")
    return g


def record(g: GraphBuilder | Any, path: Path, *, tick: Any = None, executor: str = "inline", costs: Any = None, **options: Any) -> Session:
    """Run a graph and record it; the session, which may have failed."""
    session = Session(compile(g.build()), executor=executor, costs=costs)
    recorder = Recorder(path, **options)
    recorder.attach(session)
    try:
        session.run(tick, tick_s=0.005)
    except EngineError:
        assert session.errors
    finally:
        recorder.close()
    toys.settled(session)
    return session


def identical(tape: Tape, **wish: Any) -> int:
    """How many frames of a replay were compared, all of them the same."""
    outcome = replay(tape, Wish(**wish))
    assert outcome.verdict == "identical", outcome.to_dict()
    return sum(seen.identical for seen in outcome.sinks.values())


# ---------------------------------------------------------------- the kept session


def test_the_session_that_is_kept_runs_again():
    tape = read(KEPT)
    assert tape.whole
    assert tape.recording.resets
    assert {cause for _, _, cause in tape.recording.drops} >= {"stale", "paused"}
    assert len(tape.recording.changes) > 10
    assert identical(tape) == sum(len(frames) for frames in tape.sunk.values()) > 100
    assert KEPT.stat().st_size < 300_000


def test_the_session_that_is_kept_runs_again_from_its_snapshots():
    tape = read(KEPT)
    for begin, first in ((20, 20), (45, 40), (71, 60)):
        outcome = replay(tape, Wish(begin=begin))
        assert outcome.began == first
        assert outcome.verdict == "identical", outcome.to_dict()


def test_a_recording_tells_of_a_changed_operator(monkeypatch: pytest.MonkeyPatch):
    spec = registry.find("image.side_by_side")
    before = spec.target

    def wrong(*args: Any, **named: Any) -> Any:
        made = before(*args, **named)
        if named["site"].seq >= 50:
            made.data[0, 0, 0] ^= 1
        return made

    monkeypatch.setitem(spec.__dict__, "target", wrong)
    outcome = replay(read(KEPT))
    assert outcome.verdict == "different"
    assert outcome.exit_code == 5
    assert outcome.sinks["first"].first == 50
    assert outcome.sinks["second"].same
    assert outcome.sinks["first"].largest <= 1


# ---------------------------------------------------------------- what is recorded


def test_other_readers_find_pictures_and_facts(tmp_path: Path):
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from mcap.reader import make_reader

    path = tmp_path / "a.mcap"
    g = GraphBuilder("seen", clock="offline")
    g.node("in", "toy.film", count=4)
    g.node("copy", "toy.copy", image="in")
    g.node("sink", "toy.gallery", image="copy")
    record(g, path, frames="store")
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count > 10
        assert {m.name for m in reader.iter_metadata()} == {"afterimage"}
        found: dict[str, list[Any]] = {}
        for schema, channel, message in reader.iter_messages():
            assert schema is not None
            if channel.message_encoding == "json":
                found.setdefault(channel.topic, []).append(json.loads(message.data))
                continue
            files = descriptor_pb2.FileDescriptorSet.FromString(schema.data)
            pool = descriptor_pool.DescriptorPool()
            for one in files.file:
                pool.Add(one)
            kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
            found.setdefault(channel.topic, []).append(kind.FromString(message.data))
    assert len(found["/source/in/image"]) == 4
    picture = found["/source/in/image"][2]
    assert (picture.width, picture.height, picture.encoding, picture.step) == (4, 1, "rgb8", 12)
    assert abs(picture.timestamp.seconds - time.time()) < 3600
    assert toys.number(Image(np.frombuffer(picture.data, np.uint8).reshape(1, 4, 3))) == toys.mix("in", 2)
    assert found["/preview/sink/sink/image"][0].data[:2] == b"\xff\xd8"
    (session,) = found["/afterimage/session"]
    assert session["plan"]["name"] == "seen"
    assert session["versions"]["numpy"] == np.__version__
    assert [f["seq"] for f in found["/afterimage/frame"]] == [0, 1, 2, 3]
    assert found["/afterimage/end"][0]["state"] == "done"


def test_a_slow_node_is_not_asked_again(tmp_path: Path):
    g = GraphBuilder("told", clock="live")
    g.node("in", "toy.count", count=40, period=10.0, paced=True)
    g.node("guess", "recordertest.guess", a="in")
    g.node("say", "recordertest.heard", a="in", prompt=Input("prompt", (Ref("guess"),), hold="nothing yet"))
    g.node("sink", "toy.read", text="say")
    record(g, tmp_path / "a.mcap", costs={"guess": 70_000_000}, snapshot_every=10)
    tape = read(tmp_path / "a.mcap")
    asked = Guess.asked
    assert asked > 2
    assert identical(tape) == 40
    assert identical(tape, begin=25) < 40
    assert Guess.asked == asked, "the recording was to stand in for it"
    anew = replay(tape, Wish(rerun=["guess"]))
    assert anew.verdict == "as asked"
    assert Guess.asked > asked
    assert anew.sinks["sink"].different > 0
    with pytest.raises(UsageError, match="--rerun say: it is computed anew"):
        replay(tape, Wish(rerun=["say"]))


def test_what_would_have_happened(tmp_path: Path):
    g = chain()
    record(g, tmp_path / "a.mcap", tick=lambda s: s.set({"mem.level": 1.0}))
    tape = read(tmp_path / "a.mcap")
    assert tape.recording.changes
    same = replay(tape, Wish(wanted={"mem.level": 0.0}))
    assert same.verdict == "as asked"
    assert same.exit_code == 0
    sink = same.sinks["sink"]
    assert (sink.largest, sink.identical, sink.different) == (1.0, 1, 29)  # the change landed on the second frame
    with pytest.raises(UsageError, match=r'no parameter .levle.; did you mean "level"'):
        replay(tape, Wish(wanted={"mem.levle": 0.0}))
    with pytest.raises(ParamError):
        replay(tape, Wish(wanted={"mem.level": "much"}))
    with pytest.raises(UsageError, match="come from the recording"):
        replay(tape, Wish(wanted={"in.count": 3}))


def test_a_choice_of_the_moment_is_not_made_again(tmp_path: Path):
    g = GraphBuilder("picks")
    g.node("in", "toy.count", count=3)
    g.node("pick", "recordertest.picks", a="in")
    g.node("sink", "toy.collect", a="pick")
    Picks.answers[:] = [5.0]
    record(g, tmp_path / "a.mcap")
    assert identical(read(tmp_path / "a.mcap")) == 3  # popping from the empty list would raise


@pytest.mark.parametrize("on_error", ["skip", "hold", "fail"])
def test_failures_are_repeated(tmp_path: Path, on_error: str):
    g = GraphBuilder("fails", clock="offline")
    g.node("in", "toy.count", count=20)
    g.node("x", "toy.fails", a="in", at=[3, 4, 9], on_error=on_error)
    g.node("other", "toy.collect", a="in")
    g.node("sink", "toy.collect", a="x", fail_at=7, on_error="skip")
    record(g, tmp_path / "a.mcap", executor="threaded")
    tape = read(tmp_path / "a.mcap")
    outcome = replay(tape)
    assert outcome.verdict == "identical", outcome.to_dict()
    assert tape.end is not None
    assert (outcome.error is not None) == (on_error == "fail") == (tape.end["state"] == "failed")


def test_a_sink_that_nobody_watched(tmp_path: Path):
    g = GraphBuilder("shy", clock="live")
    g.node("in", "toy.count", count=12, period=1.0, paced=True)
    g.node("sink", "toy.shy", a="in", watched=[2, 3, 8])
    record(g, tmp_path / "a.mcap")
    assert identical(read(tmp_path / "a.mcap")) == 3


def test_a_run_that_was_given_up(tmp_path: Path):
    g = GraphBuilder("stops", clock="offline")
    g.node("in", "toy.count", count=200)
    g.node("x", "toy.stops", a="in", at=20, drain=False)
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()))
    toys.Stops.session = session
    recorder = Recorder(tmp_path / "a.mcap")
    recorder.attach(session)
    session.run()
    recorder.close()
    tape = read(tmp_path / "a.mcap")
    assert tape.end is not None
    assert tape.end["state"] == "aborted"
    toys.Stops.session = Session(compile(chain().build()))  # another one, since the replay is not to be stopped
    outcome = replay(tape)
    assert outcome.verdict == "identical"
    assert "aborted" in outcome.notes[0]


def test_secrets_are_not_recorded(tmp_path: Path):
    g = GraphBuilder("secret")
    g.node("in", "recordertest.stills", url=str(tmp_path / "none.raw?token=hunter2"))
    g.node("x", "recordertest.mean", image="in")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()))
    recorder = Recorder(tmp_path / "a.mcap", graph="rtsp://me:hunter2@cam/1", files={"g.toml": 'url = "rtsp://me:hunter2@cam/1"'})
    recorder.attach(session)
    with pytest.raises(EngineError):
        session.run()
    recorder.close()
    from mcap.reader import make_reader

    with (tmp_path / "a.mcap").open("rb") as file:
        text = b"".join(message.data for _, _, message in make_reader(file).iter_messages())
    assert b"cam/1" in text
    assert b"hunter2" not in text
    assert replay(read(tmp_path / "a.mcap")).notes


# ---------------------------------------------------------------- frames of files


def stills(path: Path, count: int = 12) -> Path:
    np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), np.uint8).tofile(path)
    return path


def watched(url: Path) -> GraphBuilder:
    g = GraphBuilder("watched")
    g.node("in", "recordertest.stills", url=str(url))
    g.node("x", "recordertest.mean", image="in")
    g.node("sink", "toy.collect", a="x")
    return g


def test_frames_of_a_file_are_read_from_it_again(tmp_path: Path):
    clip, path = stills(tmp_path / "clip.raw"), tmp_path / "a.mcap"
    record(watched(clip), path)
    tape = read(path)
    assert [facts["mode"] for facts in tape.sources.values()] == ["hash"]
    assert not tape.has("/source/in/image", 0)
    assert identical(tape) == 12
    assert identical(tape, until=4) == 5
    moved = clip.rename(tmp_path / "moved.raw")
    with pytest.raises(MissingError, match="is not here"):
        replay(tape)
    assert replay(tape, Wish(wanted={"in.url": str(moved)})).sinks["sink"].identical == 12
    data = bytearray(moved.read_bytes())
    data[700] ^= 1
    clip.write_bytes(bytes(data))
    with pytest.raises(ReplayError, match="its content differs"):
        replay(tape)


@pytest.mark.parametrize(("frames", "kept"), [("store", True), ("hash", False), ("none", False)])
def test_how_frames_are_kept(tmp_path: Path, frames: Any, kept: bool):
    record(watched(stills(tmp_path / "clip.raw")), tmp_path / "a.mcap", frames=frames)
    tape = read(tmp_path / "a.mcap")
    assert tape.has("/source/in/image", 3) is kept
    assert ("hash" in tape.frames[-1][3]["values"]["image"]) is (frames != "none")
    assert identical(tape) == 12


def test_a_source_that_gives_other_frames_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record(watched(stills(tmp_path / "clip.raw")), tmp_path / "a.mcap")
    real = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *args: real(*args) ^ 1)
    with pytest.raises(ReplayError, match=r"frame 0 of in is not the recorded one|frame 0"):
        replay(read(tmp_path / "a.mcap"))


# ---------------------------------------------------------------- what goes wrong


def test_nothing_is_written_over(tmp_path: Path):
    path = tmp_path / "a.mcap"
    record(chain(3), path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        record(chain(3), path)
    assert path.read_bytes() == before
    with pytest.raises(MediaError, match="cannot write the recording"):
        record(chain(3), tmp_path / "no" / "a.mcap")


@pytest.mark.parametrize("content", [b"", b"GIF89a and more", b"\x89MCAP0\r\n", b"\x89MCAP0\r\n" + bytes(40)])
def test_what_is_no_recording(tmp_path: Path, content: bytes):
    path = tmp_path / "a.mcap"
    path.write_bytes(content)
    with pytest.raises(ReplayError):
        read(path)
    with pytest.raises(MissingError):
        read(tmp_path / "b.mcap")


def test_a_recording_of_somebody_else(tmp_path: Path):
    from mcap.writer import Writer

    stream = io.BytesIO()
    writer: Any = Writer(stream)
    writer.start("ros2", "libmcap 1.4")
    channel = writer.register_channel("/tf", "cdr", 0)
    writer.add_message(channel, 0, b"", 0)
    writer.finish()
    path = tmp_path / "a.mcap"
    path.write_bytes(stream.getvalue())
    with pytest.raises(ReplayError, match=r'no recording of this engine: made by "libmcap 1.4" for "ros2"'):
        read(path)


def test_a_file_that_ends_anywhere(tmp_path: Path):
    data, dice = KEPT.read_bytes(), random.Random(1)
    path = tmp_path / "a.mcap"
    whole = len(read(KEPT).sunk["first"])
    lengths, early = set(), [0]
    for at in [len(data) - 1, len(data) - 9, *(dice.randint(9, len(data)) for _ in range(30))]:
        path.write_bytes(data[:at])
        try:
            tape = read(path)
        except ReplayError:
            early.append(at)  # within the first chunk, which says what was run
            continue
        assert tape.cut_at is not None
        lengths.add(len(tape.sunk["first"]))
    assert len(lengths) > 1
    assert max(early) < 20_000
    assert max(lengths) == whole


def test_a_file_that_is_damaged_anywhere(tmp_path: Path):
    """Every change is an error or changes nothing; no change makes another run."""
    data, dice = KEPT.read_bytes(), random.Random(2)
    path = tmp_path / "a.mcap"
    said = digest(read(KEPT).sunk, read(KEPT).recording.drops)
    errors = 0
    for _ in range(60):
        at = dice.randint(0, len(data) - 1)
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << dice.randint(0, 7)]) + data[at + 1 :])
        try:
            tape = read(path)
        except ReplayError:
            errors += 1
            continue
        assert tape.cut_at is not None or digest(tape.sunk, tape.recording.drops) == said
    assert errors > 40


def child(code: str, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "recorder")])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


ENDLESS = """
    import sys
    from pathlib import Path
    from engine.session import Session
    from engine.planning.compile import compile
    from recorder.recorder import Recorder
    from test_recorder import chain
    session = Session(compile(chain(10**6).build()))
    recorder = Recorder(Path("a.mcap"), snapshot_every=100)
    recorder.attach(session)
    def tick(session):
        if session.frames_out > 400:
            print("go", flush=True)
    session.run(tick)
"""


def flushed(path: Path) -> int:
    """The last frame that a recording has so far."""
    try:
        return read(path).last
    except ReplayError:
        return -1  # it has hardly begun


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_process_leaves_what_it_did(tmp_path: Path):
    process = child(ENDLESS, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n", process.stderr.read() if process.stderr else ""
    deadline = time.monotonic() + 60
    while flushed(tmp_path / "a.mcap") <= 100 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    tape = read(tmp_path / "a.mcap")
    assert tape.end is None
    assert tape.cut_at is not None
    assert tape.last > 100
    outcome = replay(tape)
    assert outcome.verdict == "identical"
    assert outcome.sinks["sink"].identical > 100
    assert "ends early" in outcome.notes[0]
    assert identical(tape, begin=tape.last) <= 110


FULL = """
    import resource, sys
    from pathlib import Path
    from engine.session import Session
    from engine.planning.compile import compile
    from recorder.recorder import Recorder
    from engine.graph import GraphBuilder
    import toys
    g = GraphBuilder("full", clock="live")
    g.node("in", "toy.film", count=3000, period=1.0, paced=True)
    g.node("copy", "toy.copy", image="in")
    g.node("sink", "toy.gallery", image="copy")
    session = Session(compile(g.build()))
    recorder = Recorder(Path("a.mcap"), frames="store")
    recorder.attach(session)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
    frames = session.run().frames
    toys.settled(session)
    events = [e for e in session.events if e["what"] == "recording ended"]
    try:
        recorder.close()
    except Exception as error:
        print(type(error).__name__, len(events), events[0]["error"], frames["out"] + frames["drops"].get("gate", 0), error)
"""


@pytest.mark.skipif(os.name != "posix", reason="a limit on the size of files")
def test_a_full_disk_ends_the_recording_and_not_the_run(tmp_path: Path):
    out, err = child(FULL, tmp_path).communicate(timeout=100)
    assert out.startswith("MediaError 1 MediaError 3000 the recording ended early: "), out + err
    assert (tmp_path / "a.mcap").stat().st_size <= 150_000
    tape = read(tmp_path / "a.mcap")
    assert tape.end is None
    assert tape.last > 10
    assert replay(tape).verdict == "identical"


def test_a_disk_that_is_too_slow_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run goes on; the recording ends, says why, and what it has can be replayed."""
    g = GraphBuilder("slow", clock="live")
    g.node("in", "toy.film", count=300, period=1.0, paced=True)
    g.node("copy", "toy.copy", image="in")
    g.node("sink", "toy.gallery", image="copy")
    session = Session(compile(g.build()))
    recorder = Recorder(tmp_path / "a.mcap", frames="store", queue_mb=0.02)
    recorder.attach(session)
    real, written = recorder.file.add, itertools.count()

    def add(*args: Any, **named: Any) -> Any:
        while next(written) > 60 and recorder.on and not session.over:
            time.sleep(0.001)  # the disk stands still until no more can wait for it
        return real(*args, **named)

    monkeypatch.setattr(recorder.file, "add", add)
    frames = session.run().frames
    with pytest.raises(MediaError, match="slower than the run"):
        recorder.close()
    toys.settled(session)
    assert recorder.unchecked > 0
    tape = read(tmp_path / "a.mcap")
    assert frames["in"] == 300
    assert tape.last < 250, "the run went on without the recording"
    outcome = replay(tape)
    assert outcome.verdict == "identical"
    assert outcome.sinks["sink"].unchecked > 0
    assert any("no digest" in note for note in outcome.notes)


def test_a_disk_that_is_too_slow_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The source waits, and nothing is left out."""
    session = Session(compile(chain(60, clock="offline").build()))
    recorder = Recorder(tmp_path / "a.mcap", queue_mb=0.002)
    recorder.attach(session)
    real = recorder.file.add
    monkeypatch.setattr(recorder.file, "add", lambda *args, **named: (time.sleep(0.001), real(*args, **named))[1])
    session.run()
    recorder.close()
    assert identical(read(tmp_path / "a.mcap")) == 60


@pytest.mark.parametrize("lane", ["slow", "beside"])
def test_a_value_on_its_way_when_the_snapshot_was_taken(tmp_path: Path, lane: str):
    """Made before it and read after it: neither side of the edge has it in its state."""
    g = GraphBuilder("crossing", clock="live")
    g.node("in", "toy.count", count=40, period=1.0, paced=True)
    g.node("long", "toy.memory", a={"from": "in", "policy": "latest"}, lane=lane)
    g.node("both", "toy.add", a="in", b=Input("b", (Ref("long"),), policy="latest"))
    g.node("sink", "toy.collect", a="both")
    record(g, tmp_path / "a.mcap", costs={"long": 7_000_000}, snapshot_every=20)
    tape = read(tmp_path / "a.mcap")
    assert [(late["seq"] < 20, late["read"] > 20) for late in tape.late] == [(True, True)]
    assert identical(tape, begin=20) == 20


def test_a_fault_of_the_recorder_is_none_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from recorder import snapshots

    monkeypatch.setattr(snapshots, "take", lambda *args: 1 / 0)
    session = Session(compile(chain(30, clock="offline").build()))
    recorder = Recorder(tmp_path / "a.mcap", snapshot_every=10)
    recorder.attach(session)
    assert session.run().frames["out"] == 30
    with pytest.raises(MediaError, match="ended early: ZeroDivisionError"):
        recorder.close()
    toys.settled(session)
    assert [event["error"] for event in session.events if event["what"] == "recording ended"] == ["MediaError"]
    assert replay(read(tmp_path / "a.mcap")).verdict == "identical"


def test_where_no_replay_can_begin(tmp_path: Path):
    g = GraphBuilder("last")
    g.node("in", "toy.count", count=30)
    g.node("many", "toy.batch", a="in", batch=4)
    g.node("keeps", "toy.keeping", a="many")
    g.node("sink", "toy.collect", a="keeps")
    record(g, tmp_path / "a.mcap", snapshot_every=10)
    tape = read(tmp_path / "a.mcap")
    with pytest.raises(ReplayError, match=r"no replay can begin at frame 15: (many: a batch was|keeps: toy.keeping keeps state)"):
        replay(tape, Wish(begin=15))
    with pytest.raises(UsageError, match="the last recorded frame is 29"):
        replay(tape, Wish(begin=99))
    assert identical(tape, begin=4) == 30  # before the first snapshot: from the first frame


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "payload",
    [
        Pose(np.random.default_rng(1).random((2, 18, 3)).astype(np.float32), (480, 640), 0.1),
        Image(np.zeros((70, 90, 3), np.uint8), color="bgr"), Image(np.ones((1, 3, 4, 4), np.float32) / 3, layout="chw"),
        Mask(np.eye(5, dtype=np.uint8)), Latent(np.full((1, 4, 2, 2), np.nan, np.float16)), Prompt("a", "b", 3), Scalar(-0.0),
        Scalar(float("inf")), Text("ü\n"), Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)),
        Data({"n": 1, "list": [1, (2.5, None)], "dtype": "x", "deep": {"#tuple": 1}, "bytes": b"\0"}),
    ],
)  # fmt: skip
def test_payloads_come_back_to_the_bit(payload: Payload):
    again = unpacked(json.loads(json.dumps(packed(payload), allow_nan=False)))
    assert digest(again) == digest(payload)
    assert type(again) is type(payload)


def test_digests_tell_payloads_apart():
    a = np.zeros((2, 3), np.uint8)
    arrays = [Mask(a), Mask(a.reshape(3, 2)), Mask(a.astype(np.int8)), Image(a)]
    seen = [*arrays, Scalar(0.0), Scalar(-0.0), Text("0"), Prompt("0"), None, 0, False]
    assert len({digest(value) for value in seen}) == len(seen)
    assert digest(Mask(np.asfortranarray(np.arange(6).reshape(2, 3)))) == digest(Mask(np.arange(6).reshape(2, 3)))


def test_deviations():
    one, other = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    other[0, 0, 0] = 12
    assert deviation(Image(one), Image(other)) == (12.0, 1.0)
    assert deviation(Image(one), Image(one[:1])) is None
    assert deviation(Scalar(1.0), Scalar(1.5)) == (0.5, 0.5)
    assert deviation(Text("a"), Text("b")) is None
    assert deviation(Text("a"), Scalar(1.0)) is None


def test_pictures_that_do_not_fit_their_bytes_are_refused():
    good = foxglove.raw_image(1, "x", 2, 1, "rgb", b"abcdef")
    assert foxglove.read_raw(good).data == b"abcdef"
    for bad in (good[:-1], foxglove.raw_image(1, "x", 2, 2, "rgb", b"abcdef"), b"\xff" * 30):
        with pytest.raises(ValueError, match=r"cut off|bytes for a picture|wire type"):
            foxglove.read_raw(bad)


def test_more_than_one_device_or_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another version may deviate a little, the same one may not."""
    record(chain(10), tmp_path / "a.mcap")
    tape = read(tmp_path / "a.mcap")
    before = toys.Memory.__call__
    monkeypatch.setattr(toys.Memory, "__call__", lambda self, a: Scalar(before(self, a).value + 0.5))
    assert replay(tape).verdict == "different"
    tape.facts["versions"]["numpy"] = "1.0"
    near = replay(tape)
    assert near.verdict == "within tolerance"
    assert near.differs == {"numpy": ("1.0", np.__version__)}
    assert replay(tape, Wish(tolerance=0.1)).verdict == "different"


# ---------------------------------------------------------------- reloads, pauses, prompts


def test_a_reload_is_repeated(tmp_path: Path):
    before = GraphBuilder("reloaded", clock="live")
    before.node("in", "toy.count", count=60, period=1.0, paced=True)
    before.node("mem", "toy.memory", a="in")
    before.node("sink", "toy.collect", a="mem")
    after = GraphBuilder("reloaded", clock="live")
    after.node("in", "toy.count", count=60, period=1.0, paced=True)
    after.node("mem", "toy.memory", a="in")
    after.node("more", "toy.add", a="mem", amount=50.0)
    after.node("sink", "toy.collect", a="more")
    plan, todo = compile(after.build()), [True]

    def tick(session: Session) -> None:
        if todo and session.frames_out >= 20:
            todo.pop()
            session.reload(plan)

    session = record(before, tmp_path / "a.mcap", tick=tick, snapshot_every=10)
    assert session.plan == plan
    tape = read(tmp_path / "a.mcap")
    assert len(tape.plans) == 1
    assert identical(tape) == len(tape.sunk["sink"]) > 40
    assert identical(tape, begin=10)
    with pytest.raises(ReplayError, match="after a reload"):
        replay(tape, Wish(begin=59))
    with pytest.raises(UsageError, match="was reloaded"):
        replay(tape, Wish(wanted={"mem.level": 1.0}))


def test_inputs_that_were_set_and_pauses_are_repeated(tmp_path: Path):
    g = GraphBuilder("said", clock="live")
    g.node("in", "toy.count", count=60, period=1.0, paced=True)
    g.node("say", "recordertest.heard", a="in", prompt=Input("prompt", (Ref("guess"),), hold="first"))
    g.node("guess", "recordertest.guess", a="in")
    g.node("sink", "toy.read", text="say")
    todo = [(10, lambda s: s.set({"say.prompt": "second"})), (20, lambda s: s.pause()), (30, lambda s: s.resume())]

    def tick(session: Session) -> None:
        while todo and sum(gate.entered for gate in session.gates.values()) >= todo[0][0]:
            todo.pop(0)[1](session)

    session = record(g, tmp_path / "a.mcap", tick=tick, costs={"guess": 20_000_000}, snapshot_every=15)
    assert any(value.startswith("second") for value in toys.values(session))
    tape = read(tmp_path / "a.mcap")
    assert "paused" in {cause for _, _, cause in tape.recording.drops}
    assert identical(tape) == len(tape.sunk["sink"])
    assert identical(tape, begin=16) > 10


def test_offline_a_set_input_counts_from_its_frame_on_whatever_the_threads_do():
    """The value that an edge brought before the change must not come back after it, looked at already or not."""
    g = GraphBuilder("held", clock="offline", in_flight=4)
    g.node("in", "toy.film", count=12)
    g.node("x", "toy.stir", a="in", gain=Input("gain", (Ref("x", "level"),), hold=3.5), lane="b")
    g.node("sink", "toy.gallery", image="x.image")
    plan = compile(g.build())
    done = Recording(changes=[(3, {"x.in.gain": 5.0})], stamps=[(-1, 3, 1, 0)])
    seen = set()
    for executor in ("inline", *("threaded",) * 12):
        session = Session(plan, executor=executor, replay=done)
        session.run()
        seen.add(tuple(toys.values(session)))
    assert len(seen) == 1


# ---------------------------------------------------------------- operators that say their state


@pytest.mark.parametrize("op", ["pose.smooth", "pose.stability"])
def test_pose_operators_go_on_from_their_state(op: str):
    from engine.testing import Bench

    dice = np.random.default_rng(3)
    walk = np.cumsum(dice.normal(0, 0.01, (12, 2, 18, 3)), axis=0).astype(np.float32) + np.array([0.4, 0.5, 0.0], np.float32)
    walk[:, 1, :, 0] += 0.4
    walk[..., 2] = 0.9
    poses = [Pose(frame[: 1 + n % 2], (100, 100)) for n, frame in enumerate(walk)]
    named = {"hold_ms": 100.0} if op == "pose.smooth" else {}
    with Bench(op, **named) as whole, Bench(op, **named) as later:
        for n, pose in enumerate(poses):
            if n == 6:
                state = json.loads(json.dumps(packed(whole.operator.snapshot())))
                later.operator.recall(unpacked(state))
            made = whole(pose, seq=n, pts=n * 40_000_000)
            if n >= 6:
                assert digest(later(pose, seq=n, pts=n * 40_000_000)) == digest(made)
