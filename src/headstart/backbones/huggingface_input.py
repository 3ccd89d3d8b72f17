"""Read what a model of transformers wants to see, a preprocessor_config.json, as an `InputSpec`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headstart.errors import BadBackbone
from headstart.modalities.spec import Fit, InputSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
USUAL = 224  # pixels, where nothing says another size
RESAMPLING: Mapping[int, Literal["bilinear", "bicubic", "lanczos"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
# Processors that have no file of their own for Pillow, or none at all, and what they do: squash the whole photo.
_PLAIN = "ViTImageProcessor"
_AS_PLAIN = {"DINOv3ViTImageProcessor": {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "resample": 2}}
_OWN_TYPES = {  # model types that transformers has no processor for by name
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "dinov3_convnext": "DINOv3ViTImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "metaclip_2_vision_model": "CLIPImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
}


@dataclass(frozen=True)
class Frame:
    """The photo as the network gets it: its side, the share of the resized photo that is cut out, and how."""

    size: int
    crop: float
    fit: Fit


def input_spec(
    processor: Mapping[str, Any] | None, config: Any, *, size: int | None, what: str
) -> tuple[InputSpec, tuple[str, ...]]:
    """The picture for this model, and what a user should know about it.

    Args:
        processor: what is in preprocessor_config.json; None where there is none, and the family's usual one counts.
        config: the configuration of the encoder.
        size: the side that is wanted instead of its own, in pixels; the share that is cut out stays.
        what: names the backbone in errors.

    Raises:
        BadBackbone: its pictures are not squares of three colours, or its processor is of a kind that is not known.
    """
    own = _Processor(processor, config.model_type, what)
    remarks: list[str] = []
    if processor is None:
        remarks.append(
            f"{what} has no preprocessor_config.json: photos are prepared as is usual for {config.model_type}"
        )
    frame = own.frame(_config_size(config) or USUAL if processor is None else None)
    if frame.fit == "squash" and frame.crop < 1:
        remarks.append(
            f"{what} was trained on the middle {frame.crop:.1%} of squashed photos; here it sees all of them"
        )
    mean, std = own.normalisation()
    return InputSpec(
        size=size or frame.size,
        crop=frame.crop,
        interpolation=own.interpolation(),
        mean=mean,
        std=std,
        order="bgr" if own.get("do_flip_channel_order") else "rgb",
        fit=frame.fit,
    ), tuple(remarks)


def _config_size(config: Any) -> int | None:
    size = getattr(config, "image_size", None)
    return int(size[0] if isinstance(size, list | tuple) else size) if size else None


@contextlib.contextmanager
def _importing(what: str) -> Iterator[None]:
    """Its processors import torchvision where it is installed, and a torchvision of another build than torch fails."""
    try:
        yield
    except (ImportError, RuntimeError) as problem:
        cause: BaseException = problem
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise BadBackbone(
            f"{what}: transformers cannot be imported: {said}",
            fix="install torch and torchvision of one and the same build, or remove it: pip uninstall torchvision",
        ) from problem


class _Processor:
    """A processor of transformers with everything that its file leaves out filled in."""

    def __init__(self, given: Mapping[str, Any] | None, model_type: str, what: str) -> None:
        self.what = what
        with _importing(what):
            import transformers

            self.kind = self._kind(given or {}, model_type)
            defaults = _AS_PLAIN.get(self.kind, {})
            made = getattr(transformers, f"{_PLAIN if defaults else self.kind}Pil", None)
        if made is None:
            raise BadBackbone(
                f"{what} prepares its photos with {self.kind!r}, which is not known here",
                fix="use a model whose preprocessor_config.json names a usual image processor",
            )
        fields = {key: value for key, value in (given or {}).items() if not key.endswith(("_type", "_class", "_map"))}
        try:
            self._made = made(**{**defaults, **fields})
        except (TypeError, ValueError, KeyError) as problem:
            raise self._unfit(f"cannot be read: {problem}") from problem

    def _kind(self, given: Mapping[str, Any], model_type: str) -> str:
        from transformers.models.auto import image_processing_auto as auto

        named = given.get("image_processor_type") or given.get("feature_extractor_type")
        if isinstance(named, str):  # older files call it a feature extractor, and those that run on tensors fast
            return named.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
        usual = auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
        found = _OWN_TYPES.get(model_type) or usual.get("pil") or usual.get("torchvision") or _PLAIN
        return str(found).removesuffix("Pil")

    def get(self, name: str) -> Any:
        return getattr(self._made, name, None)

    def interpolation(self) -> Literal["bilinear", "bicubic", "lanczos"]:
        resample = self.get("resample")
        # Nearest and box leave out pixels or mix them evenly: bilinear is the closest that is antialiased.
        return RESAMPLING.get(int(resample) if resample is not None else 2, "bilinear")

    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and deviation of pixels 0..255: transformers scales first, and shifts and divides then."""
        factor = float(self.get("rescale_factor") or 1 / 255) if self.get("do_rescale") is not False else 1.0
        offset = 1.0 if self.get("rescale_offset") else 0.0
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if self.get("do_normalize"):
            mean, std = self._three("image_mean"), self._three("image_std")
        twice = self.get("include_top") is True  # EfficientNet's first layer in Keras divided once more
        again = self._three("image_std") if twice else (1.0, 1.0, 1.0)
        return (
            _triple([(value + offset) / factor for value in mean]),
            _triple([value * more / factor for value, more in zip(std, again, strict=True)]),
        )

    def _three(self, name: str) -> tuple[float, float, float]:
        values = self.get(name)
        values = [values] * 3 if isinstance(values, int | float) else values
        if not isinstance(values, Sequence) or len(values) != 3:
            raise self._unfit(f"gives {name} as {values!r}, which is not one number for each of three colours")
        return _triple(values)

    def frame(self, usual: int | None) -> Frame:
        """`usual` is the side of the network's own pictures, where the file says nothing."""
        cut = self._square("crop_size") if self.get("do_center_crop") and self.get("crop_size") else None
        if not self.get("do_resize"):
            side = cut or usual or self._side()
            if side is None:
                raise self._unfit("neither resizes nor cuts photos")
            return Frame(side, 1.0, "crop")
        short = getattr(self.get("size"), "shortest_edge", None)
        share = self.get("crop_pct")
        if usual is not None:
            short, cut = (usual if short else None), (usual if cut else None)
        if short and self.kind == "ConvNextImageProcessor":
            return Frame(short, short / int(short / share), "crop") if short < 384 else Frame(short, 1.0, "squash")
        if short:
            if self.kind == "LevitImageProcessor":
                share = 224 / 256
            resized = int(short / share) if share else int(short)
            cut = cut or resized  # those that keep a photo's shape: the network gets squares here
            return Frame(cut, cut / resized, "crop")
        side = usual or self._square("size")
        if cut is not None and share:
            return Frame(cut, cut / int(side / share), "crop")
        return Frame(cut, cut / side, "squash") if cut is not None and cut < side else Frame(side, 1.0, "squash")

    def _side(self) -> int | None:
        size = self.get("size")
        return getattr(size, "height", None) or getattr(size, "shortest_edge", None)

    def _square(self, name: str) -> int:
        size = self.get(name)
        height, width = getattr(size, "height", None), getattr(size, "width", None)
        if not height or height != width:
            raise self._unfit(f"gives {name} as {height} x {width} pixels, and the network must get squares here")
        return int(height)

    def _unfit(self, reason: str) -> BadBackbone:
        return BadBackbone(
            f"the preprocessor_config.json of {self.what} {reason}",
            fix="correct that file, or use a model for square photos in three colours",
        )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
