"""Predictions from a bundle: the same output as from a run, with no training framework in sight."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.cli import run
from headstart.errors import BadBundle, BadSetting
from headstart.exporting.format import named
from headstart.predictor import Predictor

from . import small_bundle
from .frameworkless import FRAMEWORKS, without

pytest.importorskip("openvino", reason="needs OpenVINO, which runs the bundles")

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "grey": (90, 90, 90)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle.make(tmp_path_factory.mktemp("bundle") / "colour")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One photo of each colour, of different sizes, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (50 + 10 * number, 40), colour).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_text("no photo")
    return folder


def test_a_folder_is_answered_in_order_and_what_is_no_photo_has_its_reason(bundle: Path, photos: Path) -> None:
    found = headstart.predict(bundle, photos)
    assert [Path(each.path).stem for each in found] == ["blue", "broken", "green", "grey", "red"]
    assert [each.label for each in found if each.error is None and not each.unsure] == ["blue", "green", "red"]
    assert str(found[1].error).startswith("not a photo")
    assert found[0].probabilities.keys() == set(small_bundle.CLASSES)


def test_a_table_is_answered_photo_by_photo_as_it_lists_them(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("label,file\n,photos/red.png\nblue,photos/gone.png\n?,photos/blue.png\n")
    found = headstart.predict(bundle, table)
    assert [(Path(each.path).name, each.label) for each in found] == [
        ("red.png", "red"),
        ("gone.png", ""),
        ("blue.png", "blue"),
    ]
    assert "no such file" in str(found[1].error).lower()
    for content, what in {
        "name,label\nx.png,red\n": "none of the 1 files",
        "colour,size\nred,3\n": "no column that is known to hold the paths",
        "path\nhttps://example.org/a.jpg\n": "download them",
        "path\n": "lists nothing",
    }.items():
        table.write_text(content)
        assert run(["predict", str(bundle), str(table)]) != 0
        assert what in capsys.readouterr().err


def test_a_bundle_is_not_evaluated_and_says_what_is(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(bundle), str(photos)]) != 0
    assert "is a bundle" in capsys.readouterr().err


def test_a_photo_like_none_of_those_of_the_training_is_unsure(bundle: Path, photos: Path) -> None:
    assert [each.unsure for each in headstart.predict(bundle, [photos / "grey.png", photos / "red.png"])] == [
        True,
        False,
    ]


def test_table_csv_and_json_tell_the_same(bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(photos / "red.png")
    assert run(["predict", str(bundle), path]) == 0
    assert "red" in capsys.readouterr().out.splitlines()[1]
    assert run(["predict", str(bundle), path, "--format", "csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert run(["predict", str(bundle), path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert (row["label"], float(row["probability"])) == (told["label"], told["probability"])


def test_one_photo_has_the_same_answer_alone_and_among_others(bundle: Path, photos: Path) -> None:
    among = {each.path: each for each in headstart.predict(bundle, photos)}
    for path, each in among.items():
        if each.error is None:
            (alone,) = headstart.predict(bundle, path)
            assert alone.probabilities == pytest.approx(each.probabilities, abs=1e-6)


def test_priors_are_not_a_bundles_to_change(bundle: Path, photos: Path) -> None:
    with pytest.raises(BadSetting, match="does not know how frequent its classes were"):
        headstart.predict(bundle, photos, priors="uniform")


def test_no_training_framework_is_needed(bundle: Path, photos: Path, tmp_path: Path) -> None:
    done = without(FRAMEWORKS, ["-m", "headstart", "predict", str(bundle), str(photos / "red.png")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "red" in done.stdout


def test_frameworks_that_are_installed_are_not_imported(bundle: Path, photos: Path) -> None:
    costly = {*FRAMEWORKS, "jaxtyping", "nncf"}
    check = (
        "import sys; from headstart import cli; cli.run(sys.argv[1:])\n"
        f"print(sorted({{name.partition('.')[0] for name in sys.modules}} & {costly!r}))"
    )
    arguments = [sys.executable, "-c", check, "predict", str(bundle), str(photos / "red.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", "each of them costs a tenth of a second or several seconds"


@pytest.mark.parametrize(
    ("hidden", "arguments", "hint"),
    [
        (FRAMEWORKS, ("train", "{photos}", "--out", "{new}"), 'pip install "headstart[torch]"'),
        (("openvino",), ("predict", "{bundle}", "{photos}"), 'pip install "headstart[openvino]"'),
    ],
)
def test_what_is_missing_is_told_with_its_extra(
    hidden: tuple[str, ...], arguments: tuple[str, ...], hint: str, bundle: Path, drawn_photos: Path, tmp_path: Path
) -> None:
    places = {"photos": drawn_photos, "new": tmp_path / "new", "bundle": bundle}
    done = without(hidden, ["-m", "headstart", *(part.format(**places) for part in arguments)], tmp_path)
    assert done.returncode == 1
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists(), "refused before anything is made"


@pytest.mark.slow
def test_in_an_environment_of_its_own_a_bundle_is_answered(bundle: Path, photos: Path, tmp_path: Path) -> None:
    """`pip install .[openvino]` and nothing else."""
    venv.create(tmp_path / "own", with_pip=True)
    python = tmp_path / "own" / "bin" / "python"
    source = Path(__file__).parents[1]
    wanted = ["-m", "pip", "install", "-q", "-c", str(source / "constraints.txt"), f"{source}[openvino]"]
    if subprocess.run([python, *wanted], capture_output=True, check=False).returncode != 0:
        pytest.skip("packages cannot be installed here")
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout.split()
    assert not set(FRAMEWORKS) & {name.lower() for name in listed}
    asked = [python, "-m", "headstart", "predict", str(bundle), str(photos / "red.png")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, "red" in done.stdout) == (0, True), done.stderr


# ---- the openvino format


def test_squares_and_photos_have_the_same_answers_from_several_threads(bundle: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    graph = Predictor.open(bundle).graph
    pictures = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(lambda place: graph.squares(pictures[place : place + 1]).probabilities[0], range(24)))
    np.testing.assert_allclose(each, graph.photos(pictures).probabilities, atol=1e-6)


def test_a_graph_that_is_not_its_manifests_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    small_bundle.sealed_again(copy, classes=["a", "b"])
    with pytest.raises(BadBundle, match="not the one that its manifest describes"):
        Predictor.open(copy)


def test_its_snippet_is_a_program_that_says_the_same(bundle: Path, photos: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    told = json.loads((copy / "bundle.json").read_text())
    (copy / "use.py").write_text(named("openvino").snippets(Predictor.open(copy).manifest)["use.py"])
    done = subprocess.run(
        [sys.executable, str(copy / "use.py"), str(photos / "blue.png")], capture_output=True, text=True, check=True
    )
    first = done.stdout.split()
    (answer,) = headstart.predict(bundle, photos / "blue.png")
    assert first[0] == answer.label
    assert float(first[1]) == pytest.approx(answer.probability, abs=1e-3)
    assert told["format"] == "openvino"
