"""Models: which there are, where they lie, how they are fetched and how they are checked.

`find` is for operators (a folder or file, or a MissingError that says what to type); `list_models`, `pull` and `verify` stand behind
`engine models`. Nothing here runs in the hot path, and nothing is ever fetched unless somebody asked for it with `pull`.
"""

from operators.models.catalogue import MODELS, Model, lookup
from operators.models.pull import Progress, pull
from operators.models.store import ModelStatus, check_weights, find, home, list_models
from operators.models.verify import Verdict, verify

__all__ = [
    "MODELS", "Model", "ModelStatus", "Progress", "Verdict", "check_weights", "find", "home", "list_models", "lookup", "pull", "verify",
]  # fmt: skip
