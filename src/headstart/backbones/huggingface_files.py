"""Find a model of the Hugging Face Hub in the shared cache, download what is missing, or take it from a folder."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headstart.backbones import downloads
from headstart.backbones.backbone import OnProgress, Wanted
from headstart.errors import BadBackbone, first_five
from headstart.writing import room_for

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TIMEOUT = 10.0  # seconds without an answer
INSTALL = 'pip install "headstart[hf]"'
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?")
_SUM = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model's files: what it is, how its photos are prepared, where its weights lie."""

    config: Mapping[str, Any]
    processor: Mapping[str, Any] | None
    weights: tuple[Path, ...]  # empty where none are wanted
    revision: str | None  # the commit on the Hub


def cache() -> Path:
    """The cache that all programs share: `HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub`."""
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def offline() -> bool:
    """Whether the user forbids the network: `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`."""
    said = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value in ("1", "ON", "YES", "TRUE") for value in said)


def is_folder(name: str) -> bool:
    """Whether a name is the path of a folder: it begins as paths do, which no name on the Hub does."""
    return name.startswith((".", "/", "~", os.sep)) or Path(name).is_absolute()


def present(name: str) -> bool:
    """Whether the configuration and the weights of a model are in the cache."""
    snapshot = _snapshot(*_parted(name))
    return snapshot is not None and _has(snapshot, CONFIG) and (_has(snapshot, WEIGHTS) or _has(snapshot, INDEX))


def find(name: str, wanted: Wanted) -> Found:
    """The files of this model: in a folder (`./net`, `/models/net`), or on the Hub (`google/vit-base-patch16-224`).

    A name on the Hub may end in `@REVISION`. What is in the cache is taken without a question to the Hub.

    Raises:
        BadBackbone: something is missing, damaged, of another kind, or cannot be downloaded.
        DiskFull: there is no room for it.
    """
    needs_weights = wanted.weights is None and not wanted.blank
    if is_folder(name):
        return _in(_own_folder(name), needs_weights=needs_weights, revision=None)
    if not _NAME.fullmatch(name):
        raise BadBackbone(
            f"backbone 'hf/{name}' is no name on the Hugging Face Hub" if name else "no model of the Hub is named",
            fix="write hf/ORGANISATION/MODEL, hf/google/vit-base-patch16-224 for instance, or a folder: hf/./FOLDER",
        )
    repository, revision = _parted(name)
    snapshot = _snapshot(repository, revision)
    if snapshot is None or not _complete(snapshot, needs_weights=needs_weights):
        snapshot = _downloaded(repository, revision, needs_weights=needs_weights, on_progress=wanted.on_progress)
    elif not _has(snapshot, PROCESSOR) and not _absent(snapshot, PROCESSOR) and not offline():
        _only_if_reachable(repository, snapshot.name, PROCESSOR)
    return _in(snapshot, needs_weights=needs_weights, revision=snapshot.name)


def digest(paths: tuple[Path, ...]) -> str:
    """The sha256 of a file, or of those of several files together.

    Raises:
        BadBackbone: a file cannot be read, or is not the one that the Hub gave.
    """
    sums = []
    for path in paths:
        found = downloads.sha256(path)
        blob = path.resolve().name  # the cache names a large file by its sum
        if _SUM.fullmatch(blob) and blob != found:
            raise BadBackbone(
                f"weights {str(path)!r} are damaged: sha256 {found[:16]}… instead of {blob[:16]}…",
                fix=f"remove {str(path.resolve())!r} and {str(path)!r}: they are then downloaded again",
            )
        sums.append(found)
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


# ---- a folder


def _own_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_file():
        raise BadBackbone(
            f"backbone 'hf/{name}' is a file",
            fix=f"name the folder that holds it beside its {CONFIG}: hf/{_parent(name)}",
        )
    if not folder.is_dir():
        raise BadBackbone(
            f"backbone 'hf/{name}': there is no folder {name!r}",
            fix=f"paths start from {str(Path.cwd())!r}; write hf/./FOLDER or hf//ABSOLUTE/FOLDER",
        )
    return folder


def _parent(name: str) -> str:
    above = name.rpartition("/")[0]
    return above if is_folder(above) else f"./{above}"


def _in(folder: Path, *, needs_weights: bool, revision: str | None) -> Found:
    if not _has(folder, CONFIG):
        raise BadBackbone(
            f"folder {str(folder)!r} holds no {CONFIG}, so it is no model of transformers",
            fix="name a folder that model.save_pretrained(FOLDER) wrote",
        )
    return Found(
        config=_json(folder / CONFIG),
        processor=_json(folder / PROCESSOR) if _has(folder, PROCESSOR) else None,
        weights=_weights(folder) if needs_weights else (),
        revision=revision,
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    if _has(folder, WEIGHTS):
        return (folder / WEIGHTS,)
    if _has(folder, INDEX):
        shards = _shards(folder / INDEX)
        missing = [name for name in shards if not _has(folder, name)]
        if missing:
            raise BadBackbone(
                f"weights in {str(folder)!r} are incomplete: {first_five(missing)} are missing",
                fix=f"put all files there that {INDEX} names",
            )
        return tuple(folder / name for name in shards)
    raise _no_weights(f"folder {str(folder)!r}", pickled=bool(list(folder.glob("pytorch_model*.bin"))))


def _no_weights(where: str, *, pickled: bool) -> BadBackbone:
    if pickled:
        return BadBackbone(
            f"{where} holds its weights as pytorch_model.bin alone, a pickle, which could run code and is not read",
            fix="where you trust them, make safetensors of them: transformers.AutoModel.from_pretrained(MODEL)"
            ".save_pretrained('FOLDER'), and name hf/./FOLDER",
        )
    return BadBackbone(
        f"{where} holds no {WEIGHTS}",
        fix="put it there, name a file with --weights FILE.safetensors, or begin without: --weights none",
    )


def _shards(index: Path) -> list[str]:
    named = _json(index).get("weight_map")
    shards = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    if not shards or any(Path(shard).name != shard or not shard.endswith(".safetensors") for shard in shards):
        raise BadBackbone(
            f"{str(index)!r} does not name safetensors files beside it", fix="copy or download the folder again"
        )
    return shards


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BadBackbone(f"{str(path)!r} cannot be read: {problem}", fix="copy or download it again") from problem
    if not isinstance(content, dict):
        raise BadBackbone(f"{str(path)!r} holds no names with values", fix="copy or download it again")
    return content


def _has(folder: Path, name: str) -> bool:
    return os.path.isfile(folder / name)  # where nobody may look, it is not


# ---- the cache of the Hub


def _parted(name: str) -> tuple[str, str]:
    repository, _, revision = name.partition("@")
    return repository, revision or "main"


def _place(repository: str) -> Path:
    return cache() / f"models--{repository.replace('/', '--')}"


def _snapshot(repository: str, revision: str) -> Path | None:
    place = _place(repository)
    try:
        commit = (place / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision  # a commit has no reference
    snapshot = place / "snapshots" / commit
    return snapshot if commit and os.path.isdir(snapshot) else None


def _complete(snapshot: Path, *, needs_weights: bool) -> bool:
    if not _has(snapshot, CONFIG):
        return False
    if not needs_weights or _has(snapshot, WEIGHTS):
        return True
    return _has(snapshot, INDEX) and all(_has(snapshot, shard) for shard in _shards(snapshot / INDEX))


def _absent(snapshot: Path, name: str) -> bool:
    """Whether the Hub has said already that it has no such file."""
    return os.path.isfile(snapshot.parents[1] / ".no_exist" / snapshot.name / name)


# ---- the Hub


def _downloaded(repository: str, revision: str, *, needs_weights: bool, on_progress: OnProgress | None) -> Path:
    """The snapshot, with every file that counts. What is there already is not downloaded again."""
    if offline():
        raise BadBackbone(
            f"{_lacking(repository, revision, needs_weights)} are not in {str(cache())!r}, and HF_HUB_OFFLINE is set",
            fix=_by_hand(repository, revision),
        )
    if find_spec("huggingface_hub") is None:
        raise BadBackbone(f"to download hf/{repository}, huggingface_hub is needed", fix=INSTALL)
    _reach(repository, revision)
    try:
        with room_for(cache(), fix="free some space, and the download goes on where it stopped"):
            return _snapshot_of_all(repository, revision, needs_weights=needs_weights, on_progress=on_progress)
    except OSError as problem:
        raise BadBackbone(
            f"{repository!r} cannot be written into {str(cache())!r}: {problem.strerror or problem}",
            fix="set HF_HOME to a folder that can be written",
        ) from problem


def _reach(repository: str, revision: str) -> None:
    """Ask the Hub whether it is there: its own client tries five times, half a minute long, before it says no."""
    try:
        urllib.request.urlopen(urllib.request.Request(_address(), method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError as answered:
        answered.close()
    except (OSError, http.client.HTTPException, ValueError) as problem:
        if isinstance(getattr(problem, "reason", problem), ssl.SSLError):
            return  # the client brings certificates of its own
        raise _refused(repository, revision, CONFIG, getattr(problem, "reason", None) or problem) from problem


def _address() -> str:
    return _endpoint() or "https://huggingface.co"


def _snapshot_of_all(repository: str, revision: str, *, needs_weights: bool, on_progress: OnProgress | None) -> Path:
    config = _fetched(repository, revision, CONFIG)
    if config is None:
        raise BadBackbone(
            f"{repository!r} on the Hugging Face Hub holds no {CONFIG}, so it is no model of transformers",
            fix=f"if it is one of timm, name it timm/{repository.rpartition('/')[2]}; see huggingface.co/{repository}",
        )
    snapshot = config.parent
    commit = snapshot.name  # the same one for all files, should the repository change meanwhile
    _fetched(repository, commit, PROCESSOR)
    if needs_weights and _fetched(repository, commit, WEIGHTS, on_progress) is None:
        index = _fetched(repository, commit, INDEX)
        if index is None:
            pickled = _fetched_head(repository, commit, "pytorch_model.bin")
            raise _no_weights(f"{repository!r} on the Hugging Face Hub", pickled=pickled)
        for shard in _shards(index):
            _fetched(repository, commit, shard, on_progress)
    return snapshot


def _only_if_reachable(repository: str, revision: str, name: str) -> None:
    try:
        _reach(repository, revision)
        _fetched(repository, revision, name)
    except (BadBackbone, OSError):
        return  # the model is here; without this file its usual settings count, and a remark says so


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _fetched(repository: str, revision: str, name: str, on_progress: OnProgress | None = None) -> Path | None:
    """The file in the cache, fetched if need be; None where the repository has none of this name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from headstart.backbones.huggingface_quiet import bar, quiet

    try:
        with quiet():
            path = hf_hub_download(
                repository,
                name,
                revision=revision,
                cache_dir=cache(),
                endpoint=_endpoint(),
                tqdm_class=bar(on_progress),
            )
    except LocalEntryNotFoundError as problem:  # it could not ask, and has none
        raise _refused(repository, revision, name, problem.__cause__ or problem) from problem
    except EntryNotFoundError:
        return None
    except Exception as problem:  # whatever its clients for HTTP raise
        if isinstance(problem, OSError) and problem.errno is not None and not _of_network(problem):
            raise  # no room, or no right to write: `room_for` says so
        raise _refused(repository, revision, name, problem) from problem
    return Path(path)


def _of_network(problem: OSError) -> bool:
    return isinstance(problem, ConnectionError | TimeoutError)


def _fetched_head(repository: str, revision: str, name: str) -> bool:
    """Whether the repository has a file of this name; nothing is fetched."""
    from huggingface_hub import HfApi

    try:
        return bool(HfApi(endpoint=_endpoint()).file_exists(repository, name, revision=revision))
    except Exception:  # noqa: BLE001  it only decides which of two refusals is said
        return False


def _refused(repository: str, revision: str, name: str, problem: BaseException | str) -> BadBackbone:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"huggingface.co/{repository}"
    if isinstance(problem, GatedRepoError):
        return BadBackbone(
            f"{repository!r} is gated: its owners want you to agree to their terms first",
            fix=f"agree on {page}, then sign in here with: hf auth login (or set HF_TOKEN)",
        )
    if isinstance(problem, RevisionNotFoundError):
        return BadBackbone(f"{repository!r} has no revision {revision!r}", fix=f"see {page}, or leave @{revision} out")
    if isinstance(problem, RepositoryNotFoundError):
        return BadBackbone(
            f"{repository!r} is not on the Hugging Face Hub, or is private",
            fix=f"check the name on {page}; for a private one sign in with: hf auth login (or set HF_TOKEN)",
        )
    said = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
    return BadBackbone(
        f"{name} of {repository!r} cannot be downloaded from {_address()} into {str(_place(repository))!r}: {said}",
        fix=_by_hand(repository, revision),
    )


def _lacking(repository: str, revision: str, needs_weights: bool) -> str:
    files = [CONFIG, PROCESSOR, *([WEIGHTS] if needs_weights else [])]
    return f"{', '.join(files)} of {repository!r} at {revision!r}"


def _by_hand(repository: str, revision: str) -> str:
    return (
        f"download {CONFIG}, {PROCESSOR} and {WEIGHTS} elsewhere from huggingface.co/{repository}/tree/{revision}, put "
        f"them into a folder of their own and name it: hf/./FOLDER"
    )
