"""Where things stand in a parsed TOML document; for the tests of positions."""

from __future__ import annotations

from typing import Any

from engine.text.locate import KeyPath


def paths_of(value: Any, at: KeyPath = ()) -> set[KeyPath]:
    """Every path by which something in a parsed document can be reached."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: set[KeyPath] = {at} if at else set()
    for key, item in items:
        found |= paths_of(item, (*at, key))
    return found
