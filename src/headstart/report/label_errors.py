"""Find photos whose labels are probably wrong: heads that had not seen them are surer of another class.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"),
written from the paper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.data.dataset import Item
from headstart.out_of_fold import OutOfFold
from headstart.runs import Run
from headstart.training.sources import score


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A photo whose label is doubted; rank 1 is doubted most."""

    rank: int
    path: str  # in the data set, as in splits.csv
    split: str
    label: str  # as given
    suggested: str  # what a head that had not seen the photo holds it for
    probability: float  # of the suggested class, calibrated
    label_probability: float  # of the given one


@dataclass(frozen=True, kw_only=True)
class Suspicions:
    """All photos whose labels are doubted, the most doubtful first, among `photos` that were looked through."""

    found: tuple[Suspicion, ...]
    expected: int  # how many labels confident learning holds for wrong; it counts the model's own mistakes as well
    photos: int
    words: str  # what to say of it, in one or two sentences


def suspected(run: Run) -> Suspicions | None:
    """The photos of a run whose labels are doubted; None where it has no exact head, or is of an older headstart.

    Validation photos are among them only where the frozen backbone ships; test photos never are.

    Raises:
        BadRun: `out_of_fold.safetensors` is damaged.
    """
    kept = run.out_of_fold
    if kept is None:
        return None
    judged = answerable(kept.labels, kept.probabilities)
    labels, items = kept.labels[judged], dict(_items(run, kept))
    probabilities = calibrated(labels, kept.probabilities[judged])
    rows, expected = doubted(labels, probabilities)
    found = [
        Suspicion(
            rank=rank,
            path=items[judged[row]].path,
            split=items[judged[row]].split,
            label=run.classes[labels[row]],
            suggested=run.classes[probabilities[row].argmax()],
            probability=float(probabilities[row].max()),
            label_probability=float(probabilities[row, labels[row]]),
        )
        for rank, row in enumerate((row for row in rows.tolist() if judged[row] in items), start=1)
    ]
    return Suspicions(found=tuple(found), expected=expected, photos=len(labels), words=_words(len(found), len(labels)))


def answerable(labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "m"]:
    """The photos of classes that some head knew which had not seen the photo.

    Of a class with a single photo (or family) none did: to doubt its label would be to doubt all that is rare.
    """
    own = probabilities[np.arange(len(labels)), labels]
    return np.flatnonzero(np.bincount(labels, own, probabilities.shape[1])[labels] > 0)


def doubted(labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"]) -> tuple[Int[np.ndarray, "m"], int]:
    """Photos whose labels are doubted, the most doubtful first, and how many labels are held for wrong.

    The confident joint is counted and scaled to the given labels. So many photos of each pair of classes are doubted as
    it says, those with the largest margin (prune by noise rate); they are ranked by how much surer the heads are of
    another class than of the given one. A photo that is held for what its label says is never doubted.

    Args:
        labels: as given.
        probabilities: by heads that had not seen the photo, calibrated.
    """
    n, classes = probabilities.shape
    own = probabilities[np.arange(n), labels]
    joint = _scaled(confident_joint(labels, probabilities), np.bincount(labels, minlength=classes))
    margins = probabilities - own[:, None]
    chosen: Bool[np.ndarray, "n"] = np.zeros(n, bool)
    for given in range(classes):
        rows = np.flatnonzero(labels == given)
        for other in range(classes):
            count = round(joint[given, other])
            if other != given and count:
                chosen[rows[np.argsort(-margins[rows, other], kind="stable")[:count]]] = True
    chosen &= probabilities.argmax(axis=1) != labels
    doubts = np.flatnonzero(chosen)
    expected = round(float(joint.sum() - np.trace(joint)))
    return doubts[np.argsort(-margins.max(axis=1)[doubts], kind="stable")], expected


def confident_joint(labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "k k"]:
    """How many photos of each given label (rows) surely belong to each class (columns).

    Sure of a class is who gives it at least the mean probability that photos with its label get. A photo for which that
    holds of several counts for the likeliest, one for which it holds of none counts nowhere.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(len(labels)), labels]
    means = np.bincount(labels, own, minlength=classes) / np.maximum(counts, 1)
    thresholds = np.where(counts, means, np.inf)  # of a class without photos nobody can be sure
    sure = probabilities >= thresholds
    best = np.where(sure, probabilities, -1).argmax(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[sure.any(axis=1)], best[sure.any(axis=1)]), 1)
    return joint


def calibrated(labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """The same answers at the temperature that fits the labels best: one number, so that hardly anything is learnt."""
    if not len(labels):
        return probabilities
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    logits /= score(labels, logits).temperature
    answers: Float[np.ndarray, "n k"] = np.exp(logits - logits.max(axis=1, keepdims=True))
    answers /= answers.sum(axis=1, keepdims=True)
    return answers


def _scaled(joint: Int[np.ndarray, "k k"], counts: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k k"]:
    """The joint with as many photos of each given label as there are."""
    sums = joint.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(joint, sums, out=np.zeros(joint.shape), where=sums > 0) * counts[:, None])


def _items(run: Run, kept: OutOfFold) -> Iterator[tuple[int, Item]]:
    """The row of each photo and its place in the manifest: one content may lie at several places."""
    places: dict[tuple[str, int], list[Item]] = defaultdict(list)
    for item in run.dataset.only("train", "validation").items:
        places[item.id, item.label].append(item)
    for row, (id, label) in enumerate(zip(kept.ids, kept.labels.tolist(), strict=True)):
        if same := places[id, label]:
            yield row, same.pop(0)


def _words(found: int, photos: int) -> str:
    if not found:
        return f"No label is doubted among {photos:,} photos, judged by models that had not learnt from them."
    which = "1 looks" if found == 1 else f"{found:,} look"
    return (
        f"Of {photos:,} photos, {which} more like another class to a model that had not learnt from them. Some"
        " labels will be wrong, other photos are merely hard or show both classes: look at them from the top."
    )
