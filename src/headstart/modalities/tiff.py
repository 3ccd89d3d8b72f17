"""Keep the readers of TIFF files from writing to the terminal: what is wrong with a photo becomes a reason instead."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress
from functools import cache

from PIL import _imaging


@cache
def quiet() -> None:
    """Let neither libtiff nor Pillow write about a damaged file, from here on.

    libtiff writes lines past Python, in the thread that decodes: between the bars of a terminal, and into a pipe that
    perhaps nobody reads, where a stranger's photos would stop one thread of a service after the other.
    """
    logging.getLogger("PIL.TiffImagePlugin").addHandler(logging.NullHandler())  # instead of Python's last resort
    library = ctypes.CDLL(_imaging.__file__)  # with those that it has loaded, libtiff among them
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        with suppress(AttributeError):  # a Pillow that hides it inside itself
            getattr(library, name)(None)
