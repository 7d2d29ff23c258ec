"""What the command line prints: messages, errors and their exit codes, the JSON object, tables.

Results go to stdout and everything else to stderr. Colours and tables follow the terminal (and NO_COLOR); where there is none, every message
is one line. Credentials never appear: whatever is printed here is scrubbed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from engine.errors import Diagnostic, EngineError, GraphError, MissingError, OperatorError, scrub

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 140  # of tables that no terminal limits
NARROW = 88  # columns of a terminal below which tables leave out what a graph file says
debug = False  # whether errors are printed with their traceback; set by `main`


def console(stream: IO[str] | None = None) -> Console:
    """A console on `stream`, by default stdout."""
    from rich.console import Console

    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """One message on stderr."""
    _line(text, style, sys.stderr)


def tell(text: str = "", style: str = "") -> None:
    """One line of the result, on stdout."""
    _line(text, style, sys.stdout)


def _line(text: str, style: str, stream: IO[str]) -> None:
    if stream.isatty() and style:
        console(stream).print(scrub(text), style=style, soft_wrap=True)
    else:
        print(scrub(text), file=stream, flush=True)


# ---------------------------------------------------------------- errors


def complain(error: BaseException) -> int:
    """Print `error` for people, and return the exit code that goes with it."""
    if debug:
        import traceback

        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, GraphError):
        complain_of(error.diagnostics)
    elif isinstance(error, EngineError):
        _complaint(f"error: {error.message}", error.fix)
        for note in getattr(error, "__notes__", ()):
            say(f"  {note}", "dim")
    else:
        _complaint(f"error: {type(error).__name__}: {error}", "" if debug else "this is a fault of the engine; --debug shows where")
    return error.exit_code if isinstance(error, EngineError) else 5


def _complaint(text: str, fix: str) -> None:
    if sys.stderr.isatty():
        say(text, "bold red")
        if fix:
            say(f"  → {fix}", "green")
    else:
        say(f"{text}; {fix}" if fix else text)


def complain_of(problems: Iterable[Diagnostic]) -> None:
    """Print every problem of a graph: one line each, or a short paragraph each where people read it."""
    problems = list(problems)
    for problem in problems:
        if not sys.stderr.isatty():
            say(str(problem))
            continue
        from rich.text import Text

        place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        text = Text.assemble((place, "bold"), "  ", (scrub(problem.path), "cyan"), "  " * bool(problem.path), (scrub(problem.message), "red"))
        for name, fact in (("expected", problem.expected), ("found", problem.found)):
            text.append(f"\n    {name:8s} {scrub(fact)}" if fact else "")
        text.append(f"\n    → {scrub(problem.fix)}" if problem.fix else "", "green")
        console(sys.stderr).print(text, soft_wrap=True)
    say(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}", "bold")


def described(error: BaseException) -> dict[str, Any]:
    """An error as plain values, for JSON. `type` is the error's own class; where an operator raised it, `node` and `frame` say where."""
    facts: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "fix": "", "exit_code": 5}
    if isinstance(error, EngineError):
        facts |= {"message": error.message, "fix": error.fix, "exit_code": error.exit_code}
    if isinstance(error, OperatorError):
        facts |= {"node": error.node, "frame": error.seq if error.seq >= 0 else None}
        if error.__cause__ is not None:
            facts["cause"] = type(error.__cause__).__name__
    if isinstance(error, GraphError):
        facts["diagnostics"] = [
            {name: getattr(d, name) for name in ("file", "line", "path", "message", "expected", "found", "fix")} for d in error.diagnostics
        ]
    facts["also"] = [note.removeprefix("also: ") for note in getattr(error, "__notes__", ())]
    return facts


# ---------------------------------------------------------------- JSON


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """`value` as JSON without credentials; what JSON does not know is written as text."""
    return scrub(json.dumps(value, indent=indent, default=str))


@contextmanager
def stdout_kept() -> Iterator[Callable[[str], None]]:
    """Keep stdout for one text: gives the function that writes it. Whatever else is printed meanwhile, libraries included, goes to stderr."""
    real, copy = sys.stdout, -1
    with suppress(OSError, ValueError):  # no file behind it, as under a test
        real.flush()
        if real.fileno() == 1 and sys.stderr.fileno() == 2:
            copy = os.dup(1)
            os.dup2(2, 1)
    sys.stdout = sys.stderr
    texts: list[str] = []
    try:
        yield texts.append
    finally:
        sys.stdout = real
        if copy >= 0:
            os.dup2(copy, 1)
            os.close(copy)
        for text in texts:
            print(text, file=real, flush=True)


# ---------------------------------------------------------------- tables


def is_narrow() -> bool:
    """Whether tables on stdout have to do without some of their columns."""
    return console().width < NARROW


def table(*columns: str) -> Table:
    """An empty table. A column whose name begins with `>` holds numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def show(renderable: Any) -> None:
    """Print a table or another rich object on stdout."""
    console().print(renderable)


def number(value: float) -> str:
    """A measured number with three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def part(module: str) -> Any:
    """A module of operators/, which the engine knows only by name. Raises MissingError where it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingError(f"{module} cannot be imported: {error}", fix="install the whole project, or run this in a checkout") from error


def listed(values: Mapping[str, Any], zero: str = "none") -> str:
    """`gate 3 · stale 1`."""
    return " · ".join(f"{name} {number(v) if isinstance(v, float) else v}" for name, v in values.items()) or zero
