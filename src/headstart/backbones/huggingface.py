"""Get an image encoder of transformers by its name on the Hugging Face Hub, or from a folder that you saved.

`hf/facebook/dinov2-small`, `hf/google/vit-base-patch16-224@REVISION`, `hf/./my-model`, `hf//models/my-model`. Read are
config.json, preprocessor_config.json and safetensors; a model's own code, and pickles, never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import huggingface_files as files
from headstart.backbones.backbone import Backbone, Entry, Wanted, only_torch
from headstart.errors import BadBackbone
from headstart.modalities.spec import InputSpec

if TYPE_CHECKING:
    from headstart.networks.network import Network

SEED = 0  # of blank weights


@dataclass(frozen=True, slots=True)
class _Member:
    size: int
    width: int
    parameters: int  # without the classifier
    licence: str


# The names and licences are from memory of the Hub's pages: its own page is what counts. The best general choice first.
_MEMBERS = {
    "facebook/dinov2-small": _Member(224, 768, 22_056_192, "Apache-2.0"),
    "facebook/dinov2-base": _Member(224, 1536, 86_579_712, "Apache-2.0"),
    "facebook/dinov2-with-registers-small": _Member(224, 768, 22_057_728, "Apache-2.0"),
    "facebook/dinov3-vits16-pretrain-lvd1689m": _Member(224, 384, 21_596_160, "DINOv3 License, gated"),
    "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": _Member(224, 768, 27_820_128, "DINOv3 License, gated"),
    "google/siglip-base-patch16-224": _Member(224, 768, 85_797_120, "Apache-2.0"),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": _Member(224, 768, 87_454_464, "MIT"),
    "google/vit-base-patch16-224": _Member(224, 768, 85_798_656, "Apache-2.0"),
    "microsoft/swin-tiny-patch4-window7-224": _Member(224, 768, 27_519_354, "Apache-2.0"),
    "microsoft/swinv2-tiny-patch4-window8-256": _Member(256, 768, 27_578_154, "Apache-2.0"),
    "facebook/convnext-tiny-224": _Member(224, 768, 27_820_128, "Apache-2.0"),
    "facebook/convnextv2-tiny-1k-224": _Member(224, 768, 27_866_496, "CC-BY-NC-4.0"),
    "microsoft/resnet-50": _Member(224, 2048, 23_508_032, "Apache-2.0"),
}


def catalogue() -> tuple[Entry, ...]:
    """A short choice among the thousands on the Hub; any other name works as well."""
    return tuple(_entry(name, member) for name, member in _MEMBERS.items())


def _entry(name: str, member: _Member) -> Entry:
    available = files.present(name)
    return Entry(
        name=name,
        size=member.size,
        width=member.width,
        parameters=member.parameters,
        licence=member.licence,
        available=available,
        note="in the cache" if available else "is downloaded",
    )


def load(name: str, wanted: Wanted) -> Backbone:
    """The image encoder of this name or folder, its files found or downloaded, and its weights not yet parsed.

    Raises:
        BadBackbone: transformers is missing, a file is missing or damaged, or the model is of another kind.
        BadSetting: another framework, a cut, a factory or a size that cannot be used is wanted.
    """
    full = f"hf/{name}"
    what = f"backbone {full!r}"
    only_torch(full, wanted)
    if wanted.weights is not None and wanted.weights.suffix.lower() != ".safetensors":
        raise BadBackbone(
            f"weights {str(wanted.weights)!r} for {full!r} are not safetensors",
            fix="save them so: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        )
    _need_transformers(what)
    found = files.find(name, wanted)

    from headstart.backbones.huggingface_input import input_spec
    from headstart.backbones.huggingface_model import encoder_config, is_known, plain

    config = encoder_config(found.config, what)
    spec, remarks = input_spec(found.processor, config, size=wanted.size, what=what)
    paths = (wanted.weights,) if wanted.weights is not None else found.weights
    if not is_known(config):
        remarks += (_in_one_piece(what, config.model_type),)
    return Backbone(
        name=full,
        spec=spec,
        weights_hash=f"none/{full}/{SEED}" if wanted.blank else files.digest(paths),
        licence=_licence(name),
        framework="torch",
        build=partial(_blank, config, spec, what) if wanted.blank else partial(_trained, config, paths, spec, what),
        about={
            "config": plain(config),
            "input": asdict(spec),
            "revision": found.revision,
            "transformers": _version(),  # for those who wonder why it answers otherwise elsewhere
        },
        remarks=remarks,
    )


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The backbone of a run, from the run's own description of it: needs no Hub, no folder and no file.

    Raises:
        BadBackbone: transformers is missing, or does not know this architecture any more.
    """
    full = f"hf/{name}"
    what = f"backbone {full!r}"
    _need_transformers(what)

    from headstart.backbones.huggingface_model import encoder_config

    config = encoder_config(about["config"], what)
    spec = replace(_input(about["input"]), size=size)
    return Backbone(
        name=full,
        spec=spec,
        weights_hash=f"none/{full}/{SEED}",
        licence=_licence(name),
        framework="torch",
        build=partial(_bare, config, spec, what),
        about=about,
    )


def _need_transformers(what: str) -> None:
    if find_spec("transformers") is None:
        raise BadBackbone(f"{what} needs transformers, which is not installed", fix=files.INSTALL)
    if int(_version().partition(".")[0]) < 5:
        raise BadBackbone(
            f"{what} needs transformers 5, and {_version()} is installed", fix='pip install --upgrade "headstart[hf]"'
        )


def _version() -> str:
    from importlib.metadata import version

    return version("transformers")


def _licence(name: str) -> str:
    repository = name.partition("@")[0]
    if repository in _MEMBERS:
        return _MEMBERS[repository].licence
    return "the user's own" if files.is_folder(name) else f"see huggingface.co/{repository}"


def _in_one_piece(what: str, kind: str) -> str:
    return f"{what} is of a family ({kind}) that is run in one piece: tuning it computes all of it in every step"


def _input(fields: Mapping[str, Any]) -> InputSpec:
    return InputSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _trained(config: Any, paths: tuple[Path, ...], spec: InputSpec, what: str) -> Network:
    from headstart.backbones.huggingface_model import trained

    return trained(config, paths, spec, what)


def _blank(config: Any, spec: InputSpec, what: str) -> Network:
    from headstart.backbones.huggingface_model import blank

    return blank(config, spec, what, seed=SEED)


def _bare(config: Any, spec: InputSpec, what: str) -> Network:
    from headstart.backbones.huggingface_model import bare

    return bare(config, spec, what)
