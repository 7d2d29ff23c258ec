"""The command line: `engine run`, `check`, `plan`, `ops` and so on.

`main` is the entry point. The verbs and their options are declared in `engine.cli.verbs`; what each does is imported when it is called, so
that help, `check` and `plan` answer at once. Everything that goes wrong ends here, as one message and an exit code:

    0 done    2 graph or usage    3 missing model or part    4 device    5 failed at run time    130 interrupted, files closed
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from engine.cli import report

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `--debug` may stand anywhere: tracebacks are printed then."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    report.debug = "--debug" in ours
    arguments = [word for word in ours if word != "--debug"] + arguments[len(ours) :]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a Windows console's code page must not turn a message into an error
    try:
        from engine.cli.verbs import app

        app(args=arguments, prog_name="engine")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report.complain(error)
    return 0
