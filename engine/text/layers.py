"""The text of a graph, gathered: the file, what it includes, and what the command line puts on top, merged into one tree of plain values.

Each layer wins over those before it, table by table; whatever is not a table is replaced whole. Every value can be traced to the file and
line that gave it (`Places`), and that costs nothing until somebody asks. Problems are collected, never raised, so that a reader sees all
of them. Knows TOML and files; what the keys mean is the loader's business.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from engine.errors import Diagnostic, UsageError
from engine.graph import Place
from engine.registry import suggest
from engine.text.locate import KeyPath, dotted, positions

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
SET = "--set"

# What tomllib says, in plain words, and what usually is meant. The first that fits counts.
_WORDS: Final = (
    (r"Invalid value|Expected a value", "the value is not one that TOML knows", 'text needs quotes: key = "text"'),
    (r"Expected '=' after a key", "a key needs an equals sign and a value", "write key = value"),
    (r"Invalid initial character for a key part", "this cannot start a key", "keys are letters, digits, - and _; anything else goes in quotes"),
    (r"Cannot declare (.*) twice", "the table is written twice", "keep one of the two, and put all keys under it"),
    (r"Cannot overwrite a value|Duplicate inline table key", "the key is written twice", "keep one of the two"),
    (r"(?:Cannot mutate|Cannot redefine|is immutable)", "the table is closed already", "put all of its keys into one place"),
    (r"Unescaped '\\' in a string|Invalid hex|Escaped character", "a backslash in double quotes has a meaning of its own",
     r"put Windows paths in single quotes: 'C:\clips\a.mp4'"),
    (r"Unterminated string|Expected \"'\"|Illegal character '\\n'", "the quotes are not closed on this line",
     "close them; longer texts go between three quotes"),
    (r"Illegal character", "there is a character that TOML does not allow", "remove it; invisible ones come from word processors"),
    (r"Unclosed array", "the list is not closed", "close it with ]"),
    (r"Unclosed inline table", "the inline table is not closed", "close it with } on the same line, or use a [table]"),
    (r"Expected newline or end of document", "there is something after the value", "one key = value per line; text needs quotes"),
    (r"Expected '\]'|Expected '\]\]'", "the table's header is not closed", "write [table] or [[table]]"),
    (r"limit .*for integer", "the number is too long", "no parameter needs so many digits"),
    (r"Invalid statement", "this is neither a key, a [table] nor a # comment", "write key = value"),
)  # fmt: skip


@dataclass(slots=True)
class Layer:
    """One text. `replaced`: paths where it took the place of something that was there before."""

    file: str
    text: str
    replaced: list[KeyPath] = field(default_factory=list)


class Places(Mapping[str, Place]):
    """Dotted path to file and line. Nothing is worked out before the first look."""

    def __init__(self, layers: Sequence[Layer], over: Mapping[KeyPath, str]) -> None:
        self._layers, self._over = tuple(layers), dict(over)
        self._known: dict[str, Place] | None = None

    def _table(self) -> dict[str, Place]:
        if self._known is None:
            known: dict[KeyPath, Place] = {}
            for layer in self._layers:
                _forget(known, layer.replaced)
                known.update((path, Place(layer.file, line)) for path, line in positions(layer.text).items())
            _forget(known, self._over)
            known.update((path, Place(file)) for path, file in self._over.items())
            self._known = {dotted(path): place for path, place in known.items()}
        return self._known

    def __getitem__(self, path: str) -> Place:
        return self._table()[path]

    def texts(self) -> dict[str, str]:
        """The files that the graph was read from: what messages call them, to their texts."""
        return {layer.file: layer.text for layer in self._layers}

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())


def _forget(known: dict[KeyPath, Place], roots: Mapping[KeyPath, str] | Sequence[KeyPath]) -> None:
    """Drop what stood at or below `roots`."""
    if roots:
        for path in [p for p in known if any(p[:n] in roots for n in range(1, len(p) + 1))]:
            del known[path]


@dataclass(slots=True)
class Tree:
    """The merged values, their layers, and what went wrong while gathering them."""

    data: dict[str, Any] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    over: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)  # what was read, or would have been

    def add(self, file: str, text: str, data: dict[str, Any]) -> None:
        """Lay the values of a text over those that are there; `data` belongs to the tree from then on."""
        layer = Layer(file, text)
        self.layers.append(layer)
        _merge(self.data, data, (), layer.replaced)

    def put(self, path: KeyPath, value: Any, origin: str) -> str:
        """Set one value from outside the files; returns what is in the way, "" where nothing is."""
        at: Any = self.data
        for n, part in enumerate(path):
            if isinstance(at, list) and isinstance(part, str) and part.isdigit() and int(part) < len(at):
                path = (*path[:n], int(part), *path[n + 1 :])
            elif not isinstance(at, dict):
                return f"{dotted(path[:n])} has no parts that could be set"
            if n == len(path) - 1:
                at[path[n]] = value
            else:
                at = at.setdefault(path[n], {}) if isinstance(at, dict) else at[path[n]]
        self.over[path] = origin
        return ""


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: KeyPath, replaced: list[KeyPath]) -> None:
    for key, value in over.items():
        have, here = base.get(key), (*path, key)
        if isinstance(have, dict) and isinstance(value, dict):
            _merge(have, value, here, replaced)
            continue
        if key in base:
            replaced.append(here)
        base[key] = value


# ---------------------------------------------------------------- files


def find(name: str | os.PathLike[str]) -> tuple[Path, str]:
    """The graph file called `name`, and how to call it in messages: a path, or the name of one that ships.

    Raises UsageError with the nearest names where there is none.
    """
    if not str(name).strip():
        raise UsageError("the name of the graph is empty", fix=f"name a file, or {' or '.join(sorted(shipped_graphs())[:2])}")
    path = Path(name)
    try:
        if path.is_file():
            return path, str(name)
        folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise UsageError(f"not a file name: {show(str(name))}: {getattr(error, 'strerror', None) or error}") from error
    if folder:
        raise UsageError(f"{name} is a folder, not a graph file", fix="name a .toml file in it")
    shipped = shipped_graphs()
    if path.suffix == ".toml" or len(path.parts) != 1:
        raise UsageError(f"there is no graph file {name}", fix=_nearest(path) or "engine new writes one")
    if str(name) in shipped:
        return shipped[str(name)], f"graphs/{name}.toml"
    raise UsageError(f"no graph is called {str(name)!r}, and no file", fix=suggest(str(name), sorted(shipped)))


def shipped_graphs() -> dict[str, Path]:
    """The graphs that ship with the engine, by name."""
    from importlib import resources

    try:
        folder = resources.files("graphs")
    except ModuleNotFoundError:
        return {}
    return {item.name.removesuffix(".toml"): Path(str(item)) for item in folder.iterdir() if item.name.endswith(".toml")}


def read_file(tree: Tree, path: Path, shown: str) -> None:
    """Add the file `path` and everything it includes."""
    tree.files.append(path.absolute())
    text = _text(tree, path, Diagnostic("", shown))
    if text is not None:
        read_text(tree, text, shown, path)


def read_text(tree: Tree, text: str, shown: str, path: Path | None, outer: tuple[Path, ...] = ()) -> None:
    """Add a text and everything it includes; `path` is the file it came from, `outer` those that include it."""
    data = parse(tree, text, shown)
    if data is None:
        return
    include = data.get("include", [])
    names = include if isinstance(include, list) else [include]
    here = (*outer, path.resolve()) if path is not None else outer
    for n, name in enumerate(names):
        at: KeyPath = ("include", n) if isinstance(include, list) else ("include",)
        blank = Diagnostic("", shown, positions(text)[at], dotted(at))
        if not isinstance(name, str) or not name.strip():
            tree.problems.append(replace(blank, message="not a file", expected="a graph file by name, or a list of these", found=show(name)))
            continue
        target = Path(name) if path is None else path.parent / name
        label = name if path is None or Path(name).is_absolute() else (Path(shown).parent / name).as_posix()
        try:
            if not target.exists() and (ours := shipped_graphs().get(name)) is not None:
                target, label = ours, f"graphs/{name}.toml"
            resolved = target.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a link that leads to itself, a zero in the name
            tree.problems.append(replace(blank, message=f"not a file name: {error}", found=show(name)))
            continue
        if resolved in here:
            tree.problems.append(replace(blank, message=f"{name} includes itself in the end", fix="take one of the includes out"))
        elif all(known.file != label for known in tree.layers):  # a file that several include counts once
            tree.files.append(target.absolute())
            found = _text(tree, target, blank, name)
            if found is not None:
                read_text(tree, found, label, target, here)
    tree.add(shown, text, data)


def _text(tree: Tree, path: Path, blank: Diagnostic, name: str = "") -> str | None:
    """The text of a file; problems are noted at `blank`."""
    what = f"{name} " if name else "the file "
    try:
        if path.stat().st_size > MAX_BYTES:
            tree.problems.append(replace(blank, message=f"{what}is too big for a graph", expected=f"at most {MAX_BYTES >> 20} MB of TOML"))
            return None
        text = path.read_bytes().decode("utf-8-sig")
        if text.count("\0") > len(text) // 4:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "two bytes a letter")
        return text
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        where = blank if name else Diagnostic("", blank.file, line)
        tree.problems.append(replace(where, message=f"{what}is not text in UTF-8", fix="save it as UTF-8"))
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        why = "does not exist" if missing else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        tree.problems.append(replace(blank, message=f"{what}{why}", fix=_nearest(path) if missing else ""))
    return None


def _nearest(path: Path) -> str:
    """Which file may have been meant instead of `path`."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return suggest(path.stem, sorted(p.stem for p in path.parent.glob("*.toml")))


# ---------------------------------------------------------------- TOML


def parse(tree: Tree, text: str, shown: str) -> dict[str, Any] | None:
    """The values of a TOML text; syntax errors are noted with their line and in plain words."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        tree.problems.append(Diagnostic("lists or tables are nested too deeply", shown))
        return None
    except ValueError as error:
        tree.problems.append(_syntax(text, shown, str(error)))
        return None
    if _deeper(data, MAX_DEPTH):
        tree.problems.append(Diagnostic("lists or tables are nested too deeply", shown, expected=f"at most {MAX_DEPTH} levels"))
        return None
    return data


def _syntax(text: str, shown: str, said: str) -> Diagnostic:
    at = re.search(r" \(at line (\d+), column (\d+)\)$| \(at end of document\)$", said)
    lines = text.split("\n")
    reason = said[: at.start()] if at else said
    last = max((n for n, content in enumerate(lines, 1) if content.strip()), default=1)
    line = min(int(at[1]), len(lines)) if at and at[1] else last
    if line > 1 and not lines[line - 1].strip("\r\t ]}"):  # the parser noticed it on the next line
        line -= bool(re.search("Unclosed|Unterminated|Invalid value", reason))
    found = lines[line - 1].strip()
    bare = re.sub(r"\"[^\"]*(\"|$)|'[^']*('|$)|#.*", "", found)
    if re.search("[\u2018-\u201f\u00ab\u00bb]", bare):
        return Diagnostic("these quotes are a word processor's", shown, line, found=_short(found), fix='type them anew: key = "text"')
    odd = [word for word in re.findall(r"[\w-]+", bare.partition("=")[0]) if not word.isascii()]
    if odd:
        fix = f'put it in quotes: "{odd[0]}"'
        return Diagnostic("a name without quotes has other letters than a to z", shown, line, found=_short(found), fix=fix)
    for pattern, message, fix in _WORDS:
        if re.search(pattern, reason):
            return Diagnostic(message, shown, line, found=_short(found), fix=fix)
    return Diagnostic(f"not TOML: {reason[:1].lower()}{reason[1:]}", shown, line, found=_short(found))


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        if not inner:
            return False
        level = inner
    return True


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def show(value: Any) -> str:
    """A value as `found` shows it: as TOML has it, shortened, with its type where that is the point."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _short(f'"{value}"')
        case int() | float():
            return str(value)[:40]
        case dict():
            return "a table"
        case []:
            return "an empty list"
        case list():
            return _short("the list [" + ", ".join(map(show, value[:5])) + (", …]" if len(value) > 5 else "]"))
        case _:
            return _short(f"{type(value).__name__} {value}")
