"""What the tests of the command line share: a family of test operators that the real command finds, and ways to call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = [sys.executable, "-c", "import sys; from engine.cli import main; sys.exit(main())"]

CHAIN = """
[graph]
name = "chain"
clock = "offline"
[node.count]
op = "clitest.count"
[node.chat]
op = "clitest.chat"
in.image = "count"
[node.fail]
op = "clitest.fail"
at = -1
in.image = "chat"
[node.file]
op = "sink.video"
url = "out/chain.mp4"
in.image = "fail"
"""


def write_graph(folder: Path, text: str = CHAIN, name: str = "chain.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def register(folder: Path) -> dict[str, str]:
    """An environment in which the family `clitest` is installed: a distribution's metadata in `folder`, found through PYTHONPATH."""
    info = folder / "clitest-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clitest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[afterimage.operators]\nclitest = cli_operators\n")
    paths = [str(folder), str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**clean, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def run_engine(arguments: list[str], env: dict[str, str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, **options)


def balanced(summary: dict[str, Any]) -> bool:
    frames = summary["frames"]
    return bool(frames["in"] == frames["out"] + frames["in_flight"] + sum(frames["drops"].values()))


def one_object(text: str) -> dict[str, Any]:
    """The one JSON object that `text` is; fails where there is anything else."""
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def decoded(path: Path) -> int:
    """How many pictures of a video can be decoded."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def call(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Done:
    """Run the command within this process, where the test operators are registered by their import."""
    import cli_operators  # noqa: F401

    from engine.cli import main

    capsys.readouterr()
    code = main(list(arguments))
    said = capsys.readouterr()
    return Done(code, said.out, said.err)
