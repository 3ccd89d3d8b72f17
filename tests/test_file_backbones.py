"""A user's own Keras file as a backbone: where its top is cut, how its pixels are scaled, and what is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbones.backbone import Backbone
from headstart.backbones.keras_top import Place, end_of_features
from headstart.backbones.loading import load_backbone, restore_backbone
from headstart.errors import BadBackbone, BadSetting, HeadstartError
from headstart.networks import keras_backend

pytest.importorskip("keras", reason="Keras is not installed")
keras_backend.choose()

import keras  # noqa: E402
from keras import layers  # noqa: E402

SUFFIXES = (".keras", ".h5")
Build = Callable[[], Any]


def cnn() -> Any:
    return keras.Sequential(
        [
            layers.Input((40, 40, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, name="second"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(name="last_map"),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", name="classes"),
        ]
    )


def residual() -> Any:
    source = keras.Input((None, None, 3))
    maps = layers.Conv2D(8, 3, padding="same", strides=4, name="stem")(source)
    for block in ("one", "two"):
        inner = layers.Conv2D(8, 3, padding="same", name=f"{block}_conv")(maps)
        maps = layers.Add(name=f"{block}_sum")([maps, layers.ReLU(name=f"{block}_relu")(inner)])
    pooled = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(maps))
    return keras.Model(source, layers.Dense(3)(pooled))


def nested() -> Any:
    """The tutorials' own: a base, pooled, with a dense layer. Both bases name a layer `conv`."""
    source = keras.Input((32, 32, 3))
    base = keras.Model(source, layers.ReLU()(layers.Conv2D(4, 3, strides=2, name="conv")(source)), name="base")
    more = keras.Sequential([layers.Input((15, 15, 4)), layers.Conv2D(6, 3, name="conv")], name="more")
    return keras.Sequential(
        [layers.Input((32, 32, 3)), base, more, layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    )


def frozen_base() -> Any:
    source = keras.Input((32, 32, 3))
    base = keras.Sequential(
        [layers.Input((32, 32, 3)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")],
        name="base",
    )
    base.trainable = False
    maps = base(layers.RandomFlip("horizontal")(source), training=False)
    return keras.Model(source, layers.Dense(3)(layers.GlobalMaxPooling2D()(maps)))


def recurrent() -> Any:
    return keras.Sequential(
        [
            layers.Input((28, 28)),
            layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="low"),
            layers.LSTM(12, name="high"),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def convolved_rows() -> Any:
    """A map that is read as a sequence: what reads it is no classifier."""
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(4, 3, padding="same"),
            layers.Reshape((28, 112)),
            layers.GRU(6, name="reader"),
            layers.Dense(3),
        ]
    )


def sequence() -> Any:
    return keras.Sequential(
        [
            layers.Input((28, 28)),
            layers.SimpleRNN(6, return_sequences=True, name="rows"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )


def dense() -> Any:
    return keras.Sequential(
        [layers.Input((784,)), layers.Dense(32, activation="relu", name="kept"), layers.Dropout(0.2), layers.Dense(3)]
    )


def convolved_classes() -> Any:
    """As MobileNet has it: the classifier is a convolution of the pooled 1 x 1 map."""
    source = keras.Input((32, 32, 3))
    maps = layers.ReLU(name="last_map")(layers.Conv2D(4, 3, name="conv")(source))
    pooled = layers.Dropout(0.1)(layers.GlobalAveragePooling2D(keepdims=True)(maps))
    return keras.Model(source, layers.Softmax()(layers.Reshape((3,))(layers.Conv2D(3, 1)(pooled))))


def topless() -> Any:
    return keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(4, 3, name="conv"), layers.ReLU(name="end")])


# Model, the layer whose output are the features, their shape, and the divisor of the pixels.
ZOO: dict[str, tuple[Build, str, tuple[int, ...], float]] = {
    "cnn": (cnn, "last_map", (8, 8, 8), 1),
    "residual": (residual, "two_sum", (56, 56, 8), 255),
    "nested": (nested, "more_conv", (13, 13, 6), 255),
    "frozen base": (frozen_base, "norm", (30, 30, 4), 255),
    "recurrent": (recurrent, "high", (12,), 255),
    "convolved rows": (convolved_rows, "reader", (6,), 255),
    "sequence": (sequence, "rows", (28, 6), 255),
    "dense": (dense, "kept", (32,), 255),
    "convolved classes": (convolved_classes, "last_map", (30, 30, 4), 255),
    "topless": (topless, "end", (30, 30, 4), 255),
}


def saved(model: Any, path: Path) -> str:
    """Write it, with statistics that are not the initial ones, and give its name as a backbone."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.9, values.shape) * 0.3 for values in model.get_weights()])
    model.save(path)
    return f"file/{path}"


def refusal(kind: type[HeadstartError], name: str, **wanted: Any) -> str:
    with pytest.raises(kind) as caught:
        load_backbone(name, **wanted)
    assert caught.value.fix
    assert "\n" not in caught.value.what
    return str(caught.value)


def pixels(backbone: Backbone, n: int = 2) -> np.ndarray:
    size = backbone.spec.size
    return np.random.default_rng(1).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def features(backbone: Backbone, inputs: np.ndarray) -> np.ndarray:
    network = backbone.build()
    return network.features(inputs, next(cut for cut in network.cuts if cut.name == "map"))


def luma(inputs: np.ndarray) -> np.ndarray:
    return inputs.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


# ---- where the top is cut


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ZOO)
def test_features_are_taken_before_the_classifier(kind: str, suffix: str, tmp_path: Path) -> None:
    build, layer, shape, divisor = ZOO[kind]
    backbone = load_backbone(saved(build(), tmp_path / f"model{suffix}"))
    assert f"at layer {layer!r}" in backbone.remarks[0]
    assert f" of {' x '.join(map(str, shape))};" in backbone.remarks[0]
    assert backbone.spec.std == (divisor,) * 3


@pytest.mark.keras
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_features_of_a_convolutional_file_are_those_of_its_own_layer(suffix: str, tmp_path: Path) -> None:
    model = cnn()
    backbone = load_backbone(saved(model, tmp_path / f"model{suffix}"))
    inputs = pixels(backbone)
    own = keras.Model(model.inputs, model.get_layer("last_map").output).predict(inputs.astype(np.float32), verbose=0)
    np.testing.assert_allclose(features(backbone, inputs), own, rtol=1e-4, atol=1e-5)


@pytest.mark.keras
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_inside_a_model_gives_its_own_features(suffix: str, tmp_path: Path) -> None:
    model = nested()
    backbone = load_backbone(saved(model, tmp_path / f"model{suffix}"))
    inputs = pixels(backbone)
    base, more = model.layers[:2]
    own = np.asarray(more(base(inputs.astype(np.float32) / 255)))
    np.testing.assert_allclose(features(backbone, inputs), own, rtol=1e-4, atol=1e-5)
    assert [group.name for group in backbone.build().groups] == ["conv", "more_conv"]


@pytest.mark.keras
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recurrent_file_reads_the_rows_of_a_grey_picture(suffix: str, tmp_path: Path) -> None:
    model = recurrent()
    backbone = load_backbone(saved(model, tmp_path / f"model{suffix}"))
    inputs = pixels(backbone)
    own = keras.Model(model.inputs, model.get_layer("high").output).predict(luma(inputs) / 255, verbose=0)
    assert backbone.spec.order == "grey"
    np.testing.assert_allclose(features(backbone, inputs), own, rtol=1e-3, atol=1e-4)


def test_a_file_of_dense_layers_reads_all_pixels_of_a_grey_picture_in_a_row(tmp_path: Path) -> None:
    model = dense()
    name = saved(model, tmp_path / "model.keras")
    backbone = load_backbone(name)
    assert load_backbone(name, size=28).spec == backbone.spec  # as a run says it when it is resumed
    inputs = pixels(backbone)
    own = np.asarray(model.get_layer("kept")(luma(inputs).reshape(2, 784) / 255))
    assert (backbone.spec.size, backbone.spec.order) == (28, "grey")
    np.testing.assert_allclose(features(backbone, inputs), own, rtol=1e-3, atol=1e-3)


@pytest.mark.keras
@pytest.mark.parametrize(
    ("build", "cut", "shape"),
    [
        (cnn, "first", (38, 38, 4)),
        (cnn, "hidden", (16,)),
        (residual, "one_sum", (56, 56, 8)),
        (nested, "conv", (15, 15, 4)),
        (nested, "base", (15, 15, 4)),
        (nested, "more", (13, 13, 6)),
        (recurrent, "low", (28, 10)),
    ],
)
def test_features_are_taken_at_the_layer_that_is_named(
    build: Build, cut: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    backbone = load_backbone(saved(build(), tmp_path / "model.keras"), cut=cut)
    assert features(backbone, pixels(backbone)).shape == (2, *shape)


def test_an_unknown_layer_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    name = saved(cnn(), tmp_path / "model.keras")
    said = refusal(BadBackbone, name, cut="last_mop")
    assert "no layer 'last_mop'" in said
    assert "did you mean 'last_map'?" in said


def test_a_cut_beside_a_skip_connection_is_refused_with_places_near_it(tmp_path: Path) -> None:
    name = saved(residual(), tmp_path / "model.keras")
    said = refusal(BadBackbone, name, cut="two_conv")
    assert "cannot be cut at 'two_conv'" in said
    assert "cut at 'one_sum' or 'two_sum'" in said


def test_a_cut_before_any_weights_is_refused(tmp_path: Path) -> None:
    name = saved(cnn(), tmp_path / "model.keras")
    assert "no weights up to layer 'rescaling" in refusal(BadBackbone, name, cut=cnn_scaling(name))


def cnn_scaling(name: str) -> str:
    with zipfile.ZipFile(name.removeprefix("file/")) as archive:
        config = json.loads(archive.read("config.json"))
    return next(layer["config"]["name"] for layer in config["config"]["layers"] if layer["class_name"] == "Rescaling")


def test_a_classifier_alone_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((32, 32, 3)), layers.Flatten(), layers.Dense(3, name="only")])
    assert "before its classifier 'only'" in refusal(BadBackbone, saved(model, tmp_path / "model.keras"))


def test_the_map_of_a_large_stride_is_still_a_map() -> None:
    """VGG16 on 32 pixels ends in 1 x 1: neither that nor the activation before a pooling makes it a classifier's."""
    kinds = [("Conv2D", (1, 1, 8)), ("Activation", (1, 1, 8)), ("Flatten", (8,)), ("Dense", (4,)), ("Dense", (3,))]
    places = [
        Place(layer=str(at), kind=kind, shape=shape, weighted=kind in ("Conv2D", "Dense"), inside=(str(at),))
        for at, (kind, shape) in enumerate(kinds)
    ]
    assert end_of_features(places, "it") == 1


# ---- which pictures, and how they are scaled


def test_pictures_of_any_size_have_the_wanted_one(tmp_path: Path) -> None:
    name = saved(residual(), tmp_path / "model.keras")
    assert load_backbone(name).spec.size == 224
    assert load_backbone(name, size=64).spec.size == 64


def test_another_size_than_the_models_own_is_refused(tmp_path: Path) -> None:
    name = saved(cnn(), tmp_path / "model.keras")
    assert load_backbone(name, size=40).spec.size == 40
    assert "takes pictures of 40 pixels and no other, not of 64" in refusal(BadSetting, name, size=64)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((32, 48, 3), "32 x 48 pixels, which are not square"),
        ((3, 32, 32), "its channels come first"),
        ((32, 32, 4), "4 channels"),
        ((50,), "shape (50), which is no picture"),
        ((8, 32, 32, 3), "shape (8, 32, 32, 3), which is no picture"),
    ],
)
def test_a_model_that_takes_no_square_picture_is_refused(shape: tuple[int, ...], said: str, tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input(shape), layers.Dense(4), layers.Flatten(), layers.Dense(3)])
    assert said in refusal(BadBackbone, saved(model, tmp_path / "model.keras"))


def test_a_model_of_words_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((100,)), layers.Embedding(50, 8), layers.LSTM(4), layers.Dense(2)])
    assert "a model of words" in refusal(BadBackbone, saved(model, tmp_path / "model.keras"))


@pytest.mark.parametrize("scaling", [layers.Rescaling, layers.Normalization])
def test_a_model_that_scales_inside_gets_plain_pixels(scaling: Any, tmp_path: Path) -> None:
    first = (
        scaling(1 / 127.5, offset=-1) if scaling is layers.Rescaling else scaling(mean=[9.0] * 3, variance=[4.0] * 3)
    )
    model = keras.Sequential(
        [layers.Input((32, 32, 3)), layers.RandomFlip(), first, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    )
    backbone = load_backbone(saved(model, tmp_path / "model.keras"))
    assert (backbone.spec.mean, backbone.spec.std) == ((0.0,) * 3, (1.0,) * 3)
    assert "its own layer" in backbone.remarks[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_model_has_learnt_about_pixels_goes_into_its_runs(suffix: str, tmp_path: Path) -> None:
    learnt = layers.Normalization()
    learnt.adapt(np.random.default_rng(0).normal(100, 50, (64, 32, 32, 3)).astype(np.float32))
    top = [layers.Conv2D(4, 3, name="last_map"), layers.Flatten(), layers.Dense(3)]
    path = tmp_path / f"model{suffix}"
    backbone = load_backbone(saved(keras.Sequential([layers.Input((32, 32, 3)), learnt, *top]), path))
    inputs = pixels(backbone)
    whole = keras.models.load_model(path, compile=False)
    expected = keras.Model(whole.inputs[0], whole.get_layer("last_map").output)(inputs.astype(np.float32))
    restored = restore_backbone(identity(backbone)).build()
    restored.load_weights(backbone.build().weights())
    for network in (backbone.build(), restored):
        found = network.features(inputs, next(cut for cut in network.cuts if cut.name == "map"))
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-3)


def test_scaling_by_plain_arithmetic_inside_is_seen(tmp_path: Path) -> None:
    source = keras.Input((32, 32, 3))
    maps = layers.Conv2D(4, 3)(source / 127.5 - 1.0)
    model = keras.Model(source, layers.Dense(3)(layers.Flatten()(maps)))
    assert load_backbone(saved(model, tmp_path / "model.keras")).spec.std == (1.0,) * 3


def test_a_division_by_255_is_never_silent(tmp_path: Path) -> None:
    backbone = load_backbone(saved(nested(), tmp_path / "model.keras"))
    assert "divided by 255" in backbone.remarks[1]


@pytest.mark.parametrize("inside", [True, False])
def test_a_known_family_gets_its_own_preprocessing(inside: bool, tmp_path: Path) -> None:
    base = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, include_top=False)
    source = keras.Input((32, 32, 3))
    maps = base(source, training=False) if inside else base.output
    model = keras.Model(source if inside else base.input, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps)))
    model.save(tmp_path / "model.keras")
    backbone = load_backbone(f"file/{tmp_path}/model.keras")
    assert (backbone.spec.mean, backbone.spec.std) == ((127.5,) * 3, (127.5,) * 3)
    assert "keras/mobilenetv2" in backbone.remarks[1]
    assert "'out_relu'" in backbone.remarks[0]


# ---- code


def trap(folder: Path, *, in_top: bool = False) -> Any:
    """A model with a Lambda that leaves a file behind when it runs."""
    sprung = str(folder / "sprung")
    code = layers.Lambda(lambda x: (open(sprung, "w").close(), x)[1], name="trap")
    rest = [layers.GlobalAveragePooling2D(), code] if in_top else [code, layers.GlobalAveragePooling2D()]
    return keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(4, 3, name="conv"), *rest, layers.Dense(3)])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("deep", [False, True])
def test_a_lambda_is_refused_and_never_runs(suffix: str, deep: bool, tmp_path: Path) -> None:
    model = trap(tmp_path)
    if deep:
        model = keras.Sequential([layers.Input((32, 32, 3)), model])
    model.save(tmp_path / f"model{suffix}")
    (tmp_path / "sprung").unlink()
    said = refusal(BadBackbone, f"file/{tmp_path}/model{suffix}")
    assert "holds a Lambda layer, that is code" in said
    assert "--allow-code" in said
    assert not (tmp_path / "sprung").exists()


def test_a_function_without_a_name_is_refused_in_any_layer(tmp_path: Path) -> None:
    saved(topless(), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][1]["config"]["activation"] = {"class_name": "__lambda__", "config": {"value": []}}
    with zipfile.ZipFile(tmp_path / "code.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    assert "holds a Lambda layer, that is code" in refusal(BadBackbone, f"file/{tmp_path}/code.keras")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_code_runs_where_the_user_says_so_and_never_out_of_a_run(suffix: str, tmp_path: Path) -> None:
    trap(tmp_path).save(tmp_path / f"model{suffix}")
    backbone = load_backbone(f"file/{tmp_path}/model{suffix}", allow_code=True)
    assert "its runs cannot be opened" in backbone.remarks[-1]
    assert features(backbone, pixels(backbone)).shape == (2, 30, 30, 4)
    assert "architecture" not in backbone.about
    with pytest.raises(BadBackbone, match="code is never taken out of a run"):
        restore_backbone(identity(backbone))


def test_code_that_is_put_into_a_run_is_refused_and_never_runs(tmp_path: Path) -> None:
    backbone = load_backbone(saved(cnn(), tmp_path / "model.keras"))
    kept = identity(backbone)
    kept["about"]["architecture"] = json.loads(trap(tmp_path).to_json())
    (tmp_path / "sprung").unlink()
    with pytest.raises(BadBackbone, match="code is never taken out of a run"):
        restore_backbone(kept).build()
    assert not (tmp_path / "sprung").exists()


def test_code_in_the_top_alone_is_left_behind(tmp_path: Path) -> None:
    trap(tmp_path, in_top=True).save(tmp_path / "model.keras")
    backbone = load_backbone(f"file/{tmp_path}/model.keras", allow_code=True, cut="conv")
    restore_backbone(identity(backbone)).build()


@keras.saving.register_keras_serializable(package="tests")
class Doubled(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return inputs * 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_layer_of_the_users_own_needs_its_class(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential(
        [layers.Input((32, 32, 3)), layers.Conv2D(4, 3), Doubled(name="own"), layers.Flatten(), layers.Dense(3)]
    )
    name = saved(model, tmp_path / f"model{suffix}")
    assert "at layer 'own'" in load_backbone(name).remarks[0]
    monkeypatch.delitem(keras.saving.get_custom_objects(), "tests>Doubled")
    said = refusal(BadBackbone, name)
    assert "Doubled" in said
    assert "register_keras_serializable" in said


def test_a_loss_of_the_users_own_is_not_in_the_way(tmp_path: Path) -> None:
    model = topless()
    model.compile(loss=lambda truth, answer: keras.ops.mean(answer))
    with pytest.warns(UserWarning, match="lambda"):
        model.save(tmp_path / "model.keras")
    load_backbone(f"file/{tmp_path}/model.keras").build()


# ---- files that are no model


def whole_name(path: Path) -> str:
    return f"file/{path}"


def test_a_missing_file_is_refused_with_its_neighbour(tmp_path: Path) -> None:
    saved(topless(), tmp_path / "model.keras")
    assert f"did you mean '{tmp_path}/model.keras'?" in refusal(BadBackbone, f"file/{tmp_path}/modle.keras")
    assert "there is no folder" in refusal(BadBackbone, f"file/{tmp_path}/nowhere/model.keras")


def test_no_file_at_all_and_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    for name in ("file", "file/"):
        assert "say which file: file/PATH" in refusal(BadBackbone, name)
    (tmp_path / "model.docx").touch()
    assert "not of a kind that is known" in refusal(BadBackbone, f"file/{tmp_path}/model.docx")
    (tmp_path / "model.keras").mkdir()
    assert "is a folder" in refusal(BadBackbone, f"file/{tmp_path}/model.keras")


def test_a_path_without_its_source_is_told_how_to_name_it(tmp_path: Path) -> None:
    saved(topless(), tmp_path / "model.keras")
    assert f"a file is named file/{tmp_path}/model.keras" in refusal(BadBackbone, f"{tmp_path}/model.keras")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("left", [0, 7, 300, 0.5, 0.98])
def test_a_damaged_file_is_refused(suffix: str, left: float, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    name = saved(cnn(), path)
    content = path.read_bytes()
    path.write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    said = refusal(BadBackbone, name)
    assert "is empty" in said if left == 0 else "damaged" in said or "is not an HDF5 file" in said


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_something_else_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_text("a,b\n1,2\n")
    assert "not" in refusal(BadBackbone, whole_name(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[]")
    assert "not" in refusal(BadBackbone, whole_name(path))


def test_an_older_file_under_the_newer_name_is_refused_with_the_right_name(tmp_path: Path) -> None:
    saved(topless(), tmp_path / "model.h5")
    (tmp_path / "model.h5").rename(tmp_path / "model.keras")
    assert "rename it to 'model.h5'" in refusal(BadBackbone, f"file/{tmp_path}/model.keras")


def test_weights_without_a_model_are_refused(tmp_path: Path) -> None:
    cnn().save_weights(tmp_path / "model.weights.h5")
    assert "holds weights but no model" in refusal(BadBackbone, f"file/{tmp_path}/model.weights.h5")


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)


def test_a_subclassed_model_is_refused(tmp_path: Path) -> None:
    model = Subclassed()
    model(np.zeros((1, 32, 32, 3), np.float32))
    model.save(tmp_path / "model.keras")
    said = refusal(BadBackbone, f"file/{tmp_path}/model.keras")
    assert "a class of its own, 'Subclassed'" in said
    assert "cannot be cut" in said


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_inputs_or_outputs_are_refused(suffix: str, tmp_path: Path) -> None:
    one, two = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    conv = layers.Conv2D(4, 3)
    name = saved(keras.Model([one, two], layers.Add()([conv(one), conv(two)])), tmp_path / f"inputs{suffix}")
    assert "has 2 inputs and 1 outputs" in refusal(BadBackbone, name)
    name = saved(keras.Model(one, [layers.Conv2D(4, 3)(one), layers.Conv2D(2, 3)(one)]), tmp_path / f"outputs{suffix}")
    assert "has 1 inputs and 2 outputs" in refusal(BadBackbone, name)


def test_a_model_that_has_never_seen_an_input_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([layers.Conv2D(4, 3), layers.Dense(3)]).save(tmp_path / "model.keras")
    assert "before it knew its input" in refusal(BadBackbone, f"file/{tmp_path}/model.keras")


# ---- weights, names and runs


def test_weights_of_another_file_are_put_in(tmp_path: Path) -> None:
    model = cnn()
    name = saved(model, tmp_path / "model.keras")
    before = load_backbone(name)
    model.set_weights([values * 2 for values in model.get_weights()])
    model.save_weights(tmp_path / "twice.weights.h5")
    after = load_backbone(name, weights=tmp_path / "twice.weights.h5")
    assert after.weights_hash != before.weights_hash
    for key, values in before.build().weights().items():
        np.testing.assert_allclose(after.build().weights()[key], 2 * values)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    name = saved(cnn(), tmp_path / "model.keras")
    residual().save_weights(tmp_path / "other.weights.h5")
    assert "do not fit" in refusal(BadBackbone, name, weights=tmp_path / "other.weights.h5")
    assert "does not exist" in refusal(BadBackbone, name, weights=tmp_path / "none.weights.h5")


def test_the_path_is_kept_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    saved(topless(), tmp_path / "inner" / "model.keras")
    monkeypatch.chdir(tmp_path)
    hashes = set()
    for name in ("file/inner/model.keras", "file/./inner/model.keras", f"file/{tmp_path}/inner/model.keras"):
        backbone = load_backbone(name)
        assert backbone.name == name
        hashes.add(backbone.weights_hash)
    assert len(hashes) == 1


def identity(backbone: Backbone) -> dict[str, Any]:
    """What a run keeps, as it comes back from its file."""
    kept: dict[str, Any] = json.loads(
        json.dumps({"name": backbone.name, "size": backbone.spec.size, "about": dict(backbone.about)})
    )
    return kept


@pytest.mark.keras
@pytest.mark.parametrize("kind", ["cnn", "residual", "nested", "recurrent", "dense"])
def test_a_run_gives_the_same_features_when_the_file_is_gone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    backbone = load_backbone(saved(ZOO[kind][0](), path), size=32 if kind == "residual" else None)
    path.unlink()
    restored = restore_backbone(identity(backbone))
    assert (restored.name, restored.spec, restored.weights_hash) == (
        backbone.name,
        backbone.spec,
        backbone.weights_hash,
    )
    network = restored.build()
    network.load_weights(backbone.build().weights())
    inputs = pixels(backbone)
    again = network.features(inputs, next(cut for cut in network.cuts if cut.name == "map"))
    assert features(backbone, inputs).tobytes() == again.tobytes()


def test_a_run_that_lost_its_description_is_refused(tmp_path: Path) -> None:
    kept = identity(load_backbone(saved(topless(), tmp_path / "model.keras")))
    kept["about"] = {}
    with pytest.raises(BadBackbone, match="does not say what its backbone"):
        restore_backbone(kept)
    kept["about"] = {"architecture": {"class_name": "Nonsense"}, "spec": {}, "weights_hash": "", "licence": ""}
    with pytest.raises(BadBackbone):
        restore_backbone(kept).build()
