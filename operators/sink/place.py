"""Where a sink may write: suffix, folder, rights and overwriting, checked before the first frame costs anything.

Invariant: nothing is created or truncated here except one missing folder. It knows paths, no formats.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import MediaError, UsageError
from operators.media.urls import local_path, same_file

if TYPE_CHECKING:
    from engine.site import Site

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def check_output(url: str, suffixes: tuple[str, ...], overwrite: bool, site: Site) -> Path:
    """The path that `url` names, ready to be written. Raises UsageError or MediaError naming the folder and what to do."""
    no_scheme(url, "sink.video", "give a file ending in " + ", ".join(suffixes))
    path = local_path(url)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        near = difflib.get_close_matches(suffix, suffixes, n=1)
        hint = f'did you mean "{near[0]}"?' if near else "use " + ", ".join(suffixes)
        raise UsageError(f'{url}: no container is written for the suffix "{suffix}"', fix=hint)
    ensure_folder(path.parent, site)
    if path.is_dir():
        raise UsageError(f"{url} is a folder", fix="name a file in it")
    if path.exists():
        if not overwrite:
            raise UsageError(f"{url} exists already", fix="set overwrite = true, or choose another name")
        if not os.access(path, os.W_OK):
            raise MediaError(f"{url} exists and may not be written", fix="choose another name or change its rights")
    return path


def no_scheme(url: str, sink: str, fix: str = "give a path") -> None:
    """Refuse a network address where only files are written."""
    if _SCHEME.match(url):
        raise UsageError(f"{sink} writes files, it does not send to {url.partition('://')[0]}:// addresses: {url}", fix=fix)


def ensure_folder(folder: Path, site: Site) -> None:
    """`folder`, made where only its last part is missing; a longer missing way is more likely a typing error."""
    if not folder.exists():
        if not folder.parent.is_dir():
            raise MediaError(f"the folder {folder} does not exist, nor does {folder.parent}", fix=f"create it: mkdir -p {folder}")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise MediaError(f"the folder {folder} cannot be made: {error.strerror}", fix="write to another folder") from error
        site.event("folder", made=str(folder))
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder", fix="write to another folder")
    if not os.access(folder, os.W_OK):
        raise MediaError(f"the folder {folder} may not be written", fix="write to another folder or change its rights")


def refuse_input(path: Path, source: str) -> None:
    """Writing over the file that is being read would destroy it."""
    if same_file(str(path), source):
        raise UsageError(f"{path} is the video that is being read", fix="write to another name")
