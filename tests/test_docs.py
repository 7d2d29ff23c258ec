"""What the documentation shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from engine.payload import Image
from engine.planning.compile import compile
from engine.testing import Bench
from engine.text.load import loads

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def shown() -> None:
    """The operators of docs/writing-operators.md, registered by running the page's own code."""
    code = blocks("docs/writing-operators.md", "python")
    namespace: dict[str, object] = {}
    exec("from typing import NamedTuple\nfrom engine import Operator\nfrom engine.site import Site\nfrom engine.payload import *", namespace)
    for block in code:
        if "@operator(" in block:
            exec(compile_source(block), namespace)


def compile_source(block: str):
    import builtins

    return builtins.compile(block, "docs/writing-operators.md", "exec")


@pytest.mark.usefixtures("shown")
def test_the_ten_line_operator_posterizes():
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    with Bench("mine.posterize", levels=2) as bench:
        assert set(np.unique(bench(Image(picture)).data)) == {0, 255}
        bench.set(levels=5)
        assert len(np.unique(bench(Image(picture)).data)) == 5


@pytest.mark.usefixtures("shown")
def test_the_operator_with_a_life_averages_and_forgets_at_a_new_epoch():
    black, white = (np.full((8, 8, 3), value, np.uint8) for value in (0, 255))
    with Bench("mine.average", keep=0.5) as bench:
        bench(Image(black))
        assert int(bench(Image(white)).data[0, 0, 0]) == 128
        bench.new_epoch()
        assert int(bench(Image(white)).data[0, 0, 0]) == 255


def test_the_readme_shows_the_operator_of_the_guide():
    assert blocks("README.md", "python")[0] == blocks("docs/writing-operators.md", "python")[0]


def test_the_graph_in_the_readme_compiles():
    graph = loads(blocks("README.md", "toml")[0], file="README.md")
    assert compile(graph).name == "live"


def test_the_python_in_the_readme_names_what_exists():
    code = blocks("README.md", "python")[1]
    for module, name in re.findall(r"from (engine\.\w+) import (\w+)", code):
        assert hasattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
