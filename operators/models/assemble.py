"""Builds the pose landmarker's `.task` file from the two networks inside an older MediaPipe wheel.

The wheel of MediaPipe 0.10.21 carries the pose detector and the *full* landmark network as bare TFLite files. Today's Tasks API reads them
once each says how its input is normalised, so the metadata is written in and both are zipped as a `.task`.

Invariant: the wheel, both networks and the result are pinned by SHA-256; the same inputs give the same bytes (stored, dated 1980-01-01).
Sources: TensorFlow Lite metadata 1.x schema; BlazePose (Bazarevsky et al. 2020) for the ranges: detector -1..1, landmarks 0..1.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import MediaError, MissingError, scrub
from operators.models.catalogue import POSE_ASSEMBLED

WHEEL = "mediapipe==0.10.21"
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
ZIP_HEADER = 30  # bytes of a local file header before the name (APPNOTE 4.3.7)
PADDING_ID = b"\x35\xd9"  # the extra field that Android's zipalign pads with
ALIGNMENT = 16
WHEEL_TAGS = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64")


@dataclass(frozen=True, slots=True)
class Network:
    """One TFLite file of the wheel: its member name, hash and input normalisation ((x - mean) / std), and its name in the `.task`."""

    member: str
    sha256: str
    mean: float
    std: float
    target: str


NETWORKS = (
    Network(
        "mediapipe/modules/pose_detection/pose_detection.tflite", "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        127.5, 127.5, "pose_detector.tflite",
    ),
    Network(
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite", "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        0.0, 255.0, "pose_landmarks_detector.tflite",
    ),
)  # fmt: skip


def download_wheel(folder: Path, *, timeout: float = 300.0) -> Path:
    """Fetch the pinned wheel into `folder` with pip, from wherever this machine's pip takes packages. Raises MissingError."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--only-binary=:all:", *WHEEL_TAGS, "--dest", str(folder), WHEEL,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise MissingError(f"pip did not fetch {WHEEL} within {timeout:.0f} s", fix="check the network and pull again") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        fix = "check the network and pip's index settings, then pull again"
        if last.endswith("No module named pip"):
            fix = "add pip with: python -m ensurepip, then pull again"
        raise MissingError(f"pip could not fetch {WHEEL}: {scrub(last)}", fix=fix)
    return wheels[0]


def assemble(wheel: Path) -> bytes:
    """The `.task` file made from `wheel`. Raises MediaError where a pinned hash does not fit."""
    content = wheel.read_bytes()
    _expect(WHEEL, content, WHEEL_SHA256)
    task = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(task, "w", zipfile.ZIP_STORED) as target:
        for network in NETWORKS:
            bare = source.read(network.member)
            _expect(network.member, bare, network.sha256)
            entry = zipfile.ZipInfo(network.target, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # else the bytes would differ between systems
            entry.extra = _padding(target.start_dir + ZIP_HEADER + len(network.target))
            target.writestr(entry, describe_input(bare, Path(network.member).name, network.mean, network.std))
    result = task.getvalue()
    packer = importlib.metadata.version("flatbuffers")
    _expect(f"the assembled pose model (packed by flatbuffers {packer}; 25.12.19 is known to fit)", result, POSE_ASSEMBLED)
    return result


def fetch_and_assemble() -> bytes:
    """Download the wheel into a temporary folder and build the `.task` file from it."""
    with tempfile.TemporaryDirectory(prefix="afterimage-", ignore_cleanup_errors=True) as folder:
        return assemble(download_wheel(Path(folder)))


def describe_input(network: bytes, name: str, mean: float, std: float) -> bytes:
    """The TFLite file `network` with metadata saying that its one input is an RGB image, normalised by `mean` and `std`."""
    import flatbuffers
    import mediapipe  # noqa: F401  (whole before its modules)
    from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata
    from mediapipe.tasks.metadata import schema_py_generated as schema

    options = metadata.NormalizationOptionsT()
    options.mean, options.std = [mean], [std]
    normalisation = metadata.ProcessUnitT()
    normalisation.optionsType = metadata.ProcessUnitOptions.NormalizationOptions
    normalisation.options = options
    image = metadata.ImagePropertiesT()
    image.colorSpace = metadata.ColorSpaceType.RGB
    content = metadata.ContentT()
    content.contentPropertiesType = metadata.ContentProperties.ImageProperties
    content.contentProperties = image
    tensor = metadata.TensorMetadataT()
    tensor.name, tensor.content, tensor.processUnits = "image", content, [normalisation]
    graph = metadata.SubGraphMetadataT()
    graph.inputTensorMetadata = [tensor]
    root = metadata.ModelMetadataT()
    root.name, root.subgraphMetadata = name, [graph]

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(network), 0))
    buffer = schema.BufferT()
    buffer.data = list(_pack(flatbuffers.Builder(0), root, b"M001"))
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return _pack(flatbuffers.Builder(len(network)), model, b"TFL3")


def _padding(offset: int) -> bytes:
    """An extra field for a zip entry whose header ends at `offset`, so that its data starts at a multiple of ALIGNMENT and can be mapped."""
    size = -(offset + 4) % ALIGNMENT
    return PADDING_ID + size.to_bytes(2, "little") + bytes(size)


def _pack(builder: Any, table: Any, identifier: bytes) -> bytes:
    builder.Finish(table.Pack(builder), identifier)
    return bytes(builder.Output())


def _expect(what: str, content: bytes, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise MediaError(f"{what} is not the expected file: sha256 {sha256}, found {found}", fix="nothing was installed; pull again")
