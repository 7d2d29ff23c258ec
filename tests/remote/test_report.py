"""The report: numbers worked out by hand from a run on the step clock, plots that hold what they were given, and a file whatever happens."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
import toys  # noqa: F401 - registers the operators

from engine.cli import run as verb
from engine.compile import compile
from engine.errors import MediaError
from engine.graph import GraphBuilder
from engine.payload import Image
from engine.session import Session
from engine.testing import Bench
from remote.report import plots
from remote.report.collect import KEPT, METER, Report
from remote.report.facts import gather

MS = 1_000_000


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
    assert "Where the time of a frame went" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize("graph", ["demo", "live_2060", "live_4080", "live_turbo", "live_lcm", "live_sdxl_turbo"])
def test_shipped_graphs_compile_with_their_watchers(graph: str, tmp_path: Path) -> None:
    from engine.cli.inspect import compiled

    plan = compiled(graph, embedded=True, change=[Report(tmp_path / "report.html").graph])
    assert {KEPT, METER} <= {node.name for node in plan.nodes}


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


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no folder"):
        Report(tmp_path / "nowhere" / "report.html")
