"""A recording, read: what a run was given, what it decided, what came out.

Invariants: a file that ends too early gives everything up to its last whole chunk, and says so; a file that is damaged anywhere else, or is
something else, is a ReplayError that says where. Pictures stay in the file until they are asked for. The index is made anew by reading the
file through once, so that a file without one, or with a wrong one, is as good as any.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MissingError, ReplayError
from engine.live.record import Recording
from recorder import foxglove, pictures
from recorder.file import PROFILE
from recorder.payloads import digest, unpacked

if TYPE_CHECKING:
    from engine.payload import Payload

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK = 1 << 30  # bytes of a chunk when unpacked: a larger one is no chunk of ours
KEPT_CHUNKS = 4
_LISTS = ("drops", "reads", "changes", "stamps", "resets")


@dataclass
class Tape:
    """One recorded run. `frames`: gate to its admitted frames by seq; `sources`: gate to what is known of its source; `sunk`: sink to what
    reached it by seq; `made`: node of a slow lane to what it made by seq; `failed`: node to the message of its error by seq."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    recording: Recording = field(default_factory=Recording)
    frames: dict[int, dict[int, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    refused: int = 0
    sources: dict[int, dict[str, Any]] = field(default_factory=dict)
    sunk: dict[str, dict[int, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    made: dict[str, dict[int, list[dict[str, Any]]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failed: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    events: list[dict[str, Any]] = field(default_factory=list)
    decided: dict[tuple[str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))
    plans: list[dict[str, Any]] = field(default_factory=list)  # reloads
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    cut_at: int | None = None  # the byte at which a file that ends too early stops making sense
    _places: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    _chunks: OrderedDict[int, list[Any]] = field(default_factory=OrderedDict)

    @property
    def whole(self) -> bool:
        """Whether the run came to its own end while it was recorded: then what is not here did not happen."""
        return self.end is not None and self.end["state"] in ("done", "failed")

    @property
    def last(self) -> int:
        """The seq of the last source frame; -1 without one."""
        return max((seq for frames in self.frames.values() for seq in frames), default=-1)

    def has(self, topic: str, seq: int) -> bool:
        return (topic, seq & 0xFFFFFFFF) in self._places

    def payload(self, topic: str, seq: int) -> Payload:
        """A stored payload. Raises ReplayError where it cannot be read."""
        offset, index = self._places[topic, seq & 0xFFFFFFFF]
        if offset not in self._chunks:
            with self.path.open("rb") as file:
                file.seek(offset)
                _, content = _record(file, offset, self.path)
            self._chunks[offset] = _messages(content, offset, self.path)
            if len(self._chunks) > KEPT_CHUNKS:
                self._chunks.popitem(last=False)
        data = self._chunks[offset][index].data
        try:
            if data[:1] == b"{":
                return unpacked(json.loads(data))  # type: ignore[no-any-return]
            return pictures.cooked(foxglove.read_raw(data))
        except (ValueError, RecursionError) as error:
            raise ReplayError(f"{self.path}: the picture {topic} of frame {seq} cannot be read: {error}") from error

    # ---- taking up messages

    def take(self, topic: str, seq: int, data: bytes, where: tuple[int, int]) -> None:
        """One message, in file order."""
        if not topic.startswith("/afterimage/"):
            if topic.startswith(("/source/", "/sink/")):
                self._places[topic, seq] = where
            return
        try:
            facts = json.loads(data)
            self._take(topic.removeprefix("/afterimage/"), facts)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ReplayError(f"{self.path}: a message of {topic} at byte {where[0]} makes no sense: {why}") from error

    def _take(self, kind: str, facts: dict[str, Any]) -> None:
        match kind:
            case "session":
                if self.facts:
                    raise ReplayError(f"{self.path} holds more than one run", fix="record every run to a file of its own")
                self.facts = facts
                self.recording.plan = facts["plan_hash"]
            case "frame":
                self.frames[facts["gate"]][facts["seq"]] = facts
            case "refused":
                self.refused += 1
            case "source":
                self.sources[facts["gate"]] = facts
            case "plans":
                if digest(facts["plan"]) != facts["plan_digest"]:
                    raise ReplayError(f"{self.path}: a plan that was reloaded is not the one that was recorded", fix="use another copy")
                self.plans.append(facts)
            case "sunk":
                self.sunk[facts["node"]][facts["seq"]] = facts
            case "made":
                self.made[facts["node"]][facts["seq"]].append(facts)
            case "event":
                self.events.append(facts)
                if facts["what"] == "error" and facts.get("node"):
                    self.failed[facts["node"]][int(facts["seq"])] = str(facts.get("message", ""))
            case "decided":
                self.decided[facts["node"], facts["what"]].append(unpacked(facts["value"]))
            case "snapshot":
                self.snapshots.append(facts)
            case "late":
                self.late.append(facts)
            case "end":
                self.end = facts
            case _ if kind in _LISTS:
                getattr(self.recording, kind).append(tuple(unpacked(facts["entry"])))


def read(path: str | Path) -> Tape:
    """Read a recording. Raises MissingError where there is none, ReplayError where it is something else or damaged."""
    tape = Tape(Path(path))
    try:
        size = tape.path.stat().st_size
        file = tape.path.open("rb")
    except OSError as error:
        raise MissingError(f"there is no recording {path}: {error.strerror}", fix="record one: engine run GRAPH --record FILE.mcap") from error
    with file:
        head = file.read(len(MAGIC))
        if head != MAGIC:
            what = "is empty" if not head else "is no MCAP file"
            raise ReplayError(f"{path} {what}", fix="give a file that engine run --record wrote")
        _read(tape, file, size)
    if not tape.facts:
        raise ReplayError(f"{path} ends before the run began: nothing of it can be replayed")
    if digest(tape.facts.get("plan")) != tape.facts.get("plan_digest"):
        raise ReplayError(f"{path}: the plan is not the one that was recorded", fix="the file was changed; use another copy")
    if tape.facts.get("format") != 1:
        raise ReplayError(f"{path} has format {tape.facts.get('format')}; this engine reads format 1", fix="use the engine that recorded it")
    return tape


def _read(tape: Tape, file: Any, size: int) -> None:
    from mcap.records import Channel, Header

    topics: dict[int, str] = {}
    first = True
    while (offset := file.tell()) < size:
        rest = size - offset
        if rest == len(MAGIC) and file.read(len(MAGIC)) == MAGIC:
            return
        file.seek(offset)
        start = file.read(9)
        opcode, length = struct.unpack("<BQ", start) if len(start) == 9 else (0, size)
        if length > rest - 9:
            tape.cut_at = offset
            return
        if opcode in (0x01, 0x06):
            content = file.read(length)
            if opcode == 0x01:
                header = _parsed(Header, content, offset, tape.path)
                if header.profile != PROFILE:
                    made = f'made by "{header.library}"' + (f' for "{header.profile}"' if header.profile else "")
                    raise ReplayError(f"{tape.path} is an MCAP file, but no recording of this engine: {made}",
                                      fix="give a file that engine run --record wrote")  # fmt: skip
            else:
                _chunk(tape, content, offset, topics, Channel)
        elif first:
            raise ReplayError(f"{tape.path} is damaged at byte {offset}: it has no header")
        elif opcode == 0 or opcode > 0x0F:
            raise ReplayError(f"{tape.path} is damaged at byte {offset}: there is no record of kind {opcode}", fix="use another copy")
        else:
            file.seek(length, 1)
        first = False
    tape.cut_at = size


def _chunk(tape: Tape, content: bytes, offset: int, topics: dict[int, str], channel: type) -> None:
    for index, record in enumerate(_messages(content, offset, tape.path)):
        if isinstance(record, channel):
            topics[record.id] = record.topic  # type: ignore[attr-defined]
        elif hasattr(record, "channel_id"):
            if record.channel_id not in topics:
                raise ReplayError(f"{tape.path} is damaged at byte {offset}: a message of an unknown topic")
            tape.take(topics[record.channel_id], record.sequence, record.data, (offset, index))


def _record(file: Any, offset: int, path: Path) -> tuple[int, bytes]:
    start = file.read(9)
    if len(start) < 9:
        raise ReplayError(f"{path} has changed since it was read")
    opcode, length = struct.unpack("<BQ", start)
    if length > path.stat().st_size - offset:
        raise ReplayError(f"{path} has changed since it was read")
    return opcode, file.read(length)


def _parsed(kind: Any, content: bytes, offset: int, path: Path) -> Any:
    from mcap.data_stream import ReadDataStream

    try:
        return kind.read(ReadDataStream(BytesIO(content)))
    except Exception as error:  # whatever a parser raises on damaged bytes
        raise ReplayError(f"{path} is damaged at byte {offset}: {type(error).__name__}: {error}", fix="use another copy") from error


def _messages(content: bytes, offset: int, path: Path) -> list[Any]:
    """The records of a chunk, its checksum compared."""
    from mcap.records import Chunk
    from mcap.stream_reader import breakup_chunk

    chunk = _parsed(Chunk, content, offset, path)
    if max(chunk.uncompressed_size, _unpacked_size(chunk)) > MAX_CHUNK:
        raise ReplayError(f"{path} is damaged at byte {offset}: a chunk of {chunk.uncompressed_size} bytes")
    try:
        return breakup_chunk(chunk, validate_crc=True)
    except Exception as error:  # whatever decompressors and parsers raise on damaged bytes
        raise ReplayError(f"{path} is damaged at byte {offset}: {type(error).__name__}: {error}", fix="use another copy") from error


def _unpacked_size(chunk: Any) -> int:
    """What the compressed data itself says that it unpacks to; 0 where it says nothing."""
    if chunk.compression != "zstd":
        return 0
    import zstandard

    try:
        return max(0, zstandard.frame_content_size(chunk.data))
    except zstandard.ZstdError:
        return 0
