"""Small Keras models of every build that a backbone can have, on whichever engine Keras runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from headstart.errors import BadSetting
from headstart.networks.keras_backend import choose

try:
    choose()
except BadSetting as missing:
    pytest.skip(missing.what, allow_module_level=True)

import keras
import numpy as np
from keras import layers

from headstart.networks.keras import KerasNetwork
from headstart.networks.keras_engine import engine as engine  # from here, that a missing Keras skips and does not fail
from headstart.networks.keras_losses import cross_entropy as cross_entropy
from headstart.networks.keras_losses import given as given
from headstart.networks.keras_losses import measures as measures
from headstart.networks.keras_optimizer import rated as rated

from ..conformance.keras_networks import drawn
from ..conformance.networks import SPEC

# Drawing weights by the layers' own initialisers takes JAX seconds of compiling; `made` draws them.
CONSTANT = {"kernel_initializer": "zeros"}
RECURRENT = {**CONSTANT, "recurrent_initializer": "zeros"}
Conv2D, Dense = partial(layers.Conv2D, **CONSTANT), partial(layers.Dense, **CONSTANT)
LSTM, GRU = partial(layers.LSTM, **RECURRENT), partial(layers.GRU, **RECURRENT)
SHAPE = (SPEC.size, SPEC.size, 3)


def normalised(pixels: np.ndarray) -> np.ndarray:
    """What a backbone of `SPEC` sees."""
    return (pixels.astype(np.float32) - SPEC.mean[0]) / SPEC.std[0]


def stem(source: keras.KerasTensor) -> keras.KerasTensor:
    return Conv2D(8, 3, strides=4, padding="same")(source)


def residual() -> keras.Model:
    source = keras.Input(SHAPE)
    maps = stem(source)
    for _ in range(2):
        changed = layers.BatchNormalization()(Conv2D(8, 3, padding="same")(maps))
        maps = layers.ReLU()(layers.Add()([maps, changed]))
    return keras.Model(source, maps)


def densely_connected() -> keras.Model:
    source = keras.Input(SHAPE)
    maps = stem(source)
    for number in (1, 2):
        changed = layers.BatchNormalization(name=f"dense{number}_bn")(maps)
        changed = Conv2D(4, 3, padding="same", name=f"dense{number}_conv")(changed)
        maps = layers.Concatenate(name=f"dense{number}_concat")([maps, changed])
    return keras.Model(source, maps)


def branching() -> keras.Model:
    """Four branches side by side, with layers of two names in each: no cut within, but two groups."""
    source = keras.Input(SHAPE)
    maps = stem(source)
    for number in (1, 2):
        branches = [layers.MaxPooling2D(3, 1, padding="same", name=f"mixed{number}_pool")(maps)]
        for branch in "abc":
            narrow = Conv2D(2, 1, name=f"narrow{number}_{branch}")(maps)
            branches.append(Conv2D(4, 3, padding="same", name=f"wide{number}_{branch}")(narrow))
        maps = layers.Concatenate(name=f"mixed{number}")(branches)
    return keras.Model(source, maps)


def sharing() -> keras.Model:
    """A convolution that is used twice, with others in between."""
    source = keras.Input(SHAPE)
    twice = Conv2D(8, 3, padding="same", name="twice")
    maps = layers.ReLU()(twice(stem(source)))
    maps = twice(Conv2D(8, 1)(maps))
    return keras.Model(source, Conv2D(4, 1)(maps))


def nested() -> keras.Model:
    """The tutorials' way: a base in a sequential model, itself made of a model."""
    return keras.Sequential([keras.Input(SHAPE), residual(), layers.GlobalAveragePooling2D(), Dense(6)])


def stored_as_frozen() -> keras.Model:
    """A model in a model, told in the graph never to train."""
    source = keras.Input(SHAPE)
    base = residual()
    base.trainable = False
    maps = Conv2D(8, 1)(base(source, training=False))
    return keras.Model(source, layers.BatchNormalization()(maps))


def same_names() -> keras.Model:
    """Two models within that name their layers alike."""

    def block(name: str) -> keras.Model:
        inside = keras.Input((8, 8, 8))
        maps = Conv2D(8, 3, padding="same", name="conv")(inside)
        return keras.Model(inside, layers.BatchNormalization(name="bn")(maps), name=name)

    source = keras.Input(SHAPE)
    return keras.Model(source, block("second")(block("first")(stem(source))))


def one_within_twice() -> keras.Model:
    source, inside = keras.Input(SHAPE), keras.Input((8, 8, 8))
    block = keras.Model(inside, layers.BatchNormalization()(Conv2D(8, 3, padding="same")(inside)))
    return keras.Model(source, block(layers.ReLU()(block(stem(source)))))


def operations() -> keras.Model:
    """Arithmetic between layers, as `maps * 2 + 1` in the functional style makes it."""
    source = keras.Input(SHAPE)
    maps = keras.ops.relu(stem(source)) * 2.0 + 1.0
    return keras.Model(source, Conv2D(4, 1)(maps / keras.ops.sum(maps, axis=-1, keepdims=True)))


def augmenting() -> keras.Model:
    source = [keras.Input(SHAPE), layers.RandomFlip(), layers.RandomRotation(0.2)]
    return keras.Sequential([*source, residual(), layers.Dropout(0.5)])


def rows(source: keras.KerasTensor) -> keras.KerasTensor:
    """A picture as a sequence of its rows."""
    return layers.Reshape((SPEC.size, SPEC.size * 3))(source)


def lstm() -> keras.Model:
    source = keras.Input(SHAPE)
    sequence = LSTM(8, return_sequences=True, dropout=0.2)(rows(source))
    return keras.Model(source, LSTM(8)(sequence))


def gru_sequences() -> keras.Model:
    source = keras.Input(SHAPE)
    return keras.Model(source, GRU(8, return_sequences=True)(rows(source)))


def bidirectional() -> keras.Model:
    source = keras.Input(SHAPE)
    sequence = layers.Bidirectional(LSTM(6, return_sequences=True))(rows(source))
    return keras.Model(source, layers.Bidirectional(GRU(4))(sequence))


def masking() -> keras.Model:
    """Rows of the mean colour are left out: what says so travels beside the sequence."""
    source = keras.Input(SHAPE)
    sequence = LSTM(8, return_sequences=True)(layers.Masking()(rows(source)))
    return keras.Model(source, LSTM(8)(sequence))


def attention() -> keras.Model:
    source = keras.Input(SHAPE)
    tokens = Dense(16)(rows(source))
    for _ in range(2):
        within = layers.LayerNormalization()(tokens)
        tokens = layers.Add()([tokens, layers.MultiHeadAttention(2, 8, **CONSTANT)(within, within)])
        tokens = layers.Add()([tokens, Dense(16, activation="gelu")(layers.LayerNormalization()(tokens))])
    return keras.Model(source, tokens)


def distributed_in_time() -> keras.Model:
    """A normalisation inside a layer that is no model."""
    source = keras.Input(SHAPE)
    each = keras.Sequential([Dense(8), layers.BatchNormalization()])
    return keras.Model(source, layers.TimeDistributed(each)(rows(source)))


def passing_states() -> keras.Model:
    source = keras.Input(SHAPE)
    sequence, *states = LSTM(8, return_sequences=True, return_state=True)(rows(source))
    return keras.Model(source, LSTM(8)(sequence, initial_state=states))


MODELS: tuple[Callable[[], keras.Model], ...] = (
    residual,
    densely_connected,
    branching,
    sharing,
    nested,
    stored_as_frozen,
    same_names,
    one_within_twice,
    operations,
    augmenting,
    lstm,
    gru_sequences,
    bidirectional,
    masking,
    attention,
    distributed_in_time,
    passing_states,
)


def made(make: Callable[[], keras.Model]) -> keras.Model:
    """This model, with weights that do not hang on the engine and layers named as in a new process."""
    keras.utils.clear_session(free_memory=False)
    model = make()
    drawn(model)
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name == "recurrent_kernel":
            variable.assign(rng.normal(0, variable.shape[0] ** -0.5, variable.shape))
    return model


def network_of(make: Callable[[], keras.Model], kind: type[KerasNetwork] = KerasNetwork) -> KerasNetwork:
    """The network over this model."""
    return kind(made(make), spec=SPEC, groups=r"narrow\d|wide\d" if make is branching else None)
