from __future__ import annotations

import shlex
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, get_overloads

import pytest

from headstart import api
from headstart.config import _EXPECT, Settings, from_toml, parse_duration, to_toml
from headstart.errors import BadSetting


def config(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*arguments: Any, **given: Any) -> BadSetting:
    with pytest.raises(BadSetting) as caught:
        Settings.resolve(*arguments, **given)
    return caught.value


def test_every_setting_has_a_rule() -> None:
    assert set(_EXPECT) == {field.name for field in fields(Settings)}


def test_train_takes_every_setting_in_the_same_words_whether_it_runs_dry_or_not() -> None:
    names = list(signature(api.train).parameters)
    assert {*names} == {*_EXPECT, "config", "dry_run", "on_event"}
    overloads = get_overloads(api.train)
    assert len(overloads) == 2
    for overload in overloads:
        assert list(signature(overload).parameters) == names


def test_an_option_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = config(tmp_path, 'quality = "best"\nseed = 3\nepochs = 4\n')
    settings = Settings.resolve(path, data="photos", seed=5, quality=None)
    assert (settings.quality, settings.seed, settings.epochs) == ("best", 5, 4)
    assert settings.device == "auto"


def test_a_file_can_name_the_data(tmp_path: Path) -> None:
    assert Settings.resolve(config(tmp_path, 'data = "photos"')).data == "photos"


def test_without_data_the_way_out_is_a_command() -> None:
    assert "headstart train" in refusal().fix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("45", 45), (600, 600), (0.5, 0.5)],
)
def test_durations_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert Settings.resolve(data="photos", time_limit=text).time_limit == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 minutes", "30m1h", "-5m", 0, -1, float("nan"), float("inf"), True])
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(BadSetting, match="not a duration"):
        parse_duration(text)


def test_an_unknown_key_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    problem = refusal(config(tmp_path, 'qualty = "fast"'), data="photos")
    assert "'qualty'" in problem.what
    assert "'quality'" in problem.fix


def test_a_key_like_no_other_is_refused_with_the_list(tmp_path: Path) -> None:
    assert "batch_size" in refusal(config(tmp_path, "zzzzzz = 1"), data="photos").fix


def test_broken_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    problem = refusal(config(tmp_path, "seed = 1\nquality = fast\n"), data="photos")
    assert "line 2" in problem.what
    assert "settings.toml" in problem.what


def test_a_config_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.toml", data="photos").what
    assert "cannot be read" in refusal(tmp_path, data="photos").what
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(tmp_path / "bytes.toml", data="photos").what


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quality", "worst"),
        ("quality", ["fast"]),
        ("device", "tpu"),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", True),
        ("epochs", 0),
        ("epochs", "3"),
        ("unfreeze", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", "fast"),
        ("batch_size", 0),
        ("size", 8),
        ("size", 100_000),
        ("out", ""),
        ("head", 3),
        ("data", "caf\udce9"),
        ("time_limit", [10]),
    ],
)
def test_a_value_of_the_wrong_kind_or_range_is_refused_by_name(name: str, value: object) -> None:
    problem = refusal(**{"data": "photos", name: value})
    assert name.replace("_", " ") in problem.what
    assert repr(value) in problem.what
    assert problem.fix


def test_the_same_rules_hold_in_a_file(tmp_path: Path) -> None:
    assert "'seven'" in refusal(config(tmp_path, 'seed = "seven"'), data="photos").what


def test_a_whole_rate_in_a_file_is_a_number(tmp_path: Path) -> None:
    assert Settings.resolve(config(tmp_path, "lr = 1"), data="photos").lr == 1.0


def test_a_runs_own_config_can_be_given_back(tmp_path: Path) -> None:
    settings = Settings(data="photos", quality="fast", time_limit=60.0, lr=1e-3)
    text = to_toml(settings, {"stages": [{"name": "head", "epochs": 5}], "average": 0.99})
    assert "[recipe]" in text
    assert from_toml(text) == settings
    assert Settings.resolve(config(tmp_path, text), seed=2).seed == 2


def test_a_runs_own_config_given_back_asks_for_a_new_folder(tmp_path: Path) -> None:
    text = to_toml(Settings(data="photos", out="runs/one"), {"stages": []})
    assert Settings.resolve(config(tmp_path, text)).out is None
    assert from_toml(text).out == "runs/one"
    assert Settings.resolve(config(tmp_path, to_toml(Settings(data="photos", out="runs/one")))).out == "runs/one"


def test_the_command_asks_for_the_same_again_in_a_new_folder() -> None:
    settings = Settings(data="my photos", quality="fast", time_limit=90.0, batch_size=8, out="runs/one")
    words = shlex.split(settings.command())
    assert words[:2] == ["headstart", "train"]
    assert words[-2:] == ["--", "my photos"]
    assert "--out" not in words
    assert words[words.index("--batch-size") + 1] == "8"
    assert words[words.index("--time-limit") + 1] == "90.0"
