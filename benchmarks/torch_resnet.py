"""The residual networks of fusetape's nn/, in PyTorch, with the same parameter names.

Shared by the step benchmark (pytorch_step.py) and by the script that writes the numbers the C++ tests
check against (tests/data/resnet8_step.py): what is timed is what is checked.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Shortcut(nn.Module):
    """1x1 convolution and batch norm, where a block changes the shape."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = conv(inputs, outputs, 1, stride)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.shortcut = Shortcut(inputs, outputs, stride)
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        # In place where autograd allows it, as torchvision does: fewer passes, less memory kept.
        y = F.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu_(y)


class ResNet(nn.Module):
    """A 3x3 stem, stages of `blocks[i]` basic blocks of width·2^i channels, global average, linear."""

    def __init__(self, blocks, width, classes=10):
        super().__init__()
        self.conv1 = conv(3, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = [], width
        for i, count in enumerate(blocks):
            outputs = width << i
            stage = []
            for b in range(count):
                stage.append(Block(inputs, outputs, 2 if i > 0 and b == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        y = F.relu_(self.bn1(self.conv1(x)))
        y = self.stages(y)
        return self.fc(torch.mean(y, dim=(2, 3)))


MODELS = {
    "resnet20": lambda classes: ResNet([3, 3, 3], 16, classes),
    "resnet56": lambda classes: ResNet([9, 9, 9], 16, classes),
    "resnet18": lambda classes: ResNet([2, 2, 2, 2], 64, classes),
}
