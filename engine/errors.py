"""Every error the engine raises on purpose, in one tree.

    EngineError                     something a person can act on; carries an exit code
    ├── GraphError                  the graph is wrong; holds *all* diagnostics at once   (exit 2)
    ├── UsageError                  the command line or a call is wrong                   (exit 2)
    │   └── ParamError              a parameter change was refused; nothing was applied
    ├── MissingError                a model, file or optional package is not there        (exit 3)
    ├── DeviceError                 a camera, GPU or encoder cannot be used               (exit 4)
    └── RunError                    a session failed while running                        (exit 5)
        ├── MediaError              a file, stream or image that cannot be read or written
        ├── OperatorError           an operator raised; names node, seq and epoch
        ├── StallError              the watchdog found lanes that wait for each other
        └── ReplayError             a recording does not fit the plan or the output
    Cancelled (BaseException)       the session is stopping; `except Exception` must not swallow it

Messages answer four questions: where, what was expected, what was found, what to do.
Credentials never reach a message: `scrub` removes them, and every EngineError is scrubbed on creation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"(?i)(?P<key>[?&](?:access_token|api_key|apikey|key|password|passwd|pwd|secret|sig|signature|token)=)[^&\s'\"]+")


def scrub(text: str) -> str:
    """`text` with the credentials of any URL in it replaced by `***` (user info and secret query values)."""
    return _QUERY.sub(r"\g<key>***", _USERINFO.sub(r"\g<scheme>***@", text))


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing wrong with a graph: where it is, what was expected, what was found, what would fix it."""

    message: str
    file: str = "<graph>"
    line: int | None = None
    path: str = ""  # dotted, such as `node.paint.in.pose`
    expected: str = ""
    found: str = ""
    fix: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        head = ": ".join(part for part in (place, self.path, self.message) if part)
        facts = [f"expected {self.expected}" if self.expected else "", f"found {self.found}" if self.found else ""]
        body = ", ".join(part for part in facts if part)
        text = f"{head} ({body})" if body else head
        return scrub(f"{text}; {self.fix}" if self.fix else text)


class EngineError(Exception):
    """Root of the tree. `message` says what happened, `fix` what to do about it."""

    exit_code = 5

    def __init__(self, message: str, *, fix: str = "") -> None:
        self.message = scrub(message)
        self.fix = scrub(fix)
        super().__init__(f"{self.message}; {self.fix}" if fix else self.message)


class GraphError(EngineError):
    """The graph cannot be compiled. `diagnostics` holds every problem found, in file order."""

    exit_code = 2

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(set(diagnostics), key=lambda d: (d.file, d.line or 0, d.path, d.message)))
        super().__init__("\n".join(str(d) for d in self.diagnostics))


class UsageError(EngineError):
    """The command line or a call into the engine is wrong."""

    exit_code = 2


class ParamError(UsageError):
    """A change of live parameters was refused as a whole; `problems` maps `node.param` to the reason."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{key}: {why}" for key, why in problems.items()))


class MissingError(EngineError):
    """A model, a file or an optional package is not on this machine; `fix` says how to get it."""

    exit_code = 3


class DeviceError(EngineError):
    """A camera, a GPU or a hardware codec cannot be used."""

    exit_code = 4


class RunError(EngineError):
    """A running session failed."""


class MediaError(RunError):
    """A file, stream or image cannot be read or written."""


@contextmanager
def writing(what: object, fix: str = "name a file in a folder that exists") -> Iterator[None]:
    """What the system refuses in here is a MediaError about `what`."""
    try:
        yield
    except OSError as error:
        raise MediaError(f"cannot write {what}: {error.strerror}", fix=fix) from error


class OperatorError(RunError):
    """An operator raised. The original exception is `__cause__`."""

    def __init__(self, node: str, seq: int, epoch: int, cause: BaseException) -> None:
        self.node, self.seq, self.epoch = node, seq, epoch
        if isinstance(cause, EngineError):
            self.exit_code = cause.exit_code
            what, fix = cause.message, cause.fix
        else:
            what, fix = f"{type(cause).__name__}: {cause}", ""
        where = f"node {node}" if seq < 0 else f"node {node}, frame {seq} (epoch {epoch})"
        super().__init__(f"{where}: {what}", fix=fix)
        self.__cause__ = cause


class StallError(RunError):
    """Lanes wait for each other, or one is silent; `cycle` names who waits for whom."""

    def __init__(self, message: str, cycle: tuple[str, ...] = ()) -> None:
        self.cycle = cycle
        super().__init__(message)


class ReplayError(RunError):
    """A recording does not fit the plan, or the replay did not reproduce it."""


class Cancelled(BaseException):
    """Raised inside a lane when its session is aborted; never built or caught by operators."""
