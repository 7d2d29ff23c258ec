"""One tree of errors; messages that say where and what to do; no credentials in any."""

from __future__ import annotations

import pytest

from engine import errors
from engine.errors import Cancelled, Diagnostic, EngineError, GraphError, MissingError, OperatorError, ParamError, StallError, scrub

CODES = {"GraphError": 2, "UsageError": 2, "ParamError": 2, "MissingError": 3, "DeviceError": 4, "RunError": 5, "MediaError": 5,
         "OperatorError": 5, "StallError": 5, "ReplayError": 5, "EngineError": 5}  # fmt: skip


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_exit_codes(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_the_tree_is_whole() -> None:
    found = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EngineError)}
    assert found == set(CODES)
    assert all(name in (errors.__doc__ or "") for name in found)
    assert not issubclass(Cancelled, Exception)  # an operator's `except Exception` must not swallow it


@pytest.mark.parametrize("url", ["rtsp://me:secret@cam/1", "https://x/y?token=secret&b=1", "https://x/y?a=1&api_key=secret", "rtsp://me:se@cret@cam"])
def test_credentials_are_scrubbed(url: str) -> None:
    for text in (scrub(url), str(EngineError(f"cannot open {url}", fix=f"try {url}")), str(Diagnostic("x", found=url))):
        assert "secret" not in text
        assert "cret@" not in text
        assert "***" in text
    assert "secret" not in str(OperatorError("n", 1, 0, RuntimeError(url)))
    assert "secret" not in str(StallError(url))
    assert "secret" not in str(ParamError({"a.b": url}))


def test_a_diagnostic_answers_four_questions() -> None:
    text = str(Diagnostic("port is wrong", "g.toml", 7, "node.x.in.a", "Pose", "Image", "add a node"))
    assert text == "g.toml:7: node.x.in.a: port is wrong (expected Pose, found Image); add a node"
    error = GraphError([Diagnostic("b", "g", 9), Diagnostic("a", "g", 2), Diagnostic("a", "g", 2)])
    assert [d.line for d in error.diagnostics] == [2, 9]


def test_an_operator_error_keeps_what_was_meant() -> None:
    error = OperatorError("paint", 4, 1, MissingError("no model", fix="pull it"))
    assert (error.exit_code, error.fix) == (3, "pull it")
    assert str(error) == "node paint, frame 4 (epoch 1): no model; pull it"
    assert str(OperatorError("paint", -1, 0, ValueError("bad"))) == "node paint: ValueError: bad"
