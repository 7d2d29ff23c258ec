"""`engine keys`: a CURVE key pair for control sockets and published streams. It knows files and no sockets."""

from __future__ import annotations

import re
from pathlib import Path

from engine.cli.report import tell
from engine.errors import UsageError, writing


def keys(name: str, folder: Path) -> None:
    """Write NAME.key and NAME.key_secret into `folder`. Never replaces a key. Raises UsageError and MediaError."""
    from bindings.python import curve

    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise UsageError(f"no name for a key: {name!r}", fix="1 to 64 letters, digits, _ and -")
    try:
        with writing(f"into {folder}", ""):
            public, secret = curve.write(curve.generate(), folder, name)
    except curve.KeyProblem as error:
        raise UsageError(str(error)) from None
    tell(f"{public}  give it to the other side")
    tell(f"{secret}  keep it here", "bold")
