"""A steady frame: nothing asks the device for a value, and nothing but the latent that leaves is allocated outside the networks."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, stream  # noqa: E402
from diffusion_tape import Recorder  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

from engine.payload import Image, Prompt  # noqa: E402
from operators.diffusion.steps import quick  # noqa: E402

HOST = {"item", "_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "_unique2"}


pytestmark = pytest.mark.usefixtures("one_thread")


class Watch(TorchDispatchMode):
    """What reaches the dispatcher: values `asked` for on the host, storages `made` outside networks, operations `inside` and `outside` them."""

    def __init__(self, bench: Any) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.made: list[str] = []
        self.inside = self.outside = self.depth = 0
        models, passes = bench.operator.models, bench.operator._loop.passes
        for holder, name in [
            (passes, "full"), (passes, "short"), (models.coder, "encode"), (models.coder, "decode"), *((net, "embed") for net in models.nets),
        ]:
            setattr(holder, name, self._network(getattr(holder, name)))

    def _network(self, call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                self.depth -= 1

        return run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        result = func(*args, **(kwargs or {}))
        if name in HOST:
            self.asked.append(name)
        if self.depth:
            self.inside += 1
            return result
        self.outside += 1
        known = {x.untyped_storage()._cdata for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
        for x in tree_flatten(result)[0]:
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in known and x.untyped_storage().nbytes():
                stack = [f for f in traceback.extract_stack() if "/operators/" in f.filename and "/tests/" not in f.filename]
                self.made.append(f"{name} {tuple(x.shape)} {stack[-1].filename.rpartition('/')[2]}:{stack[-1].name}" if stack else name)
        return result


CASES: dict[str, dict[str, Any]] = {
    "carry": {"carry_mix": 1.0},
    "picture": {"carry_mix": 0.0},
    "both": {"carry_mix": 0.5},
    "cfg, two nets": {"control": 2, "guidance": "cfg", "guidance_scale": 4.0},
    "rcfg": {"guidance": "rcfg-self", "scheduler": "dpm++"},
    "noisy": {"scheduler": "lcm"},
    "scaled": {"scheduler": "euler_a"},
    "reuse": {"reuse": {"every": 2, "cut": 1, "frames": 3}, "steps": 8},
    "smaller": {"size": 64, "width": 96, "height": 96},
    "larger pictures": {"size": 64},
    "half": {"dtype": "bf16"},
}


def frames(bench: Any, count: int, first: int = 0, carry: Any = None, side: int = 64) -> Any:
    nets = len(bench.operator.controlnets)
    for n in range(first, first + count):
        out = bench([Image(picture(n + 20 * k, side, side)) for k in range(nets)], Image(picture(n + 7, side, side)), carry, Prompt("a dancer"))
        carry = out.latent
        bench.let_go()
    return carry


@pytest.mark.parametrize("case", CASES)
def test_plainly(case: str) -> None:
    with stream(**CASES[case]) as bench:
        watch = Watch(bench)
        side = 96 if case == "larger pictures" else 64
        carry = frames(bench, 3, side=side)
        with watch:
            frames(bench, 1, first=3, carry=carry, side=side)
    assert watch.inside > 200
    assert watch.asked == []
    assert watch.made == ["clone (1, 4, 8, 8) stream.py:__call__"]


@pytest.mark.parametrize("case", ["both", "cfg, two nets", "reuse"])
def test_captured(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By replays, no operation of a network is submitted one by one: what is left does not grow with the networks."""
    recorder = Recorder()
    monkeypatch.setattr(quick, "capturer_for", lambda device, wanted: (recorder, ""))
    with stream(**CASES[case]) as bench:
        carry = None
        for n in range(5):
            carry = frames(bench, 1, first=n, carry=carry)
            while bench.operator.idle():
                pass
        for tape in recorder.tapes:
            monkeypatch.setattr(tape, "replay", lambda: None)  # the device does this
        watch = Watch(bench)
        replays = recorder.replays
        with watch:
            frames(bench, 1, first=5, carry=carry)
        assert recorder.replays == replays
        nets = len(bench.operator.models.nets)
    assert watch.asked == []
    assert watch.made == ["clone (1, 4, 8, 8) stream.py:__call__"]
    assert watch.outside < 60
    assert watch.inside < 30 * (1 + nets)  # the picture's encoder and the embeddings of new conditions
