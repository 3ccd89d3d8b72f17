"""Compare what was exported with its run, photo by photo from file bytes, and say whether both agree."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.answering import Answerer, Seen
from headstart.data.dataset import Dataset
from headstart.data.member import bytes_of
from headstart.errors import BadExport
from headstart.events import Event, Note, Progress
from headstart.exporting.format import Graph, Outputs, Precision
from headstart.modalities.upright import PIXEL_LIMIT, upright
from headstart.pipeline import Readable
from headstart.runs import Run

PHOTOS = 500  # compared at most
FEW = 10  # fewer show little, which is said
WHOLE_SECONDS = 120.0  # for photos at their own size; those after it are compared by their squares alone
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2}  # of a probability, and of heat by its share
# Of a distance by its share. A level of colour here and there, where Pillow rounds the other way, moves it by more.
FARTHER: dict[Precision, float] = {"fp32": 1e-2, "fp16": 5e-2}
LOST = 0.02  # of the accuracy, that int8 may lose; what a few photos more or less make of it is not counted


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Photos to compare by, and the run's model."""

    photos: Dataset
    split: str
    model: Answerer
    max_pixels: int

    @classmethod
    def of(cls, run: Run, model: Answerer) -> Asked:
        """Of the run's validation photos, or of those of the training where it has none, a mixed few hundred."""
        split, photos = chosen(run)
        return cls(photos=photos, split=split, model=model, max_pixels=run.settings.max_pixels or PIXEL_LIMIT)


def chosen(run: Run) -> tuple[str, Dataset]:
    """The photos to compare by, and the split that they are from.

    Raises:
        BadExport: none of them is where it was.
    """
    dataset = run.dataset
    split = "validation" if len(dataset.validation) else "training"
    photos = dataset.validation if split == "validation" else dataset.train
    rows = np.sort(np.random.default_rng(0).permutation(len(photos))[:PHOTOS])
    photos = photos.with_items(photos.items[row] for row in rows)
    if not any(map(_there, photos.files)):
        raise _gone(split, photos, "they are not there")
    return split, photos


def _there(file: Readable) -> bool:
    try:
        bytes_of(file)
    except OSError:
        return False
    return True


def _gone(split: str, photos: Dataset, reason: str) -> BadExport:
    return BadExport(
        f"none of the run's {len(photos)} {split} photos can be read: {reason}",
        fix=f"what is exported is compared by them: put them back at {str(photos.root)!r}, or a link to them there",
    )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a graph's answers are from its run's. Differences are of probabilities."""

    precision: Precision
    split: str
    n: int  # photos compared, from the bytes of their files
    whole: int  # of them at their own size, by the graph's own preprocessing; all of them as squares
    tolerance: float | None  # None: judged by accuracy
    largest: float
    mean: float  # over photos, of the largest of each
    agreeing: int  # photos with the same answer
    ties: int  # photos with another answer whose two best probabilities differ by less than the tolerance
    distance: float | None  # largest difference, as a share of the distance, or of the threshold where that is more
    heat: float | None  # largest difference of what all places of a square add to a logit, as a share of the largest
    accuracy: float  # of the graph on these photos
    run_accuracy: float
    lost: float  # run_accuracy - accuracy
    lost_interval: tuple[float, float]  # 95 %, over pairs
    seconds: float  # a photo, at its own size, without decoding
    square_seconds: float

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """What came out, for people."""
        same = f"{self.agreeing} of {self.n} answers are those of the run"
        tied = f", and {self.ties} more are ties" if self.ties else ""
        if self.tolerance is None:
            low, high = self.lost_interval
            return (
                f"{same}; accuracy {self.accuracy:.3f} in place of {self.run_accuracy:.3f}, "
                f"lost {self.lost:.3f}, 95 % interval {low:.3f} to {high:.3f}; "
                f"probabilities differ by up to {self.largest:.2f}, by {self.mean:.3f} on average"
            )
        return f"{same}{tied}; probabilities differ by up to {self.largest:.1e} (allowed {self.tolerance:g})"

    def check(self) -> None:
        """Nothing, if both agree.

        Raises:
            BadExport: they do not.
        """
        wrong = self._wrong()
        if wrong:
            raise BadExport(
                f"what was exported does not agree with its run: {'; '.join(wrong)}",
                fix="try another format or precision, and please report it if this one was fp32",
            )

    def _wrong(self) -> list[str]:
        if self.tolerance is None:
            low, high = self.lost_interval
            lost = f"{self.lost:.3f} of accuracy is lost, 95 % interval {low:.3f} to {high:.3f}, and {LOST} is allowed"
            return [lost] if not low <= LOST else []
        missed = self.n - self.agreeing - self.ties
        differences = {
            "probabilities": (self.largest, self.tolerance),
            "distances": (self.distance, FARTHER[self.precision]),
            "heat maps": (self.heat, self.tolerance),
        }
        # Not "larger": what is not a number must fail too.
        wrong = [
            f"{name} differ by up to {value:.2g} (allowed {allowed:g})"
            for name, (value, allowed) in differences.items()
            if value is not None and not value <= allowed
        ]
        return wrong + ([f"{missed} of {self.n} answers are others"] if missed else [])


def compare(asked: Asked, graph: Graph, precision: Precision) -> Generator[Event, None, Parity]:
    """Answer all photos both ways.

    Raises:
        BadExport: none of the photos can be read any more.
        BadBundle: the graph fails.
    """
    if asked.split != "validation":
        yield Note(text="the run has no validation photos: compared by photos of its training")
    files = asked.photos.files
    seen = yield from asked.model.look(files)
    rows = seen.readable
    if not rows:
        raise _gone(asked.split, asked.photos, next(iter(seen.failed.values()), "there is none"))
    if len(rows) < FEW or len(rows) < len(files):
        lost = f" of {len(files)}, for the others cannot be read" if len(rows) < len(files) else ""
        yield Note(text=f"compared by {len(rows)} {asked.split} photo{'s' if len(rows) > 1 else ''} alone{lost}")
    whole, squares, seconds = yield from _answers(asked, graph, [files[row] for row in rows])
    if len(whole) < len(rows):
        yield Note(text=f"only the first {len(whole)} of {len(rows)} photos were compared at their own size, for time")
    return _judged(asked, precision, seen, rows, whole, squares, seconds)


def _answers(
    asked: Asked, graph: Graph, files: Sequence[Readable]
) -> Generator[Event, None, tuple[list[Outputs], list[Outputs], tuple[float, float]]]:
    """Of photos at their own size as long as there is time, of all as squares, and seconds a photo."""
    whole: list[Outputs] = []
    squares: list[Outputs] = []
    spent = [0.0, 0.0]
    for done, file in enumerate(files, start=1):
        content = bytes_of(file)
        if spent[0] < WHOLE_SECONDS:
            pixels = np.asarray(upright(content, max_pixels=asked.max_pixels))[None]
            began = time.perf_counter()
            whole.append(graph.photos(pixels))
            spent[0] += time.perf_counter() - began
        picture = asked.model.modality.decode(content, asked.model.spec)[None]
        began = time.perf_counter()
        squares.append(graph.squares(picture))
        spent[1] += time.perf_counter() - began
        yield Progress(what="photos compared", done=done, total=len(files))
    return whole, squares, (spent[0] / len(whole), spent[1] / len(squares))


def _judged(
    asked: Asked,
    precision: Precision,
    seen: Seen,
    rows: Sequence[int],
    whole: Sequence[Outputs],
    squares: Sequence[Outputs],
    seconds: tuple[float, float],
) -> Parity:
    model, tolerance = asked.model, TOLERANCE.get(precision)
    expected = seen.probabilities(model.temperature)[rows]
    labels = asked.photos.labels[rows]
    each = [_probabilities(squares), _probabilities(whole)]
    apart = [np.abs(given - expected[: len(given)]).max(axis=1) for given in each]
    same = [given.argmax(axis=1) == expected[: len(given)].argmax(axis=1) for given in each]
    agreeing, far = same[0].copy(), apart[0].copy()
    agreeing[: len(whole)] &= same[1]
    far[: len(whole)] = np.maximum(far[: len(whole)], apart[1])
    # As the graph does all by itself, where there was time for it.
    answered = np.concatenate([each[1], each[0][len(whole) :]])
    right, run_right = answered.argmax(axis=1) == labels, expected.argmax(axis=1) == labels
    distances = seen.distances[rows] if seen.distances is not None else None
    return Parity(
        precision=precision,
        split=asked.split,
        n=len(rows),
        whole=len(whole),
        tolerance=tolerance,
        largest=float(far.max()),
        mean=float(far.mean()),
        agreeing=int(agreeing.sum()),
        ties=int((~agreeing & (_margin(expected) < tolerance)).sum()) if tolerance is not None else 0,
        distance=_apart(distances, model.novelty.threshold if model.novelty is not None else 0.0, squares, whole),
        heat=_heat_apart(model, seen.logits[rows], squares),
        accuracy=float(right.mean()),
        run_accuracy=float(run_right.mean()),
        lost=float(run_right.mean() - right.mean()),
        lost_interval=_interval(run_right, right),
        seconds=seconds[0],
        square_seconds=seconds[1],
    )


def _probabilities(outputs: Sequence[Outputs]) -> Float[np.ndarray, "n k"]:
    return np.concatenate([each.probabilities for each in outputs]).astype(np.float64)


def _margin(probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
    """By how much the best answer leads."""
    ordered = np.sort(probabilities, axis=1)
    lead: Float[np.ndarray, "n"] = ordered[:, -1] - (ordered[:, -2] if ordered.shape[1] > 1 else 0.0)
    return lead


def _apart(expected: Float[np.ndarray, "n"] | None, threshold: float, *answers: Sequence[Outputs]) -> float | None:
    """The largest difference of distances as a share of what is expected, or of the threshold where that is more.

    Of a photo that lies on one of the training a share of nearly nothing would be judged, and decides nothing.
    """
    if expected is None:
        return None
    shares = [0.0]
    for outputs in answers:
        given = np.array([np.nan if each.distance is None else float(each.distance[0]) for each in outputs])
        wanted = expected[: len(given)]
        shares.append(float(np.max(np.abs(given - wanted) / np.maximum(wanted, max(threshold, 1e-12)))))
    return float(np.max(shares))


def _heat_apart(model: Answerer, logits: Float[np.ndarray, "n v k"], squares: Sequence[Outputs]) -> float | None:
    """How far all places together are from the logit without its bias, as a share of the largest logit."""
    linear = model.network.linear_on_mean
    if linear is None or "plain" not in model.views:
        return None
    plain = logits[:, model.views.index("plain")]
    if any(each.heat is None for each in squares):
        return float("nan")
    sums = np.array([each.heat[0].sum(axis=(0, 1)) for each in squares if each.heat is not None])
    return float(np.max(np.abs(sums + linear[1] - plain)) / max(float(np.abs(plain).max()), 1e-12))


def _interval(one: Bool[np.ndarray, "n"], other: Bool[np.ndarray, "n"]) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same photos."""
    difference: Int[np.ndarray, "n"] = one.astype(int) - other.astype(int)
    middle, wide = float(difference.mean()), 1.96 * float(difference.std()) / len(difference) ** 0.5
    return middle - wide, middle + wide
