"""What a kind of data must be able to do: turn bytes into arrays, plainly or changed at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from headstart.modalities.spec import InputSpec

if TYPE_CHECKING:
    from jaxtyping import UInt8


class Undecodable(Exception):
    """These bytes are no usable item; the message is a reason that a user understands."""


class Modality(Protocol):
    """How the bytes of one item become the array that a backbone takes."""

    name: str
    suffixes: frozenset[str]  # lower case, with the dot

    def fingerprint(self, *, reduced: bool) -> str:
        """Changes whenever the same bytes would decode to another array: libraries' versions, our rules."""

    def decode(self, content: bytes, spec: InputSpec, *, reduced: bool = False) -> UInt8[np.ndarray, "h w c"]:
        """The array for these bytes. `reduced` allows a cheaper decoding that is nearly the same.

        Raises:
            Undecodable: with the reason.
        """

    def augment(self, content: bytes, spec: InputSpec, rng: np.random.Generator) -> UInt8[np.ndarray, "h w c"]:
        """A randomly changed view of the item, the same for the same state of `rng`.

        Raises:
            Undecodable: with the reason.
        """
