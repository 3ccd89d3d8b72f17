"""Whatever decides about features changes their fingerprint, and nothing else does."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.features import fingerprint
from headstart.modalities.image import ImageModality
from headstart.modalities.spec import InputSpec
from headstart.networks.network import Cut, Network
from headstart.runtimes.framework import offer_of

from ..fake_network import MAP, POOLED, SPEC, FakeNetwork, fake_backbone

triples = st.tuples(*3 * (st.floats(0, 255, allow_nan=False),))
specs = st.builds(
    InputSpec,
    size=st.integers(32, 600),
    crop=st.floats(0.5, 1),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    mean=triples,
    std=triples,
)


def of(
    *,
    spec: InputSpec = SPEC,
    weights_hash: str = "a" * 64,
    engine: str = "numpy-1",
    cut: Cut = POOLED,
    reduced: bool = True,
    view: int = 0,
    name: str = "fake/grid",
    modality: Any = None,
) -> str:
    backbone = replace(fake_backbone(spec=spec, weights_hash=weights_hash), name=name)
    network = cast(Network, FakeNetwork(engine=engine))
    return fingerprint(backbone, offer_of(network), cut, modality or ImageModality(), reduced=reduced, view=view)


@given(one=specs, other=specs, field=st.sampled_from([field.name for field in fields(InputSpec)]))
def test_a_change_of_any_single_field_of_the_preprocessing_changes_it(one, other, field):
    changed = replace(one, **{field: getattr(other, field)})
    assert (of(spec=one) == of(spec=changed)) == (one == changed)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_hash": "b" * 64},
        {"engine": "numpy-2"},
        {"cut": MAP},
        {"cut": Cut("pooled", 2)},
        {"reduced": False},
        {"view": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_anything_else_that_decides_changes_it(change):
    assert of(**change) != of()


def test_the_name_under_which_a_backbone_was_asked_for_does_not_count():
    assert of(name="file/same-weights") == of()


def test_other_decoding_rules_change_it(monkeypatch):
    before = of()
    monkeypatch.setattr("headstart.modalities.image.RULES", 0)
    assert of() != before


def test_another_pillow_changes_it(monkeypatch):
    before = of()
    monkeypatch.setattr("headstart.modalities.image.pillow", "99.0")
    assert of() != before


def test_it_is_the_same_in_every_process():
    # Pinned where only our own rules decide: a change here makes every user compute all features again.
    class Modality:
        def fingerprint(self, *, reduced: bool) -> str:
            return f"modality {reduced}"

    assert of(modality=Modality()) == of(modality=Modality())
    assert of(modality=Modality()) == "a635413d75e1e3a43d3f3e4c72bcda3a"
