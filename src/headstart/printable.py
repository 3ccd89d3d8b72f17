"""Show names of strangers where they can do harm: on a terminal, which takes some letters for commands, in a table, of
which a spreadsheet takes some cells for formulas, and in Markdown.
"""

from __future__ import annotations

import re

# Commands to a terminal, and marks that turn the direction of writing around; lines and tabs are ours.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# A formula that does anything calls a function, (, or another program, | and !. Names such as -1 and @home stay.
_FORMULA = re.compile(r"\s*[=+\-@].*[(|!]", re.DOTALL)
_MARKED = re.compile(r"([\\`*_{}\[\]<>#|~&$:@!])")


def printable(text: str) -> str:
    """The text with commands to the terminal spelled out, as Python spells them."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def cell(text: str) -> str:
    """The text as a spreadsheet shows it and does not compute it: a formula gets the apostrophe that marks a text."""
    return f"'{text}" if _FORMULA.match(text) else text


def escaped(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return _MARKED.sub(r"\\\1", " ".join(str(text).split()))
