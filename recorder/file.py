"""An MCAP file in the making: topics, chunks that reach the system every half second, and a proper end also on a full disk.

Invariant: at any moment the file is a sequence of whole records, and at most one that is cut off at its end; whatever was flushed survives the
process. Layout, encodings and indexes are those of mcap.dev/spec; docs/recording.md lists our topics. It knows messages, not what they mean.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from engine.errors import MissingError, writing
from recorder import foxglove

PROFILE = "afterimage"
CHUNK = 4 << 20
# What ends an MCAP file that has no index: DataEnd and Footer, both empty, and the magic.
_MAGIC = b"\x89MCAP0\r\n"
_END = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + _MAGIC


class _Whole:
    """A binary file that knows where its last whole write ended."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb", buffering=0)
        self.whole = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self.file.write(view[done:]) or 0
        self.whole += done
        return done

    def tell(self) -> int:
        return self.whole

    def flush(self) -> None:
        """Nothing is kept back here."""

    def cut(self) -> None:
        """Take back what was written by halves, and end the file where it is."""
        os.ftruncate(self.file.fileno(), self.whole) if hasattr(os, "ftruncate") else self.file.truncate(self.whole)
        self.file.seek(self.whole)
        self.file.write(_END)


class McapFile:
    """Writes one file; used by one thread. Every method may raise OSError, after which only `abandon` is called."""

    def __init__(self, path: Path, library: str) -> None:
        try:
            from mcap.writer import CompressionType, Writer
        except ImportError as error:
            raise MissingError(f"recording needs the package mcap: {error}", fix="pip install mcap") from error
        with writing(f"the recording {path}"):
            self._whole = _Whole(path)
        self.path = path
        self._writer: Any = Writer(self._whole, chunk_size=CHUNK, compression=CompressionType.ZSTD)  # type: ignore[arg-type]
        self._writer.start(PROFILE, library)
        self._topics: dict[str, int] = {}
        self._schemas: dict[str, int] = {"": 0}
        self.last = 0

    def add(self, topic: str, data: dict[str, Any], when: int, seq: int = -1, *, schema: str = "") -> None:
        """A JSON message. `when`: ns since 1970."""
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        self._message(self._topic(topic, "json", schema or _schema_of(topic), "jsonschema", b'{"type":"object"}'), text.encode(), when, seq)

    def add_raw(self, topic: str, data: bytes, when: int, seq: int, *, schema: str) -> None:
        """A protobuf message of foxglove's `schema`."""
        self._message(self._topic(topic, "protobuf", schema, "protobuf", foxglove.descriptors(schema)), data, when, seq)

    def _topic(self, topic: str, encoding: str, schema: str, how: str, definition: bytes) -> int:
        if topic not in self._topics:
            if schema not in self._schemas:
                self._schemas[schema] = self._writer.register_schema(schema, how, definition)
            self._topics[topic] = self._writer.register_channel(topic, encoding, self._schemas[schema])
        return self._topics[topic]

    def _message(self, channel: int, data: bytes, when: int, seq: int) -> None:
        self._writer.add_message(channel, log_time=when, data=data, publish_time=when, sequence=seq & 0xFFFFFFFF)

    def about(self, facts: dict[str, str]) -> None:
        """Text that tools such as `mcap info` show."""
        self._writer.add_metadata(PROFILE, facts)

    def flush(self) -> None:
        """Bring everything so far to the system: it survives this process from now on."""
        self._writer.flush()

    def close(self) -> None:
        """Write the indexes and the end."""
        self._writer.finish()
        os.fsync(self._whole.file.fileno())
        self._whole.file.close()

    def abandon(self) -> None:
        """End the file after an error at its last whole record; it has no index then."""
        try:
            self._whole.cut()
        except OSError:
            pass  # it is still a sequence of whole records, which every reader can follow
        finally:
            self._whole.file.close()

    @property
    def size(self) -> int:
        return self._whole.whole


def _schema_of(topic: str) -> str:
    return "afterimage." + topic.strip("/").partition("/")[2] if topic.startswith("/afterimage/") else "afterimage.value"
