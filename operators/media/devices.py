"""What this machine has: cameras, codecs that really open, graphics cards. Plain data for `engine devices` and `engine doctor`.

Invariant: listing never fails and never keeps a device open; what cannot be found out is left out. It configures nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from operators.media.codecs import ENCODERS, encoder_works, working_hwaccel


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera: `url` is what source.video takes, `label` what a person knows it by."""

    url: str
    label: str


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder that opens here, and whether it runs on hardware."""

    name: str
    codec: str
    hardware: bool


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card; `memory` in bytes, `driver` and `capability` where they are known."""

    name: str
    device: str
    memory: int = 0
    driver: str = ""
    capability: str = ""


@dataclass(frozen=True, slots=True)
class Devices:
    """Everything found. `notes` says what could not be looked at, and why."""

    cameras: tuple[Camera, ...] = ()
    encoders: tuple[Codec, ...] = ()
    decoders: tuple[str, ...] = ()  # hardware decoders that work
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = field(default=())


def list_devices() -> Devices:
    """Look at everything; takes a second or two, most of it opening encoders."""
    notes: list[str] = []
    return Devices(
        tuple(cameras(notes)), tuple(encoders()), tuple(kind for kind in ("cuda",) if working_hwaccel(kind)), tuple(cards(notes)), tuple(notes)
    )


def cameras(notes: list[str]) -> list[Camera]:
    """Cameras by the platform's own interface."""
    import av

    if sys.platform.startswith("linux"):
        return [
            Camera(path.name.removeprefix("video"), _label(path))
            for path in sorted(Path("/dev").glob("video[0-9]*"), key=lambda p: int(p.name.removeprefix("video")))
        ]
    format = "avfoundation" if sys.platform == "darwin" else "dshow"
    try:
        found = [d for d in av.enumerate_input_devices(format) if not d.media_types or "video" in d.media_types]
    except (av.error.FFmpegError, OSError, ValueError, NotImplementedError) as error:
        notes.append(f"cameras could not be listed: {error}")
        return []
    return [Camera(str(index), device.description or device.name) for index, device in enumerate(found)]


def _label(device: Path) -> str:
    try:
        return Path("/sys/class/video4linux", device.name, "name").read_text().strip()
    except OSError:
        return str(device)


def encoders() -> list[Codec]:
    """Encoders that encode a picture here, in order of preference within each codec."""
    return [
        Codec(name, codec, name.rpartition("_")[2] in ("nvenc", "qsv", "amf"))
        for codec, names in ENCODERS.items()
        for name in names
        if encoder_works(name)
    ]


def cards(notes: list[str]) -> list[Card]:
    """Graphics cards as torch sees them, else as the NVIDIA driver's tool does."""
    seen = _torch_cards(notes)
    return seen or _driver_cards(notes)


def _torch_cards(notes: list[str]) -> list[Card]:
    try:
        import torch
    except ImportError:
        notes.append("torch is not installed: no graphics card can be used")
        return []
    if torch.cuda.is_available():
        drivers = [card.driver for card in _driver_cards([])]
        found = []
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            driver = drivers[index] if index < len(drivers) else ""
            found.append(Card(facts.name, f"cuda:{index}", facts.total_memory, driver, f"{facts.major}.{facts.minor}"))
        return found
    if torch.backends.mps.is_available():
        return [Card("Apple GPU", "mps")]
    return []


def _driver_cards(notes: list[str]) -> list[Card]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    ask = [tool, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        notes.append(f"nvidia-smi failed: {error}")
        return []
    found = []
    for index, line in enumerate(lines):
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[1].isdecimal():
            found.append(Card(parts[0], f"cuda:{index}", int(parts[1]) << 20, parts[2], parts[3]))
    return found
