"""The memory table of a report: like beside like, and nothing claimed that was not measured."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from remote.report.page import _memory

PLAN: dict[str, Any] = {
    "budget_mb": 6442, "planned_mb": 4777, "measured_mb": 4600, "fits": True, "expected_mb": 4148, "tensors_mb": 4100, "ratio": 1.012,
    "reserve_mb": 629, "activations_mb": 104, "pools_mb": 90, "kept": {"paint.attention": 200}, "spared": {"paint": "tiling"},
    "models": {
        "paint.unet": {"mb": 1719, "card_mb": 862, "how": "fp8"}, "paint.text": {"mb": 246, "card_mb": 0, "how": "offload"},
        "refine.vlm": {"mb": 4400, "card_mb": 0, "how": "host"},
    },
}  # fmt: skip


def rows(plan: dict[str, Any] | None) -> dict[str, list[str]]:
    html = _memory(SimpleNamespace(memory=plan), SimpleNamespace(seconds=lambda at: at / 1e9), SimpleNamespace(memory=[]))  # type: ignore[arg-type]
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.S)]
    return {row[0]: row[1:] for row in found if row}


def test_planned_beside_measured() -> None:
    table = rows(PLAN)
    assert table["paint.unet"] == ["1719", "862", "fp8"]
    assert table["activations"] == ["", "104", "paint: tiling"]
    assert table["room for what is moved in, one at a time"][1] == str(4148 - 104 - 862 - 200)
    assert table["paint.attention"] == ["", "200", "from frame to frame"]
    assert table["captured steps, at most"][1:] == ["90", "beside that"]
    assert table["weights and activations, planned"][1] == "4148"
    assert table["tensors, measured"][1:] == ["4100", "planned is 1.01 of it"]
    assert table["with what is kept back, planned"][1:] == ["4777", "of 6442 MB"]
    assert table["held by the allocator, measured"][1] == "4600"


@pytest.mark.parametrize("plan", [{**PLAN, "measured_mb": None, "tensors_mb": None, "ratio": None}])
def test_without_a_card_nothing_is_claimed(plan: dict[str, Any]) -> None:
    table = rows(plan)
    for name in ("tensors, measured", "held by the allocator, measured"):
        assert table[name][1:] == ["—", "not measured: no card"]
    assert rows(None) == {}
