"""Tell which column of a table is which: by what a user says, or else by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from headstart.errors import BadData, BadSetting
from headstart.registry import closest

# Names that are taken for each role, the likelier first; case, spaces and other marks between letters do not count.
NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "filepath", "file", "filename", "imagepath", "imagefile", "imagefilename", "imagename", "imgpath"),
        *("image", "images", "img", "imgname", "photo", "photopath", "picture", "filelocation", "relativepath"),
        *("absolutepath", "imageid", "photoid", "name", "id"),
    ),
    "label": (
        *("label", "class", "labelname", "classname", "labels", "category", "categoryname", "target", "species"),
        *("classes", "breed", "diagnosis", "tag", "type", "finelabel", "coarselabel", "y", "classid", "labelid"),
        *("categoryid",),
    ),
    "split": ("split", "subset", "fold", "partition", "set", "usage", "dataset"),
    "group": (
        *("group", "groupid", "patient", "patientid", "subject", "subjectid", "individual", "individualid"),
        *("person", "personid", "session", "sessionid", "burst", "burstid", "sequence", "sequenceid", "sequenceid"),
        *("caseid", "location", "locationid", "site", "siteid"),
    ),
    "weight": ("weight", "sampleweight", "weights"),
}
ROLES = tuple(NAMES)
NEEDED = ("path", "label")
_FILE = re.compile(r"\.(jpe?g|png|gif|bmp|webp|tiff?)$", re.IGNORECASE)
_FIX = "write columns as path=COLUMN,label=COLUMN, and split=, group= or weight= where there are such"


def parsed(text: str | Mapping[str, str] | None) -> Mapping[str, str]:
    """The columns that a user names, by role. An empty name, as in `group=`, says that there is none.

    Raises:
        BadSetting: they are not written as roles and names, or a role is unknown or named twice.
    """
    if text is None or isinstance(text, Mapping):
        return text or {}
    named: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals:
            raise BadSetting(f"columns has {part.strip()!r}, which names no column", fix=_FIX)
        if role not in ROLES:
            raise BadSetting(
                f"columns has the unknown role {role!r}",
                fix=closest(role, list(ROLES)) or f"use some of {', '.join(ROLES)}",
            )
        if role in named:
            raise BadSetting(f"columns names {role} twice", fix=_FIX)
        if role in NEEDED and not name:
            raise BadSetting(f"columns names nothing for {role}, which every table needs", fix=_FIX)
        named[role] = name
    if not named:
        raise BadSetting(f"columns is {text!r}, which names no column", fix=_FIX)
    return named


def told(header: Sequence[str], named: Mapping[str, str], *, where: str) -> dict[str, str]:
    """The column for each role that has one, by what is named and else by the header. `where`: of which table.

    Raises:
        BadData: a named column is not there or there twice, or there is none for paths or labels.
    """
    columns = {role: _found(header, name, where) for role, name in named.items() if name}
    for role in ROLES:
        if role not in named and (guess := _guessed(header, role, set(columns.values()))):
            columns[role] = guess
    for role in NEEDED:
        if role not in columns:
            headless = any(_FILE.search(name) for name in header)
            raise BadData(
                f"{where} has no column that is known to hold the {role}, among {_listed(header)}",
                fix="write a first line with the names of the columns: path,label"
                if headless
                else f"say which one it is with --columns {role}=COLUMN, or columns='{role}=COLUMN' in Python",
            )
    for role, name in columns.items():
        if header.count(name) > 1:
            raise BadData(f"{where} has {header.count(name)} columns {name!r}", fix="give each column its own name")
        other = next(other for other, same in columns.items() if same == name)
        if other != role:
            raise BadData(f"column {name!r} of {where} is named for {other} and for {role}", fix=_FIX)
    return {role: columns[role] for role in ROLES if role in columns}


def of_paths(header: Sequence[str], *, where: str) -> str:
    """The column of paths, where nothing else is asked of a table.

    Raises:
        BadData: there is none, or there are several of its name.
    """
    name = _guessed(header, "path", set())
    if name is None or header.count(name) > 1:
        raise BadData(
            f"{where} has no column that is known to hold the paths, among {_listed(header)}",
            fix="name that column 'path', in the table's first line",
        )
    return name


def note(columns: Mapping[str, str], where: str) -> str:
    """What a user is told of them once."""
    words = ", ".join(f"{role}={name}" for role, name in columns.items())
    return f"columns of {where}: {words}; change with --columns"


def _found(header: Sequence[str], name: str, where: str) -> str:
    if name in header:
        return name
    same = [other for other in header if _plain(other) == _plain(name)]
    if len(same) == 1:
        return same[0]
    raise BadData(
        f"{where} has no column {name!r}", fix=closest(name, list(header)) or f"it has the columns {_listed(header)}"
    )


def _guessed(header: Sequence[str], role: str, taken: set[str]) -> str | None:
    plain = {_plain(name): name for name in reversed(header) if name not in taken}
    return next((plain[word] for word in NAMES[role] if word in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _listed(header: Sequence[str]) -> str:
    more = f" and {len(header) - 12} more" if len(header) > 12 else ""
    return ", ".join(repr(name[:60]) for name in header[:12]) + more
