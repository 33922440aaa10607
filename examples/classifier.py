"""What classifier.cpp does, in PyTorch: python examples/classifier.py CIFAR_FOLDER [EPOCHS]"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import swa_utils
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

BATCH, CLASSES = 128, 10
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])


def load(folder, names):
    records = np.concatenate([np.fromfile(f"{folder}/{name}.bin", np.uint8) for name in names]).reshape(-1, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 255
    images = (images - MEAN[:, None, None]) / STD[:, None, None]
    return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(records[:, 0]).long()


def augmented(images):
    flip = torch.rand(len(images)) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = (-MEAN / STD)[:, None, None].expand(len(images), 3, 40, 40).clone()  # black
    padded[:, :, 4:36, 4:36] = images
    offsets = torch.randint(9, (len(images), 2)).tolist()
    return torch.stack([image[:, y:y + 32, x:x + 32] for image, (y, x) in zip(padded, offsets)])


def conv(channels, out, pool=False):
    layers = [nn.Conv2d(channels, out, 3, padding=1, bias=False)]
    nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")
    layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.BatchNorm2d(out), nn.ReLU())


def main(folder, epochs):
    torch.manual_seed(1)
    images, labels = load(folder, [f"data_batch_{i}" for i in range(1, 6)])
    test_images, test_labels = load(folder, ["test_batch"])
    model = nn.Sequential(conv(3, 32), conv(32, 64, pool=True), conv(64, 128, pool=True), conv(128, 256, pool=True),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES))

    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    sgd = torch.optim.SGD([{"params": decayed}, {"params": others, "weight_decay": 0}],
                          lr=0.2, momentum=0.9, weight_decay=5e-4, nesterov=True)
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99))
    steps = epochs * (len(images) // BATCH)
    warmup = steps // 10
    schedule = SequentialLR(sgd, [LinearLR(sgd, 0.1, total_iters=warmup),
                                  CosineAnnealingLR(sgd, steps - warmup)], [warmup])

    for epoch in range(epochs):
        total = 0.0
        batches = torch.randperm(len(images)).split(BATCH)[:len(images) // BATCH]
        for indices in batches:
            x, y = augmented(images[indices]), F.one_hot(labels[indices], CLASSES).float()
            share = torch.rand(1)  # mixup: each image with the one at its mirror place in the batch
            x = share * x + (1 - share) * x.flip(0)
            y = share * y + (1 - share) * y.flip(0)
            loss = F.cross_entropy(model(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
            averaged.update_parameters(model)
            total += loss.item()
        print(f"epoch {epoch + 1}  loss {total / len(batches):.4f}")

    batches = torch.randperm(len(images)).split(BATCH)[:50]
    swa_utils.update_bn((augmented(images[indices]) for indices in batches), averaged)
    averaged.eval()
    with torch.no_grad():
        logits = torch.cat([averaged(part) for part in test_images.split(500)])
    print(f"test accuracy of the averaged weights {(logits.argmax(1) == test_labels).float().mean():.4f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
