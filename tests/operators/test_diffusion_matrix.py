"""Every cell of the table of families and what goes with them, against diffusers' own pipeline on the same tiny weights (1e-5, float32)."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_matrix import COLUMNS, ROWS, case, cells, table, without  # noqa: E402
from diffusion_pairs import Case, agree, differ, ours  # noqa: E402

from engine.testing import Bench  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("family", "column"), cells(), ids=lambda value: str(value))
def test_it_paints_what_diffusers_paints(family: str, column: str) -> None:
    """Equal, and not because nothing happened: without the thing the picture is another."""
    if column == "LoRA" and importlib.util.find_spec("peft") is None:
        pytest.skip("diffusers reads LoRAs through peft, which is not here")
    mine = agree(case(family, column))
    if without(column):
        differ(mine, ours(replace(case(family, column), **without(column)))[0])


@pytest.mark.parametrize("family", ROWS)
def test_the_family_is_told_by_the_checkpoint(family: str) -> None:
    made: Case = case(family, "text")
    with Bench("diffusion.stream", model=made.made.model, size=64, dtype="fp32") as bench:
        (facts,) = [facts for what, facts in bench.events if what == "model"]
    assert facts["family"] == ROWS[family].told
    assert facts["predicts"] == ("v_prediction" if family == "sd21" else "epsilon")


def test_the_table_in_the_documentation_is_this_one() -> None:
    text = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- cells: tests/operators/diffusion_matrix.py -->\n", "\n<!-- end of cells -->"
    assert begin in text
    assert text[text.index(begin) + len(begin) : text.index(end)].strip() == table().strip()


def test_every_family_of_the_operator_has_a_row() -> None:
    from operators.diffusion.weights.families import FAMILIES

    assert set(ROWS) == set(FAMILIES)
    assert len(cells()) >= len(ROWS) * (len(COLUMNS) - 1)
