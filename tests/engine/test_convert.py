"""Planned conversions: once per packet and format, in the plan, right to the byte, never in anybody's way."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import numpy as np
import pytest
import toys

from engine import Format, operator
from engine.graph import GraphBuilder
from engine.payload import Image
from engine.planning.compile import compile
from engine.planning.convert import convert
from engine.session import Session
from engine.site import Site

PLANES = Format("float32", "chw", "rgb", "cpu")


def film(**settings: Any) -> GraphBuilder:
    g = GraphBuilder("film", **{"clock": "offline", **settings})
    g.node("film", "toy.film", count=6)
    return g


def converted(image: Image, **wanted: str) -> Image:
    site = Site(node="test")
    out = convert(image, **wanted, site=site)  # type: ignore[arg-type]
    return Image(np.array(out.data), out.layout, out.color)


PICTURE = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_every_format_holds_the_same_picture(dtype: str, layout: str, color: str) -> None:
    image = converted(Image(PICTURE), dtype=dtype, layout=layout, color=color)
    assert (image.layout, image.color, str(image.data.dtype)) == (layout, color, dtype)
    assert image.data.shape == ((5, 7, 3) if layout == "hwc" else (1, 3, 5, 7))
    assert (image.height, image.width) == (5, 7)
    plain = image.data if layout == "hwc" else image.data[0].transpose(1, 2, 0)
    plain = plain if color == "rgb" else plain[..., ::-1]
    if dtype == "uint8":
        assert (plain == PICTURE).all()
    else:
        assert np.allclose(plain.astype("float64"), PICTURE / 255, atol=1e-6 if dtype == "float32" else 5e-4)
    back = converted(image, dtype="uint8", layout="hwc", color="rgb")
    assert (back.data == PICTURE).all()


def test_torch_and_numpy_agree() -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    for dtype, layout, color in itertools.product(["uint8", "float32"], ["hwc", "chw"], ["rgb", "bgr"]):
        there = convert(Image(PICTURE), dtype=dtype, layout=layout, color=color, device="lane", site=Site(node="test"))  # type: ignore[arg-type]
        assert torch.is_tensor(there.data)
        assert np.allclose(there.data.numpy(), converted(Image(PICTURE), dtype=dtype, layout=layout, color=color).data, atol=1e-7)
        back = convert(there, site=Site(node="test"))
        assert isinstance(back.data, np.ndarray)
        assert (back.data == PICTURE).all()


def test_floats_are_rounded_and_clipped() -> None:
    data = np.array([[[-0.5, 0.0, 1.5], [0.4999 / 255, 0.5001 / 255, 254.6 / 255]]], np.float32)
    assert converted(Image(data), dtype="uint8").data.tolist() == [[[0, 0, 255], [0, 1, 255]]]


def test_one_conversion_for_all_who_want_it() -> None:
    @operator("test.planes")
    def planes(image: Annotated[Image, PLANES]) -> Image:
        return Image(PICTURE)

    g = film()
    for name in ("one", "two"):
        g.node(name, "test.planes", image="film", lane=name)
    g.node("three", "toy.bgr", image="film")
    g.node("same", "toy.copy", image="film")
    for name in ("one", "two", "three", "same"):
        g.node(f"end_{name}", "toy.gallery" if name in ("three", "same") else "sink.null", image=name)
    plan = compile(g.build())
    conversions = [n.name for n in plan.nodes if n.kind == "convert"]
    assert sorted(conversions) == ["film.image:float32-chw-rgb-cpu", "film.image:uint8-chw-bgr-cpu"]
    assert sorted(e.node for e in plan.edges if e.source == "film.image:float32-chw-rgb-cpu") == ["one", "two"]
    for name in conversions:
        assert f"{name}  engine.convert" in str(plan)
    places = {n.name: n.order for n in plan.nodes}
    assert all(places[e.source] < places[e.node] for e in plan.edges)
    with Session(plan, executor="inline", poison=True) as session:
        session.run()
    toys.settled(session)
    assert [session.nodes[name].count for name in conversions] == [6, 6]  # once per packet, whoever reads it
    assert toys.values(session, "end_three") == toys.values(session, "end_same") == [toys.mix("film", i) for i in range(6)]
    assert any(r[3] == conversions[0] for r in session.lanes[plan.node(conversions[0]).lane].trace.records())


def test_no_conversion_where_formats_fit() -> None:
    g = film()
    g.node("end", "toy.gallery", image="film")
    assert all(n.kind != "convert" for n in compile(g.build()).nodes)


def test_the_policy_of_a_lone_reader_moves_to_its_conversion() -> None:
    g = film(clock="live")
    g.node("bgr", "toy.bgr", image={"from": "film", "every": 3, "policy": "latest"})
    g.node("end", "toy.gallery", image="bgr")
    plan = compile(g.build())
    first, second = (next(e for e in plan.edges if e.source == s) for s in ("film", "film.image:uint8-chw-bgr-cpu"))
    assert (first.policy, first.every, first.credit) == ("latest", 3, False)  # frames that nobody samples are not converted
    assert (second.policy, second.every) == ("block", 1)


def test_a_conversion_for_the_slow_lane_does_not_hold_the_fast_one() -> None:
    """Fast and slow readers of one format: the conversion runs for the fast one, and the slow one samples behind it."""
    g = film(clock="live")
    g.node("slow", "toy.bgr", image="film", lane="slow")
    g.node("slower", "toy.bgr", image={"from": "film", "every": 2}, lane="slow")
    g.node("end_slow", "toy.gallery", image="slow", lane="slow")
    g.node("end_slower", "toy.gallery", image="slower", lane="slow")
    only_slow = compile(g.build())
    into = next(e for e in only_slow.edges if e.node == "film.image:uint8-chw-bgr-cpu")
    assert into.policy == "latest"
    assert not into.credit
    g.node("fast", "toy.bgr", image="film")
    g.node("end", "toy.gallery", image="fast")
    plan = compile(g.build())
    assert plan.node("film.image:uint8-chw-bgr-cpu").lane == "main"
