"""Writes the recorded messages that every client is tested against: `python bindings/golden/make.py` (`--check`: compare instead).

A file `NAME.bin` is one message: the number of parts as u32, then each part as u32 length and bytes, little endian. `index.json` says for
each what a reader must find in it, or that it must refuse it and why. `ring.bin` is the content of a shared-memory ring for the `shm`
messages. Everything is written from this script to the byte, except the three coded pictures in `coded/`, which depend on the version of
an encoder and are made anew by `--coded` only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from bindings.python import plain as plain_values  # noqa: E402
from bindings.python import shm, wire  # noqa: E402
from bindings.python.wire import Beat, End, Frame  # noqa: E402

RUN, NEXT_RUN = "00112233445566aa", "ffeeddccbbaa9900"
T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
RING = "afterimage-golden"
SRGB, BGR = {"space": "srgb", "order": "rgb"}, {"space": "srgb", "order": "bgr"}
VIDEO = {**SRGB, "matrix": "bt709", "range": "limited"}


def picture(height: int = 12, width: int = 16) -> Any:
    """A picture whose pixel (y, x) is (16 y, 16 x, 8 (x + y))."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 16, x * 16, (x + y) * 8], axis=-1).astype(np.uint8)


def wide(height: int = 48, width: int = 64) -> Any:
    """A picture for coders that need some size: two gradients and a constant."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 5, x * 4, np.full_like(x, 128)], axis=-1).astype(np.uint8)


def png(image: Any) -> bytes:
    """A PNG file without compression, so that its bytes depend on nothing (ISO/IEC 15948)."""
    rows = image[..., None] if image.ndim == 2 else image
    height, width, channels = rows.shape
    plain = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(rows))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(plain), len(plain) ^ 0xFFFF) + plain + struct.pack(">I", zlib.adler32(plain))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")


def frame(n: int, kind: str, enc: str, payload: bytes | None, **more: Any) -> tuple[Frame, list[bytes]]:
    header = Frame(**{
        "stream": "live", "run": RUN, "n": n, "sent": T0 + 20_000_000 + n * 40_000_000, "seq": 100 + 2 * n, "epoch": 1,
        "pts": n * 40_000_000, "born": T0 + n * 40_000_000, "params": 3, "flags": wire.KEY, "type": kind, "enc": enc,
        "size": () if payload is None else (len(payload),), **more,
    })  # fmt: skip
    return header, [] if payload is None else [payload]


def array(n: int, kind: str, value: Any, enc: str = "raw", payload: bytes | None = None, **more: Any) -> tuple[Frame, list[bytes]]:
    if kind == "Image":
        more = {"layout": "hwc", "color": SRGB, **more}
    return frame(n, kind, enc, value.tobytes() if payload is None else payload, dtype=str(value.dtype), shape=value.shape, **more)


def plain(n: int, kind: str, value: Any) -> tuple[Frame, list[bytes]]:
    return frame(n, kind, "msgpack", plain_values.pack(value))


def coded(name: str) -> bytes:
    return (HERE / "coded" / name).read_bytes()


def good() -> Iterator[tuple[str, str, Any, list[bytes], Any]]:
    """(name, what it shows, header, payload, the decoded value or None)."""
    rgb, chw = picture(), np.ascontiguousarray(picture().transpose(2, 0, 1)[None])
    yield "image_raw", "8-bit RGB, the plainest frame", *array(0, "Image", rgb, flags=wire.KEY | wire.DISCONTINUITY), rgb
    yield "image_raw_bgr", "channels the other way round", *array(1, "Image", rgb, color=BGR), rgb
    half = (chw.astype("float32") / 255).astype("float16")
    yield "image_raw_chw_float16", "planes of half floats", *array(2, "Image", half, layout="chw"), half
    full = chw.astype("float32")[0] / 255
    yield "image_raw_chw_float32", "planes of floats, three axes", *array(3, "Image", full, layout="chw"), full
    yield "image_jpeg", "one JPEG file", *array(4, "Image", wide(), "jpeg", coded("wide.jpg")), None
    yield "image_png", "one PNG file, lossless", *array(5, "Image", rgb, "png", png(rgb)), rgb
    yield "image_h264_key", "a key access unit with SPS and PPS", *array(6, "Image", wide(), "h264", coded("key.h264"), color=VIDEO), None
    yield "image_h264_delta", "the access unit after it", *array(7, "Image", wide(), "h264", coded("delta.h264"), color=VIDEO, flags=0), None
    header, _ = array(8, "Image", rgb, "shm", b"")
    place = wire.Shm(RING, 1, shm.offset_of(1, rgb.nbytes), rgb.nbytes, 8)
    yield "image_shm", "in slot 1 of ring.bin", replace(header, size=(), shm=place), [], rgb
    gone = wire.Shm(RING, 0, shm.offset_of(0, rgb.nbytes), rgb.nbytes, 3)
    yield "image_shm_gone", "its slot holds a newer frame: the reader throws it away", replace(header, n=9, size=(), shm=gone), [], None
    mask = (picture()[..., 0] > 90).astype(np.uint8) * 255
    yield "mask_raw", "a matte", *array(10, "Mask", mask), mask
    yield "mask_png", "a matte as a grey PNG", *array(11, "Mask", mask, "png", png(mask)), mask
    latent = (np.arange(4 * 6 * 8, dtype="float32").reshape(1, 4, 6, 8) - 96) / 64
    yield "latent_raw_float32", "a latent", *array(12, "Latent", latent), latent
    yield "latent_raw_float16", "a latent of half floats", *array(13, "Latent", latent.astype("float16")), latent.astype("float16")
    people = (np.arange(2 * 18 * 3, dtype="float32").reshape(2, 18, 3) / 128).clip(0, 1)
    pose = plain_values.pose_map(people, (480, 640), 0.75)
    yield "pose", "two people", *plain(14, "Pose", pose), {**pose, "people": people.tolist()}
    nobody = plain_values.pose_map(people[:0], (480, 640), None)
    yield "pose_nobody", "nobody there, steadiness unknown", *plain(15, "Pose", nobody), {**nobody, "people": []}
    prompt = {"text": "a dancer in a red coat, étude nº 7, 舞者", "negative": "blurry", "blend": 12}
    yield "prompt", "text beyond ASCII", *plain(16, "Prompt", prompt), prompt
    yield "scalar", "a number", *plain(17, "Scalar", 0.625), 0.625
    yield "text", "a caption", *plain(18, "Text", "two dancers"), "two dancers"
    data = {"score": 0.5, "count": 3, "name": "left", "on": True, "off": None, "parts": [1, 2.5, "x"], "deep": {"a": {"b": -1}}}
    yield "data", "named values", *plain(19, "Data", data), data
    more = {"lat": {"pose": 4.25, "paint": 31.5}, "meta": {"show": "tuesday", "cam": 2, "origin": {"stream": "stage", "seq": 41}}}
    yield "frame_more", "times of nodes and the author's own values", *array(40, "Image", rgb, **more), rgb
    degraded = {"flags": wire.KEY | wire.DEGRADED, "epoch": 2}
    yield "frame_degraded", "made at less than the asked settings; a gap before it", *array(44, "Image", rgb, **degraded), rgb
    big = {"seq": 2**33, "pts": -(2**40), "params": 70_000}
    yield "frame_big_numbers", "integers of every width, a negative time", *array(2**33, "Image", rgb, **big), rgb
    anew = {"run": NEXT_RUN, "flags": wire.KEY | wire.DISCONTINUITY, "epoch": 0, "seq": 0}
    yield "frame_next_run", "the publisher was started again", *array(0, "Image", rgb, **anew), rgb
    base = {"stream": "live", "run": RUN, "sent": T0 + 2_000_000_000}
    yield "beat", "alive", Beat(**base, n=42, fps=24.5, state="online"), [], None
    yield "beat_loading", "alive, and no frame yet", Beat(**base, n=0, fps=0.0, state="loading", meta={"model": "sd15"}), [], None
    yield "end", "the last message of a run", End(**base, n=43, reason="eof"), [], None


def bad() -> Iterator[tuple[str, str, str, list[bytes]]]:
    """(name, what is wrong, the key that a reader may name, parts). A client must refuse each, and go on."""
    head, payload = array(0, "Image", picture())
    rest = b"live/", wire.encode(head), payload[0]
    fields = msgpack.unpackb(rest[1])

    def changed(**over: Any) -> list[bytes]:
        return [rest[0], msgpack.packb({k: v for k, v in {**fields, **over}.items() if v is not ...}), rest[2]]

    yield "version", "a version of the future", "v", changed(v=2)
    yield "kind", "a kind that is none", "kind", changed(kind="burst")
    yield "no_header", "a topic alone", "", [rest[0]]
    yield "many_parts", "more parts than a message may have", "", [rest[0], rest[1], *[b"x"] * 9]
    yield "header_list", "a header that is no map", "", [rest[0], msgpack.packb([1, 2, 3]), rest[2]]
    yield "header_cut", "a header that ends in the middle", "", [rest[0], rest[1][:-7], rest[2]]
    yield "header_trailing", "bytes after the header", "", [rest[0], rest[1] + b"\x00", rest[2]]
    yield "header_huge", "a header of more than 64 KiB", "", changed(meta={"x": "y" * 70_000})
    yield "header_lies", "a header that announces four thousand million entries", "", [rest[0], b"\xdf\xff\xff\xff\xff" + rest[1][1:], rest[2]]
    yield "topic", "the topic of another stream", "stream", [b"love/", *rest[1:]]
    yield "stream", "a stream that is no name", "stream", [b"a/b/", changed(stream="a/b")[1], rest[2]]
    yield "run", "a run of 15 digits", "run", changed(run="0" * 15)
    yield "no_seq", "a frame without its seq", "seq", changed(seq=...)
    yield "seq_text", "a seq that is a text", "seq", changed(seq="12")
    yield "seq_negative", "a seq below zero", "seq", changed(seq=-1)
    yield "n_bool", "a boolean where a number belongs", "n", changed(n=True)
    yield "type", "a payload type that is none", "type", changed(type="Sculpture")
    yield "enc", "an encoding this type does not have", "enc", changed(enc="msgpack")
    yield "dtype", "a dtype that is none", "dtype", changed(dtype="complex64")
    yield "shape_negative", "an axis below zero", "shape", changed(shape=[12, -16, 3])
    yield "shape_huge", "an array of 12 GiB", "shape", changed(shape=[65535, 65535, 3])
    yield "shape_many", "more axes than an array may have", "shape", changed(shape=[1, 1, 1, 12, 16, 3])
    yield "shape_grey", "a picture of one channel", "shape", changed(shape=[12, 48, 1])
    yield "shape_zero", "a picture without rows", "shape", changed(shape=[0, 16, 3], size=[0])
    yield "size_lies", "a payload longer than announced by shape", "size", changed(shape=[6, 16, 3])
    yield "size_short", "a payload shorter than announced", "size", [rest[0], rest[1], rest[2][:-1]]
    yield "size_none", "no payload where one is announced", "size", list(rest[:2])
    yield "size_extra", "a payload part that nobody announced", "size", [*rest, b"more"]
    yield "layout", "a layout that is none", "layout", changed(layout="nhwc")
    yield "color", "no colour", "color", changed(color=...)
    yield "color_order", "a channel order that is none", "color", changed(color={"space": "srgb", "order": "gbr"})
    ring = {"name": RING, "slot": 0, "offset": 64, "bytes": 576, "mark": 0}
    shared = {"enc": "shm", "size": []}
    yield "shm_none", "shared memory without a place", "shm", changed(**shared)[:2]
    yield "shm_path", "a ring whose name is a path", "shm.name", changed(**shared, shm={**ring, "name": "../etc/passwd"})[:2]
    yield "shm_bytes", "a place of another length than the array's", "shm", changed(**shared, shm={**ring, "bytes": 10**9})[:2]
    yield "shm_offset", "a place before the first slot", "shm.offset", changed(**shared, shm={**ring, "offset": 8})[:2]
    yield "state", "a state that is none", "state", [rest[0], msgpack.packb({
        "v": 1, "kind": "beat", "stream": "live", "run": RUN, "n": 0, "sent": 0, "fps": 1.0, "state": "fine"})]  # fmt: skip
    extension = msgpack.packb({**fields, "meta": {"x": msgpack.ExtType(5, b"boo")}})
    yield "extension", "an extension type of MessagePack", "", [rest[0], extension, rest[2]]


def bad_values() -> Iterator[tuple[str, str, str, list[bytes]]]:
    """Messages whose header is right and whose payload is not: refused when the value is asked for."""
    def message(kind: str, packed: bytes) -> list[bytes]:
        header, payload = frame(0, kind, "msgpack", packed)
        return [b"live/", wire.encode(header), *payload]

    pose = plain_values.pose_map(np.zeros((2, 18, 3), np.float32), (480, 640), None)
    yield "pose_short", "people cut off", "payload.people", message("Pose", msgpack.packb({**pose, "people": pose["people"][:-4]}))
    yield "pose_count", "more people than there are", "payload.people", message("Pose", msgpack.packb({**pose, "n": 3}))
    yield "prompt_list", "a prompt that is a list", "payload", message("Prompt", msgpack.packb(["a", "b"]))
    yield "scalar_text", "a number that is a text", "payload.value", message("Scalar", msgpack.packb("0.5"))
    yield "text_bytes", "a text that is no UTF-8", "", message("Text", b"\xa2\xff\xfe")
    header, _ = array(0, "Image", picture(), "png", png(picture(24, 32)))
    yield "png_larger", "a PNG of other measures than announced", "shape", [b"live/", wire.encode(header), png(picture(24, 32))]
    header, _ = array(0, "Image", picture(), "png", b"not a picture")
    yield "png_none", "no PNG at all", "payload", [b"live/", wire.encode(header), b"not a picture"]


def framed(parts: list[bytes]) -> bytes:
    return struct.pack("<I", len(parts)) + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unframed(data: bytes) -> list[bytes]:
    """The parts of a recorded message."""
    (count,), at, parts = struct.unpack_from("<I", data), 4, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return parts


def expected(header: Any, value: Any) -> dict[str, Any]:
    """What a reader must find, as JSON: header fields, and the decoded value or the SHA-256 of its bytes."""
    kind = type(header).__name__.lower()
    fields = {key: entry for key, entry in asdict(header).items() if entry not in (None, "", (), {}) or key in ("size", "fps", "pts")}
    if kind == "frame":
        fields["age_ms"] = (header.sent - header.born) / 1e6
    out: dict[str, Any] = {"kind": kind, "header": fields}
    if isinstance(value, np.ndarray):
        out["sha256"] = hashlib.sha256(value.tobytes()).hexdigest()
        out["first"] = [float(x) for x in value.ravel()[:8]]
    elif value is not None:
        out["value"] = dict(value) if isinstance(value, dict) else value
    return out


def ring() -> bytes:
    """A ring of two slots: slot 0 holds frame 9 (a newer one than `image_shm_gone` asks for), slot 1 frame 8."""
    image = picture()
    return shm.image_of([(9, (255 - image).tobytes()), (8, image.tobytes())], slot_bytes=image.nbytes)


def everything() -> dict[str, bytes]:
    files: dict[str, bytes] = {"ring.bin": ring()}
    messages, refused, values = [], [], []
    for name, what, header, payload, value in good():
        files[f"{name}.bin"] = framed([wire.topic(header.stream), wire.encode(header), *payload])
        messages.append({"file": f"{name}.bin", "shows": what, **expected(header, value)})
    for store, found in ((refused, bad()), (values, bad_values())):
        for name, wrong, key, parts in found:
            files[f"bad_{name}.bin"] = framed(parts)
            store.append({"file": f"bad_{name}.bin", "wrong": wrong, "key": key})
    found = {"messages": messages, "refused": refused, "refused_values": values}
    index = {"version": wire.VERSION, "ring": {"file": "ring.bin", "name": RING}, **found}
    files["index.json"] = (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def make_coded() -> None:
    """The coded pictures, by the encoders of this machine."""
    from fractions import Fraction

    import av
    import cv2

    (HERE / "coded").mkdir(exist_ok=True)
    _, jpeg = cv2.imencode(".jpg", wide()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    (HERE / "coded/wide.jpg").write_bytes(jpeg.tobytes())
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "x264-params": "repeat-headers=1:annexb=1:threads=1"}
    encoder.colorspace = encoder.color_primaries = encoder.color_trc = encoder.color_range = 1
    for i, name in enumerate(("key", "delta")):
        image = av.VideoFrame.from_ndarray(np.roll(wide(), 4 * i, axis=1), format="rgb24")
        frame = image.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
        frame.pts = i
        (HERE / f"coded/{name}.h264").write_bytes(b"".join(bytes(packet) for packet in encoder.encode(frame)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is there, write nothing")
    parser.add_argument("--coded", action="store_true", help="make the coded pictures anew first")
    args = parser.parse_args()
    if args.coded:
        make_coded()
    files, there = everything(), {path.name for path in HERE.iterdir() if path.suffix in (".bin", ".json")}
    if args.check:
        differ = sorted(name for name in files if name not in there or (HERE / name).read_bytes() != files[name])
        differ += sorted(there - set(files))
        print("\n".join(differ) or "as recorded")
        return 1 if differ else 0
    for name in there - set(files):
        (HERE / name).unlink()
    for name, data in files.items():
        (HERE / name).write_bytes(data)
    print(f"{len(files)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
