"""Take features from photos as people do in plain PyTorch: eager, fp32, a DataLoader, torchvision's transforms.

    python extraction_pytorch.py BACKBONE

Each line of input is `{"photos": [path, ...], "workers": n}`; each line of output `{"seconds": s, "shape": [n, d]}`.
The workers of the DataLoader stay for the next line with the same photos.
"""

import json
import sys
import time

import lite0
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

BATCH = 32
BICUBIC, BILINEAR = transforms.InterpolationMode.BICUBIC, transforms.InterpolationMode.BILINEAR
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision(name):
    model = getattr(models, name)(weights=None).eval()
    if name == "vgg16":
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Identity()
    elif name == "resnet50":
        model.fc = nn.Identity()
    else:
        model.classifier = nn.Identity()
    return model


class Photos(Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def main():
    name = sys.argv[1]
    model = lite0.pooled() if name == "bundled" else torchvision(name.partition("/")[2])
    transform = transforms.Compose(
        [
            transforms.Resize(256, interpolation=BICUBIC if name == "bundled" else BILINEAR),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(lite0.MEAN, lite0.STD) if name == "bundled" else transforms.Normalize(MEAN, STD),
        ]
    )
    known, loader = None, None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked != known:
            workers = asked["workers"]
            photos = Photos(asked["photos"], transform)
            loader = DataLoader(photos, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
            known = asked
        began = time.perf_counter()
        with torch.inference_mode():
            features = np.concatenate([model(batch).numpy() for batch in loader])
        print(json.dumps({"seconds": time.perf_counter() - began, "shape": features.shape}), flush=True)


if __name__ == "__main__":
    main()
