"""Checks that a model on this machine is what it should be.

Files are compared with the catalogue's SHA-256. Hub snapshots are compared with the hashes under which the cache keeps them, and every
safetensors header is read. Nothing is repaired here: the verdict says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from operators.models import store
from operators.models.catalogue import lookup


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: `problems` is empty where the model is sound; `files` counts what was looked at."""

    name: str
    path: Path
    files: int
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(name: str) -> Verdict:
    """Read every file of the model called `name` and compare. Raises MissingError where it is not on this machine."""
    path = store.find(name)
    model = lookup(name)
    if model is not None and model.kind == "file":
        found = store.sha256(path)
        known = (model.sha256, *model.alike)
        problem = () if found in known else (f"{path}: sha256 {found}, expected {' or '.join(known)}; pull it again",)
        return Verdict(model.name, path, 1, problem)
    problems: list[str] = []
    files: list[Path] = []
    try:
        files = store.check_weights(path) if model is None or model.weights else []
    except EngineError as error:
        problems.append(str(error))
    for file in files:
        # The cache keeps large files under their SHA-256 and links to them, where the file system has links.
        kept = file.resolve().name
        if len(kept) == 64 and file.resolve() != file.absolute() and store.sha256(file) != kept:
            problems.append(f"{file}: the content does not fit its sha256 {kept}; delete it and pull again")
    return Verdict(model.name if model else name, path, len(files), tuple(problems))
