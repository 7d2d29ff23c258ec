"""Signatures are declarations: what is read from them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import ValidationError

from engine import Format, Knob, Live, Operator, Range, Stamped, registry
from engine.cli.operators import ops
from engine.errors import MissingError, UsageError
from engine.operator import HOST_RGB, describe
from engine.payload import Image, Latent, Scalar, Text
from engine.site import Site


class Two(NamedTuple):
    image: Image
    score: Scalar | None


def everything(
    image: Image, carry: Latent | None, more: list[Image], floats: Annotated[Image, Format("float32")], *, low: Annotated[int, Live(0, 9)] = 3,
    size: Annotated[float, Knob(0.5, 2)] = 1.0, model: str, fixed: Annotated[int, Range(1, 4)] = 2, site: Site,
) -> Two:  # fmt: skip
    """Has one of each."""
    raise NotImplementedError


def test_a_signature_is_the_declaration() -> None:
    spec = describe(everything, "test.everything", inplace="image", lane="slow", version=4)
    assert [str(p) for p in spec.ports] == ["Image", "Latent | None", "list[Image]", "Image"]
    assert [p.format for p in spec.ports if p.type is Image] == [HOST_RGB, HOST_RGB, Format("float32")]
    assert [(o.name, o.type, o.may_skip) for o in spec.outputs] == [("image", Image, False), ("score", Scalar, True)]
    assert [(p.name, p.live, p.knob, p.lo, p.hi, p.required) for p in spec.params] == [
        ("low", True, False, 0, 9, False), ("size", True, True, 0.5, 2, False), ("model", False, False, None, None, True),
        ("fixed", False, False, 1, 4, False),
    ]  # fmt: skip
    assert (spec.wants_site, spec.inplace, spec.lane, spec.version, spec.doc) == (True, "image", "slow", 4, "Has one of each.")
    assert not spec.source
    assert not spec.sink


@pytest.mark.parametrize("bad", [{"low": 10}, {"low": -1}, {"low": "3"}, {"low": 3.5}, {"size": 0.4}, {"fixed": 5}, {"typo": 1}, {"model": 3}])
def test_parameters_are_strict(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        describe(everything, "test.everything").model()(**{"model": "x", **bad})


def test_sources_and_sinks() -> None:
    def source() -> Iterator[Scalar]:
        yield Scalar(0)

    def stamped() -> Iterator[Stamped[Scalar]]:
        yield Stamped(Scalar(0))

    def sink(a: Scalar) -> None: ...

    def skips(a: Scalar) -> Scalar | None: ...

    assert describe(source, "t.a").source
    assert describe(stamped, "t.a").outputs[0].type is Scalar
    assert describe(sink, "t.a").sink
    assert describe(skips, "t.a").outputs[0].may_skip


def no_payload(a: int) -> Scalar: ...
def no_result(a: Scalar) -> int: ...
def yields_with_port(a: Scalar) -> Iterator[Scalar]: ...


class NoOperator:
    def __call__(self, a: Scalar) -> Scalar: ...


class ParamInCall(Operator):
    def __call__(self, a: Scalar, *, level: int = 0) -> Scalar: ...


class PositionalInit(Operator):
    def __init__(self, level: int = 0) -> None: ...
    def __call__(self, a: Scalar) -> Scalar: ...


def no_return(a: Scalar): ...  # type: ignore[no-untyped-def]
def no_port() -> Scalar: ...
def starred(*a: Scalar) -> Scalar: ...
def path_param(a: Scalar, *, where: Path) -> Scalar: ...
def tuple_param(a: Scalar, *, sizes: tuple[int, ...] = ()) -> Scalar: ...
def bare_param(a: Scalar, *, level=1) -> Scalar: ...  # type: ignore[no-untyped-def]
def payload_param(a: Scalar, *, b: Scalar | None = None) -> Scalar: ...
def lane_param(a: Scalar, *, lane: int = 1) -> Scalar: ...


@pytest.mark.parametrize(("target", "message"), [
    (no_return, "nothing says what a call returns"), (no_port, "without ports it is a source"), (starred, r"\*a: .* has no name in a graph"),
    (path_param, "take list or str"), (tuple_param, "take list or str"), (bare_param, "'level' has no annotation"),
    (payload_param, "stands before the star"), (lane_param, "cannot be called 'lane'"),
    (no_payload, "which is no payload type"), (no_result, "is neither a payload"), (yields_with_port, "is a source and has no ports"),
    (NoOperator, "must derive from Operator"), (ParamInCall, "belong in its constructor"), (PositionalInit, "must be keyword-only"),
])  # fmt: skip
def test_signatures_that_are_refused(target: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        describe(target, "test.bad")


@pytest.mark.parametrize("name", ["posterize", "My Ops.x", ".x", "mine."])
def test_a_name_has_a_family(name: str) -> None:
    with pytest.raises(TypeError, match=r"write family\.name"):
        describe(everything, name)


BROKEN = {
    "missing": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'", "install the package it names"),
    "syntax": ("def f(:", "SyntaxError", "mend {file}:3"),
    "name": ("from engine.site import Stamped", "ImportError: cannot import name 'Stamped'", "mend {file}:3"),
    "signature": ("@operator('strange.bad')\ndef bad(image): ...", "TypeError: strange.bad: port 'image'", "mend {file}:3"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_family_that_cannot_be_imported_says_why(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for an operator that was registered before the module failed: half a family is none."""
    code, why, fix = BROKEN[case]
    file = tmp_path / f"strange_{case}.py"
    file.write_text(f"from engine import operator\n# {case}\n{code}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "families", lambda: {"strange": file.stem})
    for name in ("strange.good", "strange.bad"):
        with pytest.raises(MissingError, match="operator family 'strange' cannot be imported") as caught:
            registry.find(name)
        assert why in caught.value.message
        assert caught.value.fix == fix.format(file=file)
    with pytest.raises(MissingError, match="cannot be imported"):
        ops("strange.good", how="text")


def test_inplace_names_a_port() -> None:
    with pytest.raises(TypeError, match="inplace names no port"):
        describe(everything, "test.bad", inplace="nothing")


def test_a_name_belongs_to_one() -> None:
    def one(a: Text) -> Text: ...
    def two(a: Text) -> Text: ...

    registry.add(describe(one, "test.taken"))
    registry.add(describe(one, "test.taken"))
    with pytest.raises(UsageError, match="registered twice"):
        registry.add(describe(two, "test.taken"))


def test_formats() -> None:
    wanted, have = Format("float32", "chw"), HOST_RGB
    assert not wanted.accepts(have)
    assert Format().accepts(have)
    assert wanted.onto(have) == Format("float32", "chw", "rgb", "cpu")
    assert str(Format()) == "any"
