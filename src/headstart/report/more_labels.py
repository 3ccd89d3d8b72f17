"""Predict how accurate the model would be with two and four times as many labelled photos.

The exact head is fitted on nested parts of the photos, by their cached features, and judged by photos that it has not
seen; the errors are extrapolated (see power_law.py). It takes seconds, and test photos are not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.backbones.loading import load_backbone
from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.features import Features, extract, kept
from headstart.logistic import Inputs, Problems
from headstart.machine import cores, product_threads
from headstart.modalities.loading import load_modality
from headstart.out_of_fold import OutOfFold
from headstart.outcome import outcome
from headstart.probe import assign_folds
from headstart.report.power_law import Band, extrapolated
from headstart.runs import Run
from headstart.store import Store
from headstart.weighting import item_weights, parse

FOLDS = 5  # as many as the probe has, and the same
DRAWS = 3  # parts of each size that are drawn
HALVED = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # parts of what can be learnt from; the whole comes on top
FEWEST = 4  # photos of a class in a part, on average
CHEAP = 10.0  # seconds that features may take to be computed again
LARGEST = 4000  # photos that are learnt from anew: beyond, a part takes seconds
ROUGH = 1e-2  # of a solution: a hundred times finer changes no accuracy here and takes three times as long
TIMES = (2.0, 4.0)
FURTHEST = 4.0
WORTH = 0.01  # of accuracy, from which twice the labels are said to pay


@dataclass(frozen=True, kw_only=True)
class Point:
    """The accuracy with so many labelled photos, in [0, 1], and the interval in which it lies 95 times in 100."""

    photos: int  # that are learnt from
    accuracy: float
    interval: tuple[float, float]
    times: float = 1.0  # of the photos that there are: below 1 measured on a part of them, above 1 predicted


@dataclass(frozen=True, kw_only=True)
class LabelCurve:
    """Measured points, fewest photos first, and the fitted curve with predictions for 2 and 4 times as many.

    All three are empty where nothing can be said; `words` says why then, and else what to make of it.
    """

    measured: tuple[Point, ...]
    curve: tuple[Point, ...]  # the fitted one at about 30 sizes up to 4 times: a line with its band
    predicted: tuple[Point, ...]  # at 2 and 4 times
    words: str
    of: str  # whose accuracy it is: "the model", or "the frozen backbone" where the model was tuned


def more_labels(run: Run, *, store: Store | None = None) -> LabelCurve:
    """The learning curve of a run's exact head, out of the feature cache; test photos are not looked at.

    Where the cache was cleared, features are computed again if that is a matter of seconds.

    Args:
        run: finished or nearly.
        store: where features are kept; by default the user's own.

    Raises:
        BadRun: `out_of_fold.safetensors` is damaged.
    """
    answers = run.out_of_fold
    of = _whose(run, answers)
    if answers is None:
        return _left_out(of, "the run keeps no answers of an exact head")
    photos = run.dataset.only("train", "validation")
    store = store or Store.default()
    features = kept(answers.ids, answers.features, store) or _again(run, photos, answers, store)
    if features is None:
        return _left_out(of, "the cached features of its photos are gone, and to compute them again takes long")
    families = {item.id: family for item, family in zip(photos.items, photos.families, strict=True)}
    weights = item_weights(photos, parse(run.settings.class_weights))
    shares = None if weights is None else dict(zip((item.id for item in photos.items), weights.tolist(), strict=True))
    try:
        trials = tried(
            features.take(answers.ids),
            answers,
            [families[id] for id in answers.ids],
            seed=run.settings.seed,
            weights=None if shares is None else np.array([shares[id] for id in answers.ids]),
        )
    except KeyError:
        return _left_out(of, "its photos are not those that it was made from")
    return curve_of(trials, photos=len(answers.ids), of=of, seed=run.settings.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """Which photos were named rightly by heads that had learnt from parts of the others: `m` sizes, `s` draws."""

    sizes: Float[np.ndarray, "m"]  # photos learnt from, fewest first
    right: Bool[np.ndarray, "m s n"]
    families: Sequence[str]


def tried(
    features: Float[np.ndarray, "n d"],
    answers: OutOfFold,
    families: Sequence[str],
    *,
    seed: int,
    weights: Float[np.ndarray, "n"] | None = None,
    draws: int = DRAWS,
) -> Trials:
    """Fit heads on parts of the photos outside each fold, and ask them about the photos in it.

    Parts are nested, keep the shares of the classes, and take or leave the photos of a family together. The answers of
    the heads that learnt from all of the others are there already.
    """
    labels, classes = answers.labels, answers.probabilities.shape[1]
    n = len(labels)
    fold = assign_folds(labels, families, seed=seed, folds=FOLDS)
    whole = n * (1 - 1 / FOLDS)
    wanted = [part for part in HALVED if FEWEST * classes <= part * whole <= LARGEST]
    shares = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    sizes = np.zeros((len(wanted), draws, fold.max() + 1))
    right = np.zeros((len(wanted), draws, n), bool)

    def learn(place: tuple[int, int, int]) -> None:
        at, draw, held = place
        rows = part(labels, families, fold != held, wanted[at], seed=seed + draw)
        problem = Problems.of(Inputs.of(features[rows]), labels[rows], classes, shares[rows][None])
        # The penalty of the whole: on parts others are hardly better, and the curve asks what more photos bring.
        head = problem.heads(problem.solve(answers.strength, problem.start(), tolerance=ROUGH))[0]
        asked = np.flatnonzero(fold == held)
        sizes[place] = len(rows)
        right[at, draw, asked] = (features[asked] @ head.weights + head.bias).argmax(axis=1) == labels[asked]

    # One product is too short for all cores: so as many parts at once, the long ones first.
    places = sorted(np.ndindex(sizes.shape), reverse=True)
    with product_threads(1), ThreadPoolExecutor(cores(), thread_name_prefix="more labels") as pool:
        list(pool.map(learn, places))
    known = np.repeat((answers.probabilities.argmax(axis=1) == labels)[None], draws, axis=0)
    return Trials(
        sizes=np.append(sizes.mean(axis=(1, 2)), whole),
        right=np.concatenate([right, known[None]]),
        families=families,
    )


def part(
    labels: Int[np.ndarray, "n"],
    families: Sequence[str],
    usable: Bool[np.ndarray, "n"],
    share: float,
    *,
    seed: int,
) -> Int[np.ndarray, "m"]:
    """Rows of about this share of the usable photos of each class, with at least one family of each.

    A larger share of the same seed holds all rows of a smaller one.
    """
    first: dict[str, int] = {}
    for row in np.flatnonzero(usable).tolist():
        first.setdefault(families[row], int(labels[row]))
    taken: set[str] = set()
    for label in sorted(set(first.values())):
        own = sorted((family for family in first if first[family] == label), key=lambda family: _hash(seed, family))
        taken.update(own[: max(1, round(share * len(own)))])
    return np.array([row for row in np.flatnonzero(usable).tolist() if families[row] in taken], dtype=np.int64)


def curve_of(trials: Trials, *, photos: int, of: str, seed: int) -> LabelCurve:
    """The curve of these trials, with what it predicts for more photos than these."""
    if len(trials.sizes) < 3:
        return _left_out(of, f"{photos} photos are too few to be divided")
    rng = np.random.default_rng(seed)
    line = np.geomspace(trials.sizes[0], FURTHEST * photos, 30)
    ahead = photos * np.array([1.0, *TIMES])
    bands = extrapolated(trials.sizes, trials.right, trials.families, np.concatenate([line, ahead]), rng=rng)
    fitted = [_point(size, band, photos) for size, band in zip((*line, *ahead), _rows(bands.fitted), strict=True)]
    measured = [_point(size, band, photos) for size, band in zip(trials.sizes, _rows(bands.measured), strict=True)]
    now, *predicted = fitted[len(line) :]
    return LabelCurve(
        measured=tuple(measured),
        curve=tuple(fitted[: len(line)]),
        predicted=tuple(predicted),
        words=_words(now, predicted[0], of),
        of=of,
    )


def _rows(band: Band) -> Iterator[tuple[float, float, float]]:
    yield from zip(band.middle.tolist(), band.low.tolist(), band.high.tolist(), strict=True)


def _point(size: float, band: tuple[float, float, float], photos: int) -> Point:
    middle, low, high = band
    return Point(photos=round(size), accuracy=middle, interval=(low, high), times=float(size) / photos)


def _words(now: Point, twice: Point, of: str) -> str:
    low, high = twice.interval
    expected = (
        f"With {twice.photos:,} labelled photos, {of} is expected to be right in {100 * twice.accuracy:.1f} %"
        f" ({100 * low:.1f} to {100 * high:.1f} %), with these {now.photos:,} in {100 * now.accuracy:.1f} %"
    )
    gain = twice.accuracy - now.accuracy
    if gain >= WORTH:
        return f"{expected}: more labels are worth their price."
    return f"{expected}: more labels of this kind would bring little, better ones or another backbone might."


def _again(run: Run, photos: Dataset, answers: OutOfFold, store: Store) -> Features | None:
    """Features by the finished network, where that is the backbone as it was and they are there in a moment."""
    forecast, tuned = run.forecast, _whose(run, answers) != "the model"
    if tuned or forecast is None or not 0 < forecast.answer * len(photos) <= CHEAP:
        return None
    known = set(answers.ids)
    wanted = photos.with_items(item for item in photos.items if item.id in known)
    try:
        backbone = load_backbone(f"run/{run.path.absolute()}")
        network = backbone.build()
        modality = load_modality("image", max_pixels=run.settings.max_pixels)
        return outcome(extract(wanted, backbone, network, network.cuts[-1], modality=modality, store=store))
    except HeadstartError:  # its code is not to be run, its library is missing, the disk is full: the rest goes on
        return None


def _whose(run: Run, answers: OutOfFold | None) -> str:
    """A tuned network's probe has learnt from train photos alone; what ships frozen, from validation photos too."""
    validation = {item.id for item in run.dataset.validation.items}
    recipe = run.recipe
    tuned = recipe is not None and bool(recipe.stages)
    return "the frozen backbone" if tuned and not (answers and validation.intersection(answers.ids)) else "the model"


def _left_out(of: str, reason: str) -> LabelCurve:
    return LabelCurve(
        measured=(), curve=(), predicted=(), of=of, words=f"What more labels would bring is left out: {reason}."
    )


def _hash(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"part {seed} {key}".encode(), digest_size=8).digest()
