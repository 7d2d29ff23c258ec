"""Bad input, met as a user meets it: `engine run` says one clear thing, exits with the right code, and keeps what was made before."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "operators"), str(Path(__file__).resolve().parents[1] / "engine")]

from cli_tools import call, decoded, one_object  # noqa: E402
from media_clips import encode  # noqa: E402

CHAIN = """
[graph]
clock = "offline"
[node.camera]
op = "source.video"
url = "IN"
[node.small]
op = "image.resize"
width = 64
height = 36
in.image = "camera"
[node.file]
op = "sink.video"
url = "OUT"
in.image = "small"
"""

PAINT = """
[graph]
clock = "offline"
[node.dancer]
op = "source.figure"
frames = 2
[node.paint]
op = "diffusion.stream"
model = "MODEL"
in.image = "dancer.image"
[node.end]
op = "sink.null"
in.image = "paint.image"
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "good.mp4", 30)


@pytest.fixture
def write(tmp_path: Path, clip: Path):
    def write(text: str = CHAIN, **changes: str) -> str:
        for old, new in {"IN": clip.as_posix(), "OUT": (tmp_path / "out.mp4").as_posix(), **changes}.items():
            text = text.replace(f'"{old}"', json.dumps(new))
        path = tmp_path / "graph.toml"
        path.write_text(text)
        return str(path)

    return write


def test_the_chain_itself_is_good(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done = call(["run", write(), "--json"], capsys)
    assert done.returncode == 0
    assert one_object(done.stdout)["frames"]["out"] == 30 == decoded(tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[node.small]", "[node.small", ["graph.toml", "7"]),
        ('"image.resize"', '"image.rezise"', ["node.small.op", "image.resize"]),
        ("in.image = \"camera\"", 'in.picture = "camera"', ["picture", "in.image"]),
        ("width = 64", "widht = 64", ["widht", "width"]),
        ("width = 64", 'width = "wide"', ["node.small.width", "wide"]),
        ("width = 64", "width = -3", ["node.small.width", "-3"]),
        ('in.image = "camera"', 'in.image = "camra"', ["camra", "camera"]),
        ('in.image = "camera"', 'in.image = "small"', ["cycle", "@-1"]),
        ("clock = ", "clok = ", ["clok", "clock"]),
        ('op = "image.resize"', 'op = "image.resize"\nlan = "x"', ["lan", "lane"]),
    ],
)
def test_a_graph_with_a_mistake(write, capsys: pytest.CaptureFixture[str], old: str, new: str, words: list[str]):
    assert old in CHAIN
    done = call(["run", write(CHAIN.replace(old, new, 1))], capsys)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_parameter_like_none_of_many_is_answered_with_where_they_are_listed(write, capsys: pytest.CaptureFixture[str]):
    done = call(["check", write(PAINT.replace('in.image = "dancer.image"', 'in.image = "dancer.image"\nzzzz = 3'))], capsys)
    assert done.returncode == 2
    assert "diffusion.stream has no parameter 'zzzz'; \"engine ops diffusion.stream\" lists what it has" in done.stderr


def test_every_mistake_is_said_at_once(write, capsys: pytest.CaptureFixture[str]):
    text = CHAIN.replace("width = 64", "width = -3").replace('"camera"', '"camra"').replace('url = "OUT"', "")
    done = call(["run", write(text)], capsys)
    assert done.returncode == 2
    for word in ("node.small.width", "camra", "url"):
        assert word in done.stderr


def _text(folder: Path) -> Path:
    (folder / "words.mp4").write_text("this is no video\n" * 50)
    return folder / "words.mp4"


def _sound(folder: Path) -> Path:
    import wave

    with wave.open(str(folder / "sound.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(16000))
    return (folder / "sound.wav").rename(folder / "sound.mov")


def _empty(folder: Path) -> Path:
    (folder / "empty.mp4").write_bytes(b"")
    return folder / "empty.mp4"


def _bomb(folder: Path) -> Path:
    """A 15000 x 15000 picture in a file of half a megabyte."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(15000 * 3)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(15000)) + packer.flush()
    path = folder / "bomb.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 15000, 15000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("make", "code"),
    [(lambda f: f / "nowhere.mp4", 3), (_text, 5), (_sound, 5), (_empty, 5), (_bomb, 5), (lambda f: f, 5)],
    ids=["missing", "text", "sound only", "empty", "bomb", "folder"],
)
def test_input_that_is_no_video(write, tmp_path: Path, capsys: pytest.CaptureFixture[str], make, code: int):
    path = make(tmp_path)
    done = call(["run", write(IN=path.as_posix())], capsys)
    assert done.returncode in (code, 2), done.stderr
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_file_gives_what_can_be_read(write, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    matroska = encode(tmp_path / "whole.mkv", 60)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(matroska.read_bytes()[: matroska.stat().st_size * 2 // 3])
    done = call(["run", write(IN=cut.as_posix()), "--json"], capsys)
    summary = one_object(done.stdout)
    assert 10 < summary["frames"]["out"] < 60
    assert decoded(tmp_path / "out.mp4") == summary["frames"]["out"]


def test_an_address_where_nobody_answers_and_its_password(write, capsys: pytest.CaptureFixture[str]):
    done = call(["run", write(IN="rtsp://user:hunter2@127.0.0.1:9/live"), "--set", "camera.max_reconnects=0"], capsys)
    assert done.returncode in (4, 5)
    assert "hunter2" not in done.stderr + done.stdout
    assert "127.0.0.1:9" in done.stderr


def test_an_output_folder_that_is_not_there(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done = call(["run", write(OUT=(tmp_path / "no" / "such" / "folder" / "out.mp4").as_posix())], capsys)
    assert done.returncode in (2, 5)
    assert "folder" in done.stderr
    assert not (tmp_path / "no").exists()


def test_an_output_that_would_overwrite_the_input(write, clip: Path, capsys: pytest.CaptureFixture[str]):
    before = clip.read_bytes()
    done = call(["run", write(OUT=clip.as_posix())], capsys)
    assert done.returncode in (2, 5)
    assert clip.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = call(["run", write(OUT=(closed / "out.mp4").as_posix())], capsys)
    assert done.returncode == 5
    assert "closed" in done.stderr


def test_an_operator_that_raises_at_frame_20_leaves_the_frames_before(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import cli_operators  # noqa: F401

    text = CHAIN.replace('op = "image.resize"\nwidth = 64\nheight = 36', 'op = "clitest.fail"\nat = 20')
    done = call(["run", write(text), "--json"], capsys)
    assert done.returncode == 5
    summary = one_object(done.stdout)
    assert "small" in summary["error"]["message"]
    assert "20" in summary["error"]["message"]
    assert decoded(tmp_path / "out.mp4") == 20 == summary["frames"]["out"]


def test_a_model_that_is_not_here_names_the_command_and_embedded(write, capsys: pytest.CaptureFixture[str]):
    done = call(["run", write(PAINT.replace('"MODEL"', '"some-lab/some-model"'))], capsys)
    assert done.returncode == 3
    for word in ("some-lab/some-model", "engine models pull", "--embedded"):
        assert word in done.stderr


def test_a_pickle_checkpoint_is_refused(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"\x80\x04.")
    done = call(["run", write(PAINT.replace('"MODEL"', json.dumps(path.as_posix())))], capsys)
    assert done.returncode in (2, 3, 5)
    assert "safetensors" in done.stderr


def test_a_checkpoint_of_another_shape(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import shutil

    from diffusion_checkpoints import checkpoints

    broken = tmp_path / "broken"
    shutil.copytree(checkpoints().model, broken)
    config = broken / "unet" / "config.json"
    changed = json.loads(config.read_text())
    changed["in_channels"] = 9
    config.write_text(json.dumps(changed))
    done = call(["run", write(PAINT.replace('"MODEL"', json.dumps(broken.as_posix())))], capsys)
    assert done.returncode in (2, 3, 5)
    assert "unet" in done.stderr.lower()
    assert "Traceback" not in done.stderr
