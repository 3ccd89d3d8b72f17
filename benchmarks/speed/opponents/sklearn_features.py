"""The expert's shortcut: features from PyTorch once, and scikit-learn: sklearn_features.py SEED PHOTOS SPLITS MORE."""

import sys

import lite0
import numpy as np
import photos
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from told import tell
from torch.utils.data import DataLoader

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def features(model, found):
    with torch.inference_mode():
        pairs = [(model(inputs).numpy(), labels.numpy()) for inputs, labels in DataLoader(found, 32, num_workers=2)]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def main():
    seed, folder, splits, more = sys.argv[1:]
    model = lite0.pooled()
    sets = photos.split(folder, splits, augmented=False)
    train, test = (features(model, sets[name]) for name in ("train", "test"))
    folds = StratifiedKFold(5, shuffle=True, random_state=int(seed))
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    head = GridSearchCV(head, {"logisticregression__C": STRENGTHS}, cv=folds).fit(*train)
    tell(test=head.score(*test))
    tell(more=head.score(*features(model, photos.more(more))))


if __name__ == "__main__":
    main()
