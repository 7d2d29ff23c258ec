"""`engine doctor` and `engine devices`: what this machine has, what is missing, and what to do about it. Reads only, and no network."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import engine
from engine.cli import report

DISTRIBUTION = "afterimage-engine"
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "neon")
RIVALS = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python", "opencv-contrib-python"), ("opencv-python-headless", "opencv-contrib-python"))
DISK_GB = 10.0  # a diffusion model, its ControlNet and a captioner
RAM_GB = 6.0
OLDEST_CARD = 7.5  # Turing, the oldest that PyTorch's CUDA 13 builds know
CUDA_13_DRIVER = 580  # the first driver branch that runs CUDA 13 programs (NVIDIA CUDA compatibility guide)


@dataclass
class Findings:
    """Facts by section, and what is wrong with them, each with what to do."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def blame(self, what: str, fix: str) -> None:
        self.wrong.append((what, fix))


def doctor(*, json: bool) -> None:
    """Look the machine over and print what was found. Never fails: what cannot be looked at is a finding."""
    found = Findings()
    looks: dict[str, Callable[[Findings], dict[str, Any]]] = {
        "system": _system, "packages": _packages, "processor": _processor, "gpu": _gpu, "encoders": _encoders, "models": _models, "disk": _disk,
    }  # fmt: skip
    for section, look in looks.items():
        try:
            found.facts[section] = look(found)
        except Exception as error:
            found.facts[section] = {}
            found.blame(f"{section} cannot be looked at: {type(error).__name__}: {error}", "reinstall the package it names")
    if json:
        report.tell(report.as_json({**found.facts, "wrong": [{"what": what, "fix": fix} for what, fix in found.wrong]}))
        return
    width = max(len(name) for facts in found.facts.values() for name in facts)
    for section, facts in found.facts.items():
        report.tell(section, "bold")
        for name, value in facts.items():
            report.tell(f"  {name:{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    report.tell()
    for what, fix in found.wrong:
        report.tell(f"! {what}", "yellow")
        report.tell(f"  → {fix}", "green")
    report.tell(f"{len(found.wrong)} thing{'s' * (len(found.wrong) != 1)} to look at" if found.wrong else "nothing is wrong", "bold")


# ---------------------------------------------------------------- looks


def _system(found: Findings) -> dict[str, Any]:
    where = "a checkout" if (Path(engine.__file__).resolve().parents[1] / "pyproject.toml").is_file() else "installed"
    python = f"{platform.python_version()} ({sys.executable})"
    return {"engine": f"{engine.__version__} ({where})", "python": python, "platform": platform.platform()}


def _packages(found: Findings) -> dict[str, Any]:
    """Installed version of every package the project stands on, held against what it asks for."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        found.blame("the package packaging is missing", "pip install packaging")
        return {}
    facts: dict[str, Any] = {}
    for text in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(text)
        extra = "extra" in str(wanted.marker or "")
        if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": e}) for e in ("", "gpu", "xformers")):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            facts[wanted.name] = "not installed" + (" (optional)" if extra else "")
            if not extra:
                found.blame(f"{wanted.name} is not installed", f'pip install "{wanted.name}{wanted.specifier}"')
            continue
        facts[wanted.name] = version
        if not wanted.specifier.contains(version, prereleases=True):
            found.blame(f"{wanted.name} {version} does not fit", f'pip install "{wanted.name}{wanted.specifier}"')
    for one, other in RIVALS:
        if _installed(one) and _installed(other):
            found.blame(f"{one} and {other} share their files, and whichever came last won", f"remove both, then pip install {other}")
    return facts


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _processor(found: Findings) -> dict[str, Any]:
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for text in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in text.partition(":"))
            name = value if key == "model name" else name
            flags |= set(value.split()) if key in ("flags", "Features") else set()
    except OSError:  # another system than Linux: torch knows the best instruction set at least
        import torch

        flags = {torch.backends.cpu.get_cpu_capability().lower()}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _ram()
    if memory and memory < RAM_GB * 1e9:
        found.blame(f"{report.size(memory)} of memory is little", "embedded models run; a Stable Diffusion 1.5 on the processor wants 6 GB")
    return {
        "processor": name, "features": [f for f in CPU_FEATURES if f in flags] or sorted(flags)[:1], "cores": f"{usable} of {os.cpu_count()}",
        "memory": report.size(memory) if memory else "unknown",
    }  # fmt: skip


def _ram() -> int:
    """Bytes of physical memory; 0 where that cannot be found out."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        import psutil

        return int(psutil.virtual_memory().total)
    except ImportError:
        return 0


def _gpu(found: Findings) -> dict[str, Any]:
    import torch

    built = torch.version.cuda
    facts: dict[str, Any] = {"torch": f"{torch.__version__}, CUDA {built or 'not built in'}"}
    notes: list[str] = []
    cards = report.part("operators.media.devices").cards(notes)
    for card in cards:
        facts[card.device] = _card(card)
        if card.capability and float(card.capability) < OLDEST_CARD:
            found.blame(f"{card.name} is older than Turing, and this torch may not know it", "use --device cpu, or an older torch")
    for note in notes:
        found.blame(note, "nvidia-smi itself has to work first")
    driver = next((card.driver for card in cards if card.driver), "")
    if not cards:
        facts["cards"] = "none: --embedded runs well, full models slowly"
    elif cards[0].device.startswith("cuda") and not torch.cuda.is_available():
        if built is None:
            found.blame("there is an NVIDIA GPU, but this torch is built without CUDA", "install torch from PyTorch's own index")
        elif driver and int(driver.partition(".")[0]) < CUDA_13_DRIVER and built.startswith("13"):
            found.blame(f"driver {driver} is too old for CUDA {built}", f"install driver {CUDA_13_DRIVER} or newer")
        else:
            found.blame("torch cannot use the GPU", "python -c 'import torch; torch.cuda.init()' says why")
    return facts


def _card(card: Any) -> str:
    facts = [card.name, report.size(card.memory) if card.memory else "", f"sm_{card.capability.replace('.', '')}" if card.capability else ""]
    return ", ".join(fact for fact in [*facts, f"driver {card.driver}" if card.driver else ""] if fact)


def _encoders(found: Findings) -> dict[str, Any]:
    codecs = report.part("operators.media.codecs")
    facts: dict[str, Any] = {c: [n for n in names if codecs.encoder_works(n)] or "none works" for c, names in codecs.ENCODERS.items()}
    facts["decoding"] = "on the GPU (cuda)" if codecs.working_hwaccel("cuda") else "on the processor"
    if not isinstance(facts["h264"], list):
        found.blame("no H.264 encoder works, so sink.video cannot write mp4", "pip install --force-reinstall av")
    return facts


def _models(found: Findings) -> dict[str, Any]:
    from engine.cli.models import MODELS, remedy

    models = report.part(MODELS)
    facts: dict[str, Any] = {"home": models.home()}
    for status in models.list_models():
        model = status.model
        facts[model.name] = str(status.path) if status.present else f"missing; {remedy(model)}"
        if not status.present and (model.kind == "shipped" or "pose" in model.aliases):
            found.blame(f"{model.name} is missing: {model.purpose}", remedy(model))
    return facts


def _disk(found: Findings) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, path in (("here", Path.cwd()), ("models", report.part("operators.models").home())):
        while not path.exists():
            path = path.parent
        free = shutil.disk_usage(path).free
        facts[name] = f"{report.size(free)} free ({path})"
        if free < DISK_GB * 1e9:
            found.blame(f"{report.size(free)} free for {name} is little", f"make room: a set of full models takes {DISK_GB:g} GB")
    return facts


# ---------------------------------------------------------------- devices


def devices(*, json: bool) -> None:
    """Print the cameras, screens, sound devices, graphics cards, encoders and decoders that really open here."""
    from dataclasses import asdict

    found = report.part("operators.media.devices").list_devices()
    if json:
        report.tell(report.as_json(asdict(found)))
        return
    sections = {
        "cameras": [(f'url = "{camera.url}"', camera.label) for camera in found.cameras],
        "virtual cameras": [(f'device = "{camera.url}"', camera.label) for camera in found.virtual_cameras],
        "screens": [(f'url = "{screen.url}"', screen.label) for screen in found.screens],
        "sound": [(sound.label, f"{sound.into} in, {sound.out} out") for sound in found.sounds],
        "graphics cards": [(card.device, _card(card)) for card in found.cards],
        "encoders": [(e.name, f"{e.codec}, on {'hardware' if e.hardware else 'the processor'}") for e in found.encoders],
        "decoders": [(d.name, f"{d.codec}, on {'hardware' if d.hardware else 'the processor'}") for d in found.decoders],
        "hwaccel": [(f'hwaccel = "{kind}"', "") for kind in found.hwaccels],
    }
    for title, rows in sections.items():
        report.tell(title, "bold")
        for name, what in rows or [("none", "")]:
            report.tell(f"  {name:18}  {what}".rstrip())
    for note in found.notes:
        report.tell(f"! {note}", "yellow")
