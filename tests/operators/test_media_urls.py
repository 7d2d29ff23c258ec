"""Addresses, sizes and times: the plain arithmetic under the sources and sinks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import UsageError
from operators.media.geometry import fitting, parse_size, place, turn
from operators.media.urls import NETWORK, classify, same_file, split_span, with_span
from operators.source.timeline import SECOND, Timeline


@pytest.mark.parametrize("scheme", sorted(NETWORK))
def test_network_addresses_open_with_their_own_protocols_only(scheme: str) -> None:
    found = classify(f"{scheme}://192.0.2.1:5000/live")
    assert found.kind == "network"
    allowed = found.options["protocol_whitelist"].split(",")
    assert "file" not in allowed
    assert found.endless


def test_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.touch()
    assert classify(str(path)).kind == "file"
    assert classify(str(path)).options["protocol_whitelist"] == "file"
    assert "hls" not in classify(str(path)).options["format_whitelist"]
    assert classify("lavfi:testsrc2").kind == "test"
    if sys.platform.startswith("linux"):
        assert (classify("0").kind, classify("0").target, classify("0").format) == ("camera", "/dev/video0", "v4l2")
        assert classify("screen:").format == "x11grab"
        assert classify("screen::7").target == ":7"


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
@example("a" * 5000)
@example("a\0b")
@example("~nobody-of-that-name/x")
def test_any_text_is_an_address_or_a_typed_error(url: str) -> None:
    from engine.errors import EngineError

    try:
        classify(url)
    except EngineError:
        pass


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20), st.integers(0, 9999), st.none() | st.integers(0, 9999))
def test_a_span_comes_back(path: str, start: int, end: int | None) -> None:
    if "#t=" in path:
        return
    until = None if end is None else float(end)
    assert split_span(with_span(path, float(start), until)) == (path, float(start), until)


def test_same_file_through_links(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.touch()
    b.symlink_to(a)
    assert same_file(str(a), str(b))
    assert not same_file(str(a), str(tmp_path / "c"))
    assert not same_file(str(a), "\0")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 2000), st.integers(1, 2000))
def test_fittings(w: int, h: int, ww: int, wh: int) -> None:
    fit, fill, box = (fitting((w, h), (ww, wh), mode) for mode in ("fit", "fill", "letterbox"))
    assert fit.size[0] <= ww
    assert fit.size[1] <= wh
    assert fit.size[0] == ww or fit.size[1] == wh
    assert fill.scaled[0] >= ww
    assert fill.scaled[1] >= wh
    assert fill.size == box.size == (ww, wh)
    assert box.scaled == fit.size
    never = fitting((w, h), (ww, wh), "fit", enlarge=False)
    assert never.size[0] <= max(w, 1)
    assert never.size[1] <= max(h, 1)


def test_sizes_in_words() -> None:
    assert parse_size("640x360") == parse_size(" 640 X 360 ") == (640, 360)
    assert parse_size("") is None
    for text in ("640", "x", "0x5", "-1x5", "640x360x3"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_place_and_turn() -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2).copy()
    for degrees in (90, 180, 270):
        want = np.rot90(picture, degrees // 90)
        out = np.zeros(want.shape, np.uint8)
        turn(picture, degrees, out)
        assert (out == want).all()
    out = np.full((4, 3, 3), 9, np.uint8)
    place(picture, out)
    assert (out[1:3] == picture).all()
    assert not out[0].any()
    assert not out[3].any()
    out = np.zeros((2, 1, 3), np.uint8)
    place(picture, out)
    assert (out == picture[:, 1:2]).all()


# ---------------------------------------------------------------- times


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.booleans()), max_size=60), st.booleans())
def test_every_pts_is_greater_than_the_last(stamps: list[tuple[int, bool]], live: bool) -> None:
    """Whatever the clocks of the pieces do: leap, go back, start again."""
    timeline, last = Timeline(40_000_000, origin=None if live else 0), None
    for when, again in stamps:
        if again:
            timeline.restart()
        placed = timeline.place(when, 40_000_000 if live else None)
        if placed is not None:
            assert last is None or placed[0] > last
            last = placed[0]


def test_pieces_follow_each_other_behind_a_cut() -> None:
    timeline = Timeline(40, origin=1000)
    assert [timeline.place(t) for t in (1000, 1040)] == [(0, False), (40, False)]
    timeline.restart()
    assert [timeline.place(t) for t in (7, 47)] == [(80, True), (120, False)]
    timeline.restart(500)
    assert timeline.place(0) == (620, True)


def test_a_clock_that_goes_back_is_a_cut_and_a_slip_is_dropped() -> None:
    timeline = Timeline(40 * 10**6)
    assert timeline.place(5 * SECOND) == (5 * SECOND, False)
    assert timeline.place(5 * SECOND - 1) is None
    assert timeline.place(0) == (5 * SECOND + 40 * 10**6, True)


def test_a_leap_of_a_live_clock_is_pulled_back() -> None:
    timeline = Timeline(40 * 10**6, origin=None)
    timeline.place(0, None)
    assert timeline.place(3600 * SECOND, 40 * 10**6) == (40 * 10**6, False)
    assert timeline.place(3600 * SECOND + 40 * 10**6, 40 * 10**6) == (80 * 10**6, False)
