"""Makes docs/carry.webp and docs/carry-film.webp: a clip painted by the embedded model under several settings, and where each flickers.

    python docs/carry_pictures.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

SHOWN = ("fresh noise", "carry, fresh noise", "carry", "fixed noise", "hold 0.9")
FRAMES, AT, GAIN = 24, 14, 20
TILE, GAP, HEAD = 192, 6, 20


def main() -> None:
    import torch
    from PIL import Image

    from bench.carry_quality import MOTIONS, SIZE, VARIANTS, draw, from_autoencoder, painted
    from bench.embedded_quality import SEED, held_out
    from operators.diffusion.carry.motion import Motion
    from operators.figure.motion import Camera

    torch.set_num_threads(1)
    scene = replace(held_out(3, SEED + 5000)[2], motion=MOTIONS[2], camera=Camera(yaw=0.2))
    clip = draw(scene, FRAMES)
    columns = {name: [picture for picture, _ in painted(clip, VARIANTS[name], 42)] for name in SHOWN}
    columns["autoencoder of the truth"] = [picture for picture, _ in from_autoencoder(clip)]
    motion = Motion()
    for n in range(AT + 1):
        seen = motion.look([clip.skeletons[n]], (SIZE // 8, SIZE // 8))
        motion.settle(True)
    moved = np.repeat(np.repeat(seen.moved, 8, 0), 8, 1)[..., None]
    rows: list[list[Any]] = [[], []]
    for pictures in columns.values():
        change = np.mean([np.abs(a.astype(float) - b).mean(-1) for a, b in pairwise(pictures)], axis=0)
        rows[0].append(pictures[AT])
        rows[1].append(np.repeat(np.clip(255 - GAIN * change, 0, 255).astype(np.uint8)[..., None], 3, -1))
    held = columns["hold 0.9"][AT]
    rows[0].append((held * (0.35 + 0.65 * moved)).astype(np.uint8))
    rows[1].append(clip.skeletons[AT])
    sheet = _sheet(rows, [*columns, "hold: what is painted"])
    sheet.save(DOCS / "carry.webp", quality=80, method=6)
    film = []
    for n in range(FRAMES):
        film.append(_sheet([[columns[name][n] for name in SHOWN]], list(SHOWN)))
    film[0].save(DOCS / "carry-film.webp", save_all=True, append_images=film[1:], duration=1000 // 12, loop=0, quality=55, method=4)
    for name in ("carry.webp", "carry-film.webp"):
        print(name, f"{(DOCS / name).stat().st_size // 1024} KiB", Image.open(DOCS / name).size)


def _sheet(rows: list[list[Any]], names: list[str]) -> Any:
    from PIL import Image, ImageDraw

    width, height = len(names) * (TILE + GAP) - GAP, HEAD + len(rows) * (TILE + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for x, name in enumerate(names):
        pen.text((x * (TILE + GAP) + 2, 4), name, fill="black")
        for y, row in enumerate(rows):
            tile = Image.fromarray(row[x]).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x * (TILE + GAP), HEAD + y * (TILE + GAP)))
    return sheet


if __name__ == "__main__":
    main()
