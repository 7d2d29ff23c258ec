"""`engine replay`: runs a recording again and says whether the same came out. The work is recorder's; here it is read and printed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli import report
from engine.errors import UsageError

if TYPE_CHECKING:
    from recorder.replay import Outcome
    from recorder.tape import Tape


def replay(
    file: Path, *, begin: int, until: int | None, wanted: Sequence[str], rerun: Sequence[str], out: Path | None, device: str | None,
    tolerance: float | None, json: bool,
) -> int:  # fmt: skip
    """Replay and report; the exit code. Raises what recorder.replay raises."""
    from engine.cli.run import known_device
    from recorder import replay as verb
    from recorder.tape import read

    device = known_device(device)
    if until is not None and until < begin:
        raise UsageError(f"--until {until} comes before --from {begin}")
    tape = read(file)
    wish = verb.Wish(
        begin=begin, until=until, wanted=_values(tape, wanted), rerun=tuple(rerun), out=_folder(out), device=device,
        tolerance=verb.TOLERANCE if tolerance is None else tolerance,
    )  # fmt: skip
    if json:
        with report.stdout_kept() as write:
            outcome = verb.replay(tape, wish)
            write(report.as_json({"file": str(file), **_about(tape), **outcome.to_dict()}))
        return outcome.exit_code
    about = _about(tape)
    report.say(f"{file}: {about['graph']}, plan {about['plan'][:12]}, recorded {about['recorded']} by engine {about['engine']}")
    outcome = verb.replay(tape, wish)
    _show(outcome, wish.tolerance)
    return outcome.exit_code


def _about(tape: Tape) -> dict[str, Any]:
    facts = tape.facts
    when = datetime.fromtimestamp(facts["began"] / 1e9, UTC).isoformat(sep=" ", timespec="seconds")
    return {
        "graph": facts["plan"]["name"], "plan": facts["plan_hash"], "recorded": when, "engine": facts["versions"].get("engine", "?"),
        "whole": tape.whole, "last": tape.last,
    }  # fmt: skip


def _values(tape: Tape, texts: Sequence[str]) -> dict[str, Any]:
    """`node.param=value`, read as `--set` reads it."""
    from engine.text.load import _takes_text, value_of

    ops = {node["name"]: node["op"] for node in tape.facts["plan"]["nodes"]}
    found = {}
    for text in texts:
        path, equals, raw = text.partition("=")
        path = path.strip()
        if not equals or not path:
            raise UsageError(f"not a change: {text!r}", fix="write --with NODE.PARAM=VALUE, such as paint.steps=4")
        name, _, param = path.partition(".")
        value = value_of(raw)
        takes_text = not isinstance(value, str) and name in ops and _takes_text({"op": ops[name]}, param)
        found[path] = raw.strip() if takes_text else value
    return found


def _folder(out: Path | None) -> Path | None:
    """`out`, made, and empty: what was recorded is never written over."""
    if out is None:
        return None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: there is something already", fix="name a folder that is new or empty")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}") from error
    return out


def _show(outcome: Outcome, tolerance: float) -> None:
    for name, (then, now) in outcome.differs.items():
        report.say(f"  {name}: recorded with {_said(then)}, here {_said(now)}", "yellow")
    for note in outcome.notes:
        report.say(f"  note: {note}")
    if outcome.began:
        report.say(f"  from the snapshot at frame {outcome.began}")
    for name, seen in outcome.sinks.items():
        parts = [f"{seen.identical} frames identical"]
        counted = (("differ", seen.different), ("missing", seen.missing), ("too many", seen.extra))
        parts += [f"{count} {what}" for what, count in counted if count]
        parts += [f"{seen.unchecked} without a digest"] if seen.unchecked else []
        if seen.first is not None:
            parts.append(f"first at frame {seen.first}: {seen.why}")
        if seen.measured:
            parts.append(f"largest deviation {seen.largest:g}, mean at most {seen.mean:.4g} (over {seen.measured} kept frames)")
        report.tell(f"{name}: " + ", ".join(parts))
    for path in outcome.outputs:
        report.tell(f"wrote {path}")
    said = {
        "identical": "identical: the sinks got what they got when it was recorded",
        "within tolerance": f"within tolerance: another device or version, and no mean deviation above {tolerance:g}",
        "different": "different: the sinks got something else",
        "as asked": "this is what would have happened",
    }[outcome.verdict]
    if outcome.verdict == "identical" and not any(seen.identical for seen in outcome.sinks.values()):
        said = "nothing was compared: no frame of a sink is in the recording"
    report.tell(f"{said} ({outcome.frames} source frames)", "green" if outcome.exit_code == 0 else "bold red")


def _said(value: Any) -> str:
    return "none" if value is None else str(value)
