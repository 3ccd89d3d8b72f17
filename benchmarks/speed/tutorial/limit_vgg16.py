"""What the tutorial's work amounts to in plain Keras: one forward pass, ten epochs of the head: FOLDER WEIGHTS SEED."""

import json
import sys
import time

import keras
import numpy as np
from keras import layers

folder, weights, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
keras.utils.set_random_seed(seed)
base = keras.applications.VGG16(weights=weights, include_top=False, input_shape=(224, 224, 3))


def features(split):
    photos = keras.utils.image_dataset_from_directory(
        f"{folder}/{split}", image_size=(224, 224), batch_size=32, shuffle=False, verbose=False
    )
    pairs = [(base.predict_on_batch(keras.applications.vgg16.preprocess_input(x.numpy())), y) for x, y in photos]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


began = time.time()
train, validation = features("train"), features("validation")
passed = time.time()
head = [layers.Flatten(), layers.Dense(1024, activation="relu"), layers.Dense(5, activation="softmax")]
model = keras.Sequential([keras.Input(train[0].shape[1:]), *head])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(*train, validation_data=validation, batch_size=32, epochs=10, verbose=0).history
ended = time.time()
found = {"pass": passed - began, "head": ended - passed, "validation": history["val_accuracy"][-1]}
print(json.dumps({"trained": ended, "processor": time.process_time(), **found}))
