"""Phase 5: what a picture-to-text model beside the painting costs it, by how the two are kept apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from bench.gpu import paint
from bench.gpu.ceilings import networks
from bench.gpu.feed import Talker
from bench.gpu.lab import Lab, Skipped
from bench.gpu.options import GRAPHS, wished

CONFIG = "b: 4 LCM steps, ControlNet"


def beside(lab: Lab) -> None:
    made = networks(lab)
    talker = Talker(lab.device, 500, lab.tiny)
    lab.note("talker_parameters", talker.parameters)
    more = wished(GRAPHS)
    lab.note("graphs", bool(more))
    painting = _stream(lab, -1)
    with _on(painting), paint.ours(lab, made, paint.CONFIGS[CONFIG], **more) as frame:
        seconds = 0.3 if lab.tiny else 5.0
        lab.frames(frame, seconds=2.0)
        lab.attempt("alone", lambda: lab.frames(frame, seconds=seconds, most=2000, whole=False))
        lab.attempt("beside it, same stream", lambda: shared(lab, frame, talker, _on(painting), seconds))
        lab.attempt("beside it, a stream of its own", lambda: shared(lab, frame, talker, _on(_stream(lab, -1)), seconds))
        lab.attempt("beside it, a stream that gives way", lambda: shared(lab, frame, talker, _on(_stream(lab, 0)), seconds))
        lab.attempt("beside it, on few multiprocessors", lambda: green(lab, frame, talker, seconds))
        lab.attempt("alone again", lambda: lab.frames(frame, seconds=seconds, most=2000, whole=False))
    alone = [row for row in (lab.now.get("alone"), lab.now.get("alone again")) if row and "fps" in row]
    if alone:
        fps, tail = max(row["fps"] for row in alone), min(row["p99_ms"] for row in alone)
        for key, row in list(lab.now.items()):
            if key.startswith("beside") and "fps" in row:
                row.update(fps_drop=round(1 - row["fps"] / fps, 4), p99_times=round(row["p99_ms"] / tail, 3))
        kept = {key: row for key, row in lab.now.items() if key.startswith("beside") and "fps_drop" in row}
        if kept:
            way = min(kept, key=lambda key: kept[key]["fps_drop"])
            lab.note("best", {"way": way, **kept[way]})


def _stream(lab: Lab, priority: int) -> Any:
    """A stream of its own, None on the host."""
    if not lab.cuda:
        return None
    import torch

    return torch.cuda.Stream(priority=priority)


def _on(stream: Any) -> Any:
    """A context of one thread in which work goes to `stream`."""
    if stream is None:
        return nullcontext()
    import torch

    return torch.cuda.stream(stream)


def shared(lab: Lab, frame: Callable[[int], Any], talker: Talker, where: Any, seconds: float) -> dict[str, float]:
    """Frames while a thread talks on the stream of `where`."""
    with talking(talker, where) as words:
        found = lab.frames(frame, seconds=seconds, most=2000, whole=False)
    return {**found, "words_s": round(words() / max(1e-9, found["frames"] / found["fps"]), 2)}


@contextmanager
def talking(talker: Talker, where: Any) -> Iterator[Callable[[], int]]:
    stop, said, failed = threading.Event(), [0], []

    def talk() -> None:
        try:
            with where:
                while not stop.is_set():
                    said[0] += talker.say(32, lambda: not stop.is_set())
        except Exception as error:  # told to who measures
            failed.append(error)

    thread = threading.Thread(target=talk, name="talker", daemon=True)
    thread.start()
    try:
        yield lambda: said[0]
    finally:
        stop.set()
        thread.join(30)
    if failed:
        raise failed[0]


def green(lab: Lab, frame: Callable[[int], Any], talker: Talker, seconds: float) -> dict[str, float]:
    """The talker in a green context of a quarter of the multiprocessors, where torch has them."""
    import torch

    kind = getattr(torch.cuda, "GreenContext", None) or getattr(getattr(torch.cuda, "green_contexts", None), "GreenContext", None)
    if not lab.cuda or kind is None:
        raise Skipped("no green contexts in this torch" if lab.cuda else "green contexts need a CUDA device")
    count = torch.cuda.get_device_properties(lab.device).multi_processor_count
    context = kind.create(num_sms=max(8, count // 4 // 8 * 8), device_id=torch.device(lab.device).index or 0)

    @contextmanager
    def inside() -> Iterator[None]:
        context.set_context()
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                yield
        finally:
            context.pop_context()

    return shared(lab, frame, talker, inside(), seconds)
