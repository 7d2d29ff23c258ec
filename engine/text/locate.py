"""Where each key of a TOML document stands: dotted path to line.

tomllib gives values without positions. This scanner walks the same text, which tomllib has accepted, and gives positions without values:
every table, key, element of an array and element of an array of tables, under the path by which the parsed document is indexed. What is
written in several pieces (dotted keys, split tables) stands where its first piece stands. Knows nothing of graphs.
"""

from __future__ import annotations

import bisect
import json
import re
import tomllib
from collections.abc import Iterable

KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_VOID = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")  # blanks, line ends and comments
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_STRING = re.compile(
    r'"""(?:\\[\s\S]|(?!""")[^\\])*"{3,5}'  # a multi-line string may end in up to two quotes of its own
    r"|'''(?:(?!''')[\s\S])*'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
)


def dotted(path: Iterable[str | int]) -> str:
    """A path as it is written in messages, and in TOML: keys that are not bare are quoted."""
    return ".".join(str(part) if isinstance(part, int) or _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in path)


def positions(text: str) -> dict[KeyPath, int]:
    """Path to 1-based line, for a document that tomllib accepts: keys are strings, places in an array are numbers. Raises ValueError on one
    that is not TOML."""
    return _Scanner(text).scan()


class _Scanner:
    """Walks a document once, from `at`; `lines` holds where each line starts."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.found: dict[KeyPath, int] = {}
        self.last: dict[KeyPath, int] = {}  # array of tables -> its newest element

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_VOID)
        while self.at < len(self.text):
            start = self.at
            if self.take("[["):
                parts = self.key()
                self.expect("]]")
                array = (*self.resolve(parts[:-1], start), parts[-1])
                self.last[array] = self.last.get(array, -1) + 1
                table = (*array, self.last[array])
                self.mark(table, start)
            elif self.take("["):
                table = self.resolve(self.key(), start)
                self.expect("]")
            else:
                self.pair(table)
            self.skip(_VOID)
        return self.found

    def resolve(self, parts: KeyPath, start: int) -> KeyPath:
        """The path of a header: through an array of tables it means the newest element."""
        path: KeyPath = ()
        for part in parts:
            path = (*path, part)
            if path in self.last:
                path = (*path, self.last[path])
        self.mark(path, start)
        return path

    def mark(self, path: KeyPath, start: int) -> None:
        """Note `path` and the tables around it, unless an earlier piece did."""
        line = bisect.bisect_right(self.lines, start)
        while path and path not in self.found:
            self.found[path] = line
            path = path[:-1]

    def pair(self, table: KeyPath) -> None:
        start = self.at
        path = table + self.key()
        self.expect("=")
        self.mark(path, start)
        self.skip(_BLANK)
        self.value(path)

    def key(self) -> KeyPath:
        """A key, dotted or not, with the blanks around it."""
        parts: list[str | int] = []
        while True:
            self.skip(_BLANK)
            raw = self.match(_STRING) if self.text[self.at : self.at + 1] in ('"', "'") else self.match(_BARE)
            parts.append(tomllib.loads(f"key = {raw}")["key"] if raw[0] == '"' else raw.strip("'"))
            self.skip(_BLANK)
            if not self.take("."):
                return tuple(parts)

    def value(self, path: KeyPath) -> None:
        match self.text[self.at : self.at + 1]:
            case '"' | "'":
                self.match(_STRING)
            case "[":
                self.at += 1
                self.skip(_VOID)
                index = 0
                while not self.take("]"):
                    self.mark((*path, index), self.at)
                    self.value((*path, index))
                    index += 1
                    self.separator()
            case "{":
                self.at += 1
                self.skip(_VOID)
                while not self.take("}"):
                    self.pair(path)
                    self.separator()
            case _:
                self.match(_SCALAR)

    def separator(self) -> None:
        self.skip(_VOID)
        self.take(",")
        self.skip(_VOID)

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at line {bisect.bisect_right(self.lines, self.at)}")
        self.at = match.end()
        return match[0]

    def take(self, word: str) -> bool:
        if not self.text.startswith(word, self.at):
            return False
        self.at += len(word)
        return True

    def expect(self, word: str) -> None:
        if not self.take(word):
            raise ValueError(f"expected {word} at line {bisect.bisect_right(self.lines, self.at)}")
