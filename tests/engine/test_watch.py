"""Files that change: told once, when they are still, however they were written."""

from __future__ import annotations

import os
from pathlib import Path

from engine.text.watch import GONE_S, STILL_S, Watch


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def watched(*files: Path) -> tuple[Watch, Clock]:
    clock = Clock()
    return Watch(files, now=clock), clock


def settle(watch: Watch, clock: Clock, seconds: float = STILL_S) -> list[Path]:
    assert watch.changed() == []
    clock.at += seconds + 0.01
    return watch.changed()


def test_a_file_that_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("a = 1")
    watch, clock = watched(file)
    assert settle(watch, clock) == []
    file.write_text("a = 22")
    assert settle(watch, clock) == [file]
    assert settle(watch, clock) == []  # told once


def test_a_file_that_is_replaced_by_another_of_the_same_size_and_time(tmp_path: Path) -> None:
    """As editors save: the new one is written beside the old and renamed over it."""
    file, fresh = tmp_path / "g.toml", tmp_path / "g.toml.new"
    file.write_text("a = 1")
    fresh.write_text("a = 2")
    at = file.stat()
    os.utime(fresh, ns=(at.st_atime_ns, at.st_mtime_ns))
    watch, clock = watched(file)
    os.replace(fresh, file)
    assert settle(watch, clock) == [file]


def test_nothing_is_told_while_the_writing_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("")
    watch, clock = watched(file)
    for i in range(1, 20):
        file.write_text("x" * i)
        clock.at += STILL_S * 0.9
        assert watch.changed() == []
    assert settle(watch, clock) == [file]


def test_a_file_that_is_gone_for_a_moment(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("a = 1")
    watch, clock = watched(file)
    file.unlink()
    assert settle(watch, clock) == []
    file.write_text("a = 3")
    assert settle(watch, clock) == [file]


def test_a_file_that_stays_away_is_told(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("a = 1")
    watch, clock = watched(file)
    file.unlink()
    assert settle(watch, clock, GONE_S) == [file]


def test_a_change_that_is_taken_back_is_none(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text("a = 1")
    at = file.stat()
    watch, clock = watched(file)
    file.write_text("a = 2")
    assert watch.changed() == []
    file.write_text("a = 1")
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert settle(watch, clock) == []


def test_files_that_are_followed_later(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("1")
    watch, clock = watched(one)
    one.write_text("11")
    watch.follow([one, two])  # what was not told of `one` yet stays to be told
    assert settle(watch, clock) == [one]
    two.write_text("2")
    assert settle(watch, clock) == [two]
