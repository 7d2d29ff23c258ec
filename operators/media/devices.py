"""What this machine has: cameras, codecs that really open, graphics cards. Plain data for `engine devices` and `engine doctor`.

Invariant: listing never fails and never keeps a device open; what cannot be found out is left out. It configures nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from operators.media.codecs import DECODERS, ENCODERS, decoder_works, encoder_works, working_hwaccel


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera: `url` is what source.video takes, `label` what a person knows it by."""

    url: str
    label: str


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound device: how many channels come `into` this machine through it, and go `out`."""

    label: str
    into: int
    out: int


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder or a decoder that opens here, and whether it runs on hardware."""

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
    virtual_cameras: tuple[Camera, ...] = ()  # `url` is what sink.virtual_camera takes as `device`
    screens: tuple[Camera, ...] = ()
    sounds: tuple[Sound, ...] = ()
    encoders: tuple[Codec, ...] = ()
    decoders: tuple[Codec, ...] = ()
    hwaccels: tuple[str, ...] = ()  # kinds that source.video takes as `hwaccel`
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = field(default=())


def list_devices() -> Devices:
    """Look at everything; takes a second or two, most of it opening encoders."""
    notes: list[str] = []
    return Devices(
        cameras=tuple(cameras(notes)), virtual_cameras=tuple(virtual_cameras(notes)), screens=tuple(screens(notes)),
        sounds=tuple(sounds(notes)),
        encoders=tuple(encoders()), decoders=tuple(decoders()), hwaccels=tuple(kind for kind in ("cuda",) if working_hwaccel(kind)),
        cards=tuple(cards(notes)), notes=tuple(notes),
    )  # fmt: skip


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


def virtual_cameras(notes: list[str] | None = None) -> list[Camera]:
    """Cameras that a program can send pictures to. Elsewhere than on Linux only opening one tells, which would switch it on: a note says so."""
    if sys.platform.startswith("linux"):
        # A camera of the kernel's own making has no bus behind it; v4l2loopback is the only such driver that takes pictures.
        folder = Path("/sys/devices/virtual/video4linux")
        try:
            return [Camera(f"/dev/{path.name}", _label(path)) for path in sorted(folder.iterdir()) if Path("/dev", path.name).exists()]
        except OSError:
            return []
    if notes is not None:
        notes.append("virtual cameras are not listed here: sink.virtual_camera takes the one of OBS, where it is installed")
    return []


def screens(notes: list[str]) -> list[Camera]:
    """Screens that can be captured, as source.video takes them."""
    import av

    if sys.platform.startswith("linux"):
        display = os.environ.get("DISPLAY", "")
        if not display:
            if os.environ.get("WAYLAND_DISPLAY"):
                notes.append("Wayland lets no program capture the screen this way: start an X11 session")
            return []
        try:
            with av.open(display, format="x11grab") as grabbed:
                context = grabbed.streams.video[0].codec_context
                return [Camera(f"screen:{display}", f"{context.width}x{context.height}")]
        except (av.error.FFmpegError, OSError, ValueError) as error:
            notes.append(f"the screen {display} cannot be captured: {error}")
            return []
    if sys.platform == "darwin":
        try:
            named = [d.description or d.name for d in av.enumerate_input_devices("avfoundation")]
        except (av.error.FFmpegError, OSError, ValueError, NotImplementedError) as error:
            notes.append(f"screens could not be listed: {error}")
            return []
        return [Camera(f"screen:{name}", name) for name in named if "screen" in name.lower()]
    return [Camera("screen:", "the desktop")]


def sounds(notes: list[str]) -> list[Sound]:
    """Sound devices, where PortAudio knows them."""
    try:
        import sounddevice

        return [Sound(d["name"], d["max_input_channels"], d["max_output_channels"]) for d in sounddevice.query_devices()]
    except ImportError:
        notes.append("sound devices are not listed: the package sounddevice is missing")
    except Exception as error:  # PortAudio is missing, or has its own kinds of trouble
        notes.append(f"sound devices could not be listed: {error}")
    return []


def decoders() -> list[Codec]:
    """Decoders that decode a picture here, software first."""
    return [
        Codec(name, codec, name.rpartition("_")[2] in ("cuvid", "qsv", "amf"))
        for codec, names in DECODERS.items()
        for name in names
        if decoder_works(codec, name)
    ]


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
