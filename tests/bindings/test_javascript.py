"""The JavaScript client: its own tests under Node, its types, and what the package says of itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import others
import pytest


@pytest.mark.parametrize("suite", ["wire", "subscriber", "control"])
def test_its_own_tests_pass(suite: str) -> None:
    command = [others.node(), "--test", "--test-timeout=20000", f"test/{suite}.test.js"]
    done = subprocess.run(command, cwd=others.JAVASCRIPT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "# fail 0" in done.stdout or "fail 0" in done.stdout


@pytest.mark.slow
def test_sources_examples_and_a_typed_program_are_correctly_typed_and_the_declarations_are_theirs(tmp_path: Path) -> None:
    node, compiler = others.node(), others.JAVASCRIPT / "node_modules/typescript/bin/tsc"
    if not compiler.exists():
        pytest.skip("no TypeScript in node_modules")
    emit = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--stripInternal", "--outDir", str(tmp_path)]
    command = [node, str(compiler), "-p", "tsconfig.json", *emit]
    done = subprocess.run(command, cwd=others.JAVASCRIPT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    made = {path.name: path.read_text("utf-8") for path in (tmp_path / "src").glob("*.d.ts")}
    kept = {path.name: path.read_text("utf-8") for path in (others.JAVASCRIPT / "types").glob("*.d.ts")}
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == [], "run `npm run types`"


def test_the_package_says_what_it_is_and_ships_what_it_needs() -> None:
    package = json.loads((others.JAVASCRIPT / "package.json").read_text("utf-8"))
    assert (package["name"], package["license"], package["type"]) == ("afterimage-client", "Apache-2.0", "module")
    assert set(package["dependencies"]) == {"zeromq", "@msgpack/msgpack"}
    for entry in package["exports"].values():
        assert all((others.JAVASCRIPT / path).is_file() for path in entry.values())
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm")
    listed = subprocess.run([npm, "pack", "--dry-run", "--json"], cwd=others.JAVASCRIPT, capture_output=True, text=True, timeout=60)
    names = {entry["path"] for entry in json.loads(listed.stdout)[0]["files"]}
    assert {"README.md", "src/index.js", "src/worker.js", "src/browser.js", "types/index.d.ts", "types/browser.d.ts"} <= names
    assert not any(name.startswith("test/") for name in names)


def test_the_browser_side_loads_without_a_build() -> None:
    """Only relative imports, of files that need nothing else."""
    todo, seen = ["browser.js"], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        text = (others.JAVASCRIPT / "src" / name).read_text("utf-8")
        for found in re.findall(r'^(?:import|export) .* from "([^"]+)"', text, re.M):
            assert found.startswith("./"), (name, found)
            if found[2:] not in seen:
                todo.append(found[2:])
    assert seen == {"browser.js", "errors.js", "frame.js", "tally.js", "verbs.js", "wire.js"}
