"""`engine bench`: the measurements in bench/, which belong to a checkout of the project and not to the installed package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import engine
from engine.cli import report
from engine.errors import MissingError, UsageError
from engine.registry import suggest


def scripts() -> dict[str, Path]:
    """The measurements by name. Raises MissingError outside a checkout."""
    for root in (Path(engine.__file__).resolve().parents[1], Path.cwd()):
        found = {path.stem: path for path in sorted((root / "bench").glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")}
        if found and (root / "engine").is_dir():
            return found
    raise MissingError("the measurements are not part of the installed package", fix="run engine bench in a checkout of the project")


def bench(name: str | None, arguments: Sequence[str]) -> int:
    """List the measurements, or run one and return its exit code."""
    known = scripts()
    if name is None:
        width = max(map(len, known))
        for stem, path in known.items():
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            report.tell(f"{stem:{width}}  {doc.partition(chr(10))[0]}")
        return 0
    if name not in known:
        raise UsageError(f"no measurement is called {name!r}", fix=suggest(name, list(known)) or "engine bench lists them")
    return subprocess.run([sys.executable, str(known[name]), *arguments], check=False).returncode
