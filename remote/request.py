"""A control request as it came from outside, taken for hostile: its shape, sizes and types are checked before anything looks at its meaning.

Invariant: what leaves `checked` is a small tree of plain values (null, bool, int, float, str, list, dict with text keys) without NaN or
infinity, and an operation that is known. It knows no session and no carrier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.errors import EngineError, GraphError, ParamError, scrub

VERSION = 1
MESSAGE_BYTES = 1 << 20
DEPTH = 12
VALUES = 20_000  # plain values in one request, at most
CHANGES = 256  # parameters in one transaction, at most
PATH = 200  # characters of a path
TEXT = 256 * 1024  # characters of one text: a graph file fits

DIAGNOSTIC = ("file", "line", "path", "message", "expected", "found", "fix")

Plain = dict[str, Any]


class Refused(Exception):
    """A request that is not carried out; nothing was changed. `error` is what the sender is told."""

    def __init__(self, type: str, message: str, *, expected: str = "", found: str = "", fix: str = "", **more: Any) -> None:
        super().__init__(message)
        self.error = {"type": type, "message": scrub(message), "expected": scrub(expected), "found": scrub(found), "fix": scrub(fix)}
        self.more = more  # further keys of the answer, such as `problems`


def told(error: BaseException) -> tuple[Plain, Plain]:
    """An error as a client is told it, and what else belongs into the answer. Tracebacks and internals stay here."""
    if isinstance(error, Refused):
        return error.error, error.more
    facts = {"type": type(error).__name__, "message": "", "expected": "", "found": "", "fix": ""}
    if isinstance(error, ParamError):
        return {**facts, "message": error.message, "fix": error.fix}, {"problems": {path: scrub(why) for path, why in error.problems.items()}}
    if isinstance(error, GraphError):
        problems = [{name: _clean(getattr(d, name)) for name in DIAGNOSTIC} for d in error.diagnostics]
        message = problems[0]["message"] if len(problems) == 1 else f"{len(problems)} problems in the graph"
        return {**facts, "message": message}, {"problems": problems}
    if isinstance(error, EngineError):
        return {**facts, "message": error.message, "fix": error.fix}, {}
    return {**facts, "type": "InternalError", "message": f"{type(error).__name__} in the engine", "fix": "see the engine's own log"}, {}


def checked(request: Any, known: tuple[str, ...]) -> Plain:
    """`request` where it is one: a map with `v` 1, an integer `id` and an `op` of `known`. Raises Refused."""
    if not isinstance(request, Mapping):
        raise Refused("BadRequest", "a request is a map", expected="{v: 1, id: int, op: str, ...}", found=_kind(request))
    weigh(request)
    version, op = request.get("v"), request.get("op")
    if type(version) is not int or version != VERSION:
        raise Refused(
            "BadVersion", "this server speaks version 1", expected="v = 1", found=f"v = {_short(version)}", fix="use a client of this version"
        )
    if number_of(request) is None:
        wanted = "id: an integer of 0 to 2^63 - 1"
        raise Refused("BadRequest", "a request carries a number of its own", expected=wanted, found=_short(request.get("id")))
    if not isinstance(op, str) or op not in known:
        from engine.registry import suggest

        fix = suggest(str(op)[:40], list(known))
        raise Refused("BadRequest", f"there is no operation {_short(op)}", expected="one of " + ", ".join(known), fix=fix)
    return dict(request)


def number_of(request: Any) -> int | None:
    """The request's own number, None where it has none: an answer carries it whatever else is wrong."""
    number = request.get("id") if isinstance(request, Mapping) else None
    return number if type(number) is int and 0 <= number < 2**63 else None


def weigh(value: Any) -> None:
    """Raise Refused where a value holds too much, too deep, or what no parameter could be."""
    left = VALUES
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        left -= 1
        if left < 0 or depth > DEPTH:
            raise Refused("TooLarge", "the request holds too much", expected=f"at most {VALUES} values, {DEPTH} levels deep")
        if isinstance(item, str):
            if len(item) > TEXT:
                raise Refused("TooLarge", "a text is too long", expected=f"at most {TEXT} characters", found=f"{len(item)}")
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise Refused("BadRequest", "a number is not finite", expected="finite numbers", found=repr(item))
        elif isinstance(item, Mapping):
            if not all(isinstance(key, str) and len(key) <= PATH for key in item):
                raise Refused("BadRequest", "a key is no text, or too long", expected=f"text of at most {PATH} characters")
            stack.extend((part, depth + 1) for part in item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend((part, depth + 1) for part in item)
        elif item is not None and not isinstance(item, (bool, int)):
            raise Refused("BadRequest", "a value is not plain", expected="null, true, false, numbers, text, lists and maps", found=_kind(item))
        elif isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise Refused("BadRequest", "an integer is too large", expected="at most 64 bits")


class Fields:
    """Reads the fields of a request by type. What is unknown or wrong is refused, so that a slip of the pen is never taken for a wish."""

    def __init__(self, request: Plain) -> None:
        self.request = request
        self.op = request["op"]
        self._read = {"v", "id", "op"}

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self.request.get(name)

    def text(self, name: str, default: str = "", *, among: tuple[str, ...] = ()) -> str:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, str) or (among and value not in among):
            raise self._wrong(name, "one of " + ", ".join(among) if among else "text", value)
        return value

    def truth(self, name: str, default: bool) -> bool:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def number(self, name: str, default: float | None, lo: float, hi: float, *, whole: bool = False) -> Any:
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not lo <= value <= hi:
            raise self._wrong(name, f"{'a whole number' if whole else 'a number'} from {lo:g} to {hi:g}", value)
        return value

    def paths(self, name: str) -> list[str] | None:
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) > CHANGES or not all(isinstance(v, str) and 0 < len(v) <= PATH for v in value):
            raise self._wrong(name, f"a list of at most {CHANGES} paths such as paint.steps", value)
        return list(value)

    def names(self, name: str, default: tuple[str, ...], among: tuple[str, ...]) -> tuple[str, ...]:
        """One name, or a list of names, of `among`."""
        value = self._take(name)
        if value is None:
            return default
        found = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
        if not found or not all(isinstance(part, str) and part in among for part in found):
            raise self._wrong(name, "some of " + ", ".join(among), value)
        return tuple(dict.fromkeys(found))

    def keep(self) -> Any:
        """What should stay of a prompt; `remote.prompts` looks closer."""
        return self._take("keep")

    def changes(self) -> dict[str, Any]:
        value = self._take("changes")
        if not isinstance(value, Mapping) or not value or len(value) > CHANGES:
            raise self._wrong("changes", f"a map of 1 to {CHANGES} entries, node.param to value", value)
        return {str(path): plain(part) for path, part in value.items()}

    def end(self) -> None:
        """Refuse what nobody asked for."""
        extra = sorted(set(self.request) - self._read)
        if extra:
            from engine.registry import suggest

            fix = suggest(extra[0], sorted(self._read - {"v", "id", "op"}))
            raise Refused("BadRequest", f"{self.op} takes no {extra[0]!r}", expected=", ".join(sorted(self._read)), found=extra[0], fix=fix)

    def _wrong(self, name: str, expected: str, value: Any) -> Refused:
        return Refused("BadRequest", f"{self.op}: {name} is wrong", expected=expected, found=_short(value))


def plain(value: Any) -> Any:
    """A value as the graph's own parameters hold it: sequences are lists."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _clean(value: Any) -> Any:
    return scrub(value) if isinstance(value, str) else value


def _kind(value: Any) -> str:
    return type(value).__name__


def _short(value: Any) -> str:
    text = scrub(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
