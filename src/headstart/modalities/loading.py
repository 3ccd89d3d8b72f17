"""Get a modality by its name."""

from __future__ import annotations

from headstart.errors import BadSetting
from headstart.modalities.modality import Modality
from headstart.registry import Registry

MODALITIES = Registry("modality", "headstart.modalities", BadSetting)


def load_modality(name: str, *, max_pixels: int | None = None) -> Modality:
    """The modality of this name; with `max_pixels`, one that refuses items of more pixels.

    Raises:
        BadSetting: there is none.
    """
    limit = {} if max_pixels is None else {"max_pixels": max_pixels}
    modality: Modality = MODALITIES.load(name)(**limit)
    return modality
