"""Get a modality by its name."""

from __future__ import annotations

from headstart.errors import BadSetting
from headstart.modalities.modality import Modality
from headstart.registry import Registry

MODALITIES = Registry("modality", "headstart.modalities", BadSetting)


def load_modality(name: str) -> Modality:
    """The modality of this name.

    Raises:
        BadSetting: there is none.
    """
    modality: Modality = MODALITIES.load(name)()
    return modality
