"""Use a pre-trained network as any estimator of scikit-learn: in pipelines, cross-validation and grid searches."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from headstart import heads
from headstart.answering import softmax
from headstart.config import Settings
from headstart.errors import BadData, BadSetting
from headstart.estimators.embedding import Opened, opened
from headstart.estimators.samples import BadSamples, Sample, dataset_of, samples
from headstart.estimators.tuned import Tuned, tune
from headstart.modalities.spec import Fit
from headstart.outcome import outcome
from headstart.probe import fit as fit_head
from headstart.probe import probe

if TYPE_CHECKING:
    from headstart.backbones.backbone import Backbone

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d
except ImportError as problem:
    raise BadSetting("scikit-learn is not installed", fix='pip install "headstart[sklearn]"') from problem


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pre-trained network with a new head, as a scikit-learn classifier of pictures.

    X is a list or array of paths, an array `[n h w c]` or `[n h w]` of 0..255, a list of such arrays, or a list of
    Pillow images. y holds any labels, one a picture.

    With `quality="fast"` the head is a linear one, solved exactly on cached features. Its penalty is chosen within
    `fit` by cross-validation, so within each fold of yours. Features are computed once for each picture, whatever
    folds or parameters come later.
    Its probabilities are those of the penalised regression, as scikit-learn's; those of a tuned network are at the
    temperature that fits the pictures that were held back.

    Args:
        backbone: name of a pre-trained network, or what `load_backbone` gave.
        quality: `fast` solves a linear head; `balanced` also tunes the last groups of layers, `best` all of them.
        head: the new layers, such as `dense(256, relu), dropout(0.5)`; `linear` is solved exactly.
        C: inverse strength of the linear head's penalty, as in scikit-learn's multinomial regression on standardised
            features; `None` chooses it by cross-validation.
        size: side of the square that enters the network, in pixels; `None` is the backbone's own.
        framing: how pictures are brought to a square: `crop`, `pad` or `squash`; `None` is the backbone's own way.
        weights: file with the backbone's weights; `None` are those that its source knows.
        class_weight: `balanced` counts each class alike, a dictionary by its weight; `None` counts pictures.
        random_state: decides folds, order and augmentation.
        device: `cpu`, `cuda`, `mps` or `auto`.

    Attributes:
        classes_: the labels, sorted.
        coef_, intercept_: of a linear head on the backbone's pooled features, `[k d]` and `[k]`.
        C_: the penalty that was chosen.
        fitted_on_: the hash of the backbone's weights.
        tuned_: where layers were tuned or a head of layers trained: all weights of the network, by name.
    """

    def __init__(
        self,
        backbone: str | Backbone = "bundled",
        *,
        quality: str = "fast",
        head: str = "linear",
        C: float | None = None,
        size: int | None = None,
        framing: Fit | None = None,
        weights: str | PathLike[str] | None = None,
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.quality = quality
        self.head = head
        self.C = C
        self.size = size
        self.framing = framing
        self.weights = weights
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TransferClassifier:
        """Learn from these pictures. A `sample_weight` of 2 counts as two equal pictures, 0 as none.

        Raises:
            BadSamples: X or y cannot be used; it is a `ValueError` too.
            HeadstartError: a parameter has a value that cannot be used, or the backbone cannot be loaded.
        """
        settings = self._checked()
        labels = _labels(y)
        found = samples(X)
        check_consistent_length(found, labels)
        weights = _sample_weights(sample_weight, len(found))
        used = weights > 0
        if not used.any():
            raise BadSamples("sample_weight is zero for all pictures", fix="give at least two a weight above 0")
        found = [sample for sample, there in zip(found, used, strict=True) if there]
        self.classes_, positions = np.unique(labels[used], return_inverse=True)
        if len(self.classes_) < 2:
            raise BadSamples(
                f"y has one class, {self.classes_[0]!r}, and a classifier needs two", fix="give pictures of others too"
            )
        weights = weights[used] * self._class_weights(labels[used], weights[used])[positions]
        backbone = self._opened()
        photos = dataset_of(found, labels=positions, classes=len(self.classes_), weights=weights)
        self.fitted_on_ = backbone.backbone.weights_hash
        self.tuned_: Tuned | None = None
        if settings.quality != "fast" or not heads.parse(self.head).linear:
            self.tuned_ = tune(backbone, photos, settings)
        if self.tuned_ is None:
            self._solve(backbone, found, positions, weights, settings.seed)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each picture."""
        check_is_fitted(self)
        best: np.ndarray = self.classes_[self._logits(X).argmax(axis=1)]
        return best

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """The probability of each label, in the order of `classes_`."""
        return softmax(self._logits(X))

    def decision_function(self, X: Any) -> Float[np.ndarray, "n *k"]:
        """Logits `[n k]`; of two classes `[n]`, the second's over the first's."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def _logits(self, X: Any) -> Float[np.ndarray, "n k"]:
        check_is_fitted(self)
        found = samples(X)
        backbone = self._opened()
        if self.fitted_on_ != backbone.backbone.weights_hash:
            raise BadSetting(
                f"this classifier was fitted on another network than {backbone.backbone.name}",
                fix="fit it again after changing its backbone",
            )
        if self.tuned_ is not None:
            return self.tuned_.logits(backbone.backbone, found, self.device)
        rows = backbone.features(found)
        logits: Float[np.ndarray, "n k"] = rows.astype(np.float64) @ self.coef_.T + self.intercept_
        return logits

    def _solve(
        self,
        backbone: Opened,
        found: list[Sample],
        labels: Int[np.ndarray, "n"],
        weights: Float[np.ndarray, "n"],
        seed: int,
    ) -> None:
        rows, k = backbone.features(found), len(self.classes_)
        self.C_ = self.C
        if self.C is not None:
            head = fit_head(rows, labels, k, strength=self.C, weights=weights)
        else:
            ids = [sample.id for sample in found]
            solved = outcome(probe(rows, labels, ids, k, seed=seed, weights=weights))
            head, self.C_ = solved.head, solved.strength
        self.coef_ = head.weights.T.astype(np.float64)
        self.intercept_ = head.bias.astype(np.float64)

    def _opened(self) -> Opened:
        return opened(self.backbone, size=self.size, framing=self.framing, weights=self.weights, device=self.device)

    def _checked(self) -> Settings:
        if self.C is not None and not (np.isreal(self.C) and 0 < self.C < np.inf):
            raise BadSetting(f"C is {self.C!r}", fix="give a number above 0, or None to have it chosen")
        if self.C is not None and (self.quality != "fast" or not heads.parse(self.head).linear):
            raise BadSetting("C is given for a head that is not solved", fix="leave C out, or use quality='fast'")
        if self.framing not in (None, "crop", "pad", "squash"):
            raise BadSetting(f"framing is {self.framing!r}", fix="use crop, pad, squash or None")
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        return Settings.resolve(data="X", quality=self.quality, head=self.head, seed=int(seed), device=self.device)

    def _class_weights(self, labels: np.ndarray, weights: Float[np.ndarray, "n"]) -> Float[np.ndarray, "k"]:
        """What each class counts for, as scikit-learn's own classifiers have it."""
        if self.class_weight is None:
            return np.ones(len(self.classes_))
        if isinstance(self.class_weight, Mapping):
            wrong = [name for name in self.class_weight if name not in self.classes_]
            low = [name for name, weight in self.class_weight.items() if not 0 < weight < np.inf]
            if wrong or low:
                problem = f"names {wrong[0]!r}, which is not in y" if wrong else f"is not above 0 for {low[0]!r}"
                raise BadSetting(f"class_weight {problem}", fix="give a number above 0 for labels that are in y")
            return np.array([self.class_weight.get(name, 1.0) for name in self.classes_.tolist()], dtype=np.float64)
        if self.class_weight != "balanced":
            raise BadSetting(f"class_weight is {self.class_weight!r}", fix="use 'balanced', a dictionary or None")
        sums = np.array([weights[labels == name].sum() for name in self.classes_])
        balanced: np.ndarray = weights.sum() / (len(sums) * sums)
        return balanced

    def __sklearn_tags__(self) -> Any:
        return _of_pictures(super().__sklearn_tags__())


class TransferFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What a pre-trained network says of pictures, `[n d]` float32, for any estimator that comes after it.

    X as for `TransferClassifier`; there is nothing to learn, so it may be used without `fit`. Features are computed
    once for each picture and kept in the cache.

    Args:
        backbone: name of a pre-trained network, or what `load_backbone` gave.
        size: side of the square that enters the network, in pixels; `None` is the backbone's own.
        framing: how pictures are brought to a square: `crop`, `pad` or `squash`; `None` is the backbone's own way.
        weights: file with the backbone's weights; `None` are those that its source knows.
        device: `cpu`, `cuda`, `mps` or `auto`.
    """

    def __init__(
        self,
        backbone: str | Backbone = "bundled",
        *,
        size: int | None = None,
        framing: Fit | None = None,
        weights: str | PathLike[str] | None = None,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.size = size
        self.framing = framing
        self.weights = weights
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> TransferFeatures:
        """Load the network; nothing is learnt from X.

        Raises:
            BadSamples: X holds no pictures; it is a `ValueError` too.
            HeadstartError: a parameter has a value that cannot be used, or the backbone cannot be loaded.
        """
        if X is not None:
            samples(X)
        self._opened()
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "n d"]:
        """Features of these pictures, in order."""
        return self._opened().features(samples(X))

    @property
    def _n_features_out(self) -> int:
        return self._opened().width

    def _opened(self) -> Opened:
        if self.framing not in (None, "crop", "pad", "squash"):
            raise BadSetting(f"framing is {self.framing!r}", fix="use crop, pad, squash or None")
        return opened(self.backbone, size=self.size, framing=self.framing, weights=self.weights, device=self.device)

    def __sklearn_tags__(self) -> Any:
        tags = _of_pictures(super().__sklearn_tags__())
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []  # float32, whatever the pictures are
        return tags


def _of_pictures(tags: Any) -> Any:
    tags.input_tags.two_d_array = False  # a table of numbers holds no pictures
    tags.input_tags.three_d_array = True
    tags.input_tags.string = True
    tags.input_tags.sparse = False
    return tags


def _labels(y: Any) -> np.ndarray:
    if y is None:
        raise BadSamples(
            "y is None: this estimator requires y to be passed, but the target y is None", fix="give a label a picture"
        )
    try:
        labels: np.ndarray = column_or_1d(y, warn=True)
        check_classification_targets(labels)
    except BadData:
        raise
    except ValueError as problem:
        raise BadSamples(f"y cannot be used: {problem}", fix="give one label for each picture, in one row") from problem
    return labels


def _sample_weights(given: Any, n: int) -> Float[np.ndarray, "n"]:
    if given is None:
        return np.ones(n)
    weights = np.asarray(given, dtype=np.float64)
    if weights.ndim == 0:
        weights = np.full(n, weights)
    if weights.ndim != 1:
        raise BadSamples(
            f"sample_weight has {weights.ndim} dimensions: Sample weights must be 1D array or scalar",
            fix="give one number a picture",
        )
    if len(weights) != n:
        raise BadSamples(f"sample_weight has {len(weights)} numbers for {n} pictures", fix="give one number a picture")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise BadSamples("sample_weight has numbers that are negative or not finite", fix="give numbers from 0 up")
    return weights
