"""Where models lie on this machine, and which of them are there.

Order of search: a path that exists, `<home>/models/<name>`, then the Hugging Face cache. `home` is `$AFTERIMAGE_HOME`, else `afterimage`
in the user's cache folder of the platform. Invariant: looking never fetches, and weights are safetensors: a folder with nothing but pickled
weights is refused, because unpickling runs whatever its author wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import MediaError, MissingError, UsageError
from operators.models.catalogue import MODELS, PICKLES, Model, is_hub_name, lookup

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format itself


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `engine models list`: the model, and where it lies (None: not on this machine)."""

    model: Model
    path: Path | None
    bytes: int = 0

    @property
    def present(self) -> bool:
        return self.path is not None


def home() -> Path:
    """The folder of this program's files: `$AFTERIMAGE_HOME`, else the platform's user cache folder with `afterimage` in it."""
    if chosen := os.environ.get("AFTERIMAGE_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "afterimage"


def place(model: Model | str) -> Path:
    """Where the model of that name belongs in `home`: a file for catalogue files, else a folder (`owner--name`)."""
    entry = lookup(model) if isinstance(model, str) else model
    folder = home() / "models"
    if entry is not None and entry.kind == "file":
        return folder / "pose" / entry.filename
    return folder / (entry.name if entry else str(model)).replace("/", "--")


def find(name: str) -> Path:
    """The file or folder of the model called `name`: a catalogue name or alias, a Hub name, or a path.

    Raises MissingError naming every place looked at and the command that fetches the model.
    """
    looked: list[str] = []
    if not name.strip():
        raise MissingError("no model is named", fix="give a name of the catalogue, a Hub name such as owner/name, or a path")
    entry = lookup(name)
    if entry is None:
        direct = Path(name).expanduser()
        if direct.exists():
            return direct
        looked.append(str(direct))
    else:
        name = entry.name
    if entry is not None and entry.kind == "shipped":
        here = Path(__file__).resolve().parents[1] / "embedded" / "weights"
        if any(here.rglob("*.safetensors")):
            return here
        looked.append(str(here))
        raise _missing(name, looked, fix="reinstall the package: its weights are not where it should have put them")
    if entry is not None or is_hub_name(name):
        own = place(entry or name)
        if own.exists():
            return own
        looked.append(str(own))
    if is_hub_name(name):
        cached = _snapshot(name)
        if cached is not None:
            return cached
        looked.append(str(hub_cache() / ("models--" + name.replace("/", "--"))))
        raise _missing(name, looked, fix=f"fetch it with: engine models pull {name}, or run with --embedded")
    if entry is not None:
        raise _missing(name, looked, fix=f"fetch it with: engine models pull {entry.aliases[0] if entry.aliases else entry.name}")
    raise _missing(name, looked, fix="give the path of a folder or file that exists, or a Hub name such as owner/name")


def hub_cache() -> Path:
    """The Hugging Face cache of this user, as its own library finds it."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    return Path(base).expanduser() / "hub"


def _snapshot(name: str) -> Path | None:
    """The newest complete snapshot of a Hub model in the cache: the one `refs/main` names, else the last written."""
    root = hub_cache() / ("models--" + name.replace("/", "--"))
    main = root / "refs" / "main"
    if main.is_file():
        named = root / "snapshots" / main.read_text(encoding="ascii").strip()
        if named.is_dir() and any(named.iterdir()):
            return named
    there = [d for d in (root / "snapshots").glob("*") if d.is_dir() and any(d.iterdir())]
    return max(there, key=lambda d: d.stat().st_mtime, default=None)


def _missing(name: str, looked: list[str], *, fix: str) -> MissingError:
    return MissingError(f"model {name!r} is not on this machine (looked in {', '.join(looked)})", fix=fix)


def list_models() -> list[ModelStatus]:
    """Every model of the catalogue, in its order, with the place it lies at."""
    found = []
    for model in MODELS:
        try:
            path = find(model.name)
        except MissingError:
            found.append(ModelStatus(model, None))
        else:
            found.append(ModelStatus(model, path, size_of(path)))
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of every file in a folder (links followed)."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- weights


def check_weights(path: Path) -> list[Path]:
    """The safetensors files of a model folder (or the file itself), each with a sound header.

    Raises UsageError where weights are only there as pickles, MissingError where there are none, MediaError where a file is damaged.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    if path.is_file() and path.suffix.lower() in PICKLES:
        raise _pickled(path)
    if not files:
        pickles = sorted(f for f in path.rglob("*") if f.suffix.lower() in PICKLES)
        if pickles:
            raise _pickled(pickles[0])
        raise MissingError(f"{path} holds no weights (*.safetensors)", fix="pull the model again")
    for file in files:
        read_header(file)
    return files


def _pickled(file: Path) -> UsageError:
    return UsageError(
        f"{file} is a pickle, and loading a pickle runs the code in it: only safetensors are read",
        fix="take the model's safetensors files, or convert it on a machine that you can spare",
    )


def read_header(file: Path) -> dict[str, dict[str, object]]:
    """The tensors of a safetensors file by name (dtype, shape, data_offsets), read from its header alone.

    Raises MediaError where the file is cut short or is no safetensors file. Format: 8 bytes little-endian length N, N bytes of JSON, data.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise MediaError(f"{file} is no safetensors file, or is cut short ({size} bytes)", fix="pull the model again")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise MediaError(f"{file} has an unreadable header: {error}", fix="pull the model again") from None
    if 8 + length + end != size:
        raise MediaError(f"{file} should have {8 + length + end} bytes and has {size}", fix="pull the model again")
    return dict(header)


def weights_bytes(name: str) -> int:
    """Bytes of the safetensors files of the model called `name` (those without a variant, where there are some); 0 where it is not here."""
    from engine.errors import EngineError

    try:
        folder = find(name)
    except EngineError:
        return 0
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    plain = [f for f in files if f.name.count(".") == 1] or files
    return sum(f.stat().st_size for f in plain)
