"""Every network of keras.applications is the one that Keras itself gives, with its scaling done exactly once."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from headstart.backbones import keras_applications, keras_families
from headstart.backbones.backbone import Wanted
from headstart.backbones.downloads import MIRROR
from headstart.backbones.keras_applications import catalogue, load, restore
from headstart.backbones.keras_blank import blank
from headstart.backbones.keras_families import MEMBERS, Member
from headstart.backbones.loading import list_backbones, load_backbone
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import InputSpec
from headstart.networks import keras_backend
from headstart.networks.network import Network

if not keras_backend.engines():
    pytest.skip("neither TensorFlow nor JAX is installed", allow_module_level=True)
ENGINE = keras_backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")
KerasNetwork = pytest.importorskip("headstart.networks.keras").KerasNetwork

REAL = Path(__file__).parents[2] / "shared" / "weights" / "keras" / "models"
VGG16, MOBILE = MEMBERS["vgg16"].files()[0].name, MEMBERS["mobilenetv2_0.35"].files()[0].name
SIZE = 64  # pixels, where a network takes them: quick
FAMILIES = {  # a small member of each family, with the groups that it should have
    "vgg16": [f"block{n}" for n in range(1, 6)],
    "resnet50": [f"conv{n}" for n in range(1, 6)],
    "resnet50v2": [f"conv{n}" for n in range(1, 6)],
    "densenet121": [f"conv{n}" for n in range(1, 6)],
    "inceptionv3": ["stem", *(f"mixed{n}" for n in range(11))],
    "inceptionresnetv2": ["stem", "mixed_5b", "block35", "mixed_6a", "block17", "mixed_7a", "block8", "conv_7b"],
    "xception": [f"block{n}" for n in range(1, 15)],
    "mobilenet_0.25": ["stem", *(f"conv_dw_{n}" for n in range(1, 14))],
    "mobilenetv2_0.35": ["stem", *(f"block_{n}" for n in range(1, 17)), "Conv_1"],
    "mobilenetv3small": ["stem", "expanded_conv", *(f"expanded_conv_{n}" for n in range(1, 11)), "conv_1"],
    "nasnetmobile": [
        *("stem", "stem_1", "stem_2"),  # and then its cells, numbered through
        *("0", "1", "2", "3", "reduce_4", "5", "6", "7", "8", "reduce_8", "9", "10", "11", "12"),
    ],
    "efficientnetb0": ["stem", *(f"block{n}" for n in range(1, 8)), "top"],
    "efficientnetv2b0": ["stem", *(f"block{n}" for n in range(1, 7)), "top"],
    "convnexttiny": ["stem", *(f"stage_{n}" for n in range(4))],
}
OF_KERAS = pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning")  # said by Keras of its own files
CHEAP = ("vgg16", "mobilenet_0.25", "mobilenetv2_0.35", "mobilenetv3small", "efficientnetb0")


def cheap_first(names: Any, cheap: tuple[str, ...] = CHEAP) -> list[Any]:
    """All of them, of which only the cheap ones run every time."""
    return [name if name in cheap else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, and no network."""
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(folder.parent))
    monkeypatch.setenv(MIRROR, "http://127.0.0.1:9")
    return folder


@pytest.fixture
def real(home: Path) -> Path:
    """The same with the real weights of two networks in it."""
    if not REAL.is_dir():
        pytest.skip("no real weights beside this checkout (../shared/weights)")
    for name in (VGG16, MOBILE):
        shutil.copy(REAL / name, home / name)
    return home


def pictures(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def smallest(member: Member) -> int:
    return max(member.family.smallest, SIZE)


def made(member: Member, **options: Any) -> keras.Model:
    """What Keras's own function makes."""
    width = {} if member.alpha is None else {"alpha": member.alpha}
    function = getattr(keras.applications, member.function)
    model: keras.Model = function(**{"include_top": False, "weights": None} | width | options)
    return model


def of_keras(member: Member) -> Any:
    """The module of keras.applications that the member comes from."""
    return inspect.getmodule(getattr(keras.applications, member.function))


def features(network: Network, size: int = SIZE) -> np.ndarray:
    return network.features(pictures(size), network.cuts[-1])


def keras_features(model: keras.Model, member: Member, size: int = SIZE) -> np.ndarray:
    """What plain Keras gives for the same pictures, with its own preprocessing."""
    run = partial(model.predict, verbose=0) if ENGINE == "jax" else partial(model, training=False)  # quicker there
    crossing = run(of_keras(member).preprocess_input(pictures(size).astype(np.float32)))
    return np.asarray(crossing).mean((1, 2))


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    largest = float(np.abs(theirs).max())
    assert np.abs(theirs[0] - theirs[1]).max() > 0.005 * largest, (
        "features that do not depend on the picture show nothing"
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest)


# ---- the table


def test_every_network_of_keras_is_in_the_catalogue() -> None:
    functions = {name for name, part in vars(keras.applications).items() if inspect.isfunction(part)}
    assert {member.function for member in MEMBERS.values()} == functions
    assert catalogue()[0].name == "efficientnetv2b0"
    assert {"keras/vgg16", "keras/mobilenetv2_0.35"} <= {entry.name for entry in list_backbones("keras/")}


def test_the_catalogue_imports_no_framework() -> None:
    check = (
        "import sys; from headstart.backbones.keras_applications import catalogue; catalogue()\n"
        "print({'keras', 'tensorflow', 'jax', 'torch', 'h5py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def as_official(member: Member, size: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[keras.Model, list[Any]]:
    """What Keras makes for its official weights, without them, and which file it asked for: name, address and hash."""
    asked: list[Any] = []

    def get_file(name: str, address: str, file_hash: str | None = None, **_: Any) -> None:
        asked.extend((name, address, file_hash))

    with monkeypatch.context() as patched:
        patched.setattr("keras.src.utils.file_utils.get_file", get_file)
        patched.setattr(keras.Model, "load_weights", lambda *_: None)
        if "NASNet" in member.function and size is not None:  # takes no other size with its own weights
            patched.setattr(of_keras(member).imagenet_utils, "obtain_input_shape", lambda shape, **_: shape)
        shape = {} if size is None else {"input_shape": (size, size, 3)}
        return blank(partial(made, member, weights="imagenet", **shape)), asked


@OF_KERAS
@pytest.mark.parametrize("name", cheap_first(MEMBERS))
@pytest.mark.parametrize("size", [None, 160])
def test_the_file_is_the_one_that_keras_asks_for(name: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    member = MEMBERS[name]
    if size is not None and not member.sizes:
        pytest.skip("has weights for one size alone")
    _, asked = as_official(member, size, monkeypatch)
    file = member.files(size)[0]
    assert [file.name, file.url, file.digest] == asked


def test_wide_mobilenets_have_weights_for_one_size_alone() -> None:
    [file] = MEMBERS["mobilenetv2_1.4"].files(160)
    assert "1.4_224" in file.name


# ---- pictures


def scaled(spec: InputSpec, pixels: np.ndarray) -> np.ndarray:
    """What the network does before its model."""
    ordered = pixels[..., ::-1] if spec.order == "bgr" else pixels
    return np.asarray((ordered - np.array(spec.mean)) / np.array(spec.std))


def scaling_differs(spec: InputSpec, member: Member) -> bool:
    """Whether the pictures come out otherwise than from Keras's `preprocess_input` and the layers inside."""
    expected = of_keras(member).preprocess_input(pictures().astype(np.float32))
    return not np.allclose(scaled(spec, pictures()), expected, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_scaled_as_keras_scales_them(name: str) -> None:
    assert not scaling_differs(MEMBERS[name].spec(), MEMBERS[name])


@pytest.mark.parametrize(("name", "wrong"), [
    ("mobilenetv3small", keras_families.TENSORFLOW),
    ("convnexttiny", keras_families.TORCH),
    ("vgg16", keras_families.INSIDE),
    ("vgg16", replace(keras_families.CAFFE, order="rgb")),
    ("densenet121", keras_families.TENSORFLOW),
])  # fmt: skip
def test_scaling_twice_not_at_all_or_otherwise_is_found(name: str, wrong: keras_families.Scaling) -> None:
    member = MEMBERS[name]
    assert scaling_differs(replace(member, family=replace(member.family, scaling=wrong)).spec(), member)


# ---- networks


OTHERS = [name for name in MEMBERS if name not in FAMILIES]


@pytest.fixture(scope="module", params=[*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def built(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A name and its network, as a run gets it back: without weights."""
    network = restore(request.param, smallest(MEMBERS[request.param]), {}).build()
    assert isinstance(network, KerasNetwork)
    return request.param, network


def test_groups_have_their_names_and_cover_all_weights_once(built: tuple[str, Any]) -> None:
    name, network = built
    names = [group.name for group in network.groups]
    assert names == FAMILIES.get(name, names)
    assert len(names) >= 5
    tensors = [tensor for group in network.groups for tensor in (*group.parameters, *group.buffers)]
    assert sorted(tensors) == sorted(network.weights())


def test_the_catalogue_tells_width_and_parameters(built: tuple[str, Any]) -> None:
    name, network = built
    weights = network.weights()
    assert MEMBERS[name].width == network.backbone.output_shape[-1]
    assert MEMBERS[name].parameters == sum(
        weights[tensor].size for group in network.groups for tensor in group.parameters
    )


def test_a_network_scales_inside_where_the_table_says_so(built: tuple[str, Any]) -> None:
    name, network = built
    scaling = {"Rescaling", "Normalization"} & {type(layer).__name__ for layer in network.backbone.layers[:4]}
    assert bool(scaling) == (MEMBERS[name].family.scaling == keras_families.INSIDE)


def draw_weights(member: Member, path: Path) -> None:
    """Write weights as Keras has them after a training on ImageNet, but random."""
    rng = np.random.default_rng(0)
    model = blank(partial(made, member))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.set_weights([np.array(keras_families.MEAN), np.array(keras_families.STD) ** 2, np.array(0)])
        else:
            layer.set_weights([drawn(weight, rng) for weight in layer.weights])
    model.save_weights(path)


def drawn(weight: Any, rng: np.random.Generator) -> np.ndarray:
    """Values through which a picture neither fades nor explodes."""
    shape = weight.shape
    if weight.name in ("gamma", "moving_variance"):
        return rng.uniform(0.8, 1.2, shape)
    inputs = np.prod(shape[:2] if shape[-1] == 1 else shape[:-1])  # a depthwise kernel sees one channel
    return rng.normal(0, np.sqrt(1.8 / inputs) if len(shape) > 1 else 0.1, shape)


def official(member: Member, path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """The network as Keras makes it for its official weights, with those of this file."""
    model, _ = as_official(member, size, monkeypatch)
    model.load_weights(path)
    return model


@OF_KERAS
@pytest.mark.parametrize("name", cheap_first(FAMILIES, ("mobilenet_0.25", "mobilenetv3small")))
def test_features_are_those_of_keras_with_its_official_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, path = MEMBERS[name], tmp_path / "drawn.weights.h5"
    size = smallest(member)
    draw_weights(member, path)
    network = load(name, Wanted(size=size, weights=path)).build()
    assert_equal(features(network, size), keras_features(official(member, path, size, monkeypatch), member, size))


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    """A file of weights of EfficientNetB0, and our network with them."""
    path = tmp_path_factory.mktemp("efficientnet") / "drawn.weights.h5"
    draw_weights(MEMBERS["efficientnetb0"], path)
    return path, load("efficientnetb0", Wanted(size=SIZE, weights=path)).build()


def test_efficientnets_pixels_are_scaled_as_its_official_weights_want_it(
    efficientnet: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    member, (path, network) = MEMBERS["efficientnetb0"], efficientnet
    assert_equal(at_the_stem(network), keras_at_the_stem(official(member, path, SIZE, monkeypatch)))
    # What Keras makes for a file is scaled otherwise, and gives something else.
    for_a_file = blank(partial(made, member, input_shape=(SIZE, SIZE, 3)))
    for_a_file.load_weights(path)
    with pytest.raises(AssertionError, match="Not equal"):
        assert_equal(at_the_stem(network), keras_at_the_stem(for_a_file))


def at_the_stem(network: Network) -> np.ndarray:
    """What leaves the first group; deeper, rounding grows too large in a network of random weights."""
    return network.features(pictures(), network.cuts[1])


def keras_at_the_stem(model: keras.Model) -> np.ndarray:
    """The same of an EfficientNet in plain Keras."""
    stem = keras.Model(model.input, model.get_layer("stem_activation").output)
    return np.asarray(stem.predict(pictures().astype(np.float32), verbose=0))


def test_a_run_of_efficientnet_has_its_scaling_without_a_file(efficientnet: tuple[Path, Network]) -> None:
    _, network = efficientnet
    again = restore("efficientnetb0", SIZE, {}).build()
    again.load_weights(network.weights())
    np.testing.assert_array_equal(at_the_stem(again), at_the_stem(network))


def test_efficientnets_weights_for_other_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fresh.weights.h5"
    blank(partial(made, MEMBERS["efficientnetb0"])).save_weights(path)
    with pytest.raises(BadBackbone, match=r"scaled otherwise.*\n.*file/"):
        load("efficientnetb0", Wanted(size=SIZE, weights=path)).build()


@pytest.mark.parametrize("name", ["vgg16", "mobilenetv2_0.35"])
def test_features_of_real_weights_are_those_of_keras(name: str, real: Path) -> None:
    member = MEMBERS[name]
    path = real / member.files()[0].name
    backbone = load(name, Wanted(size=SIZE, weights=path))
    assert backbone.weights_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    theirs = blank(partial(made, member, input_shape=(SIZE, SIZE, 3)))
    theirs.load_weights(path)
    assert_equal(features(backbone.build()), keras_features(theirs, member))


def test_a_run_gets_its_network_back_without_a_file(real: Path) -> None:
    backbone = load("mobilenetv2_0.35", Wanted(size=SIZE))
    network = backbone.build()
    shutil.rmtree(real)
    again = restore("mobilenetv2_0.35", SIZE, backbone.about)
    assert (again.name, again.spec, again.weights_hash) == (backbone.name, backbone.spec, backbone.weights_hash)
    other = again.build()
    other.load_weights(network.weights())
    np.testing.assert_array_equal(features(other), features(network))


def test_dropout_layers_of_a_blank_network_do_not_drop_alike() -> None:
    model = blank(partial(made, MEMBERS["efficientnetb0"]))
    seeds = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    assert len({keras.ops.convert_to_numpy(seed)[0] for seed in seeds}) == len(seeds) > 1
    assert not any(np.any(weight) for weight in model.get_weights())


# ---- weights


def test_other_bytes_under_the_official_name_are_refused_and_left_alone(real: Path) -> None:
    before = (real / VGG16).read_bytes()
    with pytest.raises(BadBackbone, match=rf"not the published file: md5 (.|\n)*--weights .*{VGG16}"):
        load("vgg16", Wanted())
    assert (real / VGG16).read_bytes() == before
    assert sorted(path.name for path in real.iterdir()) == [MOBILE, VGG16]


def test_available_means_that_the_official_file_is_there(real: Path) -> None:
    found = {entry.name for entry in catalogue() if entry.available}
    assert found == {"vgg16", "mobilenetv2_0.35"}
    assert "downloaded" in next(entry.note for entry in catalogue() if not entry.available)


def test_missing_weights_are_downloaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL.is_dir():
        pytest.skip("no real weights beside this checkout (../shared/weights)")
    told: list[int] = []
    with Served(REAL) as address:
        monkeypatch.setenv(MIRROR, address)
        backbone = load("mobilenetv2_0.35", Wanted(on_progress=lambda done, total: told.append(done)))
    assert backbone.weights_hash == hashlib.sha256((REAL / MOBILE).read_bytes()).hexdigest()
    assert [path.name for path in home.iterdir()] == [MOBILE]
    assert told[-1] == (REAL / MOBILE).stat().st_size


class Served:
    """While open, this folder is on a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_without_a_network_the_address_the_name_and_the_folder_are_said(home: Path) -> None:
    with pytest.raises(BadBackbone, match=rf"cannot be reached(.|\n)*{home} as resnet50_weights.*notop.h5"):
        load("resnet50", Wanted())


def test_weights_of_the_usual_size_on_this_machine_are_taken_and_told(real: Path) -> None:
    assert load("mobilenetv2_0.35", Wanted(size=SIZE)).remarks == load("mobilenetv2_0.35", Wanted()).remarks
    [*_, remark] = load("mobilenetv2_0.35", Wanted(size=160)).remarks
    assert "trained at 224 pixels" in remark
    assert "0.35_160_no_top.h5" in remark


@pytest.mark.parametrize("damage", ["cut short", "empty", "text", "of another network", "a zip"])
def test_weights_that_do_not_fit_are_one_sentence(damage: str, real: Path, tmp_path: Path) -> None:
    content = (real / MOBILE).read_bytes()
    bad = tmp_path / ("bad.keras" if damage == "a zip" else "bad.h5")
    bad.write_bytes({"cut short": content[: len(content) // 2], "empty": b"", "text": b"text"}.get(damage, content))
    backbone = load("vgg16" if damage == "of another network" else "mobilenetv2_0.35", Wanted(weights=bad))
    with pytest.raises(BadBackbone, match=r"bad\.\w+' are damaged or not those of keras/\w+.* without its top"):
        backbone.build()


def test_a_width_that_is_not_the_files_is_refused(real: Path) -> None:
    with pytest.raises(BadBackbone, match=r"not those of keras/mobilenetv2_0\.5"):
        load("mobilenetv2_0.5", Wanted(weights=real / MOBILE)).build()


@pytest.mark.parametrize("name", ["absent.h5", "weights.pth", "folder.h5"])
def test_a_file_that_cannot_be_weights_is_refused_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(BadBackbone, match=rf"{name}' (cannot be read|are not in a format of Keras)"):
        load("vgg16", Wanted(weights=tmp_path / name))


# ---- settings


@pytest.mark.parametrize("name", ["keras/VGG16", "Keras/Vgg16"])
def test_names_are_taken_in_any_case(name: str, real: Path) -> None:
    assert load_backbone(name, weights=real / VGG16).name == "keras/vgg16"


@pytest.mark.parametrize(("typo", "meant"), [
    ("vgg-16", "vgg16"), ("resnet", "resnet"), ("mobilenetv2_0.50", "mobilenetv2_0.5"),
])  # fmt: skip
def test_a_misspelt_name_is_answered_with_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(BadBackbone, match=rf"is not known\n.*did you mean 'keras/{meant}"):
        load_backbone(f"keras/{typo}")


@pytest.mark.parametrize(("name", "size", "least"), [("xception", 70, 71), ("inceptionv3", 64, 75), ("vgg16", 31, 32)])
def test_a_size_below_the_families_is_refused(name: str, size: int, least: int) -> None:
    with pytest.raises(BadSetting, match=rf"size {size} is too small .*\n.* {least} pixels"):
        load(name, Wanted(size=size))
    assert restore(name, least, {}).build().input_shape == (least, least, 3)


def test_a_cut_and_pytorch_are_refused() -> None:
    with pytest.raises(BadSetting, match="no top to cut at 'block4'"):
        load("vgg16", Wanted(cut="block4"))
    with pytest.raises(BadSetting, match=r"TensorFlow or JAX, not on PyTorch\n.*bundled/"):
        load("vgg16", Wanted(framework="torch"))


def test_the_other_engine_is_refused_once_keras_runs() -> None:
    other = next(name for name in keras_backend.ENGINES if name != ENGINE)
    with pytest.raises(BadSetting, match=rf"Keras runs on '{ENGINE}' in this process already"):
        load("vgg16", Wanted(framework=other))
    assert restore("vgg16", 64, {"engine": other}).about == {"engine": other}  # a finished model answers on either


def test_pictures_with_their_channels_first_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(BadSetting, match="channels first"):
        restore("vgg16", SIZE, {}).build()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_depthwise_networks_on_jax_without_a_gpu_come_with_a_warning(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    monkeypatch.setattr(keras_backend, "choose_again", lambda recorded: "jax")
    remarks = restore("mobilenetv2", 224, {}).remarks
    assert ["5 to 15 times slower" in remark for remark in remarks] == [True] * (device == "cpu")
    assert restore("vgg16", 224, {}).remarks == ()
    monkeypatch.setattr(keras_backend, "choose_again", lambda recorded: "tensorflow")
    assert keras_applications.restore("mobilenetv2", 224, {}).remarks == ()
