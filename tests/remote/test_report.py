"""The report: numbers worked out by hand from a run on the step clock, plots that hold what they were given, and a file whatever happens."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import toys  # noqa: F401 - registers the operators

from engine.cli import run as verb
from engine.graph import GraphBuilder
from engine.operator import Operator, Stamped, operator
from engine.payload import Image, Scalar
from engine.planning.compile import compile
from engine.session import Session
from engine.testing import Bench
from remote.report import plots
from remote.report.collect import KEPT, METER, PALETTE, Report
from remote.report.device import DeviceTimes
from remote.report.facts import Facts, gather
from remote.report.page import _events

MS = 1_000_000


@operator("toy.treport_source")
class Source(Operator):
    """Three numbers, each made in a part of its own."""

    def __call__(self) -> Iterator[Scalar]:
        for n in range(3):
            with self.site.span("picture"):
                value = Scalar(float(n))
            yield Stamped(value, pts=n)  # type: ignore[misc]


def played(**costs: int) -> Session:
    g = GraphBuilder("t", clock="offline", in_flight=1)
    g.node("src", "toy.count", count=4)
    g.node("x", "toy.measures", a="src", lane="one")
    g.node("y", "toy.add", a="x", lane="two")
    g.node("sink", "toy.collect", a="y")
    session = Session(compile(g.build()), executor="inline", costs=costs)
    session.run()
    return session


def test_a_frame_s_time_is_divided_among_its_stages() -> None:
    facts = gather(played(x=3 * MS, y=5 * MS))
    seqs, parts = facts.stages()
    assert seqs == [0, 1, 2, 3]
    assert parts["y"] == [5.0] * 4
    assert parts["x (rest)"] == [3.0] * 4  # its inner part took no virtual time
    assert facts.total == {0: 8.0, 1: 16.0, 2: 16.0, 3: 16.0}
    assert parts["wait"] == [0.0, 8.0, 8.0, 8.0]  # made while the one before was under way, and admitted after it
    assert facts.series["x.twice"] == [(facts.left[n], 2.0 * n) for n in seqs]
    assert [round(t * 1000) for t in facts.left.values()] == [8, 16, 24, 32]


def test_what_no_stage_explains_is_waiting() -> None:
    """With two frames in flight, the second waits for the first one's stage."""
    g = GraphBuilder("t", clock="offline", in_flight=2)
    g.node("src", "toy.count", count=3)
    g.node("x", "toy.add", a="src", lane="one")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline", costs={"x": 10 * MS})
    session.run()
    _, parts = gather(session).stages()
    assert parts["x"] == [10.0, 10.0, 10.0]
    assert parts["wait"] == [0.0, 10.0, 20.0]  # the third waits at the gate as well


def test_the_time_of_a_frame_by_what_it_went_on() -> None:
    """Parts of a painter, a finder of poses, a sink: each to its kind; what the source took stands beside the rest and is no waiting."""
    facts = Facts(ops={"cam": "source.video", "who": "pose.mediapipe", "bones": "pose.draw", "paint": "diffusion.stream", "out": "sink.video",
                       "mix": "image.color"}, left={7: 1.0}, total={7: 100.0})  # fmt: skip
    spent = {"cam": 9.0, "cam.picture": 4.0, "who": 20.0, "bones": 1.0, "paint": 60.0, "paint.conditioning": 5.0, "paint.denoise": 40.0,
             "paint.decode": 10.0, "mix": 2.0, "out": 3.0}  # fmt: skip
    facts.times = {name: {7: ms} for name, ms in spent.items()}
    seqs, kinds = facts.kinds()
    assert seqs == [7]
    assert {kind: values[0] for kind, values in kinds.items()} == {
        "decode": 9.0, "pose": 21.0, "conditioning": 5.0, "UNet": 40.0, "decoder": 10.0, "encode": 3.0, "other": 7.0, "wait": 14.0,
    }  # fmt: skip
    assert list(kinds) == ["decode", "pose", "conditioning", "UNet", "decoder", "encode", "other", "wait"]


def test_parts_of_a_source_belong_to_the_frame_that_they_made() -> None:
    """A source learns a frame's number after it was made."""
    g = GraphBuilder("t", clock="offline", in_flight=1)
    g.node("src", "toy.treport_source")
    g.node("sink", "toy.collect", a="src")
    session = Session(compile(g.build()), executor="inline")
    session.run()
    facts = gather(session)
    assert set(facts.times["src.picture"]) == {0, 1, 2}
    assert session.summary().parts["src.picture"].keys() == {"p50", "p95", "p99"}


class Event:
    """A device event that happens when told; its time is the number of its record."""

    count = 0
    happened = False

    def record(self) -> None:
        Event.count += 1
        self.at = Event.count

    def query(self) -> bool:
        return Event.happened

    def elapsed_time(self, other: Event) -> float:
        return 10.0 * (other.at - self.at)


def test_parts_on_a_device_are_timed_by_its_events_and_nobody_waits() -> None:
    Event.count, Event.happened = 0, False
    found = DeviceTimes(Event)
    with Bench("toy.measures") as bench:
        spans: list[str] = []
        bench.site._span = lambda begun, ended, name, seq, epoch: spans.append(name)
        found.watch(bench.site)
        bench(Scalar(1.0), seq=5)
        found.look()
        assert found.times == {}  # under way
        Event.happened = True
        found.look()
    (part,) = found.times
    assert spans == [part]  # the host's time is written as before
    assert found.times[part] == {5: 10.0}


def test_a_part_that_fails_is_over_too() -> None:
    Event.count, Event.happened = 0, True
    found = DeviceTimes(Event)
    with Bench("toy.measures") as bench:
        found.watch(bench.site)
        bench(Scalar(1.0), seq=1)
        with pytest.raises(ValueError, match="as told"), bench.site.span("inner"):
            raise ValueError("as told")
    assert Event.count == 4


def test_the_device_s_times_stand_in_place_of_the_host_s() -> None:
    session = played(x=3 * MS)
    (part,) = (name for name in gather(session).times if name.startswith("x."))
    facts = gather(session, {part: {1: 7.5, 99: 1.0}})
    assert facts.times[part][1] == 7.5
    assert facts.times[part][2] == gather(session).times[part][2]
    assert 99 not in facts.times[part]  # a frame that nobody knows


def test_the_summary_has_what_operators_measured() -> None:
    measured = played(x=3 * MS).summary().measured
    assert measured["x.twice"] == {"least": 0.0, "p50": 3.0, "most": 6.0, "last": 6.0}


def test_bands_of_colours_are_as_high_as_their_shares() -> None:
    drawn = ET.fromstring(plots.bands([(0.0, [((255, 0, 0), 0.5), ((0, 0, 255), 0.25)]), (1.0, [((0, 255, 0), 1.0)])], label="a<b"))
    bars = [(e.get("fill"), round(float(e.get("height") or 0))) for e in drawn.iter() if e.tag.endswith("rect")]
    assert bars == [("#ff0000", 38), ("#0000ff", 19), ("#00ff00", 56)]
    assert plots.bands([(0.0, [((1, 2, 3), 1.0)])], label="one") == ""


def test_long_pauses_of_the_collector_are_in_the_log(tmp_path: Path) -> None:
    """Only those of the run, only long ones, each once."""
    report, session = Report(tmp_path / "r.html"), played()
    session.first_out = 1_000
    report.pauses.extend([(500, 80.0), (2_000, 1.0), (3_000, 7.0)])
    report._tell(session)
    report._tell(session)
    report.pauses.append((4_000, 9.0))
    report._tell(session)
    assert [e["ms"] for e in session.events if e["what"] == "gc_pause"] == [7.0, 9.0]


def test_thinning_keeps_peaks() -> None:
    series = [(float(i), 1.0) for i in range(10_000)]
    series[4321] = (4321.0, 99.0)
    kept = plots.thin(series)
    assert len(kept) <= 2 * plots.POINTS
    assert (4321.0, 99.0) in kept
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert plots.thin([(0.0, float("nan")), (1.0, 2.0)]) == [(1.0, 2.0)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7), (-3, 1200), (5, 5), (0, 1e-4)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = plots.ticks(low, high)
    assert 1 <= len(found) <= 9
    assert all(low <= t <= high for t in found)


def test_plots_are_well_formed_and_in_their_frame() -> None:
    drawn = plots.lines({"a<b": [(0, 1), (5, 9)], "c": [(0, 2), (5, 3)]}, "ms", label='say "x"', marks=[(2, "cut & go")], limit=4)
    svg = ET.fromstring(drawn[: drawn.index("</svg>") + 6])
    assert [e.get("class") for e in svg.iter() if e.get("class") in ("curve", "mark", "limit")] == ["mark", "limit", "curve", "curve"]
    numbers = [float(n) for path in svg.iter() if path.get("d") for n in re.findall(r"-?\d+\.?\d*", path.get("d") or "")]
    assert min(numbers) >= 0
    assert max(numbers) <= plots.WIDTH
    assert "a&lt;b" in drawn
    assert plots.lines({}, "ms", label="nothing") == ""
    area = plots.stacked([0.0, 1.0], {"a": [1, 2], "b": [3, 4]}, "ms", label="areas")
    ET.fromstring(area[: area.index("</svg>") + 6])


def test_pictures_are_kept_evenly_however_long_the_run() -> None:
    import numpy as np

    frame = Image(np.zeros((32, 48, 3), np.uint8))
    with Bench("sink.keep", count=8, height=16) as bench:
        for seq in range(200):
            bench.site.packet = None
            if bench.operator.wanted():
                bench(frame, seq=seq)
        kept = [seq for seq, _, _ in bench.operator.kept]
    assert 4 <= len(kept) <= 8
    steps = {b - a for a, b in pairwise(kept)}
    assert kept[0] == 0
    assert len(steps) == 1
    assert kept[-1] > 150


def options(graph: str, path: Path, **more: object) -> verb.Options:
    return verb.Options(graph=graph, quiet=True, json=True, attachments=(Report(path),), **more)  # type: ignore[arg-type]


def test_a_run_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph with poses and pictures: watchers are put beside it, and all they saw is in the file."""
    graph = tmp_path / "g.toml"
    graph.write_text(
        f'[graph]\nname = "dance & sing"\nclock = "offline"\n'
        '[node.dancer]\nop = "source.figure"\nsize = 96\nframes = 40\n'
        '[node.steady]\nop = "pose.stability"\nin.pose = "dancer.pose"\n'
        f'[node.file]\nop = "sink.images"\nurl = "{(tmp_path / "out").as_posix()}"\nin.image = "dancer.image"\n'
        f'[node.score]\nop = "sink.table"\nurl = "{(tmp_path / "s.csv").as_posix()}"\ncolumns = ["steady"]\nin.values = ["steady"]\n'
    )
    path = tmp_path / "report.html"
    assert verb.run(options(str(graph), path)) == 0
    page = path.read_text(encoding="utf-8")
    assert "<h1>dance &amp; sing</h1>" in page
    assert 10 <= page.count("data:image/jpeg;base64,") <= 24
    assert "ΔE00" in page
    assert "How far their histograms went" in page
    assert page.count('class="band"') == 4  # face, hair, top, legs
    assert "Where the time of a frame went" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize("graph", ["demo", "live_2060", "live_4080", "live_turbo", "live_lcm", "live_sdxl_turbo"])
def test_shipped_graphs_compile_with_their_watchers(graph: str, tmp_path: Path) -> None:
    from engine.cli.inspect import compiled

    plan = compiled(graph, embedded=True, change=[Report(tmp_path / "report.html").graph])
    assert {KEPT, METER, PALETTE} <= {node.name for node in plan.nodes}


def test_a_run_that_fails_has_its_report_too(tmp_path: Path) -> None:
    graph = tmp_path / "g.toml"
    graph.write_text(
        '[graph]\nclock = "offline"\n[node.src]\nop = "toy.count"\ncount = 9\n'
        '[node.x]\nop = "toy.fails"\nin.a = "src"\nat = [3]\n[node.sink]\nop = "toy.collect"\nin.a = "x"\n'
    )
    path = tmp_path / "report.html"
    assert verb.run(options(str(graph), path)) == 5
    page = path.read_text(encoding="utf-8")
    assert "Ended by:" in page
    assert KEPT not in page  # no picture in this graph, so no watcher
    assert METER not in page


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tmp_path / "g.toml"
    graph.write_text('[node.src]\nop = "toy.count"\ncount = 9\n[node.sink]\nop = "toy.collect"\nin.a = "src"\n')
    refused = {tmp_path / "nowhere" / "report.html": "there is no folder", tmp_path: "that is a folder", graph: "that is the graph"}
    for path, said in refused.items():
        assert verb.run(options(str(graph), path)) == 2
        told = capsys.readouterr()
        assert said in told.err
        assert " in ·" not in told.out, "it ran"


def test_facts_of_events_are_written_for_people() -> None:
    facts = Facts(start=1_000_000_000)
    facts.events = [
        {"at": 998_000_000, "what": "state", "node": "", "seq": -1, "state": "online", "before": "loading", "reasons": []},
        {"at": 2_500_000_000, "what": "set", "node": "", "seq": 40, "by": "me", "changes": {"paint.steps": 11, "paint.sizes": [512, 448]}},
    ]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in _events(facts).split("<tr>")[2:]]
    assert rows == [
        ["0.00", "state", "", "", "state = online, before = loading"],
        ["1.50", "set", "", "40", "by = me, changes = paint.steps 11, paint.sizes 512, 448"],
    ]


def test_waiting_has_one_colour_and_the_budget_its_name() -> None:
    for parts in ({"a": [1.0, 2.0], "wait": [1.0, 1.0]}, {"a": [1.0, 2.0], "b": [1.0, 1.0], "c": [1.0, 1.0], "wait": [1.0, 1.0]}):
        drawn = plots.stacked([0.0, 1.0], parts, "ms", label="x", limit=4.0)
        assert drawn.count(plots.WAIT) == 2, "its area and its mark in the legend"
        assert ">budget<" in drawn
    assert "budget" not in plots.stacked([0.0, 1.0], {"a": [1.0, 2.0]}, "ms", label="x")
