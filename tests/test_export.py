"""A finished run leaves as a bundle that answers the same, or nothing is left at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart
from headstart.errors import BadBundle, BadExport, BadRun, DiskFull
from headstart.exporting import parity
from headstart.exporting.bundle import Bundle
from headstart.exporting.format import FORMATS, named
from headstart.exporting.formats import onnx_file
from headstart.predictor import Predictor

MODULES = Path(__file__).parent / "javascript" / "node_modules"  # onnxruntime-web and sharp, by scripts/setup


@pytest.fixture(scope="module")
def run(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Read it, do not change it."""
    out = tmp_path_factory.mktemp("run") / "photos"
    headstart.train(drawn_photos, out=out, quality="fast", size=64)
    return out


@pytest.fixture(scope="module")
def onnx(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    return headstart.export(run, to="onnx", out=tmp_path_factory.mktemp("exported") / "onnx")


@pytest.fixture
def photo(drawn_photos: Path) -> Path:
    return drawn_photos / "grass" / "00.jpg"


def used(bundle: Bundle, photo: Path) -> dict[str, float]:
    """What the bundle's own program says, without headstart."""
    command = [sys.executable, str(bundle.path / "use.py"), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return said(done.stdout)


def said(text: str) -> dict[str, float]:
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("unsure"))
    return {name: float(value) for name, value in rows}


def test_a_bundle_holds_all_that_its_answers_need(onnx: Bundle) -> None:
    files = set(onnx.manifest.files)
    assert {"model.onnx", "README.md", "LICENCE.md", "labels.txt", "use.py", "use.mjs", "use.html"} <= files
    assert onnx.manifest.parity["agreeing"] == onnx.manifest.parity["n"]
    assert onnx.manifest.parity["largest"] <= 1e-3
    assert "Compared with its run" in (onnx.path / "README.md").read_text()
    assert not list(onnx.path.parent.glob(".*"))


def test_a_bundle_answers_as_its_run(onnx: Bundle, run: Path, photo: Path) -> None:
    predictor = Predictor.open(onnx)
    [expected] = headstart.predict(run, photo)
    given = predictor.answer(predictor.decode(photo.read_bytes())[None])
    assert np.allclose(given.probabilities[0], list(expected.probabilities.values()), atol=1e-5)


def test_the_graph_tells_what_it_is_and_keeps_to_the_rules(onnx: Bundle) -> None:
    library = pytest.importorskip("onnx")
    model = library.load(onnx.path / "model.onnx")
    library.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == ["brick", "grass", "water"]
    assert facts["licence"] == "Apache-2.0"
    axes = [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert (model.graph.input[0].name, axes) == ("pixels", ["n", "h", "w", 3])
    assert [put.name for put in model.graph.output] == list(onnx.manifest.outputs)
    assert str(Path.cwd()) not in str(model)  # nothing of the place where it was made


def test_openvino_runs_the_same_file(onnx: Bundle, photo: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from headstart.exporting.formats.openvino_graph import open_by_openvino

    assert openvino
    pixels = np.array([[[[10, 200, 30]] * 70] * 50], np.uint8)
    here, there = named("onnx").open(onnx), open_by_openvino(onnx.path / "model.onnx", onnx.manifest)
    assert np.allclose(here.photos(pixels).probabilities, there.photos(pixels).probabilities, atol=1e-4)


def test_its_program_says_what_the_run_says(onnx: Bundle, run: Path, photo: Path) -> None:
    [expected] = headstart.predict(run, photo)
    given = used(onnx, photo)
    assert next(iter(given)) == expected.label
    assert given == pytest.approx(expected.probabilities, abs=1e-3)


def with_modules(bundle: Bundle, folder: Path) -> Path:
    if not (MODULES / ".package-lock.json").is_file():  # which npm writes when all is there
        pytest.skip("JavaScript's packages are not here: install npm, then run npm ci --prefix tests/javascript")
    copied = Path(shutil.copytree(bundle.path, folder / "bundle"))
    (copied / "node_modules").symlink_to(MODULES)
    return copied


def test_its_javascript_says_so_too(onnx: Bundle, photo: Path, tmp_path: Path) -> None:
    folder = with_modules(onnx, tmp_path)
    node = shutil.which("node") or pytest.skip("Node is not installed")
    done = subprocess.run([node, "use.mjs", str(photo)], cwd=folder, capture_output=True, text=True, check=True)
    # Its decoder of JPEG may be off by a level here and there.
    assert said(done.stdout) == pytest.approx(used(onnx, photo), abs=5e-3)


def test_its_page_says_so_too_in_a_browser(onnx: Bundle, photo: Path, tmp_path: Path) -> None:
    folder = with_modules(onnx, tmp_path)
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None) or pytest.skip("no Chromium is installed")
    served = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert served.stdout is not None
        port = served.stdout.readline().split("port ")[1].split()[0]
        with playwright.sync_playwright() as started:
            chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page()
            page.goto(f"http://127.0.0.1:{port}/use.html")
            page.get_by_text("ready").wait_for(timeout=60_000)
            page.set_input_files("input", str(photo))
            page.wait_for_function("document.querySelector('pre').textContent !== 'ready'", timeout=60_000)
            text = page.inner_text("pre")
            chromium.close()
    finally:
        served.kill()
        served.communicate()
    assert said(text) == pytest.approx(used(onnx, photo), abs=5e-3)


def test_a_program_of_pytorch_answers_the_same_and_is_read_as_data(run: Path, photo: Path, tmp_path: Path) -> None:
    bundle = headstart.export(run, to="torch", out=tmp_path / "torch")
    [expected] = headstart.predict(run, photo)
    assert used(bundle, photo) == pytest.approx(expected.probabilities, abs=1e-3)
    path = bundle.path / "model.pt2"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadBundle, match="not the one that was exported"):
        Bundle.open(bundle.path)
    with pytest.raises(BadBundle, match="exported program"):
        named("torch").open(bundle)


@pytest.mark.parametrize(
    ("asked", "told", "way"),
    [
        ({"to": "onx"}, "'onx' is not known", "onnx"),
        ({"to": "torch", "precision": "int8"}, "'torch' is not written in int8", "onnx"),
        ({"to": "keras"}, "trained with torch", "onnx"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], told: str, way: str
) -> None:
    monkeypatch.setattr("headstart.exporting.exporting.answerer", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(BadExport, match=told) as refused:
        headstart.export(run, out=tmp_path / "out", **asked)
    assert way in refused.value.fix
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match="exists already"):
        headstart.export(run, to="onnx", out=tmp_path)


def test_photos_that_are_gone_are_told_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    about = json.loads((moved / "data.json").read_text())
    (moved / "data.json").write_text(json.dumps(about | {"root": str(tmp_path / "gone")}))
    monkeypatch.setattr("headstart.exporting.exporting.answerer", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(BadExport, match="none of the run's 24 training photos can be read") as refused:
        headstart.export(moved, to="torch", out=tmp_path / "out")
    assert str(tmp_path / "gone") in refused.value.fix


def test_what_is_left_of_an_export_that_is_killed_is_no_bundle(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def interrupted(*_: Any) -> Any:
        seen.extend(path for path in tmp_path.rglob("*") if path.name == "bundle.json" or path.name.endswith(".part"))
        raise KeyboardInterrupt
        yield

    fake_format(monkeypatch, lambda whole, folder, precision: (folder / "graph").write_text("a graph"))
    monkeypatch.setattr(parity, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        headstart.export(run, to="onnx", out=tmp_path / "exports" / "out")
    assert [path.suffix for path in seen] == [".part"], "there while it is made, without a manifest"
    assert not list(tmp_path.iterdir()), "and not even the folder above it afterwards"


def test_a_bundle_is_not_exported_again(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    with pytest.raises(BadExport, match="is a bundle") as refused:
        headstart.export(tmp_path, to="onnx")
    assert "the run that it was made of" in refused.value.fix


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match="is not a run folder"):
        headstart.export(tmp_path, to="onnx")


def test_a_missing_library_is_named_with_the_way_to_get_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.exporting.formats.onnx.LIBRARIES", ("onnx", "not_installed"))
    monkeypatch.setattr("headstart.exporting.exporting.answerer", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(BadExport, match="not_installed must be installed") as refused:
        headstart.export(run, to="onnx", out=tmp_path / "out")
    assert 'pip install "headstart[onnx]"' in refused.value.fix


def test_what_openvino_needs_for_a_model_of_jax_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.exporting.formats.onnx.LIBRARIES", ("onnx", "not_installed"))
    named("openvino").check_installed("torch", "fp32")
    with pytest.raises(BadExport, match="not_installed must be installed"):
        named("openvino").check_installed("jax", "fp32")


def fake_format(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    """A format under the name `onnx` that writes so."""
    made = SimpleNamespace(
        name="onnx", about="", precisions=("fp32",), refusal=lambda *_: None, write=write,
        check_installed=lambda *_: None, open=lambda bundle: None, snippets=lambda manifest: {},
    )  # fmt: skip
    monkeypatch.setattr(FORMATS, "load", lambda name: made)


def test_nothing_is_left_of_a_bundle_that_does_not_agree(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_format(monkeypatch, lambda whole, folder, precision: (folder / "graph").write_text("a graph"))

    def differing(*_: Any) -> Any:
        yield from ()
        raise BadExport("what was exported does not agree with its run: by far", fix="report it")

    monkeypatch.setattr(parity, "compare", differing)
    with pytest.raises(BadExport, match="does not agree"):
        headstart.export(run, to="onnx", out=tmp_path / "exports" / "out")
    assert not list(tmp_path.rglob("*graph*"))


def test_a_full_disk_is_told_and_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(whole: Any, folder: Path, precision: str) -> None:
        raise OSError(28, "No space left on device")

    fake_format(monkeypatch, full)
    with pytest.raises(DiskFull, match="no room"):
        headstart.export(run, to="onnx", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_reads_other_files_is_refused(tmp_path: Path) -> None:
    library = pytest.importorskip("onnx")
    tensor = library.helper.make_tensor("w", library.TensorProto.FLOAT, [1], [1.0])
    node = library.helper.make_node("Add", ["x", "w"], ["y"])
    value = [library.helper.make_tensor_value_info(name, library.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = library.helper.make_graph([node], "g", value[:1], value[1:], [tensor])
    model = library.helper.make_model(graph)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    onnx_file.check(path)
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.data_location = library.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadBundle, match="other files"):
        onnx_file.check(path)
    # The same inside of a node.
    constant = library.helper.make_node("Constant", [], ["w"], value=weight)
    inside = library.helper.make_graph([constant, node], "g", [], [])
    path.write_bytes(library.helper.make_model(inside).SerializeToString())
    with pytest.raises(BadBundle, match="other files"):
        onnx_file.check(path)


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"not a graph", b"\xff" * 100])
def test_what_is_no_onnx_file_never_ends_in_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        onnx_file.check(path)
    except BadBundle:
        return
    assert not content


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "smaller"), [("fp16", 1.5), ("int8", 2.0)])
def test_smaller_numbers_make_a_smaller_file_that_agrees(
    onnx: Bundle, run: Path, tmp_path: Path, precision: Any, smaller: float
) -> None:
    bundle = headstart.export(run, to="onnx", precision=precision, out=tmp_path / precision)
    assert bundle.manifest.files["model.onnx"].bytes * smaller < onnx.manifest.files["model.onnx"].bytes
    assert bundle.manifest.parity["agreeing"] >= 0.9 * bundle.manifest.parity["n"]
