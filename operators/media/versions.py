"""What differs between the versions of PyAV that the engine runs on."""

from __future__ import annotations

from typing import Any


def lenient() -> dict[str, Any]:
    """Arguments to `av.open` with which metadata that is no UTF-8 does not stop a file from opening: PyAV 18 must be asked, 19 never minds."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
