from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.config import Device, Quality, Settings, from_toml, parse_duration, to_toml
from headstart.errors import BadSetting

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
WHOLE = st.integers(1, 2**63 - 1)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SETTINGS = st.builds(
    Settings,
    data=TEXT,
    backbone=TEXT,
    out=st.none() | TEXT,
    quality=st.sampled_from(get_args(Quality)),
    time_limit=st.none() | POSITIVE,
    seed=st.integers(0, 2**63 - 1),
    head=TEXT,
    unfreeze=st.none() | st.integers(0, 2**63 - 1),
    epochs=st.none() | WHOLE,
    lr=st.none() | POSITIVE,
    batch_size=st.none() | WHOLE,
    size=st.none() | st.integers(32, 2048),
    device=st.sampled_from(get_args(Device)),
    splits=st.none() | TEXT,
    weights=st.none() | TEXT,
)
TABLES = st.dictionaries(TEXT, TEXT | POSITIVE | WHOLE | st.booleans() | st.dictionaries(TEXT, WHOLE), max_size=3)


@given(SETTINGS, st.none() | TABLES)
def test_settings_come_back_from_toml_exactly(settings: Settings, recipe: dict[str, Any] | None) -> None:
    assert from_toml(to_toml(settings, recipe)) == settings


@given(SETTINGS, SETTINGS, st.sets(st.sampled_from([field.name for field in fields(Settings)])))
def test_what_is_given_wins_over_the_file_and_the_file_over_the_default(
    tmp_path_factory: pytest.TempPathFactory, in_file: Settings, other: Settings, names: set[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    path.write_text(to_toml(in_file), encoding="utf-8", newline="")
    chosen = {name: value for name, value in asdict(other).items() if name in names}
    expected = asdict(in_file) | {name: value for name, value in chosen.items() if value is not None}
    assert asdict(Settings.resolve(path, **chosen)) == expected


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    assert (
        parse_duration(f"{hours}h{minutes}m{seconds}s") == parse_duration(str(total)) == parse_duration(total) == total
    )


@given(st.text())
def test_any_text_as_a_duration_is_read_or_refused(text: str) -> None:
    with suppress(BadSetting):
        assert parse_duration(text) > 0


@given(st.text())
def test_any_text_as_a_config_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", newline="")
    with suppress(BadSetting):
        Settings.resolve(path, data="photos")
