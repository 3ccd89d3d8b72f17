"""Make a network out of a configuration of transformers and tensors; code that a model brings along never runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.backbones import checkpoint
from headstart.backbones.huggingface_families import FAMILIES, Family, Parts
from headstart.backbones.huggingface_quiet import quiet
from headstart.backbones.huggingface_stages import Whole
from headstart.errors import BadBackbone, first_five
from headstart.modalities.spec import InputSpec
from headstart.networks.torch import TorchNetwork
from headstart.networks.torch_graph import grouped

WHOLE = "whole"  # how `TorchNetwork` knows the stage that holds several groups
_NUMBERED = re.compile(r"(?:^|\.)(layers?|blocks?|stages?|h)\.(\d+)\.")
# What says nothing about the network itself, or names code: an attention may be named that is fetched from the Hub.
_ASIDE = frozenset({
    "auto_map", "id2label", "label2id", "architectures", "_name_or_path", "transformers_version", "dtype",
    "torch_dtype", "attn_implementation", "experts_implementation",
})  # fmt: skip
# What a configuration of somebody else's, and the network that it makes, fail with.
_UNFIT = (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, AssertionError, ImportError)
_PREFIXES = ("vision_model.", "vision_tower.")


def encoder_config(raw: Mapping[str, Any], what: str) -> Any:
    """The configuration of the image encoder in a config.json: of a dual encoder, that of its image tower.

    Raises:
        BadBackbone: transformers does not know the type of this model, or cannot use the configuration.
    """
    import transformers

    kind = raw.get("model_type")
    if kind in ("timm_wrapper", "timm_backbone") or (kind is None and "architecture" in raw):
        raise BadBackbone(
            f"{what} is a model of timm",
            fix=f"name it timm/{raw.get('architecture', 'NAME')}; weights of your own with --weights FILE.safetensors",
        )
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        if "auto_map" in raw:
            raise BadBackbone(
                f"{what} brings code of its own for its type {kind!r}, which is never run", fix=_known("use a model of")
            )
        raise BadBackbone(
            f"{what} is of type {kind!r}, which transformers {transformers.__version__} does not know",
            fix="pip install --upgrade transformers, if it is newer; else check its config.json",
        )
    if raw.get("quantization_config"):
        raise BadBackbone(
            f"the weights of {what} are quantised, and cannot be trained further",
            fix="use the model that they were made from",
        )
    try:
        with quiet():
            config = transformers.CONFIG_MAPPING[kind].from_dict(_harmless(raw))
    except Exception as problem:  # also those of validators of its own
        raise BadBackbone(
            f"the config.json of {what} does not fit: {_brief(problem)}", fix="check that file"
        ) from problem
    return getattr(config, "vision_config", None) or config


def plain(config: Any) -> dict[str, Any]:
    """The configuration as plain data for a run: no code, no names of classes, no paths."""
    kept: dict[str, Any] = _harmless(json.loads(config.to_json_string(use_diff=False)))
    return {"model_type": config.model_type} | kept


def _harmless(value: Any) -> Any:
    if isinstance(value, Mapping):
        # The library knows some of them by three names.
        plain = {key: str(key).lstrip("_").removesuffix("_internal") for key in value}
        return {key: _harmless(inner) for key, inner in value.items() if not {key, plain[key]} & _ASIDE}
    return value


def is_known(config: Any) -> bool:
    """Whether this family can be taken apart."""
    return config.model_type in FAMILIES


def blank(config: Any, spec: InputSpec, what: str, *, seed: int) -> TorchNetwork:
    """The network with fresh random weights drawn from `seed`.

    Raises:
        BadBackbone: it cannot be built from this configuration, or is of another kind.
    """
    kind, family = _kind(config, what)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _made(kind, config, family, what)
    return _network(model, family, spec, what)


def bare(config: Any, spec: InputSpec, what: str) -> TorchNetwork:
    """The network for weights that are put in afterwards; its own are whatever lay in memory.

    Raises:
        BadBackbone: it cannot be built from this configuration.
    """
    from transformers.initialization import no_init_weights

    kind, family = _kind(config, what)
    with no_init_weights():
        model = _made(kind, config, family, what)
    return _network(model, family, spec, what)


def trained(config: Any, paths: tuple[Path, ...], spec: InputSpec, what: str) -> TorchNetwork:
    """The network with the weights in these safetensors files, all of which must be there and fit.

    A classifier, a text tower or another top in the files is left out.

    Raises:
        BadBackbone: a tensor is missing, has another shape, is not a finite number, or has no place in the network.
    """
    kind, family = _kind(config, what)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= checkpoint.read(path)
    try:
        with quiet():
            model, told = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, with the others
                **(family.options if family else {}),
            )
    except Exception as problem:
        raise BadBackbone(f"{what} cannot be built: {_brief(problem)}", fix="check its config.json") from problem
    top = dict(model.named_children())
    network = _network(model, family, spec, what)
    _check(network, model, told, top, what)
    return network


def _check(network: TorchNetwork, model: nn.Module, told: Mapping[str, Any], top: Mapping[str, Any], what: str) -> None:
    """Refuse a network with a weight that is not from the file: it would be random, and nobody would know."""
    own = {id(tensor) for tensor in network.model.state_dict(keep_vars=True).values()}
    used = {key for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in own}
    problems = [
        *(
            f"{key!r} is {_shape(found)} instead of {_shape(wanted)}"
            for key, found, wanted in sorted(told["mismatched_keys"])
            if key in used
        ),
        *(f"{key!r} is missing" for key in sorted(told["missing_keys"]) if key in used),
        *(f"{key!r} is not in the network" for key in sorted(told["unexpected_keys"]) if _inside(key, model, top)),
        *(f"{key!r} is not finite" for key in sorted(used) if not _finite(model.state_dict()[key])),
    ]
    if problems:
        raise BadBackbone(
            f"weights of {what} do not fit its config.json: {first_five(problems)}",
            fix="give the weights and the config.json of one and the same model",
        )


def _inside(key: str, model: nn.Module, top: Mapping[str, Any]) -> bool:
    """Whether a tensor that nothing took belongs to the encoder, not to a top or a text tower beside it."""
    for prefix in (f"{getattr(model, 'base_model_prefix', '')}.", *_PREFIXES):
        key = key.removeprefix(prefix)
    first = key.partition(".")[0]
    # Tokens that stand for hidden patches are for pre-training; indices of positions were once kept with the weights.
    aside = ("mask_token", "position_ids", "relative_position_index", "num_batches_tracked")
    return first in top and first not in _TOPS and not key.endswith(aside)


_TOPS = ("classifier", "pooler", "head", "dist_head", "fc")


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) or "a single number"


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


# ---- the class and its parts


def _kind(config: Any, what: str) -> tuple[Any, Family | None]:
    """The class of transformers for this encoder, and how it is taken apart if that is known."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    family = FAMILIES.get(config.model_type)
    if family is not None:
        try:
            return getattr(transformers, family.model), family
        except AttributeError as problem:
            raise _other_version(what, problem) from problem
    named = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type)
    named = named or auto.MODEL_MAPPING_NAMES.get(config.model_type)
    kind = getattr(transformers, named if isinstance(named, str) else named[0]) if named else None
    # One that is built on another model would fetch that one by itself.
    built_on = getattr(config, "backbone", None) or getattr(config, "backbone_config", None)
    if kind is None or kind.main_input_name != "pixel_values" or built_on:
        raise BadBackbone(
            f"{what} is of type {config.model_type!r}, which is no encoder of single pictures",
            fix=_known("use a model of"),
        )
    return kind, None


def _known(lead: str) -> str:
    return f"{lead} one of the families {', '.join(sorted(FAMILIES))}"


def _made(kind: Any, config: Any, family: Family | None, what: str) -> nn.Module:
    try:
        with quiet():
            model: nn.Module = kind(config, **(family.options if family else {}))
    except Exception as problem:
        raise BadBackbone(
            f"{what} cannot be built from its config.json: {_brief(problem)}", fix="check that file"
        ) from problem
    return model


def _network(model: nn.Module, family: Family | None, spec: InputSpec, what: str) -> TorchNetwork:
    model.eval()
    try:
        parts = family.apart(model, spec.size) if family is not None else None
    except AttributeError as problem:
        raise _other_version(what, problem) from problem
    parts = parts or _whole(model, spec, what)
    try:
        whole = parts.stages.get(WHOLE)
        groups = grouped(whole, _group_of) if whole is not None else None
        network = TorchNetwork(parts.stages, spec=spec, pool=parts.pool, groups=groups)
        _once(network, spec)
    except _UNFIT as problem:
        raise BadBackbone(
            f"{what} cannot take pictures of {spec.size} x {spec.size} pixels: {_brief(problem)}",
            fix="leave the size out, or take a multiple of the network's patches",
        ) from problem
    return network


def _group_of(name: str) -> str | None:
    """The first numbered part in the name of a weight: `layer3`; what has none stays with the weights before it."""
    found = _NUMBERED.search(name)
    return f"{found[1].rstrip('s')}{int(found[2]) + 1}" if found else None


def _other_version(what: str, problem: AttributeError) -> BadBackbone:
    import transformers

    return BadBackbone(
        f"{what} is laid out otherwise in transformers {transformers.__version__}: {_brief(problem)}",
        fix='pip install --upgrade "headstart[hf]"',
    )


def _once(network: TorchNetwork, spec: InputSpec) -> None:
    """Run a blank picture through, so that a size that does not fit is told before any work."""
    with torch.no_grad():
        network.model.between(torch.zeros(1, 3, spec.size, spec.size), 0, len(network.cuts) - 1)


def _whole(model: Any, spec: InputSpec, what: str) -> Parts:
    """The model in one piece: what goes into its classifier, else its pooled features, else the mean of all tokens."""
    if _without_classifier(model):
        return Parts({WHOLE: Whole(model, "logits")}, _AsIs())
    # No blank one: where parts of it are hidden at random, the rest would look the same.
    pictures = torch.linspace(-1, 1, 3 * spec.size * spec.size).view(1, 3, spec.size, spec.size)
    try:
        with torch.no_grad(), quiet():
            first, second = model(pictures), model(pictures)
    except _UNFIT as problem:
        raise BadBackbone(
            f"{what} does not answer to a picture alone: {_brief(problem)}", fix=_known("use a model of")
        ) from problem
    for output in ("pooler_output", "last_hidden_state"):
        found = getattr(first, output, None)
        if isinstance(found, Tensor):
            if not torch.allclose(found, getattr(second, output), equal_nan=True):
                raise BadBackbone(
                    f"{what} answers differently each time: it hides parts of a picture at random",
                    fix=_known("use a model of"),
                )
            return Parts({WHOLE: Whole(model, output)})
    raise BadBackbone(f"{what} gives no features of a picture", fix=_known("use a model of"))


class _AsIs(nn.Module):
    """Features that are pooled already, perhaps with sides of one pixel."""

    def forward(self, features: Tensor) -> Tensor:
        """Features `[n d]`."""
        return features.flatten(1)


def _without_classifier(model: nn.Module) -> bool:
    """Take off the last layer of a classifier, so that its answers are what that layer was given."""
    if not hasattr(model, "num_labels"):
        return False
    for name, child in reversed(list(model.named_children())):
        layers = list(child) if isinstance(child, nn.Sequential) else [child]
        if layers and isinstance(layers[-1], nn.Linear):
            setattr(model, name, nn.Sequential(*layers[:-1], nn.Identity()))
            return True
    return False


def _brief(problem: BaseException) -> str:
    text = str(problem).strip() or type(problem).__name__
    return text.splitlines()[0][:200]
