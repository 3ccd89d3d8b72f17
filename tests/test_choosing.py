"""What computes the frozen part: the fastest way that agrees, nothing where that does not pay, and the same again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from headstart import caching, choosing
from headstart.choosing import Choices, Chosen, Wanted, choose
from headstart.data.dataset import Dataset, Item
from headstart.errors import BadRuntime
from headstart.events import Decision, Event, Note
from headstart.features import extract
from headstart.modalities.image import ImageModality
from headstart.networks.network import Cut, Group, Network
from headstart.outcome import outcome
from headstart.runtimes import framework, kept, opening, openvino
from headstart.runtimes.runtime import Offer, Precision
from headstart.store import Store

from .conformance.networks import NETWORKS
from .fake_network import POOLED, SPEC, FakeNetwork, fake_backbone
from .test_features import id_of, photo

PHOTOS = 24


class Slow(FakeNetwork):
    """A network that looks dear, so that anything faster pays."""

    groups = (Group("all", (), (), 10**10),)

    def agree(self, value: float) -> float:
        return value


@dataclass
class Fast:
    """A runtime in the test's hands: a precision, how far it is from the truth, how long it takes."""

    precision: Precision = "fp32"
    error: float = 0.0  # as a share of how features differ between photos
    seconds_each: float = 0.0
    toll: float = 0.0
    refuses: str = ""
    name: str = "fast"
    opened: list[str] = field(default_factory=list)

    def offers(self, network: Network) -> tuple[Offer, ...]:
        return (Offer(self.name, self.precision, f"{self.name}-1", 4),)

    def lacks(self, network: Network, precision: Precision) -> BadRuntime | None:
        return None

    def seconds(self, network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
        return self.toll

    def open(self, network: Any, offer: Offer, upto: Cut, *, sample: Any = None, identity: str = "") -> Any:
        self.opened.append(identity)
        if self.refuses:
            raise BadRuntime(self.refuses, fix="do without")
        return Given(self, FakeNetwork(), upto)


@dataclass
class Given:
    runtime: Fast
    network: FakeNetwork
    upto: Cut
    chunk: int = 4
    concurrency: int = 2

    def concurrent(self, workers: int) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        time.sleep(self.runtime.seconds_each * len(inputs))
        rows = self.network.features(inputs, self.upto)
        spread = np.sqrt(((TRUTH - TRUTH.mean(0)) ** 2).sum() / len(TRUTH))
        return rows + np.float32(self.runtime.error * spread / np.sqrt(rows[0].size))


TRUTH = np.empty((0, 8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    global TRUTH
    root = tmp_path_factory.mktemp("photos")
    items = []
    for number in range(PHOTOS):
        content = photo(number)
        (root / f"{number}.jpg").write_bytes(content)
        items.append(Item(id_of(content), f"{number}.jpg", 0, "train"))
    dataset = Dataset(root=root, classes=("any",), items=tuple(items))
    chosen = sorted(item.id for item in items)[: choosing.COMPARED]
    modality, paths = ImageModality(), {item.id: item.path for item in items}
    pictures = [modality.decode((root / paths[id]).read_bytes(), SPEC, reduced=True) for id in chosen]
    TRUTH = FakeNetwork().features(np.stack(pictures), POOLED)
    return dataset


@pytest.fixture
def wanted(photos: Dataset, tmp_path: Path) -> Wanted:
    return on(photos, tmp_path)


def on(photos: Dataset, folder: Path, network: Any = None) -> Wanted:
    network = network or Slow(seconds=0.004)
    return Wanted(
        dataset=photos,
        backbone=fake_backbone(network),
        network=cast(Network, network),
        cut=POOLED,
        modality=ImageModality(),
        store=Store(folder / "cache", limit_bytes=10**9),
    )


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets which runtimes there are, beside the framework."""

    def there_are(*given: Any) -> None:
        parts = {"framework": framework, **{each.name: each for each in given}}
        fake = SimpleNamespace(loadable=lambda: parts, load=parts.__getitem__)
        monkeypatch.setattr(opening, "RUNTIMES", fake)

    there_are()
    return there_are


def chosen(wanted: Wanted, choices: Choices) -> tuple[Offer, list[Event]]:
    told: list[Event] = []
    return outcome(choices.offer(wanted), told.append), told


# ---- which one


def test_the_fastest_that_agrees_is_taken_and_the_reason_has_numbers(wanted, runtimes):
    runtimes(Fast("bf16", error=0.02, name="half"), Fast("fp32", error=1e-5, name="whole"))
    found = choose(wanted)
    assert str(found.offer) == "half bf16"
    assert found.reason.startswith("16 photos agree to 2 % with the framework in fp32, ")
    assert found.reason.endswith(" times as fast")
    assert found.runner is not None


def test_what_differs_too_much_is_refused_for_the_next_one_and_the_reason_says_by_how_much(wanted, runtimes):
    runtimes(Fast("bf16", error=0.11, name="half"), Fast("fp32", error=1e-5, name="whole"))
    found = choose(wanted)
    assert str(found.offer) == "whole fp32"
    assert "half bf16 differs by 11 %, more than 8 %" in found.reason


def test_where_none_agrees_the_framework_stays(wanted, runtimes):
    runtimes(Fast("bf16", error=0.5, name="half"), Fast("fp32", error=0.01, name="whole"))
    found = choose(wanted)
    assert found.offer == framework.offer_of(wanted.network)
    assert "whole fp32 differs by 1 %, more than 0.1 %" in found.reason


@pytest.mark.parametrize("error", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(wanted, runtimes, error):
    runtimes(Fast("bf16", error=error))
    found = choose(wanted)
    assert found.offer.runtime == "framework"
    assert "not finite" in found.reason
    with pytest.raises(BadRuntime, match="not all finite"):
        choose(wanted, "bf16")


def test_what_is_slower_is_refused(wanted, runtimes):
    runtimes(Fast("bf16", seconds_each=0.02))
    found = choose(wanted)
    assert found.offer.runtime == "framework"
    assert "times as long" in found.reason


def test_what_cannot_be_converted_leaves_the_framework_with_the_reason(wanted, runtimes):
    runtimes(Fast("fp32", refuses="it has an odd operator"))
    found = choose(wanted)
    assert found.offer.runtime == "framework"
    assert "it has an odd operator" in found.reason


def test_eight_bits_are_taken_only_when_asked_for(wanted, runtimes):
    runtimes(Fast("int8", error=0.05))
    assert choose(wanted).offer.runtime == "framework"
    found = choose(wanted, "int8")
    assert found.offer.calibration == wanted.calibration
    assert found.reason.startswith("asked for; 16 photos agree to 5 %")


def test_a_precision_that_is_asked_for_is_taken_whatever_it_differs_by_and_the_difference_is_told(wanted, runtimes):
    runtimes(Fast("bf16", error=0.3))
    found = choose(wanted, "bf16")
    assert str(found.offer) == "fast bf16"
    assert "30 %" in found.reason


def test_full_precision_that_is_asked_for_may_be_computed_by_another_runtime(wanted, runtimes):
    runtimes(Fast("fp32", error=1e-5), Fast("bf16", name="half"))
    assert str(choose(wanted, "fp32").offer) == "fast fp32"


def test_a_precision_that_nothing_here_offers_says_the_way_out(wanted, runtimes):
    runtimes()
    with pytest.raises(BadRuntime, match="features cannot be computed in bf16") as refused:
        choose(wanted, "bf16")
    assert refused.value.fix == "leave the precision out"


def test_unreadable_photos_are_not_compared_by(photos, tmp_path, runtimes):
    runtimes(Fast("fp32"))
    bad = tuple(Item(f"{number:032x}", f"gone{number}.jpg", 0, "train") for number in range(10))  # the smallest ids
    found = choose(on(replace(photos, items=(*bad, *photos.items)), tmp_path))
    assert found.reason.startswith("16 photos")
    only = choose(on(replace(photos, items=bad), tmp_path))
    assert only == Chosen(only.offer, "there are no photos to compare by")
    assert only.offer.runtime == "framework"


# ---- whether it pays


def test_for_few_photos_nothing_is_prepared(wanted, runtimes):
    dear = Fast("fp32", toll=3.0)
    runtimes(dear)
    found = choose(wanted)
    assert found.offer.runtime == "framework"
    assert "3.0 s" in found.reason
    assert dear.opened == []


def test_where_even_a_slow_framework_would_be_done_sooner_nothing_is_measured(photos, tmp_path, runtimes):
    runtimes(Fast("fp32", toll=100.0))
    network = Slow()
    found = choose(on(photos, tmp_path, network))
    assert found.reason == "for 24 photos nothing else is worth preparing"
    assert network.shapes == []


@pytest.mark.parametrize(
    ("there", "taken"), [(["half"], "half"), (["half", "whole"], "whole"), (["framework"], "framework")]
)
def test_what_is_in_the_cache_is_taken_without_computing_the_most_exact_first(wanted, runtimes, there, taken):
    ways = [Fast("bf16", error=0.5, name="half"), Fast("fp32", name="whole")]
    runtimes(*ways)
    for offer in choosing.here(wanted):
        if offer.runtime in there:
            work = extract(
                wanted.dataset, wanted.backbone, wanted.network, POOLED,
                modality=wanted.modality, store=wanted.store, offer=offer,
            )  # fmt: skip
            outcome(work)
    wanted.network.shapes.clear()
    for way in ways:
        way.opened.clear()
    found = choose(wanted)
    assert found.offer.runtime == taken
    assert found.reason == "its features are in the cache already"
    assert wanted.network.shapes == []
    assert not any(way.opened for way in ways)


# ---- always the same


def test_the_choice_is_made_once_and_told_once(wanted, runtimes):
    way = Fast("bf16", error=0.01)
    runtimes(way)
    choices = Choices()
    offer, told = chosen(wanted, choices)
    assert [event.name for event in told if isinstance(event, Decision)] == ["runtime/pooled"]
    assert told[0].value == "fast bf16"
    for other in (wanted, replace(wanted, view=3), replace(wanted, dataset=wanted.dataset.with_items([]))):
        assert chosen(other, choices) == (offer, [])
    outcome(choices.features(wanted))
    assert len(way.opened) == 1, "what was opened to be compared is used"


def test_a_resumed_run_takes_what_it_began_with(wanted, runtimes):
    runtimes(Fast("bf16", error=0.5, name="half"), Fast("fp32", name="whole"))
    before = Decision(name="runtime/pooled", value="half bf16", reason="then it agreed")
    offer, told = chosen(wanted, Choices("auto", lambda name: before if name == before.name else None))
    assert str(offer) == "half bf16"
    assert told == []


def test_a_resumed_run_says_when_what_it_began_with_is_gone(wanted, runtimes):
    runtimes(Fast("fp32", name="whole"))
    before = Decision(name="runtime/pooled", value="half bf16", reason="then it agreed")
    offer, told = chosen(wanted, Choices("auto", lambda name: before))
    assert str(offer) == "whole fp32"
    assert isinstance(told[0], Note)
    assert "half bf16" in told[0].text


def test_several_processes_take_what_the_first_has_found(photos, tmp_path, runtimes):
    runtimes(Fast("bf16", error=0.01))
    network = Slow(seconds=0.004)
    network.agree = lambda value: 1.0  # type: ignore[method-assign]  # the first process took the last way
    wanted = on(photos, tmp_path, network)
    offer, _ = chosen(wanted, Choices())
    assert offer == choosing.here(wanted)[1]


def test_photos_that_judge_are_computed_by_the_framework(wanted, runtimes):
    way = Fast("bf16", error=0.01)
    runtimes(way)
    exact = outcome(Choices().features(wanted, exact=True))
    assert way.opened == []
    plain = outcome(extract(
        wanted.dataset, wanted.backbone, wanted.network, POOLED, modality=wanted.modality, store=wanted.store,
    ))  # fmt: skip
    assert exact.fingerprint == plain.fingerprint


def test_other_photos_for_the_calibration_give_other_features(wanted, runtimes):
    runtimes(Fast("int8", error=0.01))
    fewer = replace(wanted, dataset=wanted.dataset.with_items(wanted.dataset.items[:20]))
    first = outcome(Choices("int8").features(wanted))
    second = outcome(Choices("int8").features(fewer))
    assert first.fingerprint != second.fingerprint


def test_where_much_time_was_lost_the_way_to_spare_it_is_told_once(wanted, runtimes, monkeypatch):
    way = Fast("fp32", name="missing")
    way.offers = lambda network: ()  # type: ignore[method-assign]
    way.lacks = lambda network, precision: BadRuntime("a library is not installed", fix="install it")  # type: ignore[method-assign]
    runtimes(way)
    told: list[Event] = []
    choices = Choices()
    outcome(choices.features(wanted), told.append)
    assert not any(isinstance(event, Note) for event in told)
    monkeypatch.setattr(choosing, "LONG", 0.0)
    for _ in range(2):
        outcome(choices.features(wanted), told.append)
    assert [event.text for event in told if isinstance(event, Note)] == [
        "the frozen part took 0 s: a library is not installed; install it"
    ]


# ---- OpenVINO


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, **replaced: Any) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in replaced.items():
            patch.setattr(openvino, name, value)
        yield


def test_without_openvino_or_bf16_the_refusal_names_the_way_out(monkeypatch):
    network = NETWORKS["torch"]()
    with without(monkeypatch, installed=lambda: False):
        assert openvino.offers(network) == ()
        lack = openvino.lacks(network, "bf16")
        assert lack is not None
        assert 'pip install "headstart[openvino]"' in lack.fix
    with without(monkeypatch, has_bf16=lambda: False):
        assert [offer.precision for offer in openvino.offers(network)] == ["fp32"]
        assert "processor" in str(openvino.lacks(network, "bf16"))
    jax = SimpleNamespace(engine="keras-3-jax-0.5-cpu")
    assert openvino.offers(cast(Network, jax)) == ()
    assert "tensorflow" in str(openvino.lacks(cast(Network, jax), "fp32"))
    gpu = SimpleNamespace(engine="torch-2-cuda")
    assert openvino.offers(cast(Network, gpu)) == ()
    assert openvino.lacks(cast(Network, gpu), "fp32") is None


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


def converted_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    convert = openvino.convert
    monkeypatch.setattr(openvino, "convert", lambda *given: (made.append("made"), convert(*given))[1])
    return made


def test_a_converted_network_is_kept_and_a_damaged_one_is_made_anew(cache, monkeypatch):
    network, made = NETWORKS["torch"](), converted_once(monkeypatch)
    cut, pictures = network.cuts[-1], np.full((4, 32, 32, 3), 100, np.uint8)
    exact = openvino.offers(network)[-1]

    def row() -> np.ndarray:
        return openvino.open(network, exact, cut, identity="these weights")(pictures)

    first = row()
    assert row().tobytes() == first.tobytes()
    assert made == ["made"]
    (file,) = (cache / "runtimes").iterdir()
    content = bytearray(file.read_bytes())
    content[-40] ^= 1  # in the weights, where no parser would notice
    file.write_bytes(content)
    assert row().tobytes() == first.tobytes()
    file.write_bytes(content[:100])
    assert row().tobytes() == first.tobytes()
    assert made == ["made"] * 3


def test_other_weights_another_cut_and_unknown_ones_are_converted_themselves(cache, monkeypatch):
    network, made = NETWORKS["torch"](), converted_once(monkeypatch)
    exact = openvino.offers(network)[-1]
    for cut, identity in ((network.cuts[-1], "a"), (network.cuts[-1], "b"), (network.cuts[-2], "a")):
        openvino.open(network, exact, cut, identity=identity)
    assert len(made) == len(list((cache / "runtimes").iterdir())) == 3
    for _ in range(2):
        openvino.open(network, exact, network.cuts[-1])
    assert len(made) == 5
    assert len(list((cache / "runtimes").iterdir())) == 3


def test_kept_networks_are_bounded_and_a_full_or_closed_disk_does_not_matter(cache, monkeypatch):
    network = NETWORKS["torch"]()
    exact = openvino.offers(network)[-1]
    monkeypatch.setattr(kept, "MOST", 1)
    for identity in "abc":
        openvino.open(network, exact, network.cuts[-1], identity=identity)
    assert len(list((cache / "runtimes").iterdir())) == 1
    caching.clear()
    (cache / "runtimes").write_text("a file where the folder should be")
    openvino.open(network, exact, network.cuts[-1], identity="d")


def test_clearing_the_cache_takes_what_lies_beside_features_and_nothing_of_the_users(cache):
    names = {
        "runtimes": f"{'0' * 32}.ir", "archives": f"{'1' * 32}.tar",
        "quantised": "2" * 32, "pictures": "3" * 32, "pictures/content": f"{'4' * 32}.png",
    }  # fmt: skip
    for folder, name in names.items():
        place = cache / folder / name
        place = place / "model.bin" if "." not in name else place
        place.parent.mkdir(parents=True)
        place.write_bytes(bytes(1000))
    own = [cache / "pictures" / "holiday.jpg", cache / "archives" / "thesis.tar", cache / "mine.txt"]
    for path in own:
        path.write_bytes(b"mine")
    assert sum(each.bytes for each in caching.usage().beside) == 5000
    assert caching.clear() == 5000
    assert caching.usage().beside == ()
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == sorted(own)


def test_a_network_that_openvino_cannot_read_is_refused_in_a_sentence(monkeypatch):
    import torch
    from torch import nn

    from headstart.networks.torch import TorchNetwork

    from .conformance.networks import SPEC as TINY

    class Odd(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(maps)

    network = TorchNetwork({"stem": nn.Conv2d(3, 4, 3), "odd": Odd()}, spec=TINY)
    with pytest.raises(BadRuntime, match="OpenVINO cannot convert 'pooled'") as refused:
        openvino.open(network, openvino.offers(network)[-1], network.cuts[-1])
    assert "\n" not in refused.value.what


def test_openvino_has_nothing_to_send_reports_with():
    check = (
        "import sys; from headstart.runtimes.openvino_conversion import library; openvino = library()\n"
        "try: openvino.convert_model(None)\n"
        "except Exception: pass\n"
        "print(sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]


def test_drawn_photos_do_not_hang_on_order_or_names(wanted):
    turned = replace(wanted, dataset=wanted.dataset.with_items(wanted.dataset.items[::-1]))
    assert wanted.drawn(5) == turned.drawn(5)
    assert wanted.calibration == turned.calibration


def test_pictures_of_any_kind_can_be_compared_by(tmp_path, runtimes):
    """One photo alone has nothing to differ from."""
    runtimes(Fast("fp32"))
    Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    one = Dataset(root=tmp_path, classes=("any",), items=(Item(id_of(content), "one.png", 0, "train"),))
    assert choose(on(one, tmp_path)).reason == "there are no photos to compare by"
