"""The end of a run, for people: what came in and out, what was lost and why, what each node took, where the results are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.cli import report


def show_summary(result: Mapping[str, Any]) -> None:
    """Print the summary on stdout, ending with the outputs."""
    frames, age = result["frames"], result["age_ms"]
    how = "done" if result["ok"] else "interrupted" if result["interrupted"] else "failed"
    report.tell()
    report.tell(f"{result['graph']}: {how} after {_span(result['seconds'])}", "bold green" if result["ok"] else "bold yellow")
    rate = f"   {report.number(result['fps'])} fps" if result["fps"] else ""
    rest = f" · {frames['in_flight']} given up" if frames["in_flight"] else ""
    report.tell(f"frames  {frames['in']} in · {frames['out']} out · {sum(frames['drops'].values())} dropped{rest}{rate}")
    if frames["drops"]:
        report.tell(f"drops   {report.listed(frames['drops'])}")
    if frames["out"]:
        report.tell("age ms  " + report.listed({name: float(value) for name, value in age.items()}))
    worse = {state.replace("_", " "): seconds for state, seconds in result.get("states", {}).items() if state.startswith("degraded")}
    if worse:
        report.tell("state   " + " · ".join(f"{state} for {_span(seconds)}" for state, seconds in worse.items()))
    if result["knobs"]:
        report.tell(f"knobs   {report.listed(result['knobs'])}")
    if result["events"]:
        report.tell(f"events  {report.listed(result['events'])}")
    if result["nodes"]:
        narrow = report.is_narrow()
        table = report.table("node", *(() if narrow else ("operator", "lane")), ">frames", ">ms p50", ">p95", ">seconds", ">errors")
        for name, node in result["nodes"].items():
            ms = node["ms"]
            table.add_row(
                name, *(() if narrow else (node["op"], node["lane"])), str(node["count"]), report.number(ms["p50"]), report.number(ms["p95"]),
                report.number(node["busy_s"]), str(node["errors"] or ""),
            )  # fmt: skip
        report.show(table)
        for name, node in result["nodes"].items():
            if node.get("tally"):
                report.tell(f"{name}  {report.listed(node['tally'])}")
    for output in result["outputs"]:
        report.tell(f"→ {output}{_size(output)}", "bold")
    if not result["outputs"] and frames["out"]:
        report.tell("nothing was written: no node of this graph makes a file")


def _span(seconds: float) -> str:
    return f"{report.number(seconds)} s" if seconds < 60 else report.clock(seconds)


def _size(output: str) -> str:
    try:
        path = Path(output)
        return f"  ({report.size(path.stat().st_size)})" if path.is_file() else ""
    except (OSError, ValueError):
        return ""  # an address, not a file
