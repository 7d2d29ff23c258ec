"""What the pages of the C and JavaScript clients show compiles and is correct."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import others


def blocks(page: str, language: str) -> list[str]:
    text = (others.ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_c_of_the_page_compiles(tmp_path: Path) -> None:
    program, control = blocks("docs/c-client.md", "c")
    source = tmp_path / "page.c"
    change = f"static void change(void) {{\n{control}}}\n\n"
    source.write_text(program.replace("int main(void) {", change + "int main(void) {\n    if (0) change();"))
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{others.C}"]
    done = subprocess.run([others.compiler(), *flags, str(source), "-o", str(tmp_path / "page"), "-lzmq"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_javascript_of_the_pages_parses_and_names_what_there_is(tmp_path: Path) -> None:
    node = others.node()
    shown = blocks("docs/javascript-client.md", "js") + blocks("bindings/javascript/README.md", "js")
    for number, block in enumerate(shown):
        source = tmp_path / f"block{number}.mjs"
        source.write_text(block)
        done = subprocess.run([node, "--check", str(source)], capture_output=True, text=True)
        assert done.returncode == 0, (block, done.stderr)
    sources = "".join(path.read_text("utf-8") for path in (others.JAVASCRIPT / "src").glob("*.js"))
    used = {name for block in shown for name in re.findall(r"\b(?:control|preview|frame|receipt)\.(\w+)", block)}
    assert {"set", "ramp", "ready", "array", "lost", "accepted", "done"} <= used
    assert [name for name in used if not re.search(rf"^\s+(?:async |get |this\.)?\*?{name}\b", sources, re.M)] == []
