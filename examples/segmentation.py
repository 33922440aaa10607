"""What segmentation.cpp does, in PyTorch: python examples/segmentation.py [STEPS]"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from shapes import shapes
from torch import nn

BATCH, SIZE, CLASSES = 16, 64, 3


def pair(channels, out):
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                         nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, width, depth, classes):
        super().__init__()
        widths = [width * 2**d for d in range(depth + 1)]
        self.down = nn.ModuleList([pair(3, width)] + [pair(a, b) for a, b in zip(widths, widths[1:])])
        self.join = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.up = nn.ModuleList(pair(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        levels = [self.down[0](x)]
        for down in self.down[1:]:
            levels.append(down(F.max_pool2d(levels[-1], 2)))
        y = levels.pop()
        for join, up in zip(reversed(self.join), reversed(self.up)):
            y = up(torch.cat([levels.pop(), join(y)], 1))
        return self.head(y)


def as_in_fusetape(module):
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def main(steps):
    torch.manual_seed(1)
    random = np.random.default_rng(1)
    model = UNet(width=16, depth=3, classes=CLASSES)
    model.apply(as_in_fusetape)
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(1, steps + 1):
        images, classes = shapes(random, BATCH, SIZE)
        loss = F.cross_entropy(model(images), classes)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step}  loss {loss.item():.4f}")

    model.eval()
    images, classes = shapes(random, 64, SIZE)
    with torch.no_grad():
        found = model(images).argmax(1)
    for kind, name in enumerate(("ground", "disc", "square")):
        both = ((found == kind) & (classes == kind)).sum()
        either = ((found == kind) | (classes == kind)).sum()
        print(f"{name}: intersection over union {both / either:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
