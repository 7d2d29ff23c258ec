"""Format conversions: planned once per output and format, visible as nodes of the plan, timed like any other.

Only the storage of a picture is converted here (dtype, axes, channel order, device), never its meaning: resizing, cropping and rate are
operators in the graph.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Annotated, Any, Literal

from engine.operator import Format, Spec, operator
from engine.payload import Image
from engine.plan import Edge, PlanNode
from engine.site import Site

_DType = Literal["uint8", "float16", "float32"]


@operator("engine.convert")
def convert(
    image: Annotated[Image, Format()], *, dtype: _DType = "uint8", layout: Literal["hwc", "chw"] = "hwc", color: Literal["rgb", "bgr"] = "rgb",
    device: Literal["cpu", "lane"] = "cpu", site: Site,
) -> Annotated[Image, Format()]:  # fmt: skip
    """The same picture in another format: uint8 0..255 <-> float 0..1, (H, W, 3) <-> (1, 3, H, W), RGB <-> BGR, host <-> device."""
    if device == "lane" or not hasattr(image.data, "__array_interface__"):
        return _by_torch(image, dtype, layout, color, device, site)
    import numpy as np

    data: Any = image.data
    if image.layout == "chw":
        data = data[0].transpose(1, 2, 0)
    if image.color != color:
        data = data[..., ::-1]
    shape = data.shape if layout == "hwc" else (1, data.shape[2], data.shape[0], data.shape[1])
    out = site.empty(shape, dtype)
    view = out if layout == "hwc" else out[0].transpose(1, 2, 0)
    if data.dtype == np.uint8 and dtype != "uint8":
        np.multiply(data, np.array(1 / 255, dtype), out=view, casting="unsafe")
    elif data.dtype != np.uint8 and dtype == "uint8":
        scaled = site.empty(data.shape, "float32")
        np.multiply(data, 255, out=scaled, casting="unsafe")
        np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
        np.copyto(view, scaled, casting="unsafe")
    else:
        np.copyto(view, data, casting="unsafe")
    return Image(out, layout, color)


def _by_torch(image: Image, dtype: str, layout: str, color: str, device: str, site: Site) -> Image:
    """Conversions that touch a device: bytes cross the bus as they are, arithmetic happens on the device."""
    import torch

    data: Any = image.data
    data = torch.from_numpy(data) if hasattr(data, "__array_interface__") and not torch.is_tensor(data) else data
    data = data.to(site.device, non_blocking=True) if device == "lane" else data
    if image.layout == "hwc":
        data = data.permute(2, 0, 1)[None]
    if image.color != color:
        data = data.flip(1)
    wanted = getattr(torch, dtype)
    if data.dtype == torch.uint8 and wanted.is_floating_point:
        data = data.to(wanted) / 255
    elif data.dtype.is_floating_point and not wanted.is_floating_point:
        data = (data.clamp(0, 1) * 255).round().to(wanted)
    else:
        data = data.to(wanted)
    data = data[0].permute(1, 2, 0) if layout == "hwc" else data
    if device == "cpu":
        out = site.empty(tuple(data.shape), dtype)
        torch.from_numpy(out).copy_(data)
        return Image(out, layout, color)
    return Image(data.contiguous(), layout, color)


def plan_conversions(nodes: list[PlanNode], edges: list[Edge], specs: dict[str, Spec]) -> tuple[list[PlanNode], list[Edge]]:
    """Insert a conversion node for every (output, format) pair that readers ask for and the producer does not make."""
    wanted: dict[tuple[str, str, Format], list[Edge]] = defaultdict(list)
    for edge in edges:
        if edge.role == "constant" or edge.feeds == "param":
            continue
        output, port = specs[edge.source].output(edge.output), specs[edge.node].port(edge.port)
        assert output is not None
        assert port is not None
        if output.type is Image and output.format != Format() and not port.format.accepts(output.format):
            wanted[edge.source, edge.output, port.format.onto(output.format)].append(edge)
    if not wanted:
        return nodes, edges
    by_name = {node.name: node for node in nodes}
    for (source, name_out, format), readers in wanted.items():
        name = f"{source}.{name_out}:{'-'.join(part for part in format.astuple() if part)}"
        fast = [e for e in readers if e.lag is not None or (e.counted and not e.lossy)]
        lane = by_name[(fast or readers)[0].node].lane  # a reader that samples must not hold back one that does not
        alone = len({(e.policy, e.cap, e.every, e.role, by_name[e.node].lane) for e in readers}) == 1 and readers[0].role == "trigger"
        policy, cap = ("block", max(e.cap for e in readers)) if fast else ("latest", 1)
        first = readers[0] if alone else replace(readers[0], policy=policy, every=1, cap=cap)
        edges.append(replace(first, id=len(edges), node=name, port="image", slot=None, role="trigger", feeds="port", map=None, lag=None,
                             counted=True, credit=any(e.credit for e in readers), crosses=by_name[source].lane != lane))  # fmt: skip
        for edge in readers:
            kept = {"policy": "block", "every": 1} if alone else {}
            edges[edge.id] = replace(edge, source=name, output="image", crosses=by_name[edge.node].lane != lane, **kept)  # type: ignore[arg-type]
        params = dict(zip(("dtype", "layout", "color", "device"), format.astuple(), strict=True))
        nodes.append(PlanNode(name, "engine.convert", 1, params, lane, 0, "convert"))
    return _reorder(nodes, edges), edges


def _reorder(nodes: list[PlanNode], edges: list[Edge]) -> list[PlanNode]:
    """Conversions go right before their first reader."""
    first = {
        n.name: min(m.order for m in nodes if any(e.source == n.name and e.node == m.name for e in edges)) - 0.5
        for n in nodes if n.kind == "convert"
    }  # fmt: skip
    ranked = sorted(nodes, key=lambda n: first.get(n.name, n.order))
    return [replace(node, order=i) for i, node in enumerate(ranked)]
