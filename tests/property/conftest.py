"""What all random tests of the runtime want."""

from __future__ import annotations

import pytest

from engine.run import threads


@pytest.fixture(autouse=True)
def _quick_to_find_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STALL_S", 3.0)
