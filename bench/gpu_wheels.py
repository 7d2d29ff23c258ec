"""Takes along what a GPU machine without a network lacks: wheels for it, packed here and unpacked there, beside its own torch.

    python bench/gpu_wheels.py pack .wheels                     here: wheels of what the tests marked gpu and bench/gpu_live.py import
    python bench/gpu_wheels.py pack .wheels --python 3.12 --also av torchao
    python bench/gpu_wheels.py unpack .wheels SITE         there: installs them into a folder, with this project's entry points

Then, there, `PYTHONPATH=SITE:.` is all that Python needs; bench/gpu_run.sh does both and the rest. torch, its CUDA libraries, transformers
and what else the machine has by itself (`HAS`) are left alone. Versions are those of constraints.txt. Packing uses pip as it is set up here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is imported by the engine, by painting on random networks and by the tests marked gpu.
LACKS = (
    "annotated-types", "diffusers", "importlib_metadata", "pydantic", "pydantic_core", "pyzmq", "starlette", "typing-inspection", "uvicorn",
    "websockets", "zipp",
)  # fmt: skip
HAS = (
    "accelerate", "msgpack", "numpy", "peft", "pillow", "prometheus-client", "pytest", "pytest-timeout", "rich", "safetensors", "tokenizers",
    "torch", "transformers", "typer", "typing-extensions",
)  # fmt: skip
LEFT = ("av", "mcap", "mediapipe")  # video, recordings and poses of real pictures are not tried there; av alone has 35 MB
MORE = {"streamdiffusion": "0.1.1"}  # what we are compared with
PLATFORMS = (*(f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)), "manylinux2014_x86_64", "manylinux1_x86_64")


def pinned() -> dict[str, str]:
    """Versions of constraints.txt by name, in pip's spelling."""
    rows = (line.partition("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.strip().lower().replace("_", "-"): version.strip() for name, _, version in rows}


def wanted(also: list[str]) -> list[str]:
    """Requirements to download, those of `also` in the tested version where there is one."""
    versions = pinned() | MORE
    found = {name: versions.get(name.lower().replace("_", "-")) for name in (*LACKS, *MORE, *also)}
    return [name if version is None else f"{name}=={version}" for name, version in found.items()]


def pack(folder: Path, python: str, also: list[str]) -> int:
    """Download the wheels, one version of each."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--dest", str(folder)]
    for name in PLATFORMS:
        command += ["--platform", name]
    code = subprocess.call([*command, *wanted(also)])
    if not code:
        size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
        print(f"{len(list(folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB, in {folder}")
    return code


def unpack(folder: Path, site: Path) -> int:
    """Install the wheels into `site`, and tell Python which operators this checkout has."""
    wheels = sorted(str(wheel) for wheel in folder.glob("*.whl"))
    if not wheels:
        print(f"no wheels in {folder}; run: python bench/gpu_wheels.py pack {folder}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"]
    code = subprocess.call([*command, "--target", str(site), *wheels])
    if not code:
        entry_points(site)
    return code


def entry_points(site: Path) -> None:
    """What an installation of this project would write, for a checkout that is only on the path."""
    sys.path.insert(0, str(ROOT))
    from engine import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"{project['name'].replace('-', '_')}-{__version__}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {__version__}\n", encoding="utf-8")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    text = "\n".join(f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in rows.items()) for group, rows in groups.items())
    (folder / "entry_points.txt").write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="download wheels for the other machine")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--python", default="3.12", help="of the other machine")
    packing.add_argument("--also", nargs="*", default=[], metavar="PACKAGE", help="more of them, such as av (video) or torchao (phase 7)")
    unpacking = verbs.add_parser("unpack", help="install them into a folder")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("site", type=Path)
    args = parser.parse_args(argv)
    return pack(args.folder, args.python, args.also) if args.verb == "pack" else unpack(args.folder, args.site)


if __name__ == "__main__":
    sys.exit(main())
