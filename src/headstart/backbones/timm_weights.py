"""Find the published weights of a network of timm on this machine, or download them into the shared caches."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.backbones import downloads
from headstart.backbones import huggingface_files as hub
from headstart.backbones.backbone import OnProgress
from headstart.errors import BadBackbone
from headstart.writing import room_for

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

FILE = "model.safetensors"
INSTALL = 'pip install "headstart[timm]"'


def obtain(name: str, cfg: PretrainedCfg, on_progress: OnProgress | None) -> tuple[Path, str]:
    """The file with the weights that timm publishes under this name, and its sha256.

    Raises:
        BadBackbone: there are none, they cannot be had, or they are not the published ones.
        DiskFull: there is no room for the download.
    """
    if cfg.hf_hub_id:
        path = in_hub(str(cfg.hf_hub_id)) or _fetched(name, str(cfg.hf_hub_id), on_progress)
        return path, hub.digest((path,))
    if not cfg.url or not str(cfg.url).startswith("http"):
        raise BadBackbone(
            f"timm publishes no weights for timm/{name}", fix="name a file with --weights, or begin with --weights none"
        )
    _, path, weights_hash = downloads.obtain([_published(str(cfg.url))], on_progress=on_progress)
    return path, weights_hash


def in_hub(repository: str) -> Path | None:
    """The file of this repository in the Hub's cache; None where it is not there."""
    place = _place(repository)
    try:
        commit = (place / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    path = place / "snapshots" / commit / FILE
    return path if commit and os.path.isfile(path) else None


def _place(repository: str) -> Path:
    return hub.cache() / f"models--{repository.replace('/', '--')}"


def _published(url: str) -> downloads.Published:
    name = url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    return downloads.Published(name, url, digest and digest.group(1), home="torch")


def _fetched(name: str, repository: str, on_progress: OnProgress | None) -> Path:
    place = _place(repository)
    where = f"{FILE} of {repository!r}"
    by_hand = (
        f"download huggingface.co/{repository}/resolve/main/{FILE} elsewhere and name it with --weights, "
        f"or copy the folder {place.name} of another machine's cache into {str(place.parent)!r}"
    )
    if hub.offline():
        raise BadBackbone(f"{where} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", fix=by_hand)
    if find_spec("huggingface_hub") is None:
        raise BadBackbone(f"to download timm/{name}, huggingface_hub is needed", fix=INSTALL)
    from huggingface_hub import hf_hub_download

    from headstart.backbones.huggingface_quiet import bar, quiet

    try:
        with room_for(place, fix="free some space, and the download goes on where it stopped"), quiet():
            path = hf_hub_download(
                repository,
                FILE,
                cache_dir=place.parent,
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                tqdm_class=bar(on_progress),
            )
    except Exception as problem:  # whatever its clients for HTTP raise
        said = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
        raise BadBackbone(f"{where} cannot be downloaded into {str(place)!r}: {said}", fix=by_hand) from problem
    return Path(path)
