"""Finds operators by name.

A family is a module that registers operators when imported; families are found by entry points of the group `afterimage.operators`
(entry name = family), so third parties add theirs by installing a package. Only the families a graph names are imported.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import traceback
from importlib.metadata import entry_points

from engine.errors import EngineError, MissingError, UsageError
from engine.operator import Spec

GROUP = "afterimage.operators"

_specs: dict[str, Spec] = {}
_loaded: set[str] = set()


def add(spec: Spec) -> None:
    """Register `spec`; a second operator of the same name from another place is an error."""
    known = _specs.get(spec.name)
    if known is not None and (known.target.__module__, known.target.__qualname__) != (spec.target.__module__, spec.target.__qualname__):
        raise UsageError(f"operator {spec.name} is registered twice: {known.target.__module__} and {spec.target.__module__}")
    _specs[spec.name] = spec


@functools.cache
def families() -> dict[str, str]:
    """Family name to module, from the installed entry points."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def load_family(family: str) -> None:
    """Import the module that registers `family`; unknown families are left to the caller's did-you-mean."""
    if family in _loaded or family not in families():
        return
    _loaded.add(family)
    before = set(_specs)
    try:
        importlib.import_module(families()[family])
    except Exception as error:  # whatever a stranger's module does wrong
        _loaded.discard(family)
        for name in [n for n in _specs.keys() - before if n.rpartition(".")[0] == family]:
            del _specs[name]  # half a family is none
        raise MissingError(f"operator family {family!r} cannot be imported: {type(error).__name__}: {error}", fix=_mend(error)) from error


def _mend(error: Exception) -> str:
    """What to do about a module that does not import: install what it names, or go where it failed."""
    if isinstance(error, ModuleNotFoundError):
        return "install the package it names"
    if isinstance(error, SyntaxError):
        return f"mend {error.filename}:{error.lineno}"
    ours = (os.path.dirname(__file__), os.path.dirname(importlib.__file__), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    return f"mend {frames[-1].filename}:{frames[-1].lineno}" if frames else "mend the module that its entry point names"


def find(name: str) -> Spec:
    """The operator called `name`. Raises UsageError with the nearest names where there is none."""
    if name not in _specs:
        load_family(name.rpartition(".")[0])
    if name in _specs:
        return _specs[name]
    raise UsageError(f"no operator is called {name!r}", fix=suggest(name, all_names()))


def get(name: str) -> Spec | None:
    """Like `find`, None where there is none."""
    try:
        return find(name)
    except UsageError:
        return None


def all_names() -> list[str]:
    """Names of every registered operator; families that cannot be imported are left out."""
    for family in families():
        try:
            load_family(family)
        except EngineError:
            continue
    return sorted(_specs)


def suggest(word: str, among: list[str]) -> str:
    """`did you mean "…"?` for the nearest known words, or the list of what there is when nothing is near."""
    plain = {known.lower().replace("-", "_"): known for known in among}
    wanted = word.lower().replace("-", "_")
    near = [plain[found] for found in difflib.get_close_matches(wanted, plain, n=2, cutoff=0.6)]
    if not near and len(wanted) > 2:
        near = [known for low, known in plain.items() if wanted in low or (len(low) > 2 and low in wanted)][:2]
    if near:
        return "did you mean " + " or ".join(f'"{w}"' for w in near) + "?"
    return "there is " + ", ".join(among) if 0 < len(among) <= 12 else ""


def unknown(what: str, word: str, among: list[str]) -> str:
    """`what` is wrong with `word`, and the nearest known words where there are such."""
    near = suggest(word, among)
    return f"{what}; {near}" if near else what
