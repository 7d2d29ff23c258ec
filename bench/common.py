"""What every bench shares: arguments, interleaved rounds, the machine's facts, results as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("afterimage-engine", "av", "diffusers", "numpy", "pyzmq", "torch", "transformers")


def arguments(doc: str, **more: Any) -> argparse.Namespace:
    """`--json FILE`, `--rounds N`, and one option for each keyword, with its default."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=5, help="how often every variant is measured")
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """Processor, cores, load, Python and package versions."""
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu, "cores": os.cpu_count(), "load": load, "python": platform.python_version(), "system": platform.system(),
        "versions": versions,
    }  # fmt: skip


def rounds(variants: Mapping[str, Callable[[], Any]], count: int) -> dict[str, list[Any]]:
    """Measure every variant once a round, in turn, so that a change of the machine's load meets all of them."""
    results: dict[str, list[Any]] = {name: [] for name in variants}
    for _ in range(count):
        for name, measure in variants.items():
            results[name].append(measure())
    return results


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU time of the whole process and wall time of one call, in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def median(values: list[float]) -> float:
    return statistics.median(values)


def write(path: Path, name: str, result: dict[str, Any]) -> None:
    """The result with the machine's facts, as a file."""
    full = {"bench": name, "date": time.strftime("%Y-%m-%d"), "machine": machine(), **result}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")


def report(args: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """Print the result and write it with the machine's facts."""
    print(json.dumps(result, indent=2))
    if args.json:
        write(args.json, name, result)
