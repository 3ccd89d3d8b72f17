"""Measure how many photos of one data set a model of another calls unsure, and how many of its own.

    python benchmarks/quality/abstention.py [RUN ...] [--most 1500]

For each ordered pair of five data sets: four fifths of the photos of the first are learnt from, the distances of the
rest say how often it is wrongly unsure, and all photos of the second should be called unsure. Left out, for their
contents overlap: sunflowers of caltech101-20 and flowers5 against each other, and hymenoptera given to a model of
flowers5, since its bees sit on flowers. The other way round stays in: it is the hardest. Variants are told apart by the
same photos; the opponent is the largest probability, with a threshold that is made in the same way. Finished RUNs of
these data sets, tuned ones for instance, are judged by their own files and thresholds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import headstart as hs
from headstart.answering import Seen, answerer
from headstart.evaluation.calibration import softmax
from headstart.novelty import FALSE_ALARMS, Novelty, fit, limited
from headstart.outcome import outcome
from headstart.probe import FOLDS, assign_folds, probe
from headstart.runs import Run

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "abstention.json"
DATA = REPOSITORY.parent / "shared" / "data"
NAMES = ("hymenoptera", "flowers5", "trashnet", "clothing-small", "caltech101-20")
LEFT_OUT = {("flowers5", "hymenoptera")}  # model, photos
SHARED = {frozenset(("flowers5", "caltech101-20")): "sunflower"}
SHIPPED = "nearest class mean, unit features (shipped)"
OPPONENT = "largest probability"


@dataclass(frozen=True)
class Photos:
    """Features of a data set."""

    features: np.ndarray
    labels: np.ndarray
    classes: list[str]
    files: list[str]

    def strange(self, model: str, name: str) -> np.ndarray:
        """The rows that show nothing of what a model of that data set knows."""
        shared = SHARED.get(frozenset((model, name)))
        return np.array([row for row, label in enumerate(self.labels) if self.classes[label] != shared])


def read(name: str, most: int) -> Photos:
    """Frozen features of at most so many photos, out of the cache where they are there."""
    files = sorted(str(path) for path in (DATA / name).rglob("*.jpg"))
    draw = np.random.default_rng(0)
    files = [files[row] for row in sorted(draw.permutation(len(files))[:most])]
    classes, labels = np.unique([Path(file).parent.name for file in files], return_inverse=True)
    rows = hs.TransferFeatures().fit().transform(files)
    return Photos(rows, labels, classes.tolist(), files)


def space(mean: np.ndarray, projection: np.ndarray | None, centres: np.ndarray, k: int, normalise: bool) -> Novelty:
    arrays = {"mean": mean, "projection": projection, "centres": centres}
    return Novelty(**arrays, k=k, normalise=normalise, threshold=math.inf, false_alarms=0.0)


def unit(features: np.ndarray) -> np.ndarray:
    rows = features.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def mahalanobis(
    features: np.ndarray, labels: np.ndarray, *, normalise: bool, width: int = 512, power: float = 1.0
) -> Novelty:
    """To the nearest class, in the largest directions of a shrunken shared covariance (Ledoit and Wolf 2004).

    With a power below 1 directions are brought only part of the way to the same spread; 0 is the Euclidean distance.
    """
    rows = unit(features) if normalise else features.astype(np.float64)
    names, mean = np.unique(labels), rows.mean(axis=0)
    means = np.stack([rows[labels == label].mean(axis=0) for label in names])
    inside = rows - means[np.searchsorted(names, labels)]
    n, d = inside.shape
    covariance = inside.T @ inside / n
    scale = np.trace(covariance) / d
    spread = ((covariance - scale * np.eye(d)) ** 2).sum()
    noise = (((inside**2).sum(1) ** 2).sum() / n - (covariance**2).sum()) / n
    shrink = float(np.clip(noise / spread, 0, 1))
    values, directions = np.linalg.eigh((1 - shrink) * covariance + shrink * scale * np.eye(d))
    projection = directions[:, ::-1][:, :width] / values[::-1][:width] ** (power / 2)
    return space(mean, projection, (means - mean) @ projection, 1, normalise)


def neighbours(features: np.ndarray, labels: np.ndarray, *, k: int, width: int, normalise: bool = True) -> Novelty:
    """To the k-th neighbour among the photos, in principal directions; all directions where width is 0."""
    rows = unit(features) if normalise else features.astype(np.float64)
    mean = rows.mean(axis=0)
    if not width:
        return space(mean, None, rows - mean, k, normalise)
    projection = np.linalg.svd(rows - mean, full_matrices=False)[2][:width].T
    return space(mean, projection, (rows - mean) @ projection, k, normalise)


def novel(made: Callable[..., Novelty], **options: object) -> Callable[[np.ndarray, np.ndarray], Novelty]:
    return lambda features, labels: made(features, labels, **options)


VARIANTS: dict[str, Callable[[np.ndarray, np.ndarray], Novelty]] = {
    SHIPPED: fit,
    "Mahalanobis, shrunken, 512 directions": novel(mahalanobis, normalise=False),
    "Mahalanobis, shrunken, 512 directions, unit features": novel(mahalanobis, normalise=True),
    "halfway to Mahalanobis, all directions, unit features": novel(
        mahalanobis, normalise=True, width=10_000, power=0.5
    ),
    "nearest photo, unit features": novel(neighbours, k=1, width=0),
    "third nearest photo, unit features, 128 principal directions": novel(neighbours, k=3, width=128),
    "third nearest photo, features as they are": novel(neighbours, k=3, width=0, normalise=False),
}


def area(own: np.ndarray, foreign: np.ndarray) -> float:
    """The chance that a foreign photo is farther than one of the own."""
    order = np.concatenate([own, foreign]).argsort(kind="stable").argsort(kind="stable")
    return float((order[len(own) :].sum() - len(foreign) * (len(foreign) - 1) / 2) / (len(own) * len(foreign)))


@dataclass(frozen=True)
class Score:
    """How a model of one data set does on photos of another, and on new ones of its own."""

    model: str
    photos: str
    false_alarms: float
    caught: float
    area: float


def scores(
    model: str, sets: dict[str, Photos], told: Callable[[np.ndarray], np.ndarray], threshold: float, test: np.ndarray
) -> list[Score]:
    """Of one way to tell, a larger value being stranger, on the test photos and all that are foreign."""
    own = told(sets[model].features[test])
    found = []
    for name in sets:
        if name != model and (model, name) not in LEFT_OUT:
            foreign = told(sets[name].features[sets[name].strange(model, name)])
            alarms, caught = float((own > threshold).mean()), float((foreign > threshold).mean())
            found.append(Score(model, name, alarms, caught, area(own, foreign)))
    return found


def frozen(model: str, sets: dict[str, Photos], seed: int) -> dict[str, list[Score]]:
    """Every way to tell, for a model of this data set that is fitted on four fifths of its photos."""
    photos = sets[model]
    parts = assign_folds(photos.labels, photos.files, seed=seed, folds=5)
    test, train = np.flatnonzero(parts == 0), np.flatnonzero(parts != 0)
    features, labels = photos.features[train], photos.labels[train]
    folds = assign_folds(labels, [photos.files[row] for row in train], seed=seed + 1, folds=FOLDS)
    found = {}
    for name, made in VARIANTS.items():
        held_out = np.empty(len(labels))
        for fold in np.unique(folds):
            inside = folds == fold
            held_out[inside] = made(features[~inside], labels[~inside]).distance(features[inside])
        whole = limited(made(features, labels), held_out)
        assert whole is not None
        found[name] = scores(model, sets, whole.distance, whole.threshold, test)
    solved = outcome(probe(features, labels, [photos.files[row] for row in train], len(photos.classes), seed=seed))
    threshold = float(np.quantile(-solved.out_of_fold.max(axis=1), 1 - FALSE_ALARMS, method="higher"))

    def doubt(rows: np.ndarray) -> np.ndarray:
        return -softmax(rows @ solved.head.weights + solved.head.bias).max(axis=1)

    found[OPPONENT] = scores(model, sets, doubt, threshold, test)
    return found


def of_run(path: Path, sets: dict[str, Photos], most: int) -> list[dict[str, object]]:
    """A finished run by its own threshold: on its test photos and on some of the other data sets."""
    run = Run.open(path)
    model, network = Path(run.settings.data).name, answerer(run)
    assert network.novelty is not None
    assert run.recipe is not None
    judged, own = (outcome(network.look(run.dataset.only(split).files)) for split in ("validation", "test"))

    def doubt(seen: Seen) -> np.ndarray:
        return -seen.probabilities(network.temperature).max(axis=1)

    threshold = float(np.quantile(doubt(judged), 1 - FALSE_ALARMS, method="higher"))
    rows = []
    for name, photos in sets.items():
        if name == model or (model, name) in LEFT_OUT:
            continue
        files = [Path(photos.files[row]) for row in photos.strange(model, name)]
        foreign = outcome(network.look([files[row] for row in np.random.default_rng(0).permutation(len(files))[:most]]))
        both = []
        for told, limit in ((lambda seen: seen.distances, network.novelty.threshold), (doubt, threshold)):
            mine, theirs = told(own), told(foreign)
            both.append(Score(model, name, (mine > limit).mean(), (theirs > limit).mean(), area(mine, theirs)))
        rows.append(row(f"{model}, {'tuned' if run.recipe.stages else 'frozen'} run", name, *both))
        print(rows[-1], flush=True)
    return rows


def row(model: str, photos: str, shipped: Score, opponent: Score) -> dict[str, object]:
    return {
        "told by": SHIPPED,
        "model of": model,
        "photos of": photos,
        "false alarms": float(shipped.false_alarms),
        "caught": float(shipped.caught),
        "AUROC": shipped.area,
        "false alarms by probability": float(opponent.false_alarms),
        "caught by probability": float(opponent.caught),
        "AUROC by probability": opponent.area,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--most", type=int, default=1500, help="photos of a data set")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    sets = {name: read(name, options.most) for name in NAMES}
    found: dict[str, list[Score]] = {name: [] for name in (*VARIANTS, OPPONENT)}
    for model, seed in itertools.product(NAMES, range(options.seeds)):
        for name, each in frozen(model, sets, seed).items():
            found[name] += each
        print(model, seed, flush=True)
    rows: list[dict[str, object]] = []
    for name, each in found.items():
        figures = {"false alarms": "false_alarms", "caught": "caught", "AUROC": "area"}
        means = {title: float(np.mean([getattr(score, field) for score in each])) for title, field in figures.items()}
        worst = min(each, key=lambda score: score.caught)
        least = f"{worst.caught:.2f}: {worst.photos} given to {worst.model}"
        rows.append({"told by": name, "model of": "each", "photos of": "the others", **means, "least caught": least})
        print(rows[-1], flush=True)
    for model, photos in itertools.permutations(NAMES, 2):
        pair = [[s for s in found[name] if (s.model, s.photos) == (model, photos)] for name in (SHIPPED, OPPONENT)]
        if pair[0]:
            rows.append(row(model, photos, *map(mean, pair)))
    for run in options.runs:
        rows += of_run(run, sets, 200)
    result = {
        "benchmark": "None of these",
        "description": f"Photos of one data set given to a model of another: the share that is called unsure (caught) "
        f"with a threshold for {FALSE_ALARMS:.0%} of false alarms, made out of fold on four fifths of the model's "
        f"photos; false alarms on the other fifth. Frozen default backbone, means over {options.seeds} splits. Left "
        "out: sunflowers of caltech101-20 and flowers5 against each other, hymenoptera given to flowers5.",
        "limit": "false alarms of 5 %, and their noise; bees and ants sit on flowers",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def mean(each: list[Score]) -> Score:
    figures = np.mean([(score.false_alarms, score.caught, score.area) for score in each], axis=0)
    return Score(each[0].model, each[0].photos, *map(float, figures))


if __name__ == "__main__":
    main()
