"""What a folder serves: its serve.toml, or every graph file in it.

    [serve]
    status = "127.0.0.1:8070"          # the status page
    logs   = "logs"                    # a file for each stream

    [stream.door]
    graph  = "door.toml"               # a file of the folder, or a graph that ships
    set    = ["camera.url=rtsp://${ENV:CAMERA}/1"]
    gpu    = "0"                       # CUDA_VISIBLE_DEVICES; "" is none

It reads and checks, and starts nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import Diagnostic, GraphError, UsageError

FILE = "serve.toml"
NAME = r"^[A-Za-z0-9_-]{1,64}$"
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Health(_Strict):
    """When a stream that runs counts as ill. `start_s`: until the first frame; `answer_s`: without a sign of life; `silent_s`: without a new
    frame though the input is there; `input_s`: without one because the input is gone (0: for ever, the engine connects again by itself)."""

    start_s: Seconds = 300.0
    answer_s: Seconds = 15.0
    silent_s: Seconds = 30.0
    input_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0


class Restart(_Strict):
    """When to start again. The pause doubles from `first_s` to `most_s` with every failure in a row, each with up to a quarter more or less.
    `breaker` failures within `window_s`, and the stream rests for `rest_s`; then it has one try. `steady_s` of frames and all is forgotten."""

    when: Literal["always", "on-failure", "never"] = "on-failure"
    first_s: Seconds = 1.0
    most_s: Seconds = 60.0
    breaker: Annotated[int, Field(ge=1, le=1000)] = 5
    window_s: Seconds = 300.0
    rest_s: Seconds = 300.0
    steady_s: Seconds = 60.0


class Stream(_Strict):
    """One engine process. `set`, `param`, `embedded` and `options` are those of `engine run`; `env` is added to its environment."""

    graph: str
    set: list[str] = []
    param: list[str] = []
    embedded: bool = False
    options: list[str] = []
    gpu: str | None = None
    env: dict[str, str] = {}
    control: str = "tcp://127.0.0.1:*"
    drain_s: Seconds = 15.0
    health: Health = Health()
    restart: Restart = Restart()

    def environment(self) -> dict[str, str]:
        """What is added to the environment."""
        return {**({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu is not None else {}), **self.env}


class Serve(_Strict):
    """What holds for all streams. `spacing_s`: between two starts on one GPU, so that many that died together do not come back together."""

    status: str = "127.0.0.1:8070"
    logs: str = "logs"
    log_mb: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    spacing_s: Annotated[float, Field(ge=0, le=3600)] = 1.0


class Folder(_Strict):
    """A whole serve.toml."""

    serve: Serve = Serve()
    stream: dict[Annotated[str, Field(pattern=NAME)], Stream] = {}


def read(folder: Path) -> Folder:
    """What `folder` serves. Raises UsageError, and GraphError with every problem of serve.toml."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", fix="name a folder with graphs in it, or with a serve.toml")
    file = folder / FILE
    if not file.exists():
        streams = {path.stem: Stream(graph=path.name) for path in sorted(folder.glob("*.toml")) if _is_graph(path)}
        if not streams:
            raise UsageError(f"there is no graph in {folder}", fix="put graph files there, or a serve.toml that names some")
        return Folder(stream=streams)
    try:
        found = Folder.model_validate(_filled(tomllib.loads(file.read_text(encoding="utf-8"))))
    except tomllib.TOMLDecodeError as error:
        raise GraphError([Diagnostic(str(error), str(file))]) from None
    except ValidationError as error:
        raise GraphError(_problem(file, item) for item in error.errors()) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not found.stream:
        raise UsageError(f"{file} names no stream", fix='add [stream.NAME] with graph = "FILE.toml"')
    return found


def _problem(file: Path, item: Mapping[str, Any]) -> Diagnostic:
    path = ".".join(str(part) for part in item["loc"] if part != "[key]")
    known = {"extra_forbidden": "there is no such key"}
    return Diagnostic(known.get(item["type"], item["msg"]), str(file), path=path, found=repr(item.get("input"))[:80])


def _filled(table: dict[str, Any]) -> dict[str, Any]:
    """TOML's 30 is a number of seconds too."""
    for stream in [s for s in (table.get("stream") or {}).values() if isinstance(s, dict)] if isinstance(table.get("stream"), dict) else []:
        for part in (stream, stream.get("health"), stream.get("restart")):
            _floats(part)
    _floats(table.get("serve"))
    return table


def _floats(table: Any) -> None:
    for key, value in list(table.items()) if isinstance(table, dict) else ():
        if key.endswith(("_s", "_mb")) and type(value) is int:
            table[key] = float(value)


def _is_graph(path: Path) -> bool:
    """Whether a file of the folder is meant to be run. One that cannot be read may be: left out in silence, nobody would miss it in time."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True
    return "include" in table or (isinstance(table.get("node"), dict) and isinstance(table.get("graph"), dict))
