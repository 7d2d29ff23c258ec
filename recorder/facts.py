"""What a recording says of the run before its first frame: versions, machine, plan; and what file a source reads.

Plain facts, gathered once. Nothing heavy is imported for them: versions come from the installed packages' metadata.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine import registry

if TYPE_CHECKING:
    from engine.plan import Plan
    from engine.session import Session

LIBRARIES = ("numpy", "torch", "diffusers", "transformers", "tokenizers", "av", "opencv-contrib-python", "mediapipe", "onnxruntime")
WHOLE = 1 << 28  # files up to this size are hashed whole, longer ones at their ends and at PLACES between them
PLACES, PIECE = 64, 1 << 20


def versions() -> dict[str, str]:
    """The engine and the libraries that compute: name to version."""
    found = {"engine": engine.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What results may depend on besides versions."""
    torch = sys.modules.get("torch")
    found: dict[str, Any] = {"system": platform.system(), "arch": platform.machine()}
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["cpu"] = str(torch.backends.cpu.get_cpu_capability())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def session_facts(session: Session, *, graph: str = "", files: dict[str, str] | None = None, sets: Iterable[str] = ()) -> dict[str, Any]:
    """The first message of a recording. `files`: name to text of the graph and what it includes."""
    plan = session.plan
    devices = {lane.device.name for lane in session.lanes.values() if not lane.nodes[0].spec.source}
    return {
        "format": 1, "segment": 0, "versions": versions(), "machine": machine(), "device": next(iter(sorted(devices - {"cpu"})), "cpu"),
        "executor": session.executor, "plan_hash": plan.hash, "plan": plan.to_dict(), "operators": operator_versions(plan),
        "graph": graph, "files": files or {}, "sets": list(sets), "seed": plan.seed, "clock": plan.clock,
    }  # fmt: skip


def operator_versions(plan: Plan) -> dict[str, int]:
    """Operator to its version, for all that a plan names."""
    return {node.op: spec.version for node in plan.nodes if (spec := registry.get(node.op)) is not None}


# ---------------------------------------------------------------- files that sources read


def file_of(url: str) -> Path | None:
    """The file or folder that a stream's address names; None for what cannot be read a second time."""
    if not url or "://" in url:
        return None
    path = Path(url)
    try:
        return path if path.is_file() or path.is_dir() else None
    except OSError:
        return None


def file_facts(path: Path) -> dict[str, Any]:
    """Where a source's file is, and what is in it. A folder is its pictures' names and contents together. Raises OSError."""
    found = path.stat()
    facts: dict[str, Any] = {"path": str(path), "absolute": os.path.abspath(path), "mtime": found.st_mtime_ns}
    if path.is_file():
        return facts | {"size": found.st_size, "hash": file_hash(path), "hashed": "whole" if found.st_size <= WHOLE else "sampled"}
    made, size = hashlib.blake2b(digest_size=16), 0
    for part in sorted(p for p in path.iterdir() if p.is_file()):
        made.update(f"{part.name}:{file_hash(part)};".encode())
        size += part.stat().st_size
    return facts | {"size": size, "hash": made.hexdigest(), "hashed": "folder"}


def file_hash(path: Path) -> str:
    """BLAKE2b-128 of a file and its size; of a file beyond WHOLE bytes, of its ends and PLACES pieces between them."""
    size = path.stat().st_size
    made = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE:
            while piece := file.read(PIECE):
                made.update(piece)
        else:
            for n in range(PLACES + 1):
                file.seek((size - PIECE) * n // PLACES)
                made.update(file.read(PIECE))
    return made.hexdigest()
