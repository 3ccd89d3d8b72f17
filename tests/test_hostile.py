"""Runs, bundles, tables and caches of strangers: each is refused in a sentence, runs nothing and writes nowhere else.

All command lines run in one process of their own, with bounds on memory and time, in which Python itself reports what
is executed, unpickled and written.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import headstart
from headstart import places

from . import small_bundle

pytest.importorskip("openvino", reason="needs OpenVINO, which runs the bundles")
pytest.importorskip("torch", reason="needs PyTorch, which runs the runs")

SECONDS = 20.0  # that any of them may take, the first import of a framework included
GROWTH = 3 << 30  # bytes that any may add to the process, likewise
DEEP = 100_000


class Hostile:
    """A pickle of it makes the folder that it names when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@dataclass(frozen=True)
class Stock:
    """What every case starts from; copied before it is spoilt."""

    run: Path
    bundle: Path
    photos: Path

    @property
    def photo(self) -> str:
        return str(self.photos / "brick" / "00.jpg")


@dataclass(frozen=True)
class Case:
    """Files of a stranger, and what a user then reads."""

    words: str  # a pattern; what is said on stderr
    spoil: Callable[[Path, Stock], list[str]]
    code: int = 1


CASES: dict[str, Case] = {}


def case(name: str, words: str, *, code: int = 1) -> Callable[[Any], Any]:
    """Enter a function that writes the files and gives the command line."""

    def entered(spoil: Callable[[Path, Stock], list[str]]) -> Callable[[Path, Stock], list[str]]:
        CASES[name] = Case(words, spoil, code)
        return spoil

    return entered


# ---- runs


def of_run(name: str, file: str, content: bytes | str, words: str, *verb: str, code: int = 1) -> None:
    """A run in which one file is another; `verb` is what is asked of it, by default to predict."""

    def spoil(folder: Path, stock: Stock) -> list[str]:
        run = Path(shutil.copytree(stock.run, folder / "run"))
        (run / file).parent.mkdir(exist_ok=True)
        (run / file).write_bytes(content.encode() if isinstance(content, str) else content)
        if "resume" in verb:
            (run / "INCOMPLETE").touch()
        return [part.format(run=run, photo=stock.photo) for part in verb or ("predict", "{run}", "{photo}")]

    CASES[name] = Case(words, spoil, code)


def tensors(header: bytes | dict[str, Any], body: bytes = b"", *, length: int | None = None) -> bytes:
    """The bytes of a safetensors file with this header, as long as it says or longer."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(start: int, stop: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


DEEP_JSON = "[" * DEEP
DEEP_TABLES = "data = " + "[" * DEEP
ENDLESS = tensors(b"{}", length=1 << 63)
OVERLAPPING = tensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12))
DEEP_TENSORS = tensors(b'{"a":' + b"[" * DEEP)
HUGE = tensors({"a": tensor(0, 1 << 62, [1 << 60])})
PICKLE = b"\x80\x04cos\nsystem\n(S'touch sprung'\ntR."
BIG_CELL = "id,path,label,split\n" + "x" * 20_000_000 + ",a,brick,train\n"

PRIORS = ("predict", "{run}", "{photo}", "--priors", "uniform")  # what the run counted is read as well
of_run("a configuration nested without end", "config.toml", DEEP_TABLES, r"config.*")
of_run("a recipe of another kind", "config.toml", "[recipe]\nhead = 3\n", r"config\.toml of run .* makes no sense")
of_run("manifest nested without end", "data.json", DEEP_JSON, r"data\.json .* nested too deep", *PRIORS)
of_run("a cell of megabytes", "splits.csv", BIG_CELL, r"splits\.csv .* makes no sense .*field", *PRIORS)
of_run("events nested without end", "events.jsonl", DEEP_JSON, r"events\.jsonl .* nested too deep", "resume", "{run}")
of_run("a backbone nested without end", "backbone.json", DEEP_JSON, r"backbone\.json .* nested too deep")
of_run("a backbone that is a list", "backbone.json", "[1, 2]", r"backbone\.json .* makes no sense")
for number, size in enumerate(("NaN", "1e999", "-5", "100000000000", '"big"', "null")):
    told = f'{{"name": "bundled/efficientnet_lite0", "size": {size}}}'
    of_run(f"a backbone of impossible size {number}", "backbone.json", told, r"says nothing of its backbone")
for number, name in enumerate(("file/evil.py", "file//etc/passwd", "../../x/y", "os/system", "hf/../../evil")):
    told = json.dumps(
        {"name": name, "size": 64, "about": {"factory": "evil.py:make", "allow_code": True, "code": ["x"]}}
    )
    of_run(f"a backbone that wants code {number}", "backbone.json", told, r"error: .*\nhint: ")
of_run("weights that are a pickle", "model.safetensors", PICKLE, r"model of run .* does not load")
of_run("weights with a header of 2^63 bytes", "model.safetensors", ENDLESS, r"model of run .* does not load")
of_run("weights that overlap", "model.safetensors", OVERLAPPING, r"model of run .* does not load")
of_run("weights described without end", "model.safetensors", DEEP_TENSORS, r"model of run .* does not load")
of_run("weights beyond the file", "model.safetensors", HUGE, r"model of run .* does not load")
of_run("distances with a header of 2^63 bytes", "novelty.safetensors", ENDLESS, r"novelty.*does not load")
of_run("distances that are a pickle", "novelty.safetensors", PICKLE, r"novelty.*does not load")
of_run(
    "a checkpoint with a header of 2^63",
    "checkpoints/last.safetensors",
    ENDLESS,
    r"last\.safetensors",
    "resume",
    "{run}",
)
of_run("a checkpoint that is a pickle", "checkpoints/last.safetensors", PICKLE, r"last\.safetensors", "resume", "{run}")
of_run(
    "a result nested without end", "evaluation.json", DEEP_JSON, r"evaluation\.json", "report", "{run}", "--out", "out"
)
of_run("no text at all", "classes.txt", b"\xff\xfe\x00" * 10, r"error: ")


REPORT = ("report", "{run}", "--out", "out")
of_run("a plan nested without end", "plan.json", DEEP_JSON, r"plan\.json .* nested too deep", *REPORT)
of_run("versions that are a list", "versions.json", "[1]", r"versions\.json .* makes no sense", *REPORT)
of_run("answers of another kind", "predictions.csv", "path\n1\n", r"predictions\.csv .* makes no sense", *REPORT)
of_run("a command of megabytes", "command.txt", "x" * 5_000_000, r"command\.txt .* larger than any", *REPORT)
NO_FILE = r"holds a link or no plain file: '{}'"


@case("a run whose command is somebody's secret", NO_FILE.format(r"command\.txt"))  # a report shows the command
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    (run / "command.txt").unlink()
    (run / "command.txt").symlink_to("/etc/passwd")
    return ["report", str(run), "--out", "out"]


@case("a run that would be written elsewhere", NO_FILE.format("checkpoints"))
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    (folder / "elsewhere").mkdir()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(folder / "elsewhere")
    (run / "INCOMPLETE").touch()
    return ["resume", str(run)]


@case("a run that never ends", NO_FILE.format(r"data\.json"))
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    (run / "data.json").unlink()
    os.mkfifo(run / "data.json")
    return ["predict", str(run), stock.photo]


@case("a run to start from that never ends", NO_FILE.format(r"model\.safetensors"))
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    (run / "model.safetensors").unlink()
    os.mkfifo(run / "model.safetensors")
    return ["train", str(stock.photos), "--backbone", f"run/{run}", "--out", "new"]


@case("runs beside one's own", "", code=0)  # names of backbones are looked for among them
def _(folder: Path, stock: Stock) -> list[str]:
    for name in ("deep", "endless"):
        run = Path(shutil.copytree(stock.run, folder / "runs" / name))
        (run / "backbone.json").write_text(DEEP_JSON)
    (folder / "runs" / "endless" / "backbone.json").unlink()
    os.mkfifo(folder / "runs" / "endless" / "backbone.json")
    return ["backbones", "run/"]


@case("a run that asks for code in its configuration", "", code=0)
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    (folder / "evil.py").write_text("import os; os.mkdir('sprung')\ndef make(): ...\n")
    text = re.sub("^(factory|allow_code) = .*$", "", (run / "config.toml").read_text(), flags=re.MULTILINE)
    (run / "config.toml").write_text(f'factory = "evil.py:make"\nallow_code = true\n{text}')
    return ["predict", str(run), stock.photo]


@case("a run whose photos are said to lie elsewhere", "", code=0)
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    about = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(about | {"root": "/etc"}))
    return ["predict", str(run), stock.photo, "--priors", "uniform"]


@case("a run to start from that is nested without end", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    run = Path(shutil.copytree(stock.run, folder / "run"))
    (run / "backbone.json").write_text(DEEP_JSON)
    return ["train", str(stock.photos), "--backbone", f"run/{run}", "--out", "new"]


# ---- bundles


def of_bundle(name: str, words: str, changes: dict[str, Any]) -> None:
    """A bundle whose manifest says something else, and whose hashes fit."""

    def spoil(folder: Path, stock: Stock) -> list[str]:
        copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
        return ["predict", str(small_bundle.sealed_again(copy, **changes)), stock.photo]

    CASES[name] = Case(words, spoil)


def copied(stock: Stock, folder: Path) -> Path:
    return Path(shutil.copytree(stock.bundle, folder / "bundle"))


NONSENSE = r"manifest of bundle .* makes no sense"
SPEC = {
    "size": 32,
    "crop": 1.0,
    "interpolation": "bilinear",
    "mean": [0] * 3,
    "std": [1] * 3,
    "order": "rgb",
    "fit": "crop",
}
A_FILE = {"bytes": 1, "sha256": "0" * 64}
OUTSIDE = r"names a file outside its folder"
of_bundle("a bundle that names a file above it", OUTSIDE, {"files": {"../../etc/passwd": A_FILE}})
of_bundle("a bundle that names an absolute file", OUTSIDE, {"files": {"/etc/passwd": A_FILE}})
of_bundle("a bundle with a backslash", OUTSIDE, {"files": {"..\\x": A_FILE}})
of_bundle("a bundle of giant pictures", NONSENSE, {"spec": SPEC | {"size": 10**6}})
of_bundle("a bundle with a tiny crop", NONSENSE, {"spec": SPEC | {"crop": 1e-9}})
of_bundle("a bundle with a crop that is no number", NONSENSE, {"spec": SPEC | {"crop": float("nan")}})
of_bundle("a bundle without a limit of pixels", NONSENSE, {"max_pixels": 10**18})
of_bundle("a bundle with a threshold that is no number", NONSENSE, {"threshold": float("inf")})
of_bundle("a bundle with other outputs", NONSENSE, {"outputs": ["heat"]})
of_bundle(
    "a bundle with more classes than outputs", r"is not the one that its manifest describes", {"classes": ["a", "b"]}
)
of_bundle("a bundle of no known format", r"format 'os' is not known", {"format": "os"})
of_bundle("a bundle from the future", r"was made by a later headstart", {"version": 99})


COMMANDS = ["\x1b]0;title\x07\x1b[2J", "\x9b31m\u202ered\r", "blue"]
CASES["a bundle whose classes are commands to the terminal"] = Case(
    "",
    lambda folder, stock: [
        *("predict", str(small_bundle.sealed_again(copied(stock, folder), classes=COMMANDS))),
        *(stock.photo, stock.photo),
    ],
    0,
)


@case("a bundle that never ends", r"is not a run folder")
def _(folder: Path, stock: Stock) -> list[str]:
    copy = copied(stock, folder)
    (copy / "bundle.json").unlink()
    os.mkfifo(copy / "bundle.json")
    return ["predict", str(copy), stock.photo]


@case("a bundle nested without end", r"manifest of bundle .* cannot be read")
def _(folder: Path, stock: Stock) -> list[str]:
    copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
    (copy / "bundle.json").write_text(DEEP_JSON)
    return ["predict", str(copy), stock.photo]


@case("a bundle that was changed", r"is not the one that was exported")
def _(folder: Path, stock: Stock) -> list[str]:
    copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
    text = (copy / "model.xml").read_text()
    (copy / "model.xml").write_text(text.replace("u8", "f8", 1))
    return ["predict", str(copy), stock.photo]


@case("a bundle with a link", r"lacks its file 'model\.bin'")
def _(folder: Path, stock: Stock) -> list[str]:
    copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
    (copy / "model.bin").rename(folder / "model.bin")
    (copy / "model.bin").symlink_to(folder / "model.bin")
    return ["predict", str(copy), stock.photo]


@case("a bundle in a linked folder", r"lacks its file 'in/x'")
def _(folder: Path, stock: Stock) -> list[str]:
    copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "x").write_text("x")
    (copy / "in").symlink_to(folder / "elsewhere")
    small_bundle.sealed_again(copy, files={"in/x": {"bytes": 1, "sha256": "0" * 64}})
    return ["predict", str(copy), stock.photo]


def of_graph(name: str, words: str, change: Callable[[Path], object], *, format: str = "openvino") -> None:
    """A bundle whose graph does harm, and whose hashes fit."""

    def spoil(folder: Path, stock: Stock) -> list[str]:
        copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
        change(copy)
        return ["predict", str(small_bundle.sealed_again(copy, format=format)), stock.photo]

    CASES[name] = Case(words, spoil)


@case("a graph that laughs a billion times", "", code=0)  # OpenVINO's reader knows no entities: it stays a name
def _(folder: Path, stock: Stock) -> list[str]:
    copy = Path(shutil.copytree(stock.bundle, folder / "bundle"))
    rewritten('<net name="colour"', BILLION)(copy)
    return ["predict", str(small_bundle.sealed_again(copy)), stock.photo]


def rewritten(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "model.xml"
        text = path.read_text()
        assert old in text, "else nothing is tested"
        path.write_text(text.replace(old, new))

    return change


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BILLION = f'<!DOCTYPE net [<!ENTITY l0 "ha">{LAUGHS}]><net name="&l11;"'
LOADS = r"graph .* (does not load|cannot be run|is not the one)"
of_graph("a graph nested without end", LOADS, lambda folder: (folder / "model.xml").write_text("<net>" * DEEP))
of_graph(
    "a graph with a layer of an extension",
    LOADS,
    rewritten('type="ReduceMean" version="opset1"', 'type="Evil" version="extension"'),
)
of_graph("a graph with weights beyond the file", LOADS, rewritten('offset="0"', 'offset="9999999999999"'))
of_graph("a graph with weights without end", LOADS, rewritten('size="16"', 'size="18446744073709551615"'))
of_graph("a graph of other inputs", LOADS, rewritten('element_type="u8"', 'element_type="f32"'))
of_graph("a graph that is a pickle", LOADS, lambda folder: (folder / "model.xml").write_bytes(PICKLE))
# OpenVINO goes by what is in a file: this is the beginning of ONNX, which may name other files.
of_graph("a graph of another kind", r"of another kind", lambda folder: (folder / "model.xml").write_bytes(b"\x08\x08:"))
REFUSED = r"error: (?!headstart failed).*\nhint: "
for number, content in enumerate((PICKLE, b"", b"PK\x03\x04" + bytes(99), os.urandom(4096))):
    for format, file in (("onnx", "model.onnx"), ("torch", "model.pt2"), ("tflite", "model.tflite")):
        of_graph(
            f"a bundle of {format} with nonsense {number}",
            REFUSED,
            lambda folder, file=file, content=content: (folder / file).write_bytes(content),  # type: ignore[misc]
            format=format,
        )


# ---- weights, archives, tables, settings


@case("published weights that are a pickle", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "evil.pth").write_bytes(pickle.dumps({"x": Hostile(folder / "sprung")}))
    return ["train", str(stock.photos), "--weights", "evil.pth", "--out", "new"]


for number, content in enumerate((ENDLESS, OVERLAPPING, DEEP_TENSORS, HUGE)):

    @case(f"weights of one's own that do harm {number}", r"error: .*\nhint: ")
    def _(folder: Path, stock: Stock, content: bytes = content) -> list[str]:
        (folder / "evil.safetensors").write_bytes(content)
        return ["train", str(stock.photos), "--weights", "evil.safetensors", "--out", "new"]


@case("a program that is a zip of pickles", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    with zipfile.ZipFile(folder / "evil.pt2", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Hostile(folder / "sprung")))
        archive.writestr("../../slip.txt", "x")
    return ["train", str(stock.photos), "--backbone", "file/evil.pt2", "--out", "new"]


def bomb(path: Path, *names: str) -> None:
    """A zip whose members unpack to a hundred megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            archive.writestr(name, bytes(100_000_000))


@case("a program that swells", r"unpacks to more than any model")
def _(folder: Path, stock: Stock) -> list[str]:
    bomb(folder / "evil.pt2", "evil/models/model.json")
    return ["train", str(stock.photos), "--backbone", "file/evil.pt2", "--out", "new"]


@case("weights that swell", r"unpacks to more than any model")
def _(folder: Path, stock: Stock) -> list[str]:
    bomb(folder / "evil.pth", "evil/data.pkl", "evil/data/0")
    factory = folder / "plain.py"
    factory.write_text("from torch import nn\ndef make(): return nn.Conv2d(3, 8, 3)\n")
    return ["train", str(stock.photos), "--backbone", "file/evil.pth", "--factory", f"{factory}:make", "--out", "new"]


@case("a zip whose members lie outside", "", code=0)  # they are told of and not read
def _(folder: Path, stock: Stock) -> list[str]:
    with zipfile.ZipFile(folder / "evil.zip", "w") as archive:
        for name in ("../../cat/slip.jpg", "/tmp/cat/slip.jpg", "C:\\cat\\slip.jpg"):
            archive.write(stock.photo, name)
    return ["audit", "evil.zip"]


@case("a tar with links that lead outside", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    with tarfile.open(folder / "evil.tar", "w") as archive:
        for name, target in (("cat", "/etc"), ("cat/a.jpg", "../../../etc/passwd")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return ["audit", "evil.tar"]


@case("a tar that swells", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    packed = zlib.compressobj(9, wbits=31)
    with (folder / "evil.tar.gz").open("wb") as file:
        member = tarfile.TarInfo("cat/a.jpg")
        member.size = 4 << 30
        file.write(packed.compress(member.tobuf()))
        for _ in range(1024):
            file.write(packed.compress(bytes(1 << 20)))
        file.write(packed.flush())
    return ["audit", "evil.tar.gz"]


@case("a table with a cell of megabytes", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "evil.csv").write_text("path,label\n" + "x" * 30_000_000 + ",cat\n")
    return ["audit", "evil.csv"]


@case("a table nested without end", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "evil.jsonl").write_text('{"path": ' + DEEP_JSON)
    return ["audit", "evil.jsonl"]


@case("class weights nested without end", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "evil.json").write_text('{"brick":' + DEEP_JSON)
    return ["train", str(stock.photos), "--class-weights", "evil.json", "--out", "new"]


@case("settings nested without end", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "evil.toml").write_text(DEEP_TABLES)
    return ["train", "--config", "evil.toml", "--out", "new"]


@case("settings that ask for code", r"code is only run at your own word")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "evil.toml").write_text('backbone = "file/x.pth"\nfactory = "evil.py:make"\n')
    return ["train", str(stock.photos), "--config", "evil.toml", "--out", "new"]


@case("an encoder that brings its own code", r"error: .*\nhint: ")
def _(folder: Path, stock: Stock) -> list[str]:
    (folder / "hub").mkdir()
    told = {"model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}, "architectures": ["Model"]}
    (folder / "hub" / "config.json").write_text(json.dumps(told))
    (folder / "hub" / "evil.py").write_text("import os; os.mkdir('sprung')\nclass Model: ...\n")
    (folder / "hub" / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(folder / "sprung")))
    return ["train", str(stock.photos), "--backbone", "hf/./hub", "--out", "new"]


@case("a photo of more pixels than memory", "", code=0)
def _(folder: Path, stock: Stock) -> list[str]:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    (folder / "evil.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return ["predict", str(stock.bundle), "evil.png"]


@case("a photo that never ends", "", code=0)
def _(folder: Path, stock: Stock) -> list[str]:
    os.mkfifo(folder / "evil.jpg")
    return ["predict", str(stock.run), "evil.jpg", "/dev/zero"]


# ---- the cache folder


def test_nobody_else_may_look_into_a_new_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "some" / "cache"))
    places.make(tmp_path / "some" / "cache" / "pictures")
    assert (tmp_path / "some" / "cache").stat().st_mode & 0o077 == 0


def spoil_cache(cache: Path) -> int:
    """Put in place of each file of the cache one whose checksum fits, and that does harm; how many there were."""
    poison = np.empty(1, object)
    files = [path for path in cache.rglob("*") if path.is_file()]
    for path in files:
        content = io.BytesIO()
        np.save(content, poison) if path.suffix == ".npy" else content.write(DEEP_JSON.encode())
        crc = f"{zlib.crc32(content.getvalue()):08x}"
        path.with_name(re.sub("-[0-9a-f]{8}([.])", rf"-{crc}\1", path.name)).write_bytes(content.getvalue())
    return len(files)


def test_a_cache_of_strangers_is_done_without(
    drawn_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))
    first = headstart.train(drawn_photos, out=tmp_path / "first", quality="fast", size=64, report="off")
    assert spoil_cache(cache) > 2
    again = headstart.train(drawn_photos, out=tmp_path / "again", quality="fast", size=64, report="off")
    assert again.evaluation == first.evaluation
    assert headstart.cache().bytes >= 0, "and it can be looked at"


# ---- how they run


@pytest.fixture(scope="module")
def stock(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    place = tmp_path_factory.mktemp("stock")
    run = headstart.train(drawn_photos, out=place / "run", quality="fast", size=64, report="off")
    return Stock(run.path, small_bundle.make(place / "bundle"), drawn_photos)


@pytest.fixture(scope="module")
def results(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each case, by its name."""
    place = tmp_path_factory.mktemp("hostile")
    cases = []
    for number, (name, each) in enumerate(CASES.items()):
        folder = place / str(number)
        folder.mkdir()
        cases.append({"name": name, "arguments": each.spoil(folder, stock), "folder": str(folder)})
    return attempted(cases, place)


def attempted(cases: list[dict[str, Any]], place: Path) -> dict[str, dict[str, Any]]:
    """Run these in a child; what it did not come to, since it died, has no result."""
    asked, told = place / "cases.json", place / "results.jsonl"
    asked.write_text(json.dumps(cases))
    told.write_text("")
    # -B: that Python keeps what it compiles is no work of the hostile file.
    child = [sys.executable, "-B", str(Path(__file__).with_name("hostile_child.py")), str(asked), str(told)]
    (place / "home").mkdir()
    own = {**os.environ, "HOME": str(place / "home"), "TMPDIR": str(place / "home")}  # libraries write into both
    done = subprocess.run(child, env=own, capture_output=True, text=True, errors="replace", timeout=600, check=False)
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    if len(rows) < len(cases):
        rows.append({"name": cases[len(rows)]["name"], "died": done.returncode, "err": done.stderr[-2000:]})
    return {row["name"]: row for row in rows} | {"folders": {c["name"]: c["folder"] for c in cases}}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_a_sentence_and_runs_nothing(
    name: str, results: dict[str, dict[str, Any]]
) -> None:
    result, wanted = results.get(name, {}), CASES[name]
    assert "code" in result, f"the process ended: {result}"
    assert result["did"] == [], "nothing is executed, unpickled, or written elsewhere"
    assert not list(Path(results["folders"][name]).rglob("sprung")), "no code of the file ran"
    assert "Traceback" not in result["err"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result["out"] + result["err"]), "for the terminal"
    assert "failed unexpectedly" not in result["err"], result["err"]
    assert result["code"] == wanted.code, result["err"] + result["out"]
    assert re.search(wanted.words, result["err"], re.DOTALL), result["err"]
    assert result["seconds"] < SECONDS
    assert result["grew"] < GROWTH


def test_the_child_sees_what_a_file_does(drawn_photos: Path, tmp_path: Path) -> None:
    """The measure itself: a pickle that is unpickled, and a file that is written elsewhere, are told."""
    (tmp_path / "here").mkdir()
    hostile = tmp_path / "hostile.py"
    hostile.write_text(
        f"import pickle, os; pickle.loads({pickle.dumps(Hostile(tmp_path / 'sprung'))!r})\n"
        f"open({str(tmp_path / 'elsewhere')!r}, 'w').close()\n"
        "def make(): ...\n"
    )
    backbone = ["--backbone", "file/x.safetensors", "--factory", f"{hostile}:make"]
    arguments = ["train", str(drawn_photos), *backbone, "--out", "new"]
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "here" / "x.safetensors")
    told = attempted([{"name": "it", "arguments": arguments, "folder": str(tmp_path / "here")}], tmp_path)
    said = " ".join(told["it"]["did"])
    assert "pickle.find_class" in said
    assert "elsewhere" in said
