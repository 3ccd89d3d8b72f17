"""Look up what a network of keras.applications needs: its pictures, its groups, and the official file of its weights.

A table, and nothing is imported for it. Its numbers come from Keras 3.15 and are checked against the installed Keras by
tests/test_keras_applications.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headstart.backbones.downloads import Published
from headstart.modalities.spec import InputSpec

Channels = tuple[float, float, float]

CROP = 0.875
MEAN: Channels = (0.485, 0.456, 0.406)  # of ImageNet's pixels in 0..1
STD: Channels = (0.229, 0.224, 0.225)
SERVER = "https://storage.googleapis.com"
KERAS = "tensorflow/keras-applications"  # where nearly all of them lie there


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is done to pixels 0..255: the channels into `order`, then `(pixels - mean) / std` in that order."""

    mean: Channels
    std: Channels
    order: Literal["rgb", "bgr"] = "rgb"


def _times_255(values: Channels) -> Channels:
    red, green, blue = values
    return (red * 255, green * 255, blue * 255)


TORCH = Scaling(_times_255(MEAN), _times_255(STD))
CAFFE = Scaling((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "bgr")
TENSORFLOW = Scaling((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
INSIDE = Scaling((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the network scales by itself: doing it twice ruins its features


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the networks of one paper have in common.

    `groups` matches the names of layers that belong together, see `KerasNetwork`. `depthwise` convolutions are slow on
    XLA's CPU.
    """

    scaling: Scaling
    groups: str
    folder: str  # of the weights, on the server
    files: str = "{stem}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    there: str | None = None  # their name on the server, where it is another than on this machine
    licence: str = "Apache-2.0"  # of the weights
    smallest: int = 32  # pixels of a side
    depthwise: bool = False
    first: str | None = None  # the layer after a scaling that is not built as the published weights want it


VGG = Family(
    scaling=CAFFE, groups=r"^block\d", folder=f"{KERAS}/{{stem}}", licence="CC-BY-4.0 (VGG, University of Oxford)"
)
RESNET = Family(scaling=CAFFE, groups=r"^conv\d", folder=f"{KERAS}/resnet", licence="MIT (Kaiming He)")
RESNET_V2 = Family(scaling=TENSORFLOW, groups=r"^conv\d", folder=f"{KERAS}/resnet", licence="BSD-3-Clause (Facebook)")
DENSENET = Family(scaling=TORCH, groups=r"^conv\d", folder=f"{KERAS}/densenet", licence="BSD-3-Clause (Zhuang Liu)")
INCEPTION = Family(scaling=TENSORFLOW, groups=r"^mixed(?!9_)\d+", folder=f"{KERAS}/{{stem}}", smallest=75)
INCEPTION_RESNET = Family(
    scaling=TENSORFLOW, groups=r"^(?:mixed_\d[a-z]|block\d+|conv_7b)", folder=f"{KERAS}/{{stem}}", smallest=75
)
XCEPTION = Family(
    scaling=TENSORFLOW,
    groups=r"^block\d+",
    folder=f"{KERAS}/{{stem}}",
    licence="MIT (François Chollet)",
    smallest=71,
    depthwise=True,
)
MOBILENET = Family(
    scaling=TENSORFLOW,
    groups=r"^conv_dw_\d+",  # the pointwise one that follows joins it
    folder=f"{KERAS}/mobilenet",
    files="mobilenet_{stem}_{size}_tf_no_top.h5",
    depthwise=True,
)
MOBILENET_V2 = Family(
    scaling=TENSORFLOW,
    groups=r"^(?:block_\d+|Conv_1)",
    folder=f"{KERAS}/mobilenet_v2",
    files="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{stem}_{size}_no_top.h5",
    depthwise=True,
)
MOBILENET_V3 = Family(
    scaling=INSIDE,
    groups=r"^(?:expanded_conv(?:_\d+)?|conv_1)",
    folder=f"{KERAS}/mobilenet_v3",
    files="weights_mobilenet_v3_{stem}_224_1.0_float_no_top_v2.h5",
    depthwise=True,
)
NASNET = Family(
    scaling=TENSORFLOW,
    groups=r"^(?:separable_conv|adjust|normal|reduction)_\w*?_?((?:stem_|reduce_)?\d+)$",  # each layer ends in its cell
    folder=f"{KERAS}/nasnet",
    files="nasnet_{stem}_no_top.h5",
    there="NASNet-{stem}-no-top.h5",
    depthwise=True,
)
EFFICIENTNET = Family(
    scaling=INSIDE,
    groups=r"^(?:block\d|top)",
    folder="keras-applications",
    files="efficientnet{stem}_notop.h5",
    depthwise=True,
    first="stem_conv_pad",
)
EFFICIENTNET_V2 = Family(
    scaling=INSIDE,
    groups=r"^(?:block\d|top)",
    folder=f"{KERAS}/efficientnet_v2",
    files="efficientnetv2-{stem}_notop.h5",
    depthwise=True,
)
CONVNEXT = Family(
    scaling=INSIDE,
    groups=r"stage_\d",
    folder=f"{KERAS}/convnext",
    files="convnext_{stem}_notop.h5",
    licence="MIT (Meta)",
    depthwise=True,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A network of keras.applications; `parameters` and `width` are those without its top."""

    function: str
    family: Family
    size: int
    width: int
    parameters: int
    stem: str  # its part of the name of the file with its weights
    digest: str | None = None  # md5 or sha256 of that file, where Keras publishes one
    alpha: float | None = None  # its width as a share of the full one, where the function wants it
    sizes: tuple[int, ...] = ()  # of the pictures for which there are weights of their own
    trained: str = "ImageNet"

    def spec(self, size: int | None = None) -> InputSpec:
        """Its pictures, by default of the size that it was trained on."""
        scaling = self.family.scaling
        return InputSpec(
            size=size or self.size,
            crop=CROP,
            interpolation="bicubic",
            mean=scaling.mean,
            std=scaling.std,
            order=scaling.order,
        )

    def files(self, size: int | None = None) -> tuple[Published, ...]:
        """The official files that fit, the best one for pictures of this size first."""
        own = size if size in self.sizes else self.size
        return tuple(self._file(trained) for trained in dict.fromkeys((own, self.size)))

    def _file(self, size: int) -> Published:
        family = self.family
        name, there = (form.format(stem=self.stem, size=size) for form in (family.files, family.there or family.files))
        return Published(name, f"{SERVER}/{family.folder.format(stem=self.stem)}/{there}", self.digest)


_MOBILE = (128, 160, 192, 224)
_MOBILE_V2 = (96, 128, 160, 192, 224)
_LARGE = "ImageNet-21k, then ImageNet"
# fmt: off
_BEST = Member("EfficientNetV2B0", EFFICIENTNET_V2, 224, 1280, 5_858_704, "b0", "893217f2bb855e2983157299931e43ff")
_ALL = (
    _BEST,
    Member("EfficientNetV2B1", EFFICIENTNET_V2, 240, 1280, 6_860_052, "b1", "0e80663031ca32d657f9caa404b6ec37"),
    Member("EfficientNetV2B2", EFFICIENTNET_V2, 260, 1408, 8_687_086, "b2", "1dfe2e7a5d45b6632553a8961ea609eb"),
    Member("EfficientNetV2B3", EFFICIENTNET_V2, 300, 1536, 12_821_406, "b3", "f6abf7b5849ac99a89b50dd3fd532856"),
    Member("EfficientNetV2S", EFFICIENTNET_V2, 384, 1280, 20_177_488, "s", "af0682fb74e8c54910f2d4393339c070"),
    Member("EfficientNetV2M", EFFICIENTNET_V2, 480, 1280, 52_858_356, "m", "1b8dc055df72dde80d614482840fe342"),
    Member("EfficientNetV2L", EFFICIENTNET_V2, 480, 1280, 117_234_272, "l", "b0b66b5c863aef5b46e8608fe1711615"),
    Member("EfficientNetB0", EFFICIENTNET, 224, 1280, 4_007_548, "b0", "50bc09e76180e00e4465e1a485ddc09d"),
    Member("EfficientNetB1", EFFICIENTNET, 240, 1280, 6_513_184, "b1", "74c4e6b3e1f6a1eea24c589628592432"),
    Member("EfficientNetB2", EFFICIENTNET, 260, 1408, 7_700_994, "b2", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    Member("EfficientNetB3", EFFICIENTNET, 300, 1536, 10_696_232, "b3", "af6d107764bb5b1abb91932881670226"),
    Member("EfficientNetB4", EFFICIENTNET, 380, 1792, 17_548_616, "b4", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    Member("EfficientNetB5", EFFICIENTNET, 456, 2048, 28_340_784, "b5", "38879255a25d3c92d5e44e04ae6cec6f"),
    Member("EfficientNetB6", EFFICIENTNET, 528, 2304, 40_735_704, "b6", "9ecce42647a20130c1f39a5d4cb75743"),
    Member("EfficientNetB7", EFFICIENTNET, 600, 2560, 63_786_960, "b7", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    Member("ConvNeXtTiny", CONVNEXT, 224, 768, 27_820_128, "tiny",
           "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    Member("ConvNeXtSmall", CONVNEXT, 224, 768, 49_454_688, "small",
           "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    Member("ConvNeXtBase", CONVNEXT, 224, 1024, 87_566_464, "base",
           "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45", trained=_LARGE),
    Member("ConvNeXtLarge", CONVNEXT, 224, 1536, 196_230_336, "large",
           "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd", trained=_LARGE),
    Member("ConvNeXtXLarge", CONVNEXT, 224, 2048, 348_147_968, "xlarge",
           "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05", trained=_LARGE),
    Member("ResNet50", RESNET, 224, 2048, 23_534_592, "resnet50", "4d473c1dd8becc155b73f8504c6f6626"),
    Member("ResNet101", RESNET, 224, 2048, 42_552_832, "resnet101", "88cf7a10940856eca736dc7b7e228a21"),
    Member("ResNet152", RESNET, 224, 2048, 58_219_520, "resnet152", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    Member("ResNet50V2", RESNET_V2, 224, 2048, 23_519_360, "resnet50v2", "fac2f116257151a9d068a22e544a4917"),
    Member("ResNet101V2", RESNET_V2, 224, 2048, 42_528_896, "resnet101v2", "c0ed64b8031c3730f411d2eb4eea35b5"),
    Member("ResNet152V2", RESNET_V2, 224, 2048, 58_187_904, "resnet152v2", "ed17cf2e0169df9d443503ef94b23b33"),
    Member("DenseNet121", DENSENET, 224, 1024, 6_953_856, "densenet121", "30ee3e1110167f948a6b9946edeeb738"),
    Member("DenseNet169", DENSENET, 224, 1664, 12_484_480, "densenet169", "b8c4d4c20dd625c148057b9ff1c1176b"),
    Member("DenseNet201", DENSENET, 224, 1920, 18_092_928, "densenet201", "c13680b51ded0fb44dff2d8f86ac8bb1"),
    Member("Xception", XCEPTION, 299, 2048, 20_806_952, "xception", "b0042744bf5b25fce3cb969f33bebb97"),
    Member("InceptionV3", INCEPTION, 299, 2048, 21_768_352, "inception_v3", "bcbd6486424b2319ff4ef7d526e38f63"),
    Member("InceptionResNetV2", INCEPTION_RESNET, 299, 1536, 54_276_192, "inception_resnet_v2",
           "d19885ff4a710c122648d3b5c3b684e4"),
    Member("VGG16", VGG, 224, 512, 14_714_688, "vgg16", "6d6bbae143d832006294945121d1f1fc"),
    Member("VGG19", VGG, 224, 512, 20_024_384, "vgg19", "253f8cb515780f3b799900260a226db6"),
    Member("MobileNet", MOBILENET, 224, 1024, 3_206_976, "1_0", alpha=1.0, sizes=_MOBILE),
    Member("MobileNet", MOBILENET, 224, 768, 1_816_560, "7_5", alpha=0.75, sizes=_MOBILE),
    Member("MobileNet", MOBILENET, 224, 512, 818_592, "5_0", alpha=0.5, sizes=_MOBILE),
    Member("MobileNet", MOBILENET, 224, 256, 213_072, "2_5", alpha=0.25, sizes=_MOBILE),
    Member("MobileNetV2", MOBILENET_V2, 224, 1280, 2_223_872, "1.0", alpha=1.0, sizes=_MOBILE_V2),
    # The two wide ones were trained at 224 pixels alone.
    Member("MobileNetV2", MOBILENET_V2, 224, 1792, 4_315_776, "1.4", alpha=1.4),
    Member("MobileNetV2", MOBILENET_V2, 224, 1664, 3_721_792, "1.3", alpha=1.3),
    Member("MobileNetV2", MOBILENET_V2, 224, 1280, 1_355_424, "0.75", alpha=0.75, sizes=_MOBILE_V2),
    Member("MobileNetV2", MOBILENET_V2, 224, 1280, 687_680, "0.5", alpha=0.5, sizes=_MOBILE_V2),
    Member("MobileNetV2", MOBILENET_V2, 224, 1280, 396_128, "0.35", alpha=0.35, sizes=_MOBILE_V2),
    Member("MobileNetV3Large", MOBILENET_V3, 224, 960, 2_971_952, "large", "07fb09a5933dd0c8eaafa16978110389"),
    Member("MobileNetV3Small", MOBILENET_V3, 224, 576, 927_008, "small", "d3e8ec802a04aa4fc771ee12a9a9b836"),
    Member("NASNetLarge", NASNET, 331, 4032, 84_720_150, "large", "d81d89dc07e6e56530c4e77faddd61b5"),
    Member("NASNetMobile", NASNET, 224, 1056, 4_232_978, "mobile", "1ed92395b5b598bdda52abe5c0dbfd63"),
)
# fmt: on


def _name(member: Member) -> str:
    width = "" if member.alpha in (None, 1.0) else f"_{member.alpha}"
    return f"{member.function.lower()}{width}"


MEMBERS = {_name(member): member for member in _ALL}  # by name, the best general choice first
