"""What an always-on output sends and when, on times that the test makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, UsageError
from operators.sink.pacing import SECOND, AlwaysOn, Pacing, check_slate, paint_slate

MS = 1_000_000
PICTURE = np.full((90, 160, 3), 200, np.uint8)


def test_nothing_is_due_before_the_first_picture() -> None:
    assert Pacing(AlwaysOn(25.0)).due() is None


def test_it_repeats_at_the_rate_and_gives_the_source_some_grace() -> None:
    pacing = Pacing(AlwaysOn(25.0))
    pacing.fresh(PICTURE, 0)
    times = []
    for _ in range(5):
        due = pacing.due()
        assert due is not None
        times.append(due // MS)
        pacing.repeat(due)
    assert times == [60, 100, 140, 180, 220]
    pacing.fresh(PICTURE, 230 * MS)
    assert pacing.due() == 290 * MS
    assert pacing.repeated == 5


def test_an_output_that_was_held_up_does_not_rush() -> None:
    pacing = Pacing(AlwaysOn(25.0))
    pacing.fresh(PICTURE, 0)
    pacing.repeat(60 * MS)
    pacing.repeat(900 * MS)
    assert pacing.due() == 940 * MS


def test_the_picture_is_its_own_copy() -> None:
    pacing, picture = Pacing(AlwaysOn(25.0)), PICTURE.copy()
    pacing.fresh(picture, 0)
    picture[:] = 0
    assert pacing.repeat(60 * MS).min() == 200


def test_the_slate_comes_after_its_time_and_goes_with_the_next_picture() -> None:
    pacing = Pacing(AlwaysOn(25.0, "dim", 1.0))
    pacing.fresh(PICTURE, 0)
    assert pacing.repeat(999 * MS).max() == 200
    assert not pacing.silent(400 * MS)
    assert pacing.silent(600 * MS)
    assert pacing.repeat(SECOND).max() < 100
    assert pacing.showing == "slate"
    pacing.fresh(PICTURE, SECOND + 1)
    assert pacing.showing == "source"
    assert pacing.repeat(SECOND + 60 * MS).max() == 200


def test_slates(tmp_path: Path) -> None:
    import cv2

    said = paint_slate("text:Back soon", PICTURE)
    assert said.shape == PICTURE.shape
    assert said.max() > 200, "white words"
    rows, columns = np.nonzero((said > 150).any(axis=2))
    assert abs(rows.mean() - 45) < 10, "in the middle"
    assert abs(columns.mean() - 80) < 10
    path = tmp_path / "card.png"
    cv2.imwrite(str(path), np.full((50, 50, 3), (0, 0, 255), np.uint8))
    check_slate(str(path))
    card = paint_slate(str(path), PICTURE)
    assert tuple(card[45, 80]) == (255, 0, 0)
    assert card[45, 5].max() == 0, "between bars"
    for wrong in ("blue", str(tmp_path / "none.png")):
        with pytest.raises(EngineError):
            check_slate(wrong)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(EngineError):
        check_slate(str(tmp_path / "bad.png"))
    with pytest.raises(UsageError, match="text:WORDS"):
        check_slate("blue")
