"""The C client: one header, compiled with every warning an error and under sanitizers, as a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import others
import pytest
import zmq

from bindings.python import wire

INDEX = others.golden()


def decoded(*names: str) -> list[dict[str, Any]]:
    command = [str(others.probe()), "decode", *(str(others.GOLDEN / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return others.lines(done.stdout)


def test_recorded_messages_are_read_as_recorded() -> None:
    entries = INDEX["messages"]
    for entry, found in zip(entries, decoded(*(entry["file"] for entry in entries)), strict=True):
        expected = {key: value for key, value in entry["header"].items() if key != "age_ms"}
        if "color" in expected:
            expected["order"] = expected.pop("color")["order"]
        assert found["kind"] == entry["kind"], entry["file"]
        assert {key: found[key] for key in expected} == expected, entry["file"]
        if "sha256" in entry and expected["enc"] == "raw":
            assert hashlib.sha256(bytes.fromhex(found["hex"])).hexdigest() == entry["sha256"]
        if expected.get("dtype") == "float16":
            assert found["first"] == pytest.approx(entry["first"], abs=0)
        if expected.get("type") == "Pose":
            flat = [number for person in entry["value"].pop("people") for joint in person for number in joint]
            assert found["value"].pop("people") == pytest.approx(flat, rel=1e-7)
            entry["value"]["stability"] = -1 if entry["value"]["stability"] is None else entry["value"]["stability"]
        if "value" in entry:
            assert found["value"] == entry["value"], entry["file"]


def test_malformed_messages_are_refused_and_the_key_is_named() -> None:
    entries = INDEX["refused"] + [entry for entry in INDEX["refused_values"] if "png" not in entry["file"]]
    for entry, found in zip(entries, (decoded_one(entry["file"]) for entry in entries), strict=True):
        assert found["refused"] == (-2 if entry["file"] == "bad_version.bin" else -1), entry
        assert entry["key"].partition(".")[0] in (found["key"].partition(".")[0], "") or found["key"] == "", (entry, found)
        assert found["message"]


def decoded_one(name: str) -> dict[str, Any]:
    """A value that is refused comes after its header was printed."""
    done = subprocess.run([str(others.probe()), "decode", str(others.GOLDEN / name)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(re.sub(r'^\{"kind".*?("refused": )', r"{\1", done.stdout))


def test_mutated_messages_do_no_harm() -> None:
    if not others.sanitized():
        pytest.skip("the compiler has no address and undefined-behaviour sanitizers")
    files = [str(others.GOLDEN / entry["file"]) for entry in INDEX["messages"] + INDEX["refused"] + INDEX["refused_values"]]
    done = subprocess.run([str(others.probe()), "fuzz", "7", "1500", *files], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-4000:]
    (found,) = others.lines(done.stdout)
    assert found["taken"] > 1000
    assert found["refused"] > 10 * found["taken"] / 100


class Publisher:
    """The least that publishes: recorded headers with other numbers, to whoever has subscribed."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 10_000)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.url = f"tcp://127.0.0.1:{port}"
        self.common = {"stream": "live", "run": "0" * 16}

    def joined(self) -> None:
        assert self.socket.poll(20_000), "nobody has subscribed"
        assert self.socket.recv() == b"\x01live/"

    def frame(self, n: int, seq: int, data: bytes = bytes(12), **more: Any) -> None:
        fields: dict[str, Any] = {"type": "Image", "enc": "raw", "dtype": "uint8", "shape": (1, len(data) // 3, 3), "size": (len(data),),
                                  "layout": "hwc", "color": {"space": "srgb", "order": "rgb"}}  # fmt: skip
        now = time.time_ns()
        header = wire.Frame(**self.common, n=n, sent=now, seq=seq, epoch=0, pts=0, born=now - 5_000_000, **{**fields, **more})
        self.socket.send_multipart([b"live/", wire.encode(header), *([data] if header.size else [])])

    def other(self, header: Any) -> None:
        self.socket.send_multipart([b"live/", wire.encode(header)])

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def publisher() -> Any:
    publisher = Publisher()
    yield publisher
    publisher.close()


def observed(publisher: Publisher, queue: int, send: Any, count: int = 0) -> list[dict[str, Any]]:
    command = [str(others.probe()), "observe", publisher.url, "live", str(queue), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            publisher.joined()
            send()
            out, _ = program.communicate(timeout=60)
        finally:
            program.kill()
    assert program.returncode == 0
    return others.lines(out)


def fnv(data: bytes) -> str:
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:016x}"


def test_frames_come_in_order_with_their_gaps_and_the_run_ends(publisher: Publisher) -> None:
    def send() -> None:
        publisher.frame(0, 5, bytes(range(12)))
        publisher.frame(1, 8)
        publisher.socket.send_multipart([b"live/", b"\x93\x01\x02\x03"])
        publisher.frame(4, 11)
        publisher.other(wire.Beat(**publisher.common, n=6, sent=0, fps=24.0, state="degraded_input"))
        publisher.other(wire.End(**publisher.common, n=6, sent=0, reason="eof"))

    *frames, last = observed(publisher, 64, send)
    assert [(f["n"], f["seq"], f["lost"], f["dropped"]) for f in frames] == [(0, 5, 0, 0), (1, 8, 0, 2), (4, 11, 2, 0)]
    assert [f["fnv"] for f in frames] == [fnv(bytes(range(12))), fnv(bytes(12)), fnv(bytes(12))]
    assert all(f["age_ms"] == 5 and f["latency_ms"] >= 5 for f in frames)
    expected = {"code": 2, "frames": 3, "lost": 3, "dropped": 2, "malformed": 1, "restarts": 0, "alive": False}
    expected |= {"reason": "eof", "state": "degraded_input"}
    assert {key: last[key] for key in expected} == expected


def test_a_restarted_publisher_and_the_oldest_of_a_full_queue(publisher: Publisher) -> None:
    def send() -> None:
        for n in range(200):
            publisher.frame(n, n)
        publisher.common["run"] = "1" * 16
        publisher.frame(0, 0)
        publisher.other(wire.End(**publisher.common, n=1, sent=0, reason="stopped"))

    *frames, last = observed(publisher, 300, send)
    assert [f["n"] for f in frames] == [*range(200), 0]
    assert [f["restarted"] for f in frames] == [False] * 200 + [True]
    assert (last["restarts"], last["reason"], last["allocated"]) == (1, "stopped", 0)  # nothing allocated per frame


def test_with_one_slot_the_newest_frame_wins_and_what_was_passed_over_is_told(publisher: Publisher) -> None:
    def send() -> None:
        for n in range(2000):
            publisher.frame(n, n, bytes(3000))
        publisher.other(wire.End(**publisher.common, n=2000, sent=0, reason="eof"))

    *frames, last = observed(publisher, 1, send)
    assert frames[-1]["n"] == 1999
    assert len(frames) + sum(f["skipped"] for f in frames) == 2000 == last["frames"]
    assert [f["n"] for f in frames] == sorted(f["n"] for f in frames)
    assert last["lost"] == last["dropped"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="puts a ring into /dev/shm by hand")
def test_shared_memory_is_read_while_its_mark_stands_and_refused_after(publisher: Publisher) -> None:
    ring = Path("/dev/shm") / INDEX["ring"]["name"]
    ring.write_bytes((others.GOLDEN / "ring.bin").read_bytes())
    messages = {entry["file"]: entry for entry in INDEX["messages"]}

    def send() -> None:
        for name in ("image_shm.bin", "image_shm_gone.bin"):
            publisher.socket.send_multipart(others.unframed((others.GOLDEN / name).read_bytes()))
        header = messages["image_shm.bin"]["header"]
        publisher.common["run"] = header["run"]
        place = wire.Shm(**{**header["shm"], "slot": 7, "offset": header["shm"]["offset"] + 5 * 640})
        elsewhere = wire.Shm(**{**header["shm"], "name": "no-such-ring"})
        for n, where in ((10, place), (11, elsewhere)):
            publisher.frame(n, 190 + n, b"", enc="shm", shape=tuple(header["shape"]), size=(), shm=where)
        publisher.other(wire.End(**publisher.common, n=12, sent=0, reason="eof"))

    try:
        good, gone, outside, absent, _ = observed(publisher, 64, send)
    finally:
        os.unlink(ring)
    raw = messages["image_raw.bin"]
    data = others.unframed((others.GOLDEN / raw["file"]).read_bytes())[2]
    assert good["fnv"] == fnv(data)
    assert (gone["error"], outside["error"], absent["error"]) == ("overwritten", "not the wire format", "shared memory")


@pytest.mark.parametrize("name", ["print_stats", "save_ppm", "set_param"])
def test_examples_compile_without_a_warning_and_say_how_they_are_used(name: str) -> None:
    program = others.build(others.C / f"examples/{name}.c", name, *others.WARNINGS)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


INCLUDE = f'#include "{others.C}/afterimage.h"\n'
IMPLEMENT = "#define AFTERIMAGE_IMPLEMENTATION\n" + INCLUDE


def compiled(compiler: str, *arguments: str) -> None:
    command = [compiler, "-Wall", "-Wextra", "-Werror", *arguments, "-lzmq"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("standard", ["c99", "c11", "gnu99"])
def test_the_header_compiles_in_every_standard(standard: str, tmp_path: Path) -> None:
    source = tmp_path / "only.c"
    source.write_text(IMPLEMENT + "int main(void) { return 0; }\n")
    compiled(others.compiler(), f"-std={standard}", str(source), "-o", str(tmp_path / "a"))


def test_the_header_is_cplusplus_too_and_may_be_included_twice(tmp_path: Path) -> None:
    others.compiler()
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    one, two = tmp_path / "one.cpp", tmp_path / "two.cpp"
    one.write_text(IMPLEMENT + INCLUDE)
    two.write_text(INCLUDE + "int main() { aft_frame frame = AFT_FRAME_INIT; aft_frame_clear(&frame); return aft_now() < 0; }\n")
    compiled(compiler, "-std=c++11", str(one), str(two), "-o", str(tmp_path / "a"))
    assert subprocess.run([str(tmp_path / "a")]).returncode == 0
