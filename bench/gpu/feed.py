"""What stands at the ends of a bench's graph: a source of pictures and poses, and a picture-to-text model that is only as large as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from bench.gpu.nets import blank
from engine.operator import HOST_RGB, Operator, Stamped, StreamInfo, operator
from engine.payload import Image, Pose, Prompt, Scalar
from engine.site import Site


def pictures(side: int, count: int = 8) -> list[Any]:
    """Different uint8 pictures (side, side, 3)."""
    import numpy as np

    coarse = np.random.default_rng(1).integers(0, 256, (count, side // 8, side // 8, 3), dtype=np.uint8)
    return [c.repeat(8, axis=0).repeat(8, axis=1) for c in coarse]


class Fed(NamedTuple):
    """A picture to start from, and one that conditions."""

    image: Annotated[Image, HOST_RGB]
    control: Annotated[Image, HOST_RGB]


@operator("bench.pictures")
class Pictures(Operator):
    """`frames` different pictures (side, side, 3), as fast as they are taken."""

    def __init__(self, *, side: int, frames: int) -> None:
        self.side, self.frames = side, frames

    def __call__(self) -> Iterator[Fed]:
        made = [Image(picture) for picture in pictures(self.side)]
        for n in range(self.frames):
            yield Stamped(Fed(made[n % len(made)], made[(n + 1) % len(made)]), pts=n * 40_000_000)  # type: ignore[misc]


class Camera(Operator):
    """Stands in for `source.video`: pictures at a rate, or as fast as they are taken, until the session stops."""

    def __init__(self, side: int, fps: float) -> None:
        self.side, self.fps = side, fps

    def open(self, site: Site) -> None:
        super().open(site)
        site.describe(StreamInfo(fps=self.fps, size=(self.side, self.side)))

    def __call__(self) -> Iterator[Image]:
        made = [Image(picture) for picture in pictures(self.side)]
        begun, n, period = self.site.clock.now(), 0, round(1e9 / self.fps)
        while self.site.sleep_until(begun + n * period):
            yield Stamped(made[n % len(made)], pts=n * period, born=self.site.clock.now())  # type: ignore[misc]
            n += 1


class Body(Operator):
    """Stands in for the finder of poses: somebody who moves a little, and is steady in half of the frames."""

    def __init__(self, result: type) -> None:
        self.result, self.n = result, 0

    def __call__(self, image: Image) -> Any:
        import numpy as np

        self.n += 1
        people = np.random.default_rng(self.n % 8).uniform(0.2, 0.8, (1, 18, 3)).astype(np.float32)
        people[..., 2] = 1.0
        steady = 1.0 if self.n // 24 % 2 else 0.2
        return self.result(Pose(people, (image.height, image.width), steady), Scalar(steady))


class Talker:
    """A random decoder of a language model of about `millions` parameters, and its token loop, which waits for the device once a token."""

    def __init__(self, device: str, millions: int, tiny: bool) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        if tiny:
            shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 128}
        else:
            layers = max(2, round((millions - 61) / 16.5))
            shape = {
                "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers, "num_attention_heads": 16, "vocab_size": 60_000,
            }  # fmt: skip
        config = LlamaConfig(**shape, tie_word_embeddings=True)
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        # Never larger than it has to be, not even while it is made: the card may be a small one.
        self.model = blank(lambda: LlamaForCausalLM(config), device, dtype, 7)
        rotary = self.model.model.rotary_emb
        self.model.model.rotary_emb = type(rotary)(config=config).to(device)
        self.device, self.torch, self.words = device, torch, shape["vocab_size"]
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def say(self, tokens: int, going: Any = lambda: True) -> int:
        """Read a picture's worth of tokens, then write `tokens`; returns how many came before `going` said no."""
        torch = self.torch
        with torch.inference_mode():
            ids = torch.randint(0, self.words, (1, 256), device=self.device)
            found = self.model(ids, use_cache=True)
            for n in range(tokens):
                if not going():
                    return n
                word = int(found.logits[0, -1].argmax().item())  # the host waits here, as every token loop does
                found = self.model(torch.tensor([[word]], device=self.device), past_key_values=found.past_key_values, use_cache=True)
        return tokens


class Remark(Operator):
    """Stands in for `vlm.refine`: the same length of thought, and never another prompt."""

    def __init__(self, result: type, tiny: bool, millions: int, tokens: int) -> None:
        self.result, self.tiny, self.millions, self.tokens = result, tiny, millions, tokens

    def open(self, site: Site) -> None:
        super().open(site)
        self.talker = Talker(site.device, self.millions, self.tiny)

    def __call__(self, image: Image) -> Any:
        self.talker.say(self.tokens, lambda: not self.site.stopping)
        return self.result(Prompt("a dancer in a red coat, studio light"), None)


class Idle(Operator):
    """Stands in for an operator that is not measured: takes what comes and makes nothing."""

    def __call__(self, *ports: Any, **named: Any) -> Any:
        return None


class Look(Operator):
    """Stands in for `diffusion.reference`: an image encoder of full size (CLIP ViT-H/14) looks, and the reference is of nothing, since random
    networks have no IP-Adapter to read it."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny

    def open(self, site: Site) -> None:
        super().open(site)
        import torch
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        shape = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14}
        if self.tiny:
            shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 56}
        dtype = torch.float16 if site.device.startswith("cuda") else torch.float32
        self.network = blank(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**shape)), site.device, dtype, 8)
        self.seen = torch.randn(1, 3, 224, 224, device=site.device).to(dtype)

    def __call__(self, image: list[Image]) -> Any:
        import numpy as np
        import torch

        from operators.diffusion.reference import Reference

        with torch.inference_mode():
            self.network(self.seen)
        return Reference(np.zeros((1, 4, 8), np.float32), np.zeros((1, 4, 8), np.float32), "")


class Clocked(Operator):
    """Stands in for a sink: when each picture came, and how old it was (ns)."""

    def __init__(self) -> None:
        self.came: list[tuple[int, int]] = []

    def __call__(self, image: Image) -> None:
        now = self.site.clock.now()
        self.came.append((now, now - self.site.born))
