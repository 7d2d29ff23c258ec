"""What looks at a picture: a picture-to-text model of the transformers library, or the captioner that ships in the package.

A backend takes uint8 RGB (H, W, 3) and returns a caption with the attributes it could read. It knows nothing of prompts. Nothing is fetched,
no code from a checkpoint runs, and only safetensors are read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.errors import MediaError, MissingError, UsageError
from operators.vlm.attributes import Attribute, from_table, parse

if TYPE_CHECKING:
    import numpy as np

    from engine.site import Site


class Look(NamedTuple):
    """What was seen: a caption, and attributes by name."""

    caption: str
    seen: dict[str, Attribute]


class GaveWay(Exception):
    """A look was given up, because somebody else needs the memory."""


class Backend(Protocol):
    """Looks at pictures. `relieve` frees device memory until `restore`, from any thread; a look that is under way raises GaveWay."""

    def look(self, picture: np.ndarray[Any, Any], question: str) -> Look: ...

    def relieve(self) -> bool: ...

    def restore(self) -> None: ...


class Embedded:
    """The captioner that ships in the package; it answers no questions."""

    ATTRIBUTES = ("hair", "top", "bottom", "hat", "place")

    def __init__(self) -> None:
        from operators.models import find

        find("embedded")
        from operators import embedded

        self._caption, self._attributes = embedded.caption, embedded.attributes

    def look(self, picture: np.ndarray[Any, Any], question: str) -> Look:
        caption = str(self._caption(picture))
        table = {k: v for k, v in self._attributes(picture).items() if k.removesuffix("_colour") in self.ATTRIBUTES}
        return Look(caption, {**parse(caption), **from_table(table)})

    def relieve(self) -> bool:
        return False

    def restore(self) -> None:
        """Nothing was freed."""


class Transformers:
    """An image-text-to-text checkpoint: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, SmolVLM and their like.

    Answers are greedy, so the same picture gives the same answer. A session that is being aborted, and memory that somebody else needs, are
    noticed between two tokens. `visits`: the model is on the device only while it looks. `packed`: the library and bits to quantise with.
    """

    def __init__(
        self, model: str, site: Site, *, max_tokens: int, side: int, visits: bool = False, packed: tuple[str, int] | None = None
    ) -> None:
        from operators.models import check_weights, find

        path = find(model)
        check_weights(path)
        try:
            import torch
            from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, StoppingCriteria, StoppingCriteriaList
            from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            from transformers.utils import logging
        except ImportError as error:
            raise MissingError(f"vlm.refine needs transformers and torch: {error}", fix="pip install transformers torch") from error
        from operators.vlm.processor import load_processor

        logging.disable_progress_bar()
        self.max_tokens, self.side, self.device = max_tokens, side, torch.device(site.device)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(path, **options)
            if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
                raise ValueError(f"it is a {config.model_type} model")
            self.processor = load_processor(path, config)
            self.model = AutoModelForImageTextToText.from_pretrained(
                path, config=config, dtype=_dtype(torch, self.device), use_safetensors=True, **options
            )
        except ImportError as error:
            raise MissingError(f"{model} needs a package that is not there: {_line(error)}", fix="install it with pip") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{model} is no picture-to-text model that transformers can load: {_line(error)}",
                fix="take an image-text-to-text model such as Qwen/Qwen2-VL-2B-Instruct",
            ) from error
        except (OSError, RuntimeError) as error:
            raise MediaError(f"{model} cannot be read: {_line(error)}", fix=f"check it with: engine models verify {model}") from error
        if packed is not None:
            from operators.models.quantise import choose, quantise
            from operators.models.sizes import KEPT

            quantise(self.model, choose(packed[0], packed[1], self.device.type), packed[1], KEPT.search)
        self._visits, self._turn, self._leaving = visits, threading.Lock(), threading.Event()
        self.model.to("cpu" if visits else self.device).eval()
        self._torch = torch
        leaving = self._leaving

        class Cancel(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                site.check()
                return torch.full((input_ids.shape[0],), leaving.is_set(), dtype=torch.bool, device=input_ids.device)

        self._stop = StoppingCriteriaList([Cancel()])
        ends = self.model.generation_config.eos_token_id
        first_end = ends[0] if isinstance(ends, list) else ends
        pad = self.model.generation_config.pad_token_id
        self._generation = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=ends, pad_token_id=first_end if pad is None else pad
        )

    def look(self, picture: np.ndarray[Any, Any], question: str) -> Look:
        said = [{"role": "user", "content": [{"type": "image", "image": self._fit(picture)}, {"type": "text", "text": question}]}]
        inputs = self.processor.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        with self._turn, self._torch.inference_mode():
            if self._leaving.is_set():
                raise GaveWay
            if self._visits:
                self.model.to(self.device)
            try:
                inputs = inputs.to(self.device, dtype=self.model.dtype)
                tokens = self.model.generate(**inputs, generation_config=self._generation, stopping_criteria=self._stop)
            finally:
                if self._visits:
                    self.model.to("cpu")
        if self._leaving.is_set():
            raise GaveWay
        answer = self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        answer = "".join(c for c in answer if c == "\n" or (c.isprintable() and c != "\ufffd")).strip()
        return Look(answer, parse(answer))

    def _fit(self, picture: np.ndarray[Any, Any]) -> Any:
        """The picture with a longer side of at most `side`: what a look costs grows with the pixels."""
        from PIL import Image as Picture

        image = Picture.fromarray(picture)
        image.thumbnail((self.side, self.side), Picture.Resampling.BICUBIC)
        return image

    def relieve(self) -> bool:
        if self.device == self._torch.device("cpu"):
            return False
        self._leaving.set()
        with self._turn:
            self.model.to("cpu")
        return True

    def restore(self) -> None:
        with self._turn:
            if not self._visits:
                self.model.to(self.device)
            self._leaving.clear()


def _dtype(torch: Any, device: Any) -> Any:
    """bfloat16 where the device computes in it, else float16 on a GPU, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
