"""Lines of code per folder, and the files that have grown too long. Fails when one has."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

LIMIT = 420
ROOT = Path(__file__).resolve().parent.parent


def code_lines(text: str) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    lines = {i for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or node.body[0].lineno) + 1))
    return len(lines)


def main() -> int:
    rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
    long = []
    for top in ("engine", "operators", "remote", "bindings", "tests", "bench"):
        for path in sorted((ROOT / top).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            total = text.count("\n")
            folder = path.relative_to(ROOT).parent.as_posix()
            rows[folder if top in ("engine", "operators", "remote") else top].append((total, code_lines(text)))
            if total > LIMIT and top in ("engine", "operators", "remote"):
                long.append(f"{path.relative_to(ROOT)}: {total} lines, at most {LIMIT}")
    print(f"{'folder':30} {'files':>6} {'lines':>7} {'code':>7}")
    for folder, sizes in sorted(rows.items()):
        print(f"{folder:30} {len(sizes):6d} {sum(a for a, _ in sizes):7d} {sum(b for _, b in sizes):7d}")
    print(*long, sep="\n")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
