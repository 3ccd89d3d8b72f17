"""Open, check and write a bundle: the folder that ships, with a model's graph and all that its answers need.

bundle.json is its manifest and names every other file with its size and sha256: nothing else in the folder is read, and
a file that differs from what is named is refused before any library sees it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from headstart.errors import BadBundle
from headstart.modalities.spec import InputSpec
from headstart.writing import write_text

MANIFEST = "bundle.json"
VERSION = 1
LARGEST_MANIFEST = 16 << 20  # bytes; names of a hundred thousand classes fit
LARGEST_SIDE = 1 << 13  # pixels of the backbone's square: of more, one picture fills the memory
MOST_PIXELS = 1 << 31  # of a photo
MOST_CLASSES = 1 << 20
OUTPUTS = {"probabilities", "distance", "heat"}
_SHA256 = re.compile("[0-9a-f]{64}")
_AGAIN = "export it again, or copy the bundle again"


@dataclass(frozen=True, slots=True)
class Content:
    """A file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself; everything but the graph and the texts for people.

    The graph takes `pixels`, `uint8 [n h w 3]`: upright RGB photos of any one size. It gives `outputs`, in this order:
    `probabilities float32 [n k]`, calibrated; `distance float32 [n]`, where the model knows what is like none of its
    photos (see `headstart.novelty`); and `heat float32 [n r c k]`, where its head is linear on the mean of the last
    map: what each place of the photo adds to the logit of each class.
    """

    format: str
    precision: str
    classes: tuple[str, ...]
    spec: InputSpec
    outputs: tuple[str, ...]
    temperature: float
    threshold: float | None  # a photo whose distance is above it is unsure
    false_alarms: float | None  # share of photos like those of the training that the threshold calls unsure
    backbone: Mapping[str, Any]  # name, licence, weights_hash and framework
    max_pixels: int
    created: str  # ISO 8601, UTC
    card: Mapping[str, Any] = field(default_factory=dict)  # facts about the run for people, such as its accuracy
    parity: Mapping[str, Any] = field(default_factory=dict)  # how it was compared with its run, and what came out
    files: Mapping[str, Content] = field(default_factory=dict)  # by their path inside the bundle
    headstart: str = ""
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, as in `bundle.json`."""
        return asdict(self)


class Bundle:
    """A bundle's folder, whose files are those that its manifest names."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __fspath__(self) -> str:
        """The folder: whatever takes the path of a bundle takes the bundle."""
        return str(self.path)

    def to_json(self) -> dict[str, Any]:
        """Where it lies, and its manifest."""
        return {"path": str(self.path), **self.manifest.to_json()}

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """The bundle in this folder, with every file's size and hash checked.

        Raises:
            BadBundle: there is none, its manifest makes no sense, or a file is missing or another.
        """
        folder = Path(path)
        manifest = _read(folder)
        for name, content in manifest.files.items():
            _check(folder, name, content)
        _check_folders(folder, manifest)
        return cls(folder, manifest)

    def file(self, name: str) -> Path:
        """The path of one of its files: formats read no others.

        Raises:
            BadBundle: the manifest does not name it, so that nothing is known of it.
        """
        if name not in self.manifest.files:
            raise BadBundle(f"bundle {str(self.path)!r} lacks its file {name!r}", fix=_AGAIN)
        return self.path / name

    @classmethod
    def listing(cls, path: Path, manifest: Manifest) -> Bundle:
        """What lies in this folder as a bundle that nobody else sees yet: its manifest is not written."""
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST)
        files = {file.relative_to(path).as_posix(): Content(file.stat().st_size, _sha256(file)) for file in found}
        return cls(path, replace(manifest, files=files))

    @classmethod
    def seal(cls, path: Path, manifest: Manifest) -> Bundle:
        """Write the manifest over the files that lie in this folder: from here on it is a bundle."""
        sealed = cls.listing(path, manifest)
        write_text(path / MANIFEST, json.dumps(sealed.manifest.to_json(), indent=2, ensure_ascii=False) + "\n")
        return sealed


def is_bundle(path: str | Path) -> bool:
    """Whether this folder says that it is one."""
    return (Path(path) / MANIFEST).is_file()


def _read(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        if path.exists() and (path.is_symlink() or not path.is_file()):
            raise BadBundle(f"manifest of bundle {str(folder)!r} is no plain file", fix=_AGAIN)
        if path.stat().st_size > LARGEST_MANIFEST:
            raise BadBundle(f"manifest of bundle {str(folder)!r} is larger than any can be", fix=_AGAIN)
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = "is not a bundle" if folder.exists() else "does not exist"
        raise BadBundle(
            f"bundle {str(folder)!r} {there}", fix="give the folder that headstart export printed"
        ) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise BadBundle(f"manifest of bundle {str(folder)!r} cannot be read: {problem}", fix=_AGAIN) from problem
    if isinstance(row, dict) and isinstance(row.get("version"), int) and row["version"] > VERSION:
        raise BadBundle(f"bundle {str(folder)!r} was made by a later headstart", fix="update headstart")
    try:
        return _manifest(row)
    except (TypeError, KeyError, ValueError, AttributeError) as problem:
        raise BadBundle(f"manifest of bundle {str(folder)!r} makes no sense: {problem}", fix=_AGAIN) from problem


def _manifest(row: dict[str, Any]) -> Manifest:
    values = {each.name: row[each.name] for each in fields(Manifest)}
    spec = dict(values["spec"])
    for name in ("mean", "std"):
        spec[name] = tuple(map(float, spec[name]))
    values["spec"] = InputSpec(**spec)
    values["classes"], values["outputs"] = tuple(map(str, values["classes"])), tuple(map(str, values["outputs"]))
    values["files"] = {name: Content(**content) for name, content in values["files"].items()}
    manifest = Manifest(**values)
    for problem in _problems(manifest):
        raise ValueError(problem)
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """What in a manifest would be trusted further on, and must not be."""
    yield from _problems_of_pictures(manifest.spec)
    if not isinstance(manifest.max_pixels, int) or not 0 < manifest.max_pixels <= MOST_PIXELS:
        yield f"photos of up to {manifest.max_pixels!r:.40} pixels"
    if not 0 < len(manifest.classes) <= MOST_CLASSES or len(set(manifest.classes)) < len(manifest.classes):
        yield f"{len(manifest.classes)} classes, or two of one name"
    if manifest.outputs[:1] != ("probabilities",) or len(set(manifest.outputs)) < len(manifest.outputs):
        yield f"outputs {manifest.outputs!r:.80}"
    if not set(manifest.outputs) <= OUTPUTS:
        yield f"outputs {manifest.outputs!r:.80}"
    if manifest.threshold is not None and not (_finite(manifest.threshold) and "distance" in manifest.outputs):
        yield f"the threshold {manifest.threshold!r:.40}"
    if not all(isinstance(table, dict) for table in (manifest.backbone, manifest.card, manifest.parity)):
        yield "a fact where a table should be"
    for name, content in manifest.files.items():
        if not isinstance(content.bytes, int) or not _SHA256.fullmatch(str(content.sha256)):
            yield f"no size or hash of {name!r:.80}"


def _problems_of_pictures(spec: InputSpec) -> Iterator[str]:
    if not isinstance(spec.size, int) or not 0 < spec.size <= LARGEST_SIDE:
        yield f"pictures of {spec.size!r:.40} pixels"
    elif not _finite(spec.crop) or not spec.size <= spec.size / max(spec.crop, 1e-9) <= 2 * LARGEST_SIDE:
        yield f"a crop of {spec.crop!r:.40}"
    if spec.interpolation not in ("bilinear", "bicubic", "lanczos") or spec.fit not in ("crop", "pad", "squash"):
        yield f"interpolation {spec.interpolation!r:.40} and fit {spec.fit!r:.40}"
    if spec.order not in ("rgb", "bgr", "grey") or len(spec.mean) != 3 or len(spec.std) != 3:
        yield f"channels in the order {spec.order!r:.40}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _check(folder: Path, name: str, content: Content) -> None:
    """Refuse a file that lies elsewhere, is missing, or is not the one that was exported."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name or not inside.parts:
        raise BadBundle(f"bundle {str(folder)!r} names a file outside its folder: {name!r}", fix="do not use it")
    path = folder / inside
    if path.resolve() != folder.resolve() / inside or not path.is_file():  # a link, on whatever part of the way
        raise BadBundle(f"bundle {str(folder)!r} lacks its file {name!r}", fix=_AGAIN)
    if path.stat().st_size != content.bytes or _sha256(path) != content.sha256:
        raise BadBundle(f"file {name!r} of bundle {str(folder)!r} is not the one that was exported", fix=_AGAIN)


def _check_folders(folder: Path, manifest: Manifest) -> None:
    """Refuse what the manifest does not name, in folders inside: a library that opens one reads whatever is there."""
    for inside in sorted({PurePosixPath(name).parts[0] for name in manifest.files if "/" in name}):
        for path in sorted((folder / inside).rglob("*")):
            if not path.is_dir() and path.relative_to(folder).as_posix() not in manifest.files:
                raise BadBundle(f"bundle {str(folder)!r} holds a file that it does not name: {str(path)!r}", fix=_AGAIN)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
