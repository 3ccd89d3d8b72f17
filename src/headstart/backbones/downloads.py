"""Find a published file of weights on this machine, or download it: resumed where it broke off, checked before use."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from headstart.backbones.backbone import OnProgress
from headstart.errors import BadBackbone, BadSetting
from headstart.writing import room_for

try:
    import fcntl
except ImportError:  # Windows: two processes that download the same file at once find out by its hash
    fcntl = None  # type: ignore[assignment]

# Servers that have the files under their own names, all in one place.
MIRROR = "HEADSTART_KERAS_WEIGHTS"
TORCH_MIRROR = "HEADSTART_TORCH_WEIGHTS"
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # of which each but the first goes on where the one before broke off
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """A file as its makers offer it: its name on this machine, where it is to be had, its md5 or sha256 if known.

    Of a sha256 the first digits are enough. `home` says whose cache it belongs into.
    """

    name: str
    url: str
    digest: str | None = None
    home: Literal["keras", "torch"] = "keras"

    @property
    def kind(self) -> str:
        """Which sum the digest is."""
        return "md5" if len(self.digest or "") == 32 else "sha256"

    @property
    def folder(self) -> Path:
        """Where its library looks for it too."""
        return folder() if self.home == "keras" else torch_folder()

    @property
    def variable(self) -> str:
        """What moves that folder."""
        return "KERAS_HOME" if self.home == "keras" else "TORCH_HOME"

    @property
    def mirror(self) -> str:
        """What names a server to take it from."""
        return MIRROR if self.home == "keras" else TORCH_MIRROR


def folder() -> Path:
    """Where Keras keeps its weights too: `KERAS_HOME/models`, or `~/.keras/models`."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path("~/.keras").expanduser()) / "models"


def torch_folder() -> Path:
    """Where torchvision keeps its weights too: `hub/checkpoints` in `TORCH_HOME`, by default in `~/.cache/torch`.

    A program that has moved it by `torch.hub.set_dir` is followed.
    """
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir()) / "checkpoints"
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def present(name: str) -> bool:
    """Whether Keras's folder has a file of this name; where nobody may look, it has not."""
    return os.path.isfile(folder() / name)


def _present(file: Published) -> bool:
    return os.path.isfile(file.folder / file.name)


def obtain(files: Sequence[Published], *, on_progress: OnProgress | None = None) -> tuple[Published, Path, str]:
    """The first of these files that is on this machine, else the first of all, downloaded: with its path and sha256.

    Raises:
        BadBackbone: it is not the published one, or it cannot be downloaded.
        BadSetting: the mirror is not an address.
        DiskFull: there is no room for it.
    """
    file = next((file for file in files if _present(file)), files[0])
    place = file.folder / file.name
    if not _present(file):
        download(file, place, on_progress=on_progress)
    return file, place, _checked(file, place)


def sha256(path: Path) -> str:
    """The sha256 of a user's own file.

    Raises:
        BadBackbone: it cannot be read.
    """
    return _sums(path, "sha256", fix="give the path of a file that is there and can be read")["sha256"]


def _checked(file: Published, place: Path) -> str:
    sums = _sums(place, file.kind, "sha256", fix=f"remove it, so that it is downloaded again, or {_by_hand(file)}")
    if not sums[file.kind].startswith(file.digest or ""):
        raise BadBackbone(
            f"weights {str(place)!r} are not the published file: {_differing(file, sums)}",
            fix=f"if you trust it, take it with --weights {place}; if not, remove it: it is then downloaded again",
        )
    return sums["sha256"]


def _sums(path: Path, *kinds: str, fix: str) -> dict[str, str]:
    sums = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    try:
        with path.open("rb") as content:
            while block := content.read(BLOCK):
                for each in sums.values():
                    each.update(block)
    except OSError as problem:
        raise BadBackbone(f"weights {str(path)!r} cannot be read: {problem.strerror}", fix=fix) from problem
    return {kind: each.hexdigest() for kind, each in sums.items()}


def _differing(file: Published, sums: dict[str, str]) -> str:
    return f"{file.kind} {sums[file.kind][:16]}… instead of {(file.digest or '')[:16]}…"


def _by_hand(file: Published) -> str:
    return (
        f"download {_address(file)} elsewhere and put it into {file.folder} as {file.name}, or name it with --weights"
    )


def _address(file: Published) -> str:
    mirror = os.environ.get(file.mirror)
    if not mirror:
        return file.url
    if not mirror.startswith(("http://", "https://")):
        raise BadSetting(f"{file.mirror} is {mirror!r}, which is no address", fix="write it like https://SERVER/FOLDER")
    return f"{mirror.rstrip('/')}/{file.name}"


def download(file: Published, place: Path, *, on_progress: OnProgress | None = None) -> None:
    """Bring the file to `place`, whole and checked. What an interruption leaves stays there as `.part`.

    Raises:
        BadBackbone: the server or the folder cannot be used, or what came is not the published file.
        BadSetting: the mirror is not an address.
        DiskFull: there is no room for it.
    """
    url = _address(file)
    part = place.with_name(f"{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with room_for(place, fix="free some space, and the download goes on where it stopped"), _alone(part) as out:
            if not place.exists():  # another process may have brought it while this one waited
                _receive(url, out, on_progress)
                out.flush()
                os.fsync(out.fileno())
                _accept(file, part)
                if fcntl is not None:
                    part.replace(place)  # before the other process is let in
        if not place.exists():
            part.replace(place)  # Windows moves no file that is open
    except _Failed as problem:
        raise BadBackbone(f"weights {file.name!r} cannot be downloaded: {problem}", fix=_by_hand(file)) from problem
    except OSError as problem:
        raise BadBackbone(
            f"weights {file.name!r} cannot be written into {str(place.parent)!r}: {problem.strerror}",
            fix=f"set {file.variable} to a folder that can be written, or name a file with --weights; it is at {url}",
        ) from problem
    finally:
        with contextlib.suppress(OSError):
            if place.exists() or not part.stat().st_size:
                part.unlink()


class _Failed(Exception):
    """The server did not give the file; says why, and what is there by now."""


class _Cut(Exception):
    """The connection ended before the file did."""


_BREAKS = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError, _Cut)


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """The part, opened to append to it while no other process does: a second one waits for the first."""
    while True:
        with part.open("ab") as out:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # not every network file system has locks
                    fcntl.flock(out, fcntl.LOCK_EX)
            # What was opened may be gone: the other process has moved it to its place, or thrown it away.
            if part.exists() and os.path.samestat(os.fstat(out.fileno()), part.stat()):
                yield out
                return


def _accept(file: Published, part: Path) -> None:
    sums = _sums(part, file.kind, fix="try again")
    if not sums[file.kind].startswith(file.digest or ""):
        part.unlink()  # it is ours, and going on from it would lead nowhere
        raise _Failed(f"what {_address(file)} gave is not the published file: {_differing(file, sums)}")


def _receive(url: str, out: IO[bytes], on_progress: OnProgress | None) -> None:
    """Append what is missing, going on after each interruption that came with at least one byte."""
    for attempt in range(ATTEMPTS):
        before = out.tell()
        try:
            _append(url, out, on_progress)
            return
        except urllib.error.HTTPError as problem:
            raise _Failed(f"{url} answers {problem.code} {problem.reason}") from problem
        except _BREAKS as problem:
            reason = getattr(problem, "reason", None) or problem
            if out.tell() == before or attempt == ATTEMPTS - 1:
                kept = f"; {out.tell()} bytes are kept, and the next try goes on from there" if out.tell() else ""
                raise _Failed(f"{url} cannot be reached or breaks off ({reason}){kept}") from problem


def _append(url: str, out: IO[bytes], on_progress: OnProgress | None) -> None:
    start = out.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as problem:
        if problem.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if _total(problem.headers.get("Content-Range")) != start:
            out.truncate(0)  # longer than the file: of another one
            _append(url, out, on_progress)
        return
    with answer:
        if start and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            out.truncate(0)  # the server knows no ranges, and gives everything again
            start = out.seek(0)
        elif start and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise _Failed(f"{url} gives another part of the file than it was asked for")
        length = answer.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdigit() else None
        while block := answer.read(BLOCK):
            out.write(block)
            if on_progress is not None:
                on_progress(out.tell(), total)
        if total is not None and out.tell() != total:
            raise _Cut(f"{out.tell()} of {total} bytes came")


def _total(span: str | None) -> int | None:
    """How long the whole file is, by `bytes */1234`."""
    match = re.search(r"/(\d+)$", span or "")
    return int(match.group(1)) if match else None
