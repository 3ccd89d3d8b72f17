"""The same data, seed and recipe: TensorFlow and JAX end within rounding of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.heads import Dense, Head
from headstart.networks.keras_backend import ENGINES, engines
from headstart.networks.network import HEAD, Batch, Optimization

from ..conformance.networks import SPEC
from . import models
from .models import KerasNetwork, keras
from .processes import run_python
from .test_model_file import INCEPTION, MOBILENET, mobilenet

# Not marked to be run on each engine: it asks the other one as well, and would say the same again.
OTHER = next(name for name in ENGINES if name != keras.backend.backend())
STEPS = 10
# Of features, losses and logits, the latter of size 1 to 10, after ten steps with AdamW. Both engines compute in single
# precision and sum in another order. Adam divides each gradient by its size, so one that is nothing but rounding still
# moves its weight by the whole rate: that the difference stays near that of the features is not certain, but seen.
# Measured: 4e-6 and, with 50 layers of rounding, 3e-5.
TOLERANCES = {"small": 5e-5, "mobilenet": 3e-4}


def small() -> KerasNetwork:
    return KerasNetwork(models.made(models.stored_as_frozen), spec=SPEC)


def real() -> KerasNetwork:
    return KerasNetwork(mobilenet(), spec=INCEPTION, groups=r"block_1[56]|Conv_1|block_\d")


NETWORKS: dict[str, Callable[[], KerasNetwork]] = {"small": small, "mobilenet": real}


def trained(name: str) -> dict[str, np.ndarray]:
    """Losses and final logits of a recipe without chance: ten steps, in the small network the first for the head."""
    network = NETWORKS[name]()
    network.set_head(Head((Dense(16),)), 3, seed=1)
    network.prepare(Optimization(weight_decay=0.05, label_smoothing=0.1, average=0.9))
    size, last = network.spec.size, network.groups[-1].name
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    images[:, : size // 2] //= np.arange(1, 17, dtype=np.uint8)[:, None, None, None] % 3 + 1
    start = next(cut for cut in reversed(network.cuts) if cut.after < len(network.groups))
    features = network.features(images, start)
    losses = []
    for number in range(STEPS):
        network.thaw({HEAD: 1e-3} if name == "small" and number < STEPS // 2 else {HEAD: 1e-3, last: 1e-4})
        rows = np.arange(8) + 8 * (number % 2)
        batch = Batch(features[rows], (rows + 1) % 3, np.full(8, 1 / 8), start)
        losses.append(network.step(batch, scale=1.0, key=number))
    found = {"losses": np.array(network.read(losses)), "features": features, "logits": network.logits(images)}
    with network.averaged():
        return found | {"logits of the average": network.logits(images)}


WRITE = """
import sys
import numpy as np
from tests.keras import test_engines_agree
for name in sys.argv[2:]:
    np.savez(f"{sys.argv[1]}/{name}", **test_engines_agree.trained(name))
"""


@pytest.fixture(scope="module")
def of_the_other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the other engine comes to."""
    if OTHER not in engines():
        pytest.skip(f"{OTHER} is not installed")
    folder = tmp_path_factory.mktemp("other")
    run_python(WRITE, folder, "small", *(["mobilenet"] if MOBILENET.exists() else []), KERAS_BACKEND=OTHER)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_both_engines_train_to_the_same_answers(name: str, of_the_other: Path) -> None:
    if name == "mobilenet" and not MOBILENET.exists():
        pytest.skip(f"{MOBILENET.name} is not beside this checkout")
    here = trained(name)
    with np.load(of_the_other / f"{name}.npz") as there:
        assert set(here) == set(there)
        for key, value in there.items():
            np.testing.assert_allclose(here[key], value, atol=TOLERANCES[name], err_msg=key)
    assert here["losses"][-1] < here["losses"][0]
