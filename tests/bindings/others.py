"""Programs in other languages for the tests: the C probe built, the JavaScript packages installed; or why not, as a skip."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bindings.golden.make import framed as framed
from bindings.golden.make import unframed as unframed

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "bindings/golden"
JAVASCRIPT = ROOT / "bindings/javascript"
C = ROOT / "bindings/c"
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def golden() -> dict[str, Any]:
    return json.loads((GOLDEN / "index.json").read_text("utf-8"))


@functools.cache
def _built() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="afterimage-c-")


@functools.cache
def compiler() -> str:
    """A C compiler that finds libzmq. Skips where there is none."""
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None or sys.platform == "win32":
        pytest.skip("no C compiler")
    source = Path(_built().name) / "have.c"
    source.write_text("#include <zmq.h>\nint main(void) { return zmq_ctx_new() == 0; }\n")
    if subprocess.run([found, str(source), "-o", str(source.with_suffix("")), "-lzmq"], capture_output=True).returncode:
        pytest.skip("libzmq has no header here (libzmq3-dev)")
    return found


def build(source: Path, name: str, *flags: str) -> Path:
    """The program of a C file; fails with the compiler's words where it does not compile."""
    out = Path(_built().name) / name
    if not out.exists():
        done = subprocess.run([compiler(), *flags, str(source), "-o", str(out), "-lzmq"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
    return out


def sanitized() -> bool:
    source = Path(_built().name) / "none.c"
    source.write_text("int main(void) { return 0; }\n")
    out = source.with_suffix("")
    made = subprocess.run([compiler(), *SANITIZE, str(source), "-o", str(out)], capture_output=True)
    return made.returncode == 0 and subprocess.run([str(out)], capture_output=True).returncode == 0


@functools.cache
def probe() -> Path:
    """bindings/c/tests/probe.c, with every warning an error, and with sanitizers where the compiler has them."""
    return build(C / "tests/probe.c", "probe", *WARNINGS, *(SANITIZE if sanitized() else ["-O1"]))


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@functools.cache
def node() -> str:
    """Node, with the client's packages beside it. Skips where one is missing."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"node {version} is older than 20")
    if not (JAVASCRIPT / "node_modules/zeromq/package.json").exists():
        pytest.skip("the client's packages are not installed: `make packages`")
    return found
