"""The same head, optimizer and epochs with headstart: headstart_vgg16.py FOLDER WEIGHTS SEED [untested]."""

import json
import sys
import time

import headstart as hs

folder, weights, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = hs.load_dataset(folder)
backbone = hs.load_backbone("keras/vgg16", weights=weights)
model = hs.Model(backbone, head="flatten, dense(1024, relu)", classes=data.classes, seed=seed, optimizer="adam")
model.fit(data, hs.Stage(epochs=10, lr=1e-3, schedule="constant", augment=False))
spent = {"trained": time.time(), "processor": time.process_time()}
scores = [epoch.validation_accuracy for epoch in model.history]
found = {"validation": model.evaluate(data.validation).accuracy, "last": scores[-1], "best": max(scores)}
if "untested" not in sys.argv:
    found["test"] = model.evaluate(data.test).accuracy
print(json.dumps({**spent, **found}))
