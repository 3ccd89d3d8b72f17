"""Classes and photos count for as much as they should: in the exact head, in every stage, and in what chooses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import headstart as hs
from headstart import priors
from headstart.answering import mixture_of
from headstart.data import per_class
from headstart.data.dataset import Dataset, Item
from headstart.errors import BadData, BadSetting, HeadstartError
from headstart.networks.network import HEAD, Batch, Optimization
from headstart.probe import fit, probe
from headstart.training.batches import Order
from headstart.training.recipe import Recipe
from headstart.training.sources import score
from headstart.weighting import by_class, item_weights, parse, prior, written

from .conformance import networks as suite
from .conftest import CLASSES, Headstart
from .test_probe import features, finish, probabilities, unique

TRASHNET = Path(__file__).parents[2] / "shared" / "data" / "trashnet"


def photos(*counts: int, weights: dict[int, float] | None = None) -> Dataset:
    """So many items of each class; `weights` by position."""
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    own = weights or {}
    items = [Item(f"id{n}", f"{n}.jpg", label, "train", weight=own.get(n, 1.0)) for n, label in enumerate(labels)]
    return Dataset(root=Path(), classes=tuple("abcdef"[: len(counts)]), items=tuple(items))


# ---- what is asked for


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_sample_weight

    data = photos(60, 25, 5)
    ours = item_weights(data, "balanced")
    np.testing.assert_allclose(ours, compute_sample_weight("balanced", data.labels))


def test_weights_keep_the_sum_of_the_photos_own() -> None:
    data = photos(6, 3, weights={0: 2.0, 8: 4.0})
    for asked in ("balanced", {"a": 5.0, "b": 0.2}, None):
        weights = item_weights(data, asked)
        assert weights is not None
        assert weights.sum() == pytest.approx(13)
    balanced = item_weights(data, "balanced")
    assert balanced is not None
    assert balanced[:6].sum() == pytest.approx(balanced[6:].sum())


def test_nothing_asked_changes_nothing() -> None:
    assert item_weights(photos(6, 3), None) is None
    assert item_weights(photos(4, 4), "balanced") is None
    assert item_weights(photos(4, 4), {"a": 3.0, "b": 3.0}) is None


def test_the_effective_prior_is_uniform_where_classes_are_balanced() -> None:
    np.testing.assert_allclose(prior(photos(6, 3, 1), "balanced"), 1 / 3)
    np.testing.assert_allclose(prior(photos(6, 3, 1), None), [0.6, 0.3, 0.1])
    np.testing.assert_allclose(prior(photos(6, 3), {"a": 1.0, "b": 4.0}), [6 / 18, 12 / 18])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ants=1,bees=2.5", {"ants": 1.0, "bees": 2.5}),
        (" ants = 1 , bees = 2 ", {"ants": 1.0, "bees": 2.0}),
        ('{"a,b": 1, "c=d": 2}', {"a,b": 1.0, "c=d": 2.0}),
    ],
)
def test_weights_may_be_written_as_a_list_or_as_json(text: str, found: dict[str, float]) -> None:
    assert parse(text) == found
    assert parse(written(parse(text))) == found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.csv", "class,weight\nants,1\nbees,2\n"),
        ("w.csv", "\ufeffants,1\r\nbees,2\r\n"),
        ("w.json", '{"ants": 1, "bees": 2}'),
    ],
)
def test_weights_may_come_from_a_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert parse(tmp_path / name) == {"ants": 1.0, "bees": 2.0}


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ("ballanced", "neither a file", "did you mean 'balanced'"),
        ("nofile.csv", "neither a file", "CSV file of class and number"),
        ("ants=1,bees=x", "'x' for class 'bees'", "finite number"),
        ("ants=nan,bees=1", "'nan' for class 'ants'", "finite number"),
        ("ants=1,ants=2", "class 'ants' twice", "one number"),
        ("ants=0,bees=1", "above 0, but are not for 'ants' \\(0\\)", "leave out"),
        ("ants=-1,bees=1", "'ants' \\(-1\\)", "leave out"),
        ('{"ants": true}', "True for class 'ants'", "finite number"),
        ("{ants: 1}", "are no JSON", "write them as"),
        ({"ants": "many"}, "'many' for class", "finite number"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(given: Any, what: str, fix: str) -> None:
    with pytest.raises(BadSetting, match=what) as refusal:
        parse(given)
    assert fix in refusal.value.fix


@pytest.mark.parametrize(("content", "what"), [("ants,1,2\n", "3 cells"), ("", "no row"), ("[1, 2]", "class '.1'")])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "w.csv").write_text(content)
    with pytest.raises(BadSetting, match=what):
        parse(tmp_path / "w.csv")


def test_every_class_needs_a_weight_and_no_other_may_have_one() -> None:
    with pytest.raises(BadSetting, match="say nothing of 'b'"):
        by_class(photos(3, 3), {"a": 1.0})
    with pytest.raises(BadSetting, match="not there: 'ba'") as refusal:
        by_class(photos(3, 3), {"a": 1.0, "ba": 2.0})
    assert refusal.value.fix
    with pytest.raises(BadData, match="must be above 0"):
        item_weights(photos(3, 3, weights={1: 0.0}), None)


# ---- the exact head


def test_a_balanced_head_is_scikit_learns() -> None:
    values, labels = features(300, 60, 3)
    keep = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in enumerate((100, 30, 8))])
    values, labels = values[keep], labels[keep]
    weights = item_weights(photos(100, 30, 8), "balanced")
    scaler = StandardScaler().fit(values.astype(np.float64), sample_weight=weights)
    scaled = scaler.transform(values.astype(np.float64))
    model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-9, max_iter=20_000).fit(scaled, labels)
    head = fit(values, labels, 3, strength=0.1, weights=weights)
    np.testing.assert_allclose(probabilities(head, values), model.predict_proba(scaled), atol=1e-3)
    plain = fit(values, labels, 3, strength=0.1)
    assert np.abs(probabilities(plain, values) - model.predict_proba(scaled)).max() > 0.05, "weights changed nothing"


def test_the_probe_takes_a_photo_of_weight_two_for_two_photos() -> None:
    values, labels = features(90, 40, 3)
    twice = np.arange(90) < 20
    ids = np.array(unique(90))
    weighted = finish(probe(values, labels, ids.tolist(), 3, seed=0, weights=1.0 + twice))
    both = np.concatenate([np.arange(90), np.flatnonzero(twice)])
    repeated = finish(probe(values[both], labels[both], ids[both].tolist(), 3, seed=0))
    assert weighted.strength == repeated.strength
    for one, other in zip(weighted.path, repeated.path, strict=True):
        assert one.log_loss == pytest.approx(other.log_loss, abs=1e-3)
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.02)
    np.testing.assert_allclose(probabilities(weighted.head, values), probabilities(repeated.head, values), atol=1e-3)
    plain = finish(probe(values, labels, ids.tolist(), 3, seed=0))
    assert np.abs(probabilities(plain.head, values) - probabilities(weighted.head, values)).max() > 1e-2


def test_the_penalty_is_chosen_by_what_counts() -> None:
    values, labels = features(200, 30, 2)
    rare = labels * (np.arange(200) < 60)
    weights = np.where(rare == 1, 170 / 60, 1.0)
    found = finish(probe(values, rare, unique(200), 2, seed=0, weights=weights))
    answers = found.out_of_fold.argmax(1)
    best = next(point for point in found.path if point.strength == found.strength)
    assert best.accuracy == pytest.approx(np.average(answers == rare, weights=weights))


# ---- stages


@pytest.mark.parametrize("world", [1, 2, 3])
def test_weighted_batches_sum_to_one_over_all_processes(world: int) -> None:
    weights = np.where(np.arange(50) < 4, 7.0, 0.6)
    orders = [
        Order(n=50, batch_size=8, seed=0, stage="s", shard=(rank, world), weights=weights) for rank in range(world)
    ]
    for parts in zip(*(order.epoch(1) for order in orders), strict=True):
        assert sum(part.weights.sum() for part in parts) == pytest.approx(1.0)
        assert len({len(part.rows) for part in parts}) == 1


def test_a_heavy_photo_is_seen_often_and_no_photo_is_left_out() -> None:
    weights = np.where(np.arange(60) < 3, 10.0, 0.5)
    order = Order(n=60, batch_size=8, seed=0, stage="s", weights=weights)
    seen: Counter[int] = Counter()
    for part in order.epoch(0):
        seen.update(row for row, weight in zip(part.rows.tolist(), part.weights, strict=True) if weight)
        assert part.weights.max() < 0.5, "one photo steers a step"
    assert set(seen) == set(range(60))
    assert all(seen[heavy] >= 8 for heavy in range(3))
    assert all(seen[light] == 1 for light in range(3, 60))


def test_over_an_epoch_classes_have_their_shares() -> None:
    data = photos(200, 40, 12)
    weights = item_weights(data, "balanced")
    order = Order(n=len(data), batch_size=32, seed=0, stage="s", weights=weights)
    sums = np.zeros(3)
    for epoch in range(20):
        for part in order.epoch(epoch):
            sums += np.bincount(data.labels[part.rows], part.weights, 3)
    np.testing.assert_allclose(sums / sums.sum(), 1 / 3, atol=0.02)


def test_a_step_of_torch_counts_photos_by_their_weights() -> None:
    whole = suite.batch(n=6)
    twice = replace_batch(whole, [0, 0, 1, 2, 3, 4, 5], np.full(7, 1 / 7))
    weighted = replace_batch(whole, list(range(6)), np.array([2, 1, 1, 1, 1, 1]) / 7)
    after = [stepped(suite.small_torch_network(), batch) for batch in (twice, weighted, whole)]
    for name in after[0]:
        np.testing.assert_allclose(after[0][name], after[1][name], atol=1e-5, err_msg=name)
    assert any(np.abs(after[0][name] - after[2][name]).max() > 1e-4 for name in after[0]), "weights changed nothing"


def replace_batch(batch: Batch, rows: list[int], weights: np.ndarray) -> Batch:
    return replace(batch, inputs=batch.inputs[rows], labels=batch.labels[rows], weights=weights)


def stepped(network: Any, batch: Batch) -> dict[str, np.ndarray]:
    """The head after one step that shows the size of the gradient, not only its sign."""
    network.set_head(hs.heads.linear(), suite.CLASSES, seed=1)
    network.prepare(Optimization(weight_decay=0.0, clip=0.0, betas=(0.0, 0.0)))
    network.thaw({HEAD: 1e-2})
    [loss] = network.read([network.step(batch, scale=1.0, key=0)])
    return {"loss": np.array(loss), **{k: v for k, v in network.weights().items() if k.startswith("head")}}


def test_what_judges_a_stage_counts_as_training_does() -> None:
    labels = np.array([0] * 9 + [1])
    always_common = np.tile([2.0, 0.0], (10, 1)).astype(np.float32)
    fair = np.where(labels[:, None] == [0, 1], 1.0, 0.0).astype(np.float32)
    fair[:4] = fair[:4, ::-1]  # finds the rare one, and loses four common ones for it
    weights = item_weights(photos(9, 1), "balanced")
    assert score(labels, always_common).beats(score(labels, fair))
    assert score(labels, fair, weights).beats(score(labels, always_common, weights))
    assert score(labels, always_common, weights).accuracy == pytest.approx(0.5)


# ---- priors


def test_answers_for_another_mixture_are_those_that_bayes_gives() -> None:
    rng = np.random.default_rng(0)
    learnt, wanted = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    likelihoods = rng.dirichlet(np.ones(3), 50)
    before, after = (likelihoods * p / (likelihoods * p).sum(1, keepdims=True) for p in (learnt, wanted))
    np.testing.assert_allclose(priors.shift(before, learnt=learnt, wanted=wanted), after)
    np.testing.assert_allclose(priors.shift(before, learnt=learnt, wanted=learnt), before)


def test_photos_without_an_answer_stay_without_one() -> None:
    answers = np.array([[np.nan, np.nan], [0.5, 0.5], [1.0, 0.0]])
    shifted = priors.shift(answers, learnt=np.array([0.5, 0.5]), wanted=np.array([0.0, 1.0]))
    assert np.isnan(shifted[0]).all()
    np.testing.assert_allclose(shifted[1:], [[0, 1], [0, 1]])


def test_shares_are_estimated_from_answers_alone() -> None:
    rng = np.random.default_rng(1)
    learnt, true = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    labels = rng.choice(3, 4000, p=true)
    seen = np.eye(3)[labels] * 1.5 + rng.normal(size=(4000, 3))
    likelihoods = np.exp(-((seen[:, None] - np.eye(3) * 1.5) ** 2).sum(2) / 2)
    answers = likelihoods * learnt / (likelihoods * learnt).sum(1, keepdims=True)
    np.testing.assert_allclose(priors.estimate(answers, learnt), true, atol=0.03)
    np.testing.assert_allclose(priors.estimate(answers[:0], learnt), learnt)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("unifrom", "neither a file"),
        ("ants=0,bees=0", "sum to 0"),
        ("ants=-1,bees=2", "negative"),
        ("ants=1", "say nothing of 'bees'"),
        ("ants=1,bees=1,cats=1", "not there: 'cats'"),
        ({"ants": float("nan"), "bees": 1}, "no number"),
    ],
)
def test_priors_that_cannot_be_meant_are_refused(given: Any, what: str) -> None:
    half = np.array([0.5, 0.5])
    with pytest.raises(BadSetting, match=what):
        priors.shares(priors.parse(given), ("ants", "bees"), counted=half, learnt=half, answers=half[None])


def test_zero_is_a_prior_and_sums_need_not_be_one() -> None:
    half = np.array([0.5, 0.5])
    found = priors.shares({"ants": 3.0, "bees": 0.0}, ("ants", "bees"), counted=half, learnt=half, answers=half[None])
    np.testing.assert_allclose(found, [1, 0])
    assert per_class.read("ants=3,bees=0", what="priors") == {"ants": 3.0, "bees": 0.0}


def test_an_old_recipe_without_a_prior_still_loads() -> None:
    recipe = Recipe(head=hs.heads.linear(), probe=True, stages=(), optimization=Optimization())
    assert "prior" not in recipe.to_tables()
    assert Recipe.from_tables(recipe.to_tables()).prior == ()
    told = replace(recipe, prior=(0.25, 0.75))
    assert Recipe.from_tables(told.to_tables()).prior == (0.25, 0.75)


# ---- the whole


@pytest.fixture
def uneven(photos_folder: Path) -> Path:
    """Twelve, eight and four drawn photos."""
    for number, name in enumerate(CLASSES):
        for path in sorted((photos_folder / name).iterdir())[12 - 4 * number :]:
            path.unlink()
    return photos_folder


@pytest.fixture
def photos_folder(drawn_photos: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(drawn_photos, tmp_path / "photos"))


def test_a_run_keeps_its_weights_its_prior_and_says_what_they_mean(headstart_here: Headstart, uneven: Path) -> None:
    file = uneven.parent / "w.csv"
    file.write_text("class,weight\nbrick,1\ngrass,2\nwater,4\n")
    done = headstart_here(
        *("train", "photos", "--quality", "fast", "--size", "64", "--out", "run", "--class-weights", "w.csv"), "--json"
    )
    assert done.returncode == 0, done.stderr
    file.unlink()
    run = hs.Run.open(uneven.parent / "run")
    assert parse(run.settings.class_weights) == {"brick": 1.0, "grass": 2.0, "water": 4.0}
    assert run.recipe is not None
    data = run.dataset.only("train", "validation")
    np.testing.assert_allclose(run.recipe.prior, prior(data, {"brick": 1.0, "grass": 2.0, "water": 4.0}))
    assert any("--priors" in note for note in json.loads(done.stdout)["notes"])
    mixture = mixture_of(run, "train")
    assert mixture is not None
    np.testing.assert_allclose(mixture.learnt, run.recipe.prior)
    answers = headstart_here("predict", "run", "photos/brick", "--priors", "brick=0,grass=1,water=1", "--json")
    assert {row["label"] for row in json.loads(answers.stdout)} <= {"grass", "water"}
    refused = headstart_here("predict", "run", "photos/brick", "--priors", "brick=1")
    assert refused.returncode == 1
    assert "priors say nothing of 'grass', 'water'" in refused.stderr


def test_class_weights_of_other_classes_are_refused_before_a_folder_exists(
    headstart_here: Headstart, uneven: Path
) -> None:
    done = headstart_here(
        "train", "photos", "--size", "64", "--out", "run", "--class-weights", "brick=1,gras=1,water=1"
    )
    assert done.returncode == 1
    assert "'gras'" in done.stderr
    assert "did you mean 'grass'" in done.stderr
    assert not (uneven.parent / "run").exists()


def test_a_model_in_steps_takes_class_weights(uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    data = hs.load_dataset(uneven)
    backbone = hs.load_backbone("bundled", size=64)
    answers = []
    for weights in (None, {"brick": 1e-3, "grass": 1e-3, "water": 1.0}):
        model = hs.Model(backbone, classes=data.classes)
        model.fit(data, class_weights=weights)
        model.fit(data, hs.Stage(epochs=1, lr=1e-3), class_weights=weights)
        answers.append(model.predict(data.paths).mean(axis=0))
    assert answers[1][2] > answers[0][2] + 0.02
    with pytest.raises(HeadstartError, match="neither a file"):
        model.fit(data, class_weights="balance")


@pytest.mark.skipif(not TRASHNET.exists(), reason="the real photos are not at hand")
def test_saying_how_frequent_classes_are_lowers_the_loss_on_real_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learnt from many cartons and few cans, asked about few cartons and many cans."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    for name, (learnt, asked) in {"cardboard": (60, 6), "metal": (15, 40), "glass": (30, 20)}.items():
        files = sorted((TRASHNET / name).glob("*.jpg"))[::1]
        for kind, chosen in (("learn", files[:learnt]), ("ask", files[learnt : learnt + asked])):
            (tmp_path / kind / name).mkdir(parents=True)
            for file in chosen:
                (tmp_path / kind / name / file.name).symlink_to(file)
    run = hs.train(tmp_path / "learn", out=tmp_path / "run", quality="fast", size=96)
    plain, told, guessed = (
        hs.evaluate(run, tmp_path / "ask", priors=given).test
        for given in (None, {"cardboard": 6, "metal": 40, "glass": 20}, "estimate")
    )
    assert told.log_loss < plain.log_loss - 0.02
    assert told.accuracy >= plain.accuracy
    assert guessed.log_loss < plain.log_loss
