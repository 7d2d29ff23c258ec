"""`source.images` and `sink.images`: order, turning, sizes, bombs, and files that are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from media_clips import BARS, bar_centres, bars_rgb, number_of, numbered, play
from test_source_bad import big_png

from engine.clock import StepClock
from engine.errors import EngineError, MediaError, MissingError, UsageError
from engine.payload import Image
from engine.testing import Bench
from operators.media.pictures import read_picture, write_picture
from operators.source.images import counting_order, find_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, shot_1 .. shot_12, and things that are none."""
    for index in range(12):
        write_picture(tmp_path / f"shot_{index + 1}.png", numbered(index, 90, 160))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub.png").mkdir()
    return tmp_path


def numbers(bench: Bench, limit: int | None = None) -> list[int]:
    return [number_of(s.picture) for s in play(bench, limit)]


@pytest.mark.parametrize("what", ["", "*.png", "shot_%d.png", "shot_?.*"])
def test_pictures_in_counting_order(folder: Path, what: str) -> None:
    with Bench("source.images", url=str(folder / what)) as bench:
        assert bench.site.stream.frames == (9 if "?" in what else 12)
        shown = list(play(bench))
    assert [number_of(s.picture) for s in shown] == list(range(9 if "?" in what else 12))
    assert [s.pts for s in shown] == [i * 40_000_000 for i in range(len(shown))]


def test_a_list_keeps_its_order(folder: Path) -> None:
    names = [str(folder / f"shot_{i}.png") for i in (5, 2, 9)]
    with Bench("source.images", files=names) as bench:
        assert numbers(bench) == [4, 1, 8]


def test_range_loop_and_pace(folder: Path) -> None:
    with Bench("source.images", url=str(folder), start=2, end=5) as bench:
        assert numbers(bench) == [2, 3, 4]
    clock = StepClock(1_000)
    with Bench("source.images", url=str(folder), end=3, loop=True, site_live=True, site_clock=clock) as bench:
        shown = list(play(bench, limit=8))
    assert [number_of(s.picture) for s in shown] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [i for i, s in enumerate(shown) if s.cut] == [3, 6]
    assert clock.now() == 1_000 + 7 * 40_000_000


def test_counting_order() -> None:
    names = ["a10b2", "a2b10", "a2b9", "A1", "b", "10", "9"]
    assert sorted(names, key=counting_order) == ["9", "10", "A1", "a2b9", "a2b10", "a10b2", "b"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_upright(tmp_path: Path, orientation: int) -> None:
    """Each of EXIF's eight ways to hold a camera shows the same bars."""
    upright = PIL.Image.fromarray(bars_rgb(160, 320))
    undo = {
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT, 3: PIL.Image.Transpose.ROTATE_180, 4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE, 6: PIL.Image.Transpose.ROTATE_90, 7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    stored.save(path, quality=95, exif=exif)
    with Bench("source.images", url=str(path)) as bench:
        assert bench.site.stream.size == (160, 320)
        picture = next(play(bench)).picture
    assert np.abs(bar_centres(picture) - BARS).max() <= 8


@pytest.mark.parametrize(
    ("mode", "value", "seen"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGBA", (200, 100, 50, 128), (100, 50, 25)),
        ("LA", (200, 255), (200, 200, 200)),
        ("I;16", 0x8080, (128, 128, 128)),
        ("P", 3, (9, 10, 11)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str, value: object, seen: tuple[int, int, int]) -> None:
    path = tmp_path / "picture.png"
    picture = PIL.Image.new(mode, (8, 6), value)
    if mode == "P":
        picture.putpalette(list(range(768 // 3)) * 3)
    picture.save(path)
    assert (np.abs(read_picture(path).astype(int) - seen) <= 1).all()


def test_mixed_sizes(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.full((40, 60, 3), 200, np.uint8))
    write_picture(tmp_path / "b.png", np.full((40, 40, 3), 100, np.uint8))
    with Bench("source.images", url=str(tmp_path)) as bench, pytest.raises(MediaError, match=r"b\.png is 40x40"):
        list(play(bench))
    with Bench("source.images", url=str(tmp_path), on_mixed="letterbox") as bench:
        second = list(play(bench))[1].picture
    assert second.shape == (40, 60, 3)
    assert second[:, :9].max() == 0
    assert second[20, 30].tolist() == [100, 100, 100]
    with Bench("source.images", url=str(tmp_path), size="20x20") as bench:
        assert [s.picture.shape for s in play(bench)] == [(20, 20, 3)] * 2


def refused(**params: object) -> EngineError:
    with pytest.raises(EngineError) as caught, Bench("source.images", **params) as bench:
        list(play(bench))
    return caught.value


def test_clear_words(folder: Path, tmp_path: Path) -> None:
    assert isinstance(refused(), UsageError)
    assert isinstance(refused(url="a", files=["b"]), UsageError)
    assert isinstance(refused(url=str(folder), start=50), UsageError)
    missing = refused(url=str(folder / "shot_1.pgn"))
    assert isinstance(missing, MissingError)
    assert "shot_1.png" in missing.fix
    assert isinstance(refused(url=str(folder / "take_%03d.png")), MissingError)
    assert isinstance(refused(url=str(folder / "*.gif")), MissingError)
    empty = folder / "empty"
    empty.mkdir()
    assert "no pictures" in refused(url=str(empty)).message
    assert isinstance(refused(files=[str(folder / "gone.png")]), MissingError)
    (folder / "text.png").write_text("not a picture")
    assert isinstance(refused(url=str(folder / "text.png")), MediaError)
    (folder / "clip.mp4").write_bytes(bytes(100))
    assert "source.video" in refused(url=str(folder / "clip.mp4")).fix
    assert "single quotes" in refused(url="shots\new").fix


def test_a_damaged_picture_is_named(folder: Path) -> None:
    path = folder / "shot_3.png"
    path.write_bytes(path.read_bytes()[:-200])
    with Bench("source.images", url=str(folder)) as bench, pytest.raises(MediaError, match="shot_3"):
        list(play(bench))


BOMB = """
import resource, sys
from pathlib import Path
from operators.media.pictures import read_picture
from engine.errors import MediaError
import numpy, PIL.Image, PIL.PngImagePlugin
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_picture(Path(sys.argv[1]))
except MediaError as error:
    print("refused", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no peak memory here")
def test_a_bomb_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    bomb = big_png(tmp_path / "bomb.png", 15000)
    assert bomb.stat().st_size < 2_000_000
    said = subprocess.run([sys.executable, "-c", BOMB, str(bomb)], capture_output=True, text=True, check=True).stdout.split(maxsplit=2)
    assert said[0] == "refused"
    assert int(said[1]) < 20, "MB"
    assert "has 225000000 pixels, more than max_pixels" in said[2]
    with pytest.raises(MediaError, match="160x90, more than max_pixels"):
        read_picture(_small(tmp_path), max_pixels=1000)
    assert isinstance(refused(url=str(bomb)), MediaError)


def _small(folder: Path) -> Path:
    path = folder / "small.png"
    write_picture(path, numbered(0, 90, 160))
    return path


def test_pattern_width_is_a_minimum(tmp_path: Path) -> None:
    for name in ("f_001.png", "f_01.png", "f_1000.png", "f_x.png"):
        (tmp_path / name).touch()
    assert [p.name for p in find_pictures(str(tmp_path / "f_%03d.png"))] == ["f_001.png", "f_1000.png"]


# ---------------------------------------------------------------- sink.images


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_written_come_back(tmp_path: Path, suffix: str) -> None:
    with Bench("sink.images", url=str(tmp_path / "out" / f"f_%03d{suffix}"), quality=95) as bench:
        for index in range(3):
            bench(Image(numbered(index, 90, 160)))
    with Bench("source.images", url=str(tmp_path / "out")) as bench:
        assert numbers(bench) == [0, 1, 2]
    assert sorted(os.listdir(tmp_path / "out")) == [f"f_{i:03d}{suffix}" for i in range(3)]


def test_png_is_lossless_and_a_folder_is_enough(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    with Bench("sink.images", url=str(tmp_path)) as bench:
        bench(Image(picture))
    assert (read_picture(tmp_path / "000000.png") == picture).all()


def test_numbers(tmp_path: Path) -> None:
    with Bench("sink.images", url=str(tmp_path / "%d.png"), number="seq", start=100) as bench:
        for seq in (3, 4, 9):
            bench(Image(numbered(0, 16, 16)), seq=seq)
    assert sorted(os.listdir(tmp_path)) == ["103.png", "104.png", "109.png"]
    with Bench("sink.images", url=str(tmp_path / "n_%d.png"), every=2) as bench:
        for _ in range(5):
            bench(Image(numbered(0, 16, 16)))
    assert sorted(p.name for p in tmp_path.glob("n_*")) == ["n_0.png", "n_1.png", "n_2.png"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "000000.png").mkdir()  # the name is taken by a folder: the rename fails
    with Bench("sink.images", url=str(tmp_path)) as bench, pytest.raises(MediaError):
        bench(Image(numbered(0, 16, 16)))
    assert os.listdir(tmp_path) == ["000000.png"]


def test_patterns_are_checked(tmp_path: Path) -> None:
    for url in ("out.png", "a_%d_%d.png", "a_%s.png", "a_%d.tga", "http://host/%d.png"):
        with pytest.raises(UsageError), Bench("sink.images", url=str(tmp_path / url) if "://" not in url else url):
            pass


def test_a_folder_that_goes_away_during_the_run(tmp_path: Path) -> None:
    with Bench("sink.images", url=str(tmp_path / "out" / "%d.png")) as bench:
        bench(Image(numbered(0, 90, 160)))
        (tmp_path / "out" / "0.png").unlink()
        (tmp_path / "out").rmdir()
        with pytest.raises(MediaError, match="its folder is not there"):
            bench(Image(numbered(1, 90, 160)))


@pytest.mark.parametrize(
    ("url", "says"), [("", "the url is empty"), ("a_%s.png", 'such as "a_%05d.png"'), ("out\new_%d.png", "has a line end in it")]
)
def test_patterns_and_what_would_do(url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught, Bench("sink.images", url=url):
        pass
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_null_counts() -> None:
    with Bench("sink.null") as bench:
        for _ in range(3):
            assert bench(Image(numbered(0, 16, 16))) is None
        assert bench.operator.count == 3
