"""Loads a picture-to-text model's processor for pictures alone.

Most such processors also insist on a video half, which needs torchvision; nobody here shows them videos. So the checkpoint's own processor
class is loaded without that half, from its own files, and with the image processor that works on NumPy and PIL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_processor(path: Path, config: Any) -> Any:
    """The processor of the checkpoint at `path`, whose model configuration is `config`. Never runs code from the checkpoint."""
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    whole = PROCESSOR_MAPPING.get(type(config), None)
    if whole is None or "video_processor" not in whole.get_attributes():
        return AutoProcessor.from_pretrained(path, **options)
    return _for_pictures(whole).from_pretrained(path, **options)


def _for_pictures(whole: Any) -> Any:
    from transformers import ProcessorMixin

    class ForPictures(whole):  # type: ignore[misc]
        """A processor that has no video half."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            names = whole.get_attributes()
            given = iter(args)
            padded = [None if name == "video_processor" else next(given) for name in names]
            return super().from_args_and_dict(padded, processor_dict, **kwargs)

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            # Some classes ask their video half for a frame rate first, also when there is no video.
            return ProcessorMixin.apply_chat_template(self, *args, **kwargs)

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    ForPictures.__name__ = whole.__name__
    return ForPictures
