"""One model is loaded at a time in a process.

Loaders of diffusers and accelerate build empty modules by replacing, for a moment and for every thread, how torch makes parameters, and
diffusers and transformers put other modules in their place while they are imported. Two lanes that load at once therefore disturb each
other: parameters without data, modules without contents. Whoever makes modules of torch does it inside `LOADING`.

It knows nothing of models.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

LOADING = threading.RLock()
"""Held while modules are made and filled; the same thread may take it again."""


def library(name: str) -> Any:
    """The package `name`, imported whole: a lane that waits for another's import is handed the module that was there before the swap."""
    with LOADING:
        importlib.import_module(name)
        return sys.modules[name]
