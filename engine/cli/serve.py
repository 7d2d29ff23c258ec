"""`engine serve`: one engine process per stream of a folder, kept running until Ctrl-C; and `--status`, which asks one that runs.

The address of the status page, with its token, is left in the folder in a file that only its owner can read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.cli import report
from engine.cli.run import INTERRUPTED, Stops
from engine.errors import RunError, UsageError, writing

NOTE = ".engine-serve.json"


def serve(folder: Path, *, insecure: bool) -> int:
    """Keep the streams of `folder` running; the exit code."""
    from remote.serve.page import Page
    from remote.serve.streams import read
    from remote.serve.supervisor import Supervisor

    wanted = read(folder)
    if _asked(folder) is not None:
        raise UsageError(f"{folder} is served already", fix="engine serve --status shows how it goes; end the other one first")
    supervisor = Supervisor(folder, wanted, say=report.say)
    logs = {name: child.log for name, child in supervisor.children.items()}
    page = Page(wanted.serve.status, supervisor.status, lambda name: list(logs[name].lines), insecure=insecure)
    stops = _Stops(supervisor)
    try:
        with _noted(folder / NOTE, page), stops.caught():
            print(f"serving {', '.join(wanted.stream)}; status: {page.url}", file=sys.stderr, flush=True)  # with its token: `say` hides such
            supervisor.run()
    finally:
        page.close()
    failed = [child.name for child in supervisor.children.values() if child.state != "ended" or child.last_exit not in (0, None)]
    if stops.count:
        return INTERRUPTED
    if failed:
        raise RunError(f"ended with errors: {', '.join(failed)}", fix=f"see {folder / wanted.serve.logs}")
    return 0


class _Stops(Stops):
    """Signals become stops of the supervisor: the first drains, the second gives up."""

    def __init__(self, supervisor: Any) -> None:
        super().__init__()
        self.supervisor = supervisor

    def _caught(self, number: int, frame: Any) -> None:
        super()._caught(number, frame)
        self.supervisor.stop(hard=self.count > 1)


@contextmanager
def _noted(path: Path, page: Any) -> Iterator[None]:
    """Leave the page's address in `path` while it is served."""
    fresh = path.with_name(path.name + ".new")
    with writing(path, "serve a folder that can be written to"):
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"address": page.address, "token": page.token, "pid": os.getpid()}, file)
        fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _asked(folder: Path) -> dict[str, Any] | None:
    """The status of who serves `folder`; None where nobody answers."""
    import http.client
    import urllib.request

    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        request = urllib.request.Request(f"{note['address']}/status.json", headers={"Authorization": f"Bearer {note['token']}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5.0) as answer:
            found: dict[str, Any] = json.loads(answer.read(1 << 24))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    return found | {"url": f"{note['address']}/?token={note['token']}"}


def status(folder: Path, *, as_json: bool) -> int:
    """Print how the streams of `folder` are; 0 where all are well, 5 where one is not or nobody answers."""
    found = _asked(folder)
    if found is None:
        raise RunError(f"nobody serves {folder}", fix=f"engine serve {folder}")
    if as_json:
        print(json.dumps(found, indent=2))
        return 0 if found["well"] else 5
    table = report.table("stream", "state", ">fps", ">age ms", ">out", ">dropped", ">starts", "control", "")
    for stream in found["streams"]:
        again = [f"starts in {stream['due_s']:g} s"] if stream["due_s"] else []
        why = "; ".join([*([stream["why"]] if stream["why"] else []), *stream["reasons"], *again])
        table.add_row(
            stream["name"], stream["state"], report.number(stream["fps"]), report.number(stream["age_ms"]), str(stream["frames"]["out"]),
            str(stream["frames"]["drops"]), str(stream["starts"]), stream["control"], why,
        )  # fmt: skip
    report.show(table)
    print(f"page: {found['url']}")  # with its token: `tell` hides such
    return 0 if found["well"] else 5
