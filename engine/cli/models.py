"""`engine models`: what there is, fetched when asked, checked whole. The catalogue and the work are in operators.models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from engine.cli import report

MODELS = "operators.models"
BROKEN = 3


def list_all(*, json: bool) -> None:
    """Every model of the catalogue, with its place or the command that fetches it."""
    found = report.part(MODELS).list_models()
    if json:
        report.tell(report.as_json([
            {
                **{name: getattr(m.model, name) for name in ("name", "aliases", "purpose", "licence", "source")},
                "present": m.present, "path": m.path, "bytes": m.bytes if m.present else m.model.size,
            }
            for m in found
        ]))  # fmt: skip
        return
    width = max(len(m.model.name) for m in found)
    for m in found:
        size = report.size(m.bytes or m.model.size) if m.bytes or m.model.size else "ships"
        text = f"{'●' if m.present else '○'} {m.model.name:{width}}  {size:>7}  {m.model.purpose} ({m.model.licence})"
        report.tell(text, "bold" if m.present else "")
        report.tell(f"    {m.path if m.present else remedy(m.model)}", "dim")
    report.tell(f"{sum(m.present for m in found)} of {len(found)} are on this machine; --embedded needs none but `embedded`, which ships")


def pull_name(model: Any) -> str:
    """The shortest name to pull a model by."""
    return str(min((model.name, *model.aliases), key=len))


def remedy(model: Any) -> str:
    """How to get a model that is missing."""
    if model.kind == "shipped":
        return "ships with the engine, and its files are missing: reinstall the package"
    return f"engine models pull {pull_name(model)}"


def pull(names: Sequence[str]) -> None:
    """Fetch models, one after another."""
    for name in names:
        with _Progress() as progress:
            path = report.part(MODELS).pull(name, progress.tell)
        report.tell(f"{name}: {path}")


def verify(names: Sequence[str]) -> int:
    """Check models; 3 where one is damaged."""
    models = report.part(MODELS)
    chosen = list(names) or [m.model.name for m in models.list_models() if m.present]
    bad = 0
    for name in chosen:
        verdict = models.verify(name)
        bad += not verdict.ok
        report.tell(f"{verdict.name}: {'ok' if verdict.ok else 'damaged'}, {verdict.files} file{'s' * (verdict.files != 1)} in {verdict.path}")
        for problem in verdict.problems:
            report.tell(f"  {problem}", "red")
    if not chosen:
        report.tell("no model is on this machine; engine models list says what there is")
    return BROKEN if bad else 0


def train(arguments: list[str]) -> int:
    """Hand over to the trainer of the embedded model."""
    return int(report.part("operators.train.embedded").main(arguments) or 0)


class _Progress:
    """How far a download is: a bar on a terminal, a line every tenth elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._said: tuple[str, int] = ("", -1)
        if sys.stderr.isatty():
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=report.console(sys.stderr)
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, what: str, done: int, total: int | None) -> None:
        """What is being fetched, bytes done, and bytes in all where known."""
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(what, total=total)
            self._bar.update(self._task, description=what, completed=done, total=total)
            return
        tenth = int(10 * done / total) if total else 0
        if (what, tenth) != self._said:
            self._said = (what, tenth)
            report.say(f"{what}: {report.size(done)}" + (f" of {report.size(total)}" if total else ""))
