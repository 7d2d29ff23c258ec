"""Libraries are imported by lanes, several at once: a package whole before any one of its modules.

A lane that asks for `av.video.reformatter` while another is in the middle of `import av` holds the module that the other one needs and needs
one that the other one holds; Python ends that with a `_DeadlockError`, or with half a module. Libraries of models have a lock of their own
(operators/models/loading.py).
"""

from __future__ import annotations

import ast
from pathlib import Path

import operators.media

ROOT = Path(operators.media.__file__).parents[1]
PACKAGES = ("av", "mediapipe")  # import their modules in a circle


def parts_first(source: str) -> list[int]:
    """Lines that import a module of one of PACKAGES where the function has not imported the package before."""
    found = []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        imports = sorted((n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)), key=lambda n: n.lineno)
        whole: set[str] = set()
        for node in imports:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            whole |= {name for name in names if name in PACKAGES}
            found += [node.lineno for name in names if "." in name and name.split(".")[0] in PACKAGES and name.split(".")[0] not in whole]
    return found


def test_the_check_sees_a_part_that_comes_first() -> None:
    assert parts_first("def f():\n    from av.video.reformatter import VideoReformatter\n    import av") == [2]
    assert parts_first("def f():\n    import av.codec") == [2]
    assert not parts_first("def f():\n    import av\n    from av.video.reformatter import VideoReformatter")


def test_a_package_is_imported_before_its_modules() -> None:
    found = {path.relative_to(ROOT).as_posix(): parts_first(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
    assert len(found) > 100
    assert not {path: lines for path, lines in found.items() if lines}
