"""Get the benchmark's photos as torchvision's data sets, split as the file of splits says."""

import lite0
from told import rows
from torch.utils.data import Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

_TENSOR = (transforms.ToTensor(), transforms.Normalize(lite0.MEAN, lite0.STD))
PLAIN = transforms.Compose([transforms.Resize(lite0.RESIZED), transforms.CenterCrop(lite0.SIZE), *_TENSOR])
AUGMENTED = transforms.Compose([transforms.RandomResizedCrop(lite0.SIZE), transforms.RandomHorizontalFlip(), *_TENSOR])


def split(folder, splits, *, augmented):
    """The photos to train on, as they are or augmented, and those to test on."""
    side = {row["path"]: row["split"] for row in rows(splits)}
    found = {}
    for name, transform in (("train", AUGMENTED if augmented else PLAIN), ("test", PLAIN)):
        photos = ImageFolder(folder, transform)
        wanted = [
            place
            for place, (path, _) in enumerate(photos.samples)
            if side.get("/".join(path.rsplit("/", 2)[-2:])) == name
        ]
        found[name] = Subset(photos, wanted)
    return found


def more(folder):
    """Photos that nobody has trained on."""
    return ImageFolder(folder, PLAIN)
