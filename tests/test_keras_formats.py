"""Files of bundles from strangers: what could do more than compute is refused before any library reads it."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart.backbones import keras_architecture, keras_model
from headstart.errors import BadBackbone, BadBundle
from headstart.exporting.formats import keras_archive, protobuf, saved_model_file, tflite_file

h5py = pytest.importorskip("h5py")

# ---- .keras

INPUT = {"class_name": "InputLayer", "module": "keras.layers", "config": {"batch_shape": [None, None, None, 3]}}


def weights(change: Callable[[Any], None] = lambda file: None) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/dense/vars/0"] = [1.0, 2.0]
        change(file)
    return content.getvalue()


def keras_file(path: Path, *layers: dict[str, Any], **members: bytes) -> Path:
    config = {"class_name": "Functional", "module": "keras", "config": {"layers": [INPUT, *layers]}}
    files = {"config.json": json.dumps(config).encode(), "metadata.json": b"{}", "model.weights.h5": weights()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (files | {name.replace("__", "."): each for name, each in members.items()}).items():
            archive.writestr(name, content)
    return path


def test_a_plain_keras_file_passes(tmp_path: Path) -> None:
    dense = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3, "activation": "softmax"}}
    keras_archive.check(keras_file(tmp_path / "model.keras", dense))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ({"class_name": "Lambda", "module": "keras.layers", "config": {}}, "Lambda layer, that is code"),
        ({"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}, "Lambda layer, that is code"),
        ({"class_name": "TorchModuleWrapper", "module": "keras.layers", "config": {}}, "that is code"),
        ({"class_name": "TFSMLayer", "module": "keras.layers", "config": {"filepath": "/tmp"}}, "that is code"),
        (
            {"class_name": "StringLookup", "module": "keras.layers", "config": {"vocabulary": "/etc/passwd"}},
            "names keras.layers.StringLookup, which may do more than compute",
        ),
        (
            {"class_name": "function", "module": "keras.utils", "config": "get_file"},
            r"names keras\.utils\.get_file, which may do more than compute",
        ),
        ({"class_name": "load_model", "module": "keras.models", "config": {}}, "may do more than compute"),
        ({"class_name": "system", "module": "os", "config": {}}, "needs os.system"),
        ({"class_name": "Dense", "module": "kerasx.layers", "config": {}}, "not Keras's own"),
    ],
)
def test_a_keras_file_with_code_is_refused(layer: dict[str, Any], reason: str, tmp_path: Path) -> None:
    deep = {"class_name": "TimeDistributed", "module": "keras.layers", "config": {"layer": [{"inner": layer}]}}
    with pytest.raises(BadBundle, match=reason) as refused:
        keras_archive.check(keras_file(tmp_path / "model.keras", deep))
    assert refused.value.fix == "do not use it"


def test_a_keras_file_that_unpacks_elsewhere_or_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"'\.\./x\.py'"):
        keras_archive.check(keras_file(tmp_path / "other.keras", **{"../x__py": b"1"}))
    with pytest.raises(BadBundle, match="no Keras file, or damaged"):
        keras_archive.check(keras_file(tmp_path / "bomb.keras", metadata__json=bytes(64 << 20)))
    with pytest.raises(BadBundle, match=r"unpacks to more than any model: 'metadata\.json'"):
        keras_archive.check(keras_file(tmp_path / "long.keras", metadata__json=os.urandom(1 << 20) * 65))
    blown = weights(lambda file: file.create_dataset("layers/blown", shape=(1 << 24,), chunks=True, compression="gzip"))
    with pytest.raises(BadBundle, match="unpacks to more than any model: 'blown'"):
        keras_archive.check(keras_file(tmp_path / "blown.keras", model__weights__h5=blown))


def test_a_keras_file_of_ones_own_that_swells_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match="unpacks to more than any model"):
        keras_architecture.architecture(keras_file(tmp_path / "bomb.keras", metadata__json=bytes(64 << 20)))


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "function", "module": "keras.utils", "config": "get_file"},
        {"class_name": "function", "module": "keras.applications", "config": "VGG16"},
        {"class_name": "enable_unsafe_deserialization", "module": "keras.config", "config": {}},
        {"class_name": "load_model", "module": "keras.models", "config": {}},
        {"class_name": "TextVectorization", "module": "keras.layers", "config": {"vocabulary": "/etc/passwd"}},
    ],
)
def test_a_run_whose_keras_network_would_do_more_than_compute_is_refused(layer: dict[str, Any]) -> None:
    deep = {"class_name": "Functional", "module": "keras", "config": {"layers": [INPUT, {"activation": layer}]}}
    with pytest.raises(BadBackbone, match="may do more than compute"):
        keras_model.from_run("file/x.keras", {"architecture": deep, "spec": {}})


def outside_group(file: Any) -> None:
    file["layers/other"] = h5py.ExternalLink("/etc/passwd", "/")


def outside_values(file: Any) -> None:
    file.create_dataset("layers/dense/vars/1", (4,), "uint8", external=[("/etc/passwd", 0, 4)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "uint8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("layers/dense/vars/1", layout)


@pytest.mark.parametrize("change", [outside_group, outside_values, virtual])
def test_weights_that_lie_in_other_files_are_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="wants to read other files"):
        keras_archive.check(keras_file(tmp_path / "model.keras", **{"model__weights__h5": weights(change)}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_what_is_no_keras_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(BadBundle, match="no Keras file, or damaged"):
        keras_archive.check(tmp_path / "model.keras")


# ---- SavedModel


def message(*fields: tuple[int, bytes | str]) -> bytes:
    """A protobuf message of these fields."""
    parts = []
    for number, content in fields:
        content = content.encode() if isinstance(content, str) else content
        parts.append(varint(number << 3 | 2) + varint(len(content)) + content)
    return b"".join(parts)


def varint(value: int) -> bytes:
    rest = value >> 7
    return bytes([value & 127 | 128]) + varint(rest) if rest else bytes([value])


def node(name: str, op: str, *inputs: str, calls: str = "") -> bytes:
    called = message((10, message((1, calls))))
    attribute = [(5, message((1, "f"), (2, called)))] if calls else []
    return message((1, name), (2, op), *((3, each) for each in inputs), *attribute)


def function(name: str, *nodes: bytes) -> bytes:
    return message((1, message((1, name))), *((3, each) for each in nodes))


SERVE = function("serve", node("product", "MatMul", "pixels"))
SAVE = function("save", node("written", "SaveV2", "filename"))


PLAIN = message((1, message((4, b""))))  # the objects of a model without any of note


def saved_model(folder: Path, *functions: bytes, nodes: tuple[bytes, ...] = (), objects: bytes = PLAIN) -> Path:
    answer = node("answer", "StatefulPartitionedCall", "pixels", calls="serve")
    saver = node("saver", "StatefulPartitionedCall", "filename", calls="save")
    library = message(*((1, each) for each in (functions or (SERVE, SAVE))))
    graph = message(*((1, each) for each in (node("pixels", "Placeholder"), answer, saver, *nodes)), (2, library))
    output = message((1, "probabilities"), (2, message((1, "answer:0"))))
    signature = message((1, "serving_default"), (2, message((2, output))))
    folder.mkdir(exist_ok=True)
    meta = message((2, graph), (5, signature), (7, objects))
    (folder / "saved_model.pb").write_bytes(message((2, meta)))
    return folder


def test_a_plain_saved_model_passes(tmp_path: Path) -> None:
    saved_model_file.check(saved_model(tmp_path / "model"))


@pytest.mark.parametrize("op", ["WriteFile", "ReadFile", "PyFunc", "EagerPyFunc", "Print", "TheNextOne"])
def test_a_saved_model_that_does_more_than_compute_is_refused(op: str, tmp_path: Path) -> None:
    reason = f"does more than compute: it holds the operation '{op}'"
    with pytest.raises(BadBundle, match=reason):
        saved_model_file.check(saved_model(tmp_path / "one", function("serve", node("bad", op)), SAVE))
    with pytest.raises(BadBundle, match=reason):
        saved_model_file.check(saved_model(tmp_path / "two", nodes=(node("bad", op),)))


@pytest.mark.parametrize(
    "build",
    [
        lambda folder: saved_model(folder, function("serve", node("x", "PartitionedCall", calls="save")), SAVE),
        lambda folder: saved_model(folder, function("serve", node("x", "SaveV2")), SAVE),
        lambda folder: saved_model(folder, nodes=(node("after", "Identity", "saver"),)),
        lambda folder: saved_model(folder, nodes=(node("after", "NoOp", "^saver"),)),
        # A signature that the objects offer, and that the graph itself does not call.
        lambda folder: saved_model(folder, objects=PLAIN + message((1, message((8, message((1, "save"))))))),
    ],
)
def test_a_saved_model_that_saves_where_it_should_compute_is_refused(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    with pytest.raises(BadBundle, match="saves or restores files"):
        saved_model_file.check(build(tmp_path / "model"))


def test_a_saved_model_in_pieces_is_looked_into_as_a_whole(tmp_path: Path) -> None:
    """Every reader of protobuf takes two pieces of one message together: the second must not hide the first."""
    bad = message((1, node("bad", "WriteFile")))
    folder = saved_model(tmp_path / "model")
    content = (folder / "saved_model.pb").read_bytes()
    meta = bytes(protobuf.merged(memoryview(content), 2))
    (folder / "saved_model.pb").write_bytes(message((2, message((2, bad)) + meta)))
    with pytest.raises(BadBundle, match="the operation 'WriteFile'"):
        saved_model_file.check(folder)
    hidden = varint(((2 << 3) | 2) + (1 << 32)) + varint(len(bad)) + bad  # the same field, where 32 bits are kept
    (folder / "saved_model.pb").write_bytes(message((2, hidden + meta)))
    with pytest.raises(BadBundle, match="no SavedModel, or damaged"):
        saved_model_file.check(folder)


def test_a_saved_model_whose_functions_are_called_like_operations_is_refused(tmp_path: Path) -> None:
    shadow = function("MatMul", node("written", "SaveV2", "filename"))
    with pytest.raises(BadBundle, match="a function of its own like an operation"):
        saved_model_file.check(saved_model(tmp_path / "model", SERVE, shadow))


def test_a_saved_model_of_the_older_kind_which_names_what_is_run_first_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="of an older kind"):
        saved_model_file.check(saved_model(tmp_path / "model", objects=b""))
    folder = saved_model(tmp_path / "two")
    content = (folder / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(content + content)
    with pytest.raises(BadBundle, match="holds 2 graphs"):
        saved_model_file.check(folder)


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb", "assets/words.txt", "fingerprint.pb.chunk"])
def test_a_saved_model_with_other_files_beside_it_is_refused(name: str, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(BadBundle, match="a file that no exported model has"):
        saved_model_file.check(folder)


@pytest.mark.parametrize("kind", [5, 10, 11])
def test_a_saved_model_with_tables_or_its_own_ways_to_restore_is_refused(kind: int, tmp_path: Path) -> None:
    objects = PLAIN + message((1, message((kind, b""))))
    with pytest.raises(BadBundle, match="tables or other resources"):
        saved_model_file.check(saved_model(tmp_path / "model", objects=objects))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x12\x7fshort"])
def test_what_is_no_saved_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(BadBundle, match=r"no SavedModel, or damaged|holds 0 graphs"):
        saved_model_file.check(tmp_path)


# ---- TFLite


def tflite(path: Path, *, code: int = 3, name: bytes = b"", fields: int = 8) -> Path:
    """A file with one kind of operation: its number, and its name where it is not TFLite's own."""
    layout = struct.pack("<HH4H", 12, 12, 4, 8 if name else 0, 0, 0)
    operator = (
        struct.pack("<ib3xI", len(layout), code, 8 + 4 - 8) if name else struct.pack("<ib3xI", len(layout), code, 0)
    )
    text = struct.pack("<I", len(name)) + name + b"\0"
    vector = struct.pack("<II", 1, 4 + len(layout))
    head_layout = struct.pack(f"<HH{fields}H", 4 + 2 * fields, 8, 0, 4, *(0 for _ in range(fields - 2)))
    root = struct.pack("<iI", len(head_layout), 4)
    start = 8 + len(head_layout)
    path.write_bytes(struct.pack("<I4s", start, b"TFL3") + head_layout + root + vector + layout + operator + text)
    return path


def test_a_plain_tflite_file_passes(tmp_path: Path) -> None:
    tflite_file.check(tflite(tmp_path / "model.tflite"))


@pytest.mark.parametrize(("code", "name"), [(32, b"FlexWriteFile"), (32, b"Own"), (3, b"FlexPyFunc"), (51, b"")])
def test_a_tflite_file_with_operations_of_others_is_refused(code: int, name: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=f"does more than TFLite can: it holds the operation '{name.decode() or code}'"):
        tflite_file.check(tflite(tmp_path / "model.tflite", code=code, name=name))


def test_a_tflite_file_that_may_name_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="may want to read other files"):
        tflite_file.check(tflite(tmp_path / "model.tflite", fields=10))


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\xff\xff\xff\xffTFL3", b"\x08\0\0\0TFL3" + b"\x7f" * 20])
def test_what_is_no_tflite_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(BadBundle, match="no TFLite file, or damaged"):
        tflite_file.check(tmp_path / "model.tflite")
