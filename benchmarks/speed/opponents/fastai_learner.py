"""fastai's vision_learner on EfficientNet-Lite0: fastai_learner.py fit_one_cycle|fine_tune SEED PHOTOS SPLITS MORE.

As in its quick start: photos resized as they are read, no augmentation, five epochs; with fit_one_cycle the backbone
stays frozen, fine_tune thaws it after one epoch.
"""

import sys

import lite0
import pandas as pd
import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    create_head,
    default_split,
    get_image_files,
    parent_label,
    set_seed,
    vision_learner,
)
from told import rows, tell
from torch import nn

EPOCHS = 5


def arch(pretrained=True):
    # fastai cuts a network of a user's own before its pooling.
    return nn.Sequential(*lite0.features(), nn.AdaptiveAvgPool2d(1))


def main():
    how, seed, folder, splits, more = sys.argv[1:]
    set_seed(int(seed))
    frame = pd.DataFrame(rows(splits))
    frame["is_valid"] = frame["split"] == "test"
    loaders = ImageDataLoaders.from_df(
        frame,
        folder,
        fn_col="path",
        label_col="label",
        valid_col="is_valid",
        item_tfms=Resize(lite0.SIZE),
        batch_tfms=Normalize.from_stats(lite0.MEAN, lite0.STD, cuda=False),
        num_workers=2,
        device=torch.device("cpu"),
    )
    head = create_head(lite0.WIDTH, loaders.c)  # fastai's own; it cannot see the width of these convolutions
    learner = vision_learner(loaders, arch, custom_head=head, splitter=default_split, metrics=accuracy, normalize=False)
    with learner.no_bar(), learner.no_logging():
        getattr(learner, how)(EPOCHS)
    tell(test=float(learner.recorder.values[-1][-1]))
    files = get_image_files(more)
    with learner.no_bar():
        found, _ = learner.get_preds(dl=loaders.test_dl(files))
    names = list(loaders.vocab)
    right = [names[best] == parent_label(file) for best, file in zip(found.argmax(1), files, strict=True)]
    tell(more=sum(right) / len(files))


if __name__ == "__main__":
    main()
