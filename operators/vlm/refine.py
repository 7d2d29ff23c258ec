"""`vlm.refine`: a picture-to-text model looks at key frames and keeps the prompt in step with them, on its own slow lane.

Invariant: a prompt leaves only when it differs from the last one, and every one that leaves is logged with its reason. What the prompt says
is decided in `refiner`, what is seen in `backends`; this module only decides when to look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from typing_extensions import TypedDict

from engine.errors import UsageError
from engine.operator import HOST_RGB, Live, Operator, Range, operator
from engine.payload import Image, Prompt, Text
from engine.site import Site
from operators.vlm.backends import GaveWay
from operators.vlm.refiner import Refiner, Wish

if TYPE_CHECKING:
    import numpy as np

    from engine.planning.outlook import Asked, Outlook
    from operators.vlm.backends import Backend

QUESTION = "Describe this picture in one short sentence: who is in it, the colours of hair and clothes, and the background."
SIDE = 16  # of the thumbnail by which pictures are compared


class Quantise(TypedDict, total=False):
    """Which library quantises ("auto": the first that is installed), and to how many bits."""

    backend: Literal["auto", "torchao", "quanto", "bitsandbytes"]
    bits: Literal[8, 4]


class Refined(NamedTuple):
    """A new prompt, and the caption of the picture behind it; each only when there is one."""

    prompt: Prompt | None
    caption: Text | None


@operator("vlm.refine", gpu=True, lane="slow")
class Refine(Operator):
    """Look at a picture now and then, and say what to paint next: what was asked stays, the rest may follow what is seen.

    model: a picture-to-text model of the Hub, or a folder (Qwen2-VL, 2.5, 3, SmolVLM class). backend: "auto" takes the embedded captioner
    where the run is embedded, and transformers elsewhere.

    prompt: what is asked for. template: the same with fields, such as "a {subject|dancer} in {clothes|a red coat}, {background}"; `{prompt}`
    stands for the prompt, a field takes its value from `keep`, else from what is seen, else its words after the bar. keep: attributes that
    must stay, such as {hair = "red"}; those that the prompt itself names are kept too. When the picture shows one of them differently, it is
    said again at the front of the prompt; from the second look on also at its end, and what is wrongly there goes to the negative prompt;
    once right, it is taken back step by step.
    follow: 0 never; 1 takes up what is seen of open attributes at once, 0.5 after two looks in a row that agree, 0.25 after four.
    Without prompt, template and keep, the prompt is the caption. negative: what to avoid. blend: frames over which a change is blended in.

    When to look: the graph samples key frames (`every`, `policy = "latest"`). scene_change: look only at pictures that differ from the last
    one looked at by at least this much (mean absolute difference of 16 x 16 grey thumbnails, 0..1; a cut is about 0.1), or after
    max_interval_ms (0: no such limit); 0 looks at every picture that comes. min_interval_ms: never sooner than this after the last look.
    max_age_ms: live, a result is dropped when its picture is older than this by the time it is there (0: never).
    question: what the model is asked. max_tokens: of its answer. side: px; the picture is shrunk to this before it is shown.

    Memory. placement: "resident"; "offload": on the device only while it looks; "host": it looks from the processor; "auto": as the memory plan
    decides. quantise: kept in 8 or 4 bits by a library that is installed; "auto": if the plan needs it. When memory runs out for a node that
    paints, this model leaves the device first, in the middle of a look if need be, and comes back when there has been room for a while.
    """

    gives_way = True

    def __init__(
        self,
        *,
        model: str = "",
        backend: Literal["auto", "transformers", "embedded"] = "auto",
        prompt: Annotated[str, Live()] = "",
        template: Annotated[str, Live()] = "",
        keep: Annotated[dict[str, str], Live()] = {},  # noqa: B006 - never written to
        negative: Annotated[str, Live()] = "",
        follow: Annotated[float, Live(0, 1)] = 0.5,
        blend: Annotated[int, Live(0, 1000)] = 12,
        scene_change: Annotated[float, Live(0, 1)] = 0.0,
        min_interval_ms: Annotated[float, Live(0, 3_600_000)] = 0.0,
        max_interval_ms: Annotated[float, Live(0, 3_600_000)] = 10_000.0,
        max_age_ms: Annotated[float, Live(0, 3_600_000)] = 0.0,
        question: Annotated[str, Live()] = QUESTION,
        max_tokens: Annotated[int, Range(1, 1024)] = 80,
        side: Annotated[int, Range(28, 4096)] = 448,
        placement: Literal["auto", "resident", "offload", "host"] = "auto",
        quantise: Quantise | Literal["auto"] | None = None,
    ) -> None:
        self.model, self.backend = model, backend
        self.prompt, self.template, self.keep, self.negative = prompt, template, keep, negative
        self.follow, self.blend, self.question = follow, blend, question
        self.scene_change, self.min_interval_ms, self.max_interval_ms = scene_change, min_interval_ms, max_interval_ms
        self.max_age_ms = max_age_ms
        self.max_tokens, self.side, self.placement, self.quantise = max_tokens, side, placement, quantise
        self._refiner = Refiner()
        self._eye: Backend | None = None
        self._rested = self._back = False
        self._thumb: np.ndarray[Any, Any] | None = None  # of the last picture looked at
        self._when = 0  # and its pts
        self._said: tuple[str, str] | None = None

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        """The size of the model, from its files where it is here, else from the catalogue. It may look from the host: nobody waits for it."""
        if asked.embedded or asked.params.get("backend") == "embedded" or not asked.params.get("model"):
            return None
        from operators.vlm.weight import outlook

        return outlook(asked)

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.models.loading import LOADING

        with LOADING:
            self._load(site)

    def _load(self, site: Site) -> None:
        from operators.vlm.backends import Embedded, Transformers

        if site.embedded or self.backend == "embedded":
            self._eye = Embedded()
        elif not self.model:
            raise UsageError(
                "vlm.refine has no model to look with", fix='set model = "Qwen/Qwen2-VL-2B-Instruct" on this node, or run with --embedded'
            )
        else:
            how = site.placed.get("vlm", "resident") if self.placement == "auto" else self.placement
            table = self.quantise if isinstance(self.quantise, dict) else None
            packed = (str(table.get("backend", "auto")), int(table.get("bits", 8))) if table is not None else None
            self._eye = Transformers(
                self.model, site, max_tokens=self.max_tokens, side=self.side, visits=how == "offload",
                packed=("auto", 8) if how == "int8" and packed is None else packed,
            )  # fmt: skip

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> Refined:
        if self._back and self._eye is not None:
            self._eye.restore()
            self._rested = self._back = False
        reason = self._due(image.data)
        if self._eye is None or not reason:
            return Refined(None, None)
        try:
            look = self._eye.look(image.data, self.question)
        except GaveWay:
            self._thumb = None  # looked at again when there is room
            return Refined(None, None)
        age_ms = (self.site.clock.now() - self.site.born) / 1e6
        if self.site.live and 0 < self.max_age_ms < age_ms:
            self.site.event("prompt_stale", age_ms=round(age_ms), caption=look.caption)
            return Refined(None, Text(look.caption))
        wish = Wish(self.prompt, self.template, self.keep, self.negative, self.follow)
        refined = self._refiner(wish, look.caption, look.seen)
        if (refined.text, refined.negative) == self._said:
            return Refined(None, Text(look.caption))
        first, self._said = self._said is None, (refined.text, refined.negative)
        why = refined.reason or ("first look" if first else "asked for something else")
        self.site.event("prompt", text=refined.text, negative=refined.negative, reason=why, look=reason, caption=look.caption)
        return Refined(Prompt(refined.text, refined.negative, self.blend), Text(look.caption))

    def _due(self, picture: np.ndarray[Any, Any]) -> str:
        """Why this picture should be looked at; empty where it should not."""
        if self._rested:
            return ""
        now = thumbnail(picture)
        if self._thumb is None:
            reason = "first picture"
        else:
            passed = (self.site.pts - self._when) / 1e6
            if passed < self.min_interval_ms:
                return ""
            changed = difference(self._thumb, now)
            if self.scene_change <= 0:
                reason = "key frame"
            elif changed >= self.scene_change:
                reason = f"scene changed by {changed:.2f}"
            elif 0 < self.max_interval_ms <= passed:
                reason = f"{passed / 1000:.0f} s have passed"
            else:
                return ""
        self._thumb, self._when = now, self.site.pts
        return reason

    def reset(self) -> None:
        self._refiner.reset()
        self._thumb, self._said = None, None

    def snapshot(self) -> dict[str, Any]:
        """What was seen, the last key frame looked at, and the last prompt that left; the model itself remembers nothing."""
        return {"seen": self._refiner.snapshot(), "thumb": self._thumb, "when": self._when, "said": self._said}

    def recall(self, state: Any) -> None:
        self._refiner.recall(state["seen"])
        self._thumb, self._when, self._said = state["thumb"], state["when"], state["said"]

    def relieve(self) -> bool:
        """Move the model off the device, from any thread; no picture is looked at until it is back."""
        came_back, self._back = self._back, False  # or was about to
        if self._eye is None or (self._rested and not came_back):
            return False
        self._rested = self._eye.relieve()
        return self._rested

    def restore(self) -> None:
        """The model comes back when the next picture does."""
        self._back = self._rested

    def close(self) -> None:
        self._eye = None


def thumbnail(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A picture (H, W, 3) uint8 as (SIDE, SIDE) float32 grey, 0..1: means over equal tiles, from at most every eighth pixel each way."""
    import numpy as np

    height, width = picture.shape[:2]
    rows, columns = max(1, height // (8 * SIDE)), max(1, width // (8 * SIDE))
    grey = picture[::rows, ::columns].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    across = [np.linspace(0, n, SIDE + 1).astype(int)[:-1].clip(0, n - 1) for n in grey.shape]
    sums = np.add.reduceat(np.add.reduceat(grey, across[0], axis=0), across[1], axis=1)
    return sums / np.outer(*(np.diff([*at, n]).clip(1) for at, n in zip(across, grey.shape, strict=True))) / 255


def difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """How much two thumbnails differ: the mean absolute difference, 0..1."""
    import numpy as np

    return float(np.abs(one - other).mean())
