"""`engine new`: a starter graph, or a starter package with an operator and a test. What is written runs as it is.

The texts in starter/ are the first thing somebody reads, so they say what to change; `@name@` stands for the name. Tests run both.
"""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path

from engine import registry
from engine.cli import report
from engine.errors import UsageError, writing


def new(name: str, *, operator: bool) -> None:
    """Write the files. Raises UsageError for a name that cannot be one, or where something is there already."""
    path = Path(name.removesuffix(".toml"))
    if not re.fullmatch(r"[A-Za-z_][\w-]*", path.name):
        raise UsageError(f"not a name: {path.name!r}", fix="take letters, digits, - and _")
    if operator:
        _package(path)
    else:
        _graph(path.with_name(f"{path.name}.toml"))


def _graph(file: Path) -> None:
    _write({file: "graph.txt"}, name=file.stem, file=file.as_posix())
    report.tell(f"{file} is written; try: engine run {file}")


def _package(folder: Path) -> None:
    name = folder.name.lower().replace("-", "_")
    if name in registry.families() or keyword.iskeyword(name):
        raise UsageError(f"the name {name!r} is taken", fix="take another one")
    parts = {"pyproject.toml": "project.txt", f"{name}/__init__.py": "operator.txt", f"tests/test_{name}.py": "test.txt",
             "example.toml": "example.txt"}  # fmt: skip
    _write({folder / part: text for part, text in parts.items()}, name=name, dashed=name.replace("_", "-"))
    report.tell(f"{folder.as_posix()}/ is written: an operator {name}.tint, its test, and a graph that uses it")
    report.tell(f"try: cd {folder}, pytest, pip install -e ., engine run example.toml")


def _write(files: dict[Path, str], **words: str) -> None:
    """Write starter texts to files, with the words filled in; all or none where something is in the way."""
    there = [str(path) for path in files if path.exists()]
    if there:
        raise UsageError(f"{', '.join(there)} exists already", fix="take another name, or remove it first")
    for path, starter in files.items():
        text = resources.files("engine.cli").joinpath("starter", starter).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        with writing(path, "go to a folder you may write to"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
