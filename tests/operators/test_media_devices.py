"""Devices and codecs are what really opens, not what a list says."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from operators.media import codecs
from operators.media.devices import Card, cards, list_devices, screens


def test_listing_never_fails_and_tells_the_truth() -> None:
    import av

    found = list_devices()
    assert "libx264" in {e.name for e in found.encoders}
    for encoder in found.encoders:
        context = av.CodecContext.create(encoder.name, "w")
        assert context.codec.canonical_name == encoder.codec
        assert encoder.hardware == encoder.name.endswith(("nvenc", "qsv", "amf"))


def test_an_encoder_that_is_listed_but_does_not_open_is_left_out() -> None:
    import av

    listed = [name for names in codecs.ENCODERS.values() for name in names if name.endswith(codecs.HARDWARE) and name in av.codecs_available]
    if not listed:
        pytest.skip("this build lists no hardware encoder")
    for name in listed:
        if not codecs.encoder_works(name):
            assert codecs.best_encoder(name.partition("_")[0]) != name


def test_best_encoder_prefers_what_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    working = {"h264_qsv", "libx264"}
    monkeypatch.setattr(codecs, "encoder_works", working.__contains__)
    codecs.best_encoder.cache_clear()
    try:
        assert codecs.best_encoder("h264") == "h264_qsv"
        assert codecs.best_encoder("vp9") is None
        assert codecs.best_encoder("cinepak") is None
    finally:
        codecs.best_encoder.cache_clear()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for the tool")
def test_cards_by_the_drivers_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card that torch cannot use: the driver's tool is asked. The tool here prints what a real one prints."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees a card here")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 2060, 6144, 580.95, 7.5'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    assert cards([]) == [Card("NVIDIA GeForce RTX 2060", "cuda:0", 6144 << 20, "580.95", "7.5")]
    tool.write_text("#!/bin/sh\necho 'driver not loaded' >&2\nexit 9\n")
    notes: list[str] = []
    assert cards(notes) == []
    assert "nvidia-smi" in notes[0]


def test_decoders_decode_what_encoders_make() -> None:
    assert codecs.decoder_works("h264", "h264")
    assert not codecs.decoder_works("h264", "vp9"), "another codec's pictures are none to it"
    assert not codecs.decoder_works("cinepak", "cinepak"), "nothing to try it with"
    found = list_devices()
    assert {(d.name, d.codec, d.hardware) for d in found.decoders} >= {("h264", "h264", False), ("mjpeg", "mjpeg", False)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="X11")
def test_a_screen_that_is_not_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setenv("DISPLAY", ":987")
    assert screens(notes) == []
    assert ":987" in notes[0]
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert screens(notes) == []
    assert "Wayland" in notes[1]
