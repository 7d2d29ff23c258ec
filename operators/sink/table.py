"""`sink.table`: numbers of every frame, as rows of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from engine.errors import UsageError, writing
from engine.operator import Operator, operator
from engine.payload import Data, Payload, Scalar, Text
from engine.site import Site
from operators.sink.place import check_output


@operator("sink.table")
class Table(Operator):
    """One row a frame: seq, pts in seconds, epoch, then the values, in the order of `columns`, one name for each connected value.

    A Scalar or Text is one column; Data is one column for each of its numbers and texts, called COLUMN.KEY; which keys there are is decided by
    the first row, and later ones are left out. Rows reach the disk once a second and at the end.
    Raises UsageError where names and values differ in number or a value is no number, text or table; MediaError where the file cannot be
    written.
    """

    def __init__(self, *, url: str, columns: list[str], overwrite: bool = True) -> None:
        self.url, self.columns, self.overwrite = url, columns, overwrite
        self._file: Any = None
        self._fields: list[str] | None = None

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        return f"file {params['url']}" if params["overwrite"] else None

    def open(self, site: Site) -> None:
        super().open(site)
        path = check_output(self.url, (".csv",), self.overwrite, site)
        with writing(path, "name a file in a folder that can be written"):
            self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._flushed = site.clock.now()
        site.output(path)

    def __call__(self, values: list[Payload]) -> None:
        if len(values) != len(self.columns):
            raise UsageError(
                f"sink.table has {len(self.columns)} columns for {len(values)} values", fix="name one column for each connected value"
            )
        row: dict[str, Any] = {}
        for name, value in zip(self.columns, values, strict=True):
            row.update(_cells(name, value))
        if self._fields is None:
            self._fields = list(row)
            self._write(["seq", "pts_s", "epoch", *self._fields])
        site = self.site
        self._write([site.seq, f"{site.pts / 1e9:.6f}", site.epoch, *(row.get(field, "") for field in self._fields)])
        if site.clock.now() - self._flushed > 1_000_000_000:
            self._flushed = site.clock.now()
            self._file.flush()

    def _write(self, row: list[Any]) -> None:
        with writing(self.url, "make room on the disk"):
            self._writer.writerow(row)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _cells(name: str, value: Payload) -> Mapping[str, Any]:
    """The columns of one value."""
    if isinstance(value, Scalar):
        return {name: value.value}
    if isinstance(value, Text):
        return {name: value.text}
    if isinstance(value, Data):
        return {f"{name}.{key}": cell for key, cell in value.values.items() if isinstance(cell, (int, float, str))}
    raise UsageError(f"sink.table: {name}: expected a Scalar, Text or Data, found {value.kind}")
