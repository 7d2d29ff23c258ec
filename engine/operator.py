"""What an operator is: a typed callable with ports and parameters, described once from its signature.

The signature is the whole declaration. Positional arguments are ports, keyword-only arguments are parameters, the return annotation is
the output; ordinary types that mypy understands, with markers in `Annotated`. A stateless operator is a function, an operator with a life
is a class:

    @operator("image.invert")
    def invert(image: Image, *, amount: Annotated[float, Live(0, 1)] = 1.0) -> Image: ...

    @operator("diffusion.stream")
    class Stream(Operator):
        def __init__(self, *, model: str, steps: Annotated[int, Knob(1, 60)] = 15) -> None: ...
        def open(self, site: Site) -> None: ...            # on its own lane: load, warm up
        def __call__(self, image: Image, carry: Latent | None, *, site...) -> Painted: ...
        def close(self) -> None: ...

`X | None` is an optional port, `list[X]` one that takes several. A NamedTuple of payloads as result names several outputs; `X | None` as
result (or as a field of it) may skip a frame. A single output is called by its type in lower case (`image`). No port and a result of
`Iterator[X]` is a source; a result of None is a sink. A function that wants its surroundings takes a keyword-only `site: Site`, which is
not a parameter.

This module describes; it runs nothing and knows no graph.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin

from engine.lifecycle import Operator as Operator  # where everybody looks for it
from engine.payload import Image, Payload

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")

NODE_KEYS = ("op", "in", "lane", "on_error", "max_errors", "trigger", "batch", "process")
"""What a graph says of any node, beside its parameters."""


# ---------------------------------------------------------------- markers


@dataclass(frozen=True, slots=True)
class Live:
    """A parameter that may change between frames, within [lo, hi] or among `choices` where given."""

    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True, slots=True)
class Knob(Live):
    """A live parameter that the governor may move too."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a parameter that is fixed at open."""

    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """How a payload's array is stored; a None field means any. The compiler plans conversions between formats.

    An Image without a Format marker is `HOST_RGB` on ports and outputs alike; `Annotated[Image, Format()]` takes any.

    `dtype`: "uint8", "float32", "float16". `layout`: "hwc" (H, W, C) or "chw" (1, C, H, W). `color`: "rgb" or "bgr".
    `device`: "cpu" for NumPy arrays on the host, "lane" for torch tensors on the lane's device.
    """

    dtype: str | None = None
    layout: str | None = None
    color: str | None = None
    device: str | None = None

    def accepts(self, other: Format) -> bool:
        """Whether a payload stored as `other` can be read by a port that asks for this format."""
        return all(
            want is None or have is None or want == have
            for want, have in zip(self.astuple(), other.astuple(), strict=True)
        )

    def onto(self, other: Format) -> Format:
        """`other` with the fields that this format fixes: the result of the conversion."""
        pairs = zip(self.astuple(), other.astuple(), strict=True)
        return Format(*(have if want is None else want for want, have in pairs))

    def astuple(self) -> tuple[str | None, str | None, str | None, str | None]:
        return (self.dtype, self.layout, self.color, self.device)

    def __str__(self) -> str:
        return " ".join(part for part in self.astuple() if part) or "any"


HOST_RGB = Format("uint8", "hwc", "rgb", "cpu")


class Stamped(NamedTuple, Generic[T]):
    """What a source may yield instead of a bare value.

    `pts`: ns on the stream's own clock, strictly rising between cuts. `born`: capture time, monotonic ns; None = now.
    `cut`: the stream is not continuous here (reconnect, seek, loop): carries and holds start afresh.
    `seq`: the frame's ordinal where it had one before it came here (another engine's); used where it rises, so that identity and random
    numbers are the same on both sides.
    """

    value: T
    pts: int | None = None
    born: int | None = None
    cut: bool = False
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a source knows of its stream; travels to the sinks (sound, size, rate, length)."""

    url: str = ""
    fps: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None  # height, width
    audio: bool = False


# ---------------------------------------------------------------- description


@dataclass(frozen=True, slots=True)
class Port:
    """A typed input. `many`: a list port; `optional`: may stay unconnected."""

    name: str
    type: type[Payload]
    optional: bool = False
    many: bool = False
    format: Format = Format()

    def __str__(self) -> str:
        name = f"list[{self.type.__name__}]" if self.many else self.type.__name__
        return f"{name} | None" if self.optional else name


@dataclass(frozen=True, slots=True)
class Output:
    """A typed output; `may_skip`: a call may leave it out."""

    name: str
    type: type[Payload]
    may_skip: bool = False
    format: Format = Format()


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: its Python annotation, default (inspect.Parameter.empty when required) and markers."""

    name: str
    annotation: Any
    default: Any
    live: bool = False
    knob: bool = False
    lo: float | None = None
    hi: float | None = None

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def kind(self) -> Any:
        """The annotation without its markers."""
        return _bare(self.annotation)


@dataclass(frozen=True)
class Spec:
    """Everything the engine knows of an operator without running it."""

    name: str
    ports: tuple[Port, ...]
    outputs: tuple[Output, ...]
    params: tuple[Param, ...]
    doc: str
    target: Callable[..., Any]
    is_class: bool
    wants_site: bool = False
    result: type | None = None  # the NamedTuple of several outputs
    source: bool = False
    inplace: str | None = None
    lane: str | None = None
    gpu: bool = False
    batches: bool = False
    version: int = 1

    @property
    def sink(self) -> bool:
        return not self.outputs

    @property
    def family(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring, on one line."""
        return " ".join(self.doc.split("\n\n")[0].split())

    def port(self, name: str) -> Port | None:
        return next((p for p in self.ports if p.name == name), None)

    def output(self, name: str) -> Output | None:
        return next((o for o in self.outputs if o.name == name), None)

    def param(self, name: str) -> Param | None:
        return next((p for p in self.params if p.name == name), None)

    def model(self) -> type[BaseModel]:
        """The validated parameter model (pydantic, strict, no unknown keys), built on first use."""
        return self._model

    @functools.cached_property
    def _model(self) -> type[BaseModel]:
        from pydantic import ConfigDict, Field, create_model

        fields: dict[str, Any] = {}
        for p in self.params:
            default = ... if p.required else p.default
            extra: Any = {"live": p.live, "knob": p.knob}
            fields[p.name] = (p.annotation, Field(default, ge=p.lo, le=p.hi, json_schema_extra=extra))
        config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), arbitrary_types_allowed=True, validate_default=True)
        return create_model(self.name, __config__=config, **fields)


def operator(
    name: str, *, inplace: str | None = None, lane: str | None = None, gpu: bool = False, version: int = 1
) -> Callable[[T], T]:
    """Register a function or an Operator subclass as `name` (`family.name`).

    `inplace`: the port whose payload the operator may write to; the compiler refuses it where somebody else still reads.
    `lane`: the lane it runs on unless the graph says otherwise ("slow" for what must never delay a frame).
    `gpu`: it computes in torch where a GPU is present; a graph without such operators never imports torch to look for one.
    `version`: bump it when the same inputs give another result.
    """

    def register(target: T) -> T:
        from engine.registry import add

        add(describe(typing.cast("Callable[..., Any]", target), name, inplace=inplace, lane=lane, gpu=gpu, version=version))
        return target

    return register


def describe(
    target: Callable[..., Any], name: str, *, inplace: str | None = None, lane: str | None = None, gpu: bool = False, version: int = 1
) -> Spec:
    """Read an operator's signature. Raises TypeError where a signature does not follow the rules above."""
    if not re.fullmatch(r"\w[\w-]*\.\w[\w-]*", name):
        raise TypeError(f"{name!r} is no name for an operator: write family.name")
    is_class = inspect.isclass(target)
    if is_class and not issubclass(typing.cast("type", target), Operator):
        raise TypeError(f"{name}: a class operator must derive from Operator")
    call = typing.cast("Any", target).__call__ if is_class else target
    ports, params, wants_site = [], [], False
    hints = typing.get_type_hints(call, include_extras=True)
    for arg in _arguments(call, skip_self=is_class):
        hint = hints.get(arg.name, Any)
        if arg.kind is arg.KEYWORD_ONLY:
            if _bare(hint).__name__ == "Site" if inspect.isclass(_bare(hint)) else arg.name == "site":
                wants_site = True
            elif is_class:
                raise TypeError(f"{name}: parameters of a class operator belong in its constructor, not in __call__ ({arg.name})")
            else:
                params.append(_param(name, arg, hint))
        else:
            ports.append(_port(name, arg, hint))
    if is_class and typing.cast("Any", target).__init__ is not object.__init__:
        init = typing.cast("Any", target).__init__
        init_hints = typing.get_type_hints(init, include_extras=True)
        for arg in _arguments(init, skip_self=True):
            if arg.kind is not arg.KEYWORD_ONLY:
                raise TypeError(f"{name}: constructor argument {arg.name!r} must be keyword-only")
            params.append(_param(name, arg, init_hints.get(arg.name, Any)))
    if "return" not in hints:
        raise TypeError(f"{name}: nothing says what a call returns; write -> Image, say, or -> None for a sink")
    outputs, source, result = _outputs(name, hints["return"])
    if source and ports:
        raise TypeError(f"{name}: an operator that yields is a source and has no ports")
    if outputs and not source and not ports:
        raise TypeError(f"{name}: without ports it is a source, whose call returns an Iterator of what it yields")
    if inplace is not None and inplace not in {p.name for p in ports}:
        raise TypeError(f"{name}: inplace names no port: {inplace!r}")
    return Spec(
        name=name, ports=tuple(ports), outputs=outputs, params=tuple(params), doc=inspect.cleandoc(target.__doc__ or ""),
        target=target, is_class=is_class, wants_site=wants_site, result=result, source=source, inplace=inplace, lane=lane, gpu=gpu,
        batches=is_class and hasattr(target, "call_batch"), version=version,
    )  # fmt: skip


def _arguments(call: Callable[..., Any], *, skip_self: bool) -> list[inspect.Parameter]:
    arguments = list(inspect.signature(call).parameters.values())
    arguments = arguments[1:] if skip_self else arguments
    for argument in arguments:
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise TypeError(f"{call.__qualname__}: {argument} has no name in a graph; a port that takes several is list[Image]")
    return arguments


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _markers(hint: Any, kind: type[T]) -> T | None:
    return next((m for m in get_args(hint)[1:] if isinstance(m, kind)), None) if get_origin(hint) is Annotated else None


def _optional(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        if len(rest) == 1 and len(get_args(hint)) == 2:
            return rest[0], True
    return hint, False


def _peeled(hint: Any) -> tuple[Any, bool, Format | None]:
    """What a hint is about, whether it may be None, and the format it is marked with, inside or outside of `| None`."""
    inner, optional = _optional(_bare(hint))
    return _bare(inner), optional, _markers(inner, Format) or _markers(hint, Format)


def _is_payload(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, Payload)


def _usual(kind: type[Payload]) -> Format:
    """What a payload is stored as when nobody says otherwise: pictures are 8-bit RGB on the host."""
    return HOST_RGB if kind is Image else Format()


def _port(op: str, arg: inspect.Parameter, hint: Any) -> Port:
    inner, optional, format = _peeled(hint)
    many = get_origin(inner) is list
    if many:
        (each,) = get_args(inner)
        inner, format = _bare(each), _markers(each, Format) or format
    if not _is_payload(inner):
        raise TypeError(f"{op}: port {arg.name!r} is annotated {hint!r}, which is no payload type")
    return Port(arg.name, inner, optional or arg.default is None, many, format or _usual(inner))


def _param(op: str, arg: inspect.Parameter, hint: Any) -> Param:
    bare = _peeled(hint)[0]
    if arg.name in NODE_KEYS:
        raise TypeError(f"{op}: a parameter cannot be called {arg.name!r}: graphs give every node that key")
    if hint is Any:
        raise TypeError(f"{op}: parameter {arg.name!r} has no annotation")
    if _is_payload(bare):
        raise TypeError(f"{op}: {arg.name!r} is a {bare.__name__}: what travels on edges stands before the star")
    if get_origin(bare) is tuple or bare is tuple or (inspect.isclass(bare) and issubclass(bare, PurePath)):
        raise TypeError(f"{op}: parameter {arg.name!r} is annotated {bare!r}, which TOML does not have; take list or str")
    inner, _ = _optional(hint)  # `Annotated[float, Range(0)] | None` has its marker inside
    live, bounds = _markers(hint, Live) or _markers(inner, Live), _markers(hint, Range) or _markers(inner, Range)
    mark = live or bounds
    return Param(
        arg.name, hint, arg.default, live is not None, isinstance(live, Knob), mark.lo if mark else None, mark.hi if mark else None
    )


def _outputs(op: str, hint: Any) -> tuple[tuple[Output, ...], bool, type | None]:
    if hint is type(None) or hint is None:
        return (), False, None
    if get_origin(hint) is Iterator:
        outputs, _, result = _outputs(op, get_args(hint)[0])
        return outputs, True, result
    if get_origin(hint) is Stamped:
        return _outputs(op, get_args(hint)[0])
    inner, may_skip, format = _peeled(hint)
    if _is_payload(inner):
        return (Output(inner.__name__.lower(), inner, may_skip, format or _usual(inner)),), False, None
    if inspect.isclass(inner) and issubclass(inner, tuple) and hasattr(inner, "_fields"):
        found = []
        for name, kind in typing.get_type_hints(inner, include_extras=True).items():
            (one,), _, _ = _outputs(f"{op}.{name}", kind)
            found.append(Output(name, one.type, one.may_skip or may_skip, one.format))
        return tuple(found), False, inner
    raise TypeError(f"{op}: result {hint!r} is neither a payload, a NamedTuple of payloads, an Iterator of these, nor None")
