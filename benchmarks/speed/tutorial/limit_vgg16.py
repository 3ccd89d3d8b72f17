"""What the tutorial's work amounts to in plain Keras: one forward pass, ten epochs of the head.

python limit_vgg16.py FOLDER WEIGHTS SEED [SEED ...]: times are those of the first seed.
"""

import json
import sys
import time

import keras
import numpy as np
from keras import layers

folder, weights, seeds = sys.argv[1], sys.argv[2], [int(seed) for seed in sys.argv[3:]]
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
accuracies = []
for seed in seeds:
    keras.utils.set_random_seed(seed)
    head = [layers.Flatten(), layers.Dense(1024, activation="relu"), layers.Dense(5, activation="softmax")]
    model = keras.Sequential([keras.Input(train[0].shape[1:]), *head])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(*train, validation_data=validation, batch_size=32, epochs=10, verbose=0).history
    accuracies.append(history["val_accuracy"][-1])
    if seed == seeds[0]:
        spent = {"trained": time.time(), "processor": time.process_time(), "head": time.time() - passed}
print(json.dumps({**spent, "pass": passed - began, "validation": accuracies[0], "validations": accuracies}))
