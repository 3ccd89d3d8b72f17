"""PyTorch's transfer-learning tutorial with EfficientNet-Lite0.

As: pytorch_tutorial.py frozen|full SEED PHOTOS SPLITS MORE.

Its loop as it stands (transfer_learning_tutorial.html): batches of 4, SGD, StepLR, the best epoch's weights, which are
saved and loaded again. Five epochs; no pictures are shown.
"""

import os
import sys
import tempfile

import lite0
import photos
import torch
from told import tell
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

EPOCHS = 5
WORKERS = 2


def train_model(model, loaders, criterion, optimizer, scheduler, num_epochs):
    with tempfile.TemporaryDirectory() as folder:
        best_path = os.path.join(folder, "best_model_params.pt")
        torch.save(model.state_dict(), best_path)
        best = 0.0
        for _ in range(num_epochs):
            for phase in ("train", "test"):
                model.train(phase == "train")
                corrects = 0
                for inputs, labels in loaders[phase]:
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(phase == "train"):
                        outputs = model(inputs)
                        _, predicted = torch.max(outputs, 1)
                        loss = criterion(outputs, labels)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
                    loss.item()
                    corrects += torch.sum(predicted == labels.data)
                if phase == "train":
                    scheduler.step()
                accuracy = corrects.double() / len(loaders[phase].dataset)
                if phase == "test" and accuracy > best:
                    best = accuracy
                    torch.save(model.state_dict(), best_path)
        model.load_state_dict(torch.load(best_path, weights_only=True))
    return model, float(best)


def accuracy(model, loader):
    with torch.inference_mode():
        correct = sum(int((model.eval()(inputs).argmax(1) == labels).sum()) for inputs, labels in loader)
    return correct / len(loader.dataset)


def main():
    what, seed, folder, splits, more = sys.argv[1:]
    torch.manual_seed(int(seed))
    sets = photos.split(folder, splits, augmented=True)
    loaders = {
        name: DataLoader(found, batch_size=4, shuffle=name == "train", num_workers=WORKERS)
        for name, found in sets.items()
    }
    model = lite0.classifier(len(sets["train"].dataset.classes), frozen=what == "frozen")
    learnt = model.fc.parameters() if what == "frozen" else model.parameters()
    optimizer = optim.SGD(learnt, lr=0.001, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    model, best = train_model(model, loaders, nn.CrossEntropyLoss(), optimizer, scheduler, EPOCHS)
    tell(test=best)
    tell(more=accuracy(model, DataLoader(photos.more(more), batch_size=4, num_workers=WORKERS)))


if __name__ == "__main__":
    main()
