"""Training of the embedded model, from nothing: `python -m operators.train.embedded --out DIR`.

Stages, in order: tokenizer, text, vae, unet (half size), unet256, decoder, captioner. Each writes its result into DIR and a
checkpoint every minute; `--resume` goes on where the last run stopped. Importing this package loads nothing heavy.
"""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import Any

STAGES = ("tokenizer", "text", "vae", "unet", "unet256", "decoder", "captioner", "export")


def _stage(name: str, settings: Any, folder: Path, rank: int) -> Any:
    if name == "text":
        from operators.train.embedded.text import Text

        return Text(settings, folder, rank)
    if name == "vae":
        from operators.train.embedded.autoencoder import Autoencoder

        return Autoencoder(settings, folder, rank)
    if name in ("unet", "unet256"):
        from operators.train.embedded.denoiser import Denoiser

        return Denoiser(settings, folder, rank, name)
    if name == "decoder":
        from operators.train.embedded.decoder import Decoder

        return Decoder(settings, folder, rank)
    from operators.train.embedded.captioner import Captioner

    return Captioner(settings, folder, rank)


def train_stage(
    name: str, settings: Any, folder: Path, *, minutes: float | None = None, resume: bool = False, rank: int = 0, world: int = 1,
) -> bool:  # fmt: skip
    """Train one stage; returns whether it is done."""
    if name == "tokenizer":
        from operators.train.embedded.tokens import train_tokenizer

        train_tokenizer(settings, folder)
        return True
    if name == "export":
        from operators.train.embedded.export import assemble

        assemble(settings, folder, folder / "model")
        return True
    from dataclasses import replace

    from operators.train.embedded.loop import run, steps_done

    if resume:  # other scenes than those seen so far, not the same ones once more
        settings = replace(settings, seed=settings.seed + steps_done(folder, name))
    return run(_stage(name, settings, folder, rank), folder, minutes=minutes, resume=resume, rank=rank, world=world)


def _worker(rank: int, world: int, port: int, name: str, settings: Any, folder: Path, minutes: float | None, resume: bool) -> None:
    import torch

    torch.set_num_threads(1)  # one thread a process: on shared cores, OpenMP barriers cost more than they give
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    train_stage(name, settings, folder, minutes=minutes, resume=resume, rank=rank, world=world)
    if world > 1:
        torch.distributed.destroy_process_group()


def main(argv: list[str] | None = None) -> int:
    """The command. Returns 0 when every asked stage has run to its end or to its time."""
    parser = argparse.ArgumentParser(prog="operators.train.embedded", description="Train the embedded model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage; may be repeated (default: all, in order)")
    parser.add_argument("--minutes", type=float, help="stop each stage after this long; --resume goes on")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)), help="processes of one thread each")
    parser.add_argument("--tiny", action="store_true", help="a model of test size, in seconds")
    parser.add_argument("--compile", action="store_true", help="compile the denoiser: minutes at first, a quarter less time a step")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="override a setting, e.g. unet_steps=2000")
    options = parser.parse_args(argv)

    from dataclasses import replace

    from operators.train.embedded.settings import FULL, TINY

    settings = TINY if options.tiny else FULL
    for pair in options.set:
        name, _, value = pair.partition("=")
        if not isinstance(getattr(settings, name, None), (int, float)):
            parser.error(f"--set: no numeric setting {name!r}")
        settings = replace(settings, **{name: type(getattr(settings, name))(float(value))})
    if options.compile:
        settings = replace(settings, compile=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.stage or STAGES:
        world = 1 if name in ("tokenizer", "export", "text", "captioner") else options.workers
        if world == 1:
            _worker(0, 1, 0, name, settings, options.out, options.minutes, options.resume)
            continue
        import torch.multiprocessing as mp

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.spawn(_worker, args=(world, port, name, settings, options.out, options.minutes, options.resume), nprocs=world)
    return 0
