"""The wire format: recorded messages, round trips, and whatever a hostile network may send."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bindings.python import decode, plain, wire
from bindings.python.wire import WireError

GOLDEN = Path(__file__).resolve().parents[2] / "bindings" / "golden"
INDEX: dict[str, Any] = json.loads((GOLDEN / "index.json").read_text(encoding="utf-8"))
RUN = "0123456789abcdef"


def recorded(name: str) -> list[bytes]:
    data = (GOLDEN / name).read_bytes()
    (count,), at, parts = struct.unpack_from("<I", data), 4, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    assert at == len(data)
    return parts


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda found: found.tolist()))


# ---------------------------------------------------------------- recorded messages


@pytest.mark.parametrize("entry", INDEX["messages"], ids=lambda entry: entry["file"])
def test_recorded_messages(entry: dict[str, Any]) -> None:
    header, payload = wire.decode(recorded(entry["file"]))
    assert type(header).__name__.lower() == entry["kind"]
    fields = as_json(dataclasses.asdict(header))
    expected = {key: value for key, value in entry["header"].items() if key != "age_ms"}
    assert {key: fields[key] for key in expected} == expected
    if isinstance(header, wire.Frame) and header.enc == "msgpack":
        value = plain.read(header, payload)
        if header.type == "Pose":  # the index has no room for what the bytes say already
            value = {**value, "n": len(value["people"])}
        assert as_json(value) == entry["value"]
    elif "sha256" in entry and header.enc != "shm":  # type: ignore[union-attr]
        value = decode.value_of(header, payload)  # type: ignore[arg-type]
        assert hashlib.sha256(value.tobytes()).hexdigest() == entry["sha256"]
        assert not value.flags.writeable


@pytest.mark.parametrize("entry", INDEX["messages"], ids=lambda entry: entry["file"])
def test_messages_are_written_as_recorded(entry: dict[str, Any]) -> None:
    parts = recorded(entry["file"])
    header, _ = wire.decode(parts)
    assert wire.encode(header) == parts[1]
    assert wire.topic(header.stream) == parts[0]


@pytest.mark.parametrize("entry", INDEX["refused"], ids=lambda entry: entry["file"])
def test_what_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(WireError) as refused:
        wire.decode(recorded(entry["file"]))
    assert refused.value.key == entry["key"]


@pytest.mark.parametrize("entry", INDEX["refused_values"], ids=lambda entry: entry["file"])
def test_what_is_refused_when_it_is_looked_at(entry: dict[str, Any]) -> None:
    header, payload = wire.decode(recorded(entry["file"]))
    with pytest.raises(WireError) as refused:
        decode.value_of(header, payload)  # type: ignore[arg-type]
    assert refused.value.key == entry["key"]


def test_recorded_messages_can_be_made_again() -> None:
    made = subprocess.run([sys.executable, GOLDEN / "make.py", "--check"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr


def test_recorded_pictures_look_like_what_was_coded() -> None:
    y, x = np.mgrid[0:48, 0:64]
    picture = np.stack([y * 5, x * 4, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    header, payload = wire.decode(recorded("image_jpeg.bin"))
    assert np.abs(decode.value_of(header, payload).astype(int) - picture).mean() < 3  # type: ignore[arg-type]
    video = decode.Video()
    for name, shift in (("image_h264_key.bin", 0), ("image_h264_delta.bin", 4)):
        header, payload = wire.decode(recorded(name))
        pixels = video.rgb(header, video.decode(header, payload[0]))  # type: ignore[arg-type]
        assert np.abs(pixels.astype(int) - np.roll(picture, shift, axis=1)).mean() < 6


# ---------------------------------------------------------------- round trips


names = st.from_regex(wire.NAME, fullmatch=True)
whole = st.integers(0, 2**63 - 1)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20)
plain_values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4))


@st.composite
def frames(draw: Any) -> tuple[wire.Frame, list[bytes]]:
    common = {
        "stream": draw(names), "run": draw(st.from_regex(wire.RUN, fullmatch=True)), "n": draw(whole), "sent": draw(whole), "seq": draw(whole),
        "epoch": draw(whole), "pts": draw(st.integers(-(2**63), 2**63 - 1)), "born": draw(st.integers(-(2**63), 2**63 - 1)),
        "params": draw(whole), "flags": draw(st.integers(0, 0xFFFF)),
        "meta": draw(st.dictionaries(st.text(max_size=8), plain_values, max_size=3)),
        "lat": draw(st.dictionaries(st.text(max_size=8), st.floats(0, 1e6), max_size=3)),
    }  # fmt: skip
    kind = draw(st.sampled_from(sorted(wire.ENCODINGS)))
    if kind not in wire.ARRAYS:
        payload = plain.pack(draw(plain_values))
        return wire.Frame(**common, type=kind, enc="msgpack", size=(len(payload),)), [payload]
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    dtype = {"Mask": "uint8", "Latent": draw(st.sampled_from(["float16", "float32"]))}.get(kind) or draw(st.sampled_from(wire.DTYPES[:3]))
    shape = {"Mask": (height, width), "Latent": (1, 4, height, width), "Image": (height, width, 3)}[kind]
    color = {"space": "srgb", "order": draw(st.sampled_from(["rgb", "bgr"]))}
    more: dict[str, Any] = {"layout": "hwc", "color": color} if kind == "Image" else {}
    payload = bytes(wire.array_bytes(dtype, shape))
    return wire.Frame(**common, type=kind, enc="raw", dtype=dtype, shape=shape, size=(len(payload),), **more), [payload]


@given(frames())
@settings(max_examples=60, deadline=None)
def test_a_frame_comes_back(case: tuple[wire.Frame, list[bytes]]) -> None:
    header, payload = case
    found, parts = wire.decode([wire.topic(header.stream), wire.encode(header), *payload])
    assert found == header
    assert [bytes(part) for part in parts] == payload


def test_unknown_keys_are_left_alone_and_order_does_not_matter() -> None:
    parts = recorded("image_raw.bin")
    fields = msgpack.unpackb(parts[1])
    fields = {"of_the_future": [1, {"x": 2}], **dict(reversed(fields.items()))}
    assert wire.decode([parts[0], msgpack.packb(fields), parts[2]])[0] == wire.decode(parts)[0]


def test_what_cannot_be_written_is_said() -> None:
    beat = wire.Beat(stream="live", run=RUN, n=0, sent=0, meta={"x": object()})
    with pytest.raises(WireError, match="cannot be written"):
        wire.encode(beat)
    with pytest.raises(WireError, match="put less into meta"):
        wire.encode(dataclasses.replace(beat, meta={"x": "y" * 70_000}))
    with pytest.raises(WireError, match="no name"):
        wire.topic("a/b")


# ---------------------------------------------------------------- hostile


def harmless(parts: list[bytes]) -> None:
    """Decoding either gives a checked header or WireError, and never allocates what a message claims."""
    tracemalloc.start()
    try:
        header, payload = wire.decode(parts)
        if isinstance(header, wire.Frame) and header.enc == "msgpack":
            plain.read(header, payload)
    except WireError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4_000_000 + 40 * sum(map(len, parts)), peak


GOOD = [recorded(entry["file"]) for entry in INDEX["messages"] if entry["kind"] == "frame"] + [recorded("beat.bin"), recorded("end.bin")]


@given(st.sampled_from(GOOD), st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_headers(parts: list[bytes], data: Any) -> None:
    header = bytearray(parts[1])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(header) - 1))
        header[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(header))) if data.draw(st.booleans()) else len(header)
    harmless([parts[0], bytes(header[:cut]), *parts[2:]])


@given(st.lists(st.binary(max_size=200), max_size=12))
@settings(max_examples=100, deadline=None)
def test_noise(parts: list[bytes]) -> None:
    harmless(parts)


@given(st.sampled_from(GOOD), st.sampled_from([*sorted(wire.Frame.__dataclass_fields__), "v", "kind"]), plain_values)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_wrong_values(parts: list[bytes], key: str, value: Any) -> None:
    fields = msgpack.unpackb(parts[1], strict_map_key=False)
    harmless([parts[0], msgpack.packb({**fields, key: value}), *parts[2:]])


@given(st.sampled_from([parts for parts in GOOD if b"\xa3enc\xa7msgpack" in parts[1]]), st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_wrong_plain_values(parts: list[bytes], payload: bytes) -> None:
    fields = msgpack.unpackb(parts[1])
    harmless([parts[0], msgpack.packb({**fields, "size": [len(payload)]}), payload])


@pytest.mark.parametrize("bomb", [*(bytes([kind]) + b"\xff\xff\xff\xff" for kind in b"\xdd\xdf\xc6\xdb"), b"\x91" * 60_000])
def test_headers_that_announce_more_than_there_is(bomb: bytes) -> None:
    harmless([b"live/", bomb, b"x"])


def test_the_readers_own_limit() -> None:
    parts = recorded("image_raw.bin")
    assert wire.decode(parts, max_bytes=576)
    with pytest.raises(WireError, match="limit of 575"):
        wire.decode(parts, max_bytes=575)


@pytest.mark.parametrize("enc", ["jpeg", "png"])
def test_a_picture_file_that_lies_about_its_size(enc: str) -> None:
    """A file of 4000 x 4000 behind a header of 12 x 16 is refused before it is decoded."""
    import cv2

    big = bytes(cv2.imencode("." + {"jpeg": "jpg"}.get(enc, enc), np.zeros((4000, 4000, 3), np.uint8))[1])
    header = wire.Frame(stream="live", run=RUN, n=0, sent=0, seq=0, epoch=0, pts=0, born=0, type="Image", enc=enc, dtype="uint8",
                        shape=(12, 16, 3), layout="hwc", color={"space": "srgb", "order": "rgb"}, size=(len(big),))  # fmt: skip
    tracemalloc.start()
    with pytest.raises(WireError, match="4000"):
        decode.value_of(header, [big])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_picture_files_that_are_none(data: bytes) -> None:
    for head in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        decode.jpeg_size(memoryview(head + data))
        decode.png_size(memoryview(head + data))
