"""Tiny ONNX files in the formats of real pose networks and detectors, whose answers are known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# joint k sits at the blob of its colour (0 red, 1 green, 2 blue), moved by its shift (crop px)
COLOUR_OF = tuple(k % 3 for k in range(17))
SHIFT_OF = tuple((k % 5 - 2) * 3 for k in range(17))


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray[Any, Any]]) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def simcc_network(
    path: Path, *, joints: int = 17, width: int = 48, height: int = 64, dynamic: bool = True, names: tuple[str, str] = ("simcc_x", "simcc_y")
) -> Path:
    """A SimCC network: every joint's two peaks lie where its colour is brightest (sums over columns and rows), plus its shift.

    Undoes the normalisation of RTMPose first, so it only works when that was done right, channel by channel.
    """
    from onnx import TensorProto, helper

    mean, std = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
    pick = np.zeros((joints, 3, 1, 1), np.float32)
    for k in range(joints):
        pick[k] -= 0.5  # a colour counts by how much it exceeds the others
        pick[k, COLOUR_OF[k % 17]] = 1.0
    batch: Any = "batch" if dynamic else 1
    size = ("height", "width") if dynamic else (height, width)
    nodes = [
        helper.make_node("Mul", ["input", "std"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["level"]),
        helper.make_node("Conv", ["level", "pick"], ["apart"]),
        helper.make_node("Relu", ["apart"], ["bright"]),
        helper.make_node("ReduceMean", ["bright"], ["columns"], axes=[2], keepdims=0),  # (n, k, width)
        helper.make_node("ReduceMean", ["bright"], ["rows"], axes=[3], keepdims=0),  # (n, k, height)
    ]
    constants = {"std": std.reshape(1, 3, 1, 1), "mean": mean.reshape(1, 3, 1, 1), "pick": pick}
    for axis, length, name in (("columns", width, names[0]), ("rows", height, names[1])):
        bins = np.zeros((joints, length, 2 * length), np.float32)
        for k in range(joints):
            for i in range(length):
                j = 2 * (i + SHIFT_OF[k % 17])
                if 0 <= j < 2 * length:
                    bins[k, i, j] = 0.2
        constants[f"{axis}_bins"] = bins
        constants[f"{axis}_axis"] = np.array([2], np.int64)
        nodes += [
            helper.make_node("Unsqueeze", [axis, f"{axis}_axis"], [f"{axis}_row"]),
            helper.make_node("MatMul", [f"{axis}_row", f"{axis}_bins"], [f"{axis}_peaks"]),
            helper.make_node("Squeeze", [f"{axis}_peaks", f"{axis}_axis"], [name]),
        ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, *size])]
    outputs = [
        helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, joints, 2 * width]),
        helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, joints, 2 * height]),
    ]
    return save(path, nodes, inputs, outputs, constants)


def fixed_detector(path: Path, found: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None = None, *, size: int = 64) -> Path:
    """A detector that always answers `found`: raw YOLOX output (1, cells, 5 + classes), or `dets` (1, n, 5) with labels (1, n)."""
    from onnx import TensorProto, helper

    name = "output" if labels is None else "dets"
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["found", "nothing"], [name]),
    ]
    constants = {"found": found.astype(np.float32), "zero": np.zeros((), np.float32)}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(found.shape))]
    if labels is not None:
        constants["which"] = labels.astype(np.int64)
        nodes.append(helper.make_node("Identity", ["which"], ["labels"]))
        outputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, list(labels.shape)))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])]
    return save(path, nodes, inputs, outputs, constants)


def looking_detector(path: Path, *, size: int = 64, box: int = 24, channel: int = 0) -> Path:
    """A raw YOLOX network that finds one person, `box` px large, in every cell of stride 8 that is filled in that input channel."""
    from onnx import TensorProto, helper

    cells = {stride: (size // stride) ** 2 for stride in (8, 16, 32)}
    pick = np.zeros((1, 3, 1, 1), np.float32)
    pick[0, channel] = 1 / 255
    pick[0, (channel + 1) % 3] = pick[0, (channel + 2) % 3] = -1 / 255
    rest = np.zeros((1, cells[16] + cells[32], 6), np.float32)
    inside = np.array([0.5, 0.5, np.log(box / 8), np.log(box / 8)], np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "pick"], ["red"]),
        helper.make_node("AveragePool", ["red"], ["tile"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Relu", ["tile"], ["score"]),
        helper.make_node("Reshape", ["score", "flat"], ["cells"]),  # (1, 64, 1)
        helper.make_node("Concat", ["places", "cells", "ones"], ["fine"], axis=2),
        helper.make_node("Concat", ["fine", "rest"], ["output"], axis=1),
    ]
    constants = {
        "pick": pick, "flat": np.array([1, cells[8], 1], np.int64), "rest": rest,
        "places": np.tile(inside, (1, cells[8], 1)), "ones": np.ones((1, cells[8], 1), np.float32),
    }  # fmt: skip
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, sum(cells.values()), 6])]
    return save(path, nodes, inputs, outputs, constants)
