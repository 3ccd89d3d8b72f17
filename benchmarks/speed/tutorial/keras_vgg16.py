"""The VGG16 tutorial in plain Keras, as people write it: python keras_vgg16.py FOLDER WEIGHTS SEED.

FOLDER has train, validation and test. Prints a JSON line at the end of training, and another after the test.
"""

import json
import sys
import time

import keras
from keras import layers

folder, weights, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
keras.utils.set_random_seed(seed)


def photos(split, shuffle):
    return keras.utils.image_dataset_from_directory(
        f"{folder}/{split}", image_size=(224, 224), batch_size=32, shuffle=shuffle, seed=seed, verbose=False
    )


train, validation = photos("train", True), photos("validation", False)
base = keras.applications.VGG16(weights=weights, include_top=False, input_shape=(224, 224, 3))
base.trainable = False
inputs = keras.Input((224, 224, 3))
x = base(keras.applications.vgg16.preprocess_input(inputs), training=False)
x = layers.Dense(1024, activation="relu")(layers.Flatten()(x))
model = keras.Model(inputs, layers.Dense(len(train.class_names), activation="softmax")(x))
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(train, validation_data=validation, epochs=10, verbose=0).history
accuracies = history["val_accuracy"]
spent = {"trained": time.time(), "processor": time.process_time()}
print(json.dumps({**spent, "validation": accuracies[-1], "best": max(accuracies)}), flush=True)
print(json.dumps({"test": model.evaluate(photos("test", False), verbose=0)[1]}))
