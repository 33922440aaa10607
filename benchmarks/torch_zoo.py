"""The networks of zoo.hpp in PyTorch, layer by layer, as PyTorch's users write them: in place where autograd allows it."""

import torch
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU}


def conv(inputs, outputs, kernel, stride=1, groups=1, act="relu", norm=True):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    if act:
        layers.append(ACTIVATIONS[act](inplace=act != "silu"))  # SiLU's gradient needs its input
    return nn.Sequential(*layers)


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, factor, stride, act):
        super().__init__()
        wide = inputs * factor
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([conv(inputs, wide, 1, act=act)] if factor > 1 else []),
            conv(wide, wide, 3, stride, wide, act=act),
            conv(wide, outputs, 1, act=None),
        )

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.body = nn.Sequential(conv(inputs, width, 1), conv(width, width, 3, stride), conv(width, 4 * width, 1, act=None))
        same = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if same else conv(inputs, 4 * width, 1, stride, act=None)

    def forward(self, x):
        return torch.relu_(self.body(x) + self.shortcut(x))


class Inception(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        quarter, narrow = outputs // 4, outputs // 8
        self.branches = nn.ModuleList([
            conv(inputs, quarter, 1),
            nn.Sequential(conv(inputs, narrow, 1), conv(narrow, quarter, 3)),
            nn.Sequential(conv(inputs, narrow, 1), conv(narrow, quarter, 3), conv(quarter, quarter, 3)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, quarter, 1)),
        ])

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class Classifier(nn.Module):
    def __init__(self, features, channels, classes):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def mobilenet_v2(classes, act):
    layers, inputs = [conv(3, 32, 3, act=act)], 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 3, 2), (6, 96, 2, 1), (6, 160, 2, 2)]
    for factor, outputs, count, stride in stages:
        for i in range(count):
            layers.append(Inverted(inputs, outputs, factor, stride if i == 0 else 1, act))
            inputs = outputs
    return Classifier([*layers, conv(inputs, 640, 1, act=act)], 640, classes)


def bottleneck(classes):
    layers, inputs = [conv(3, 64, 3)], 64
    for width in (64, 128, 256):
        layers += [Bottleneck(inputs, width, 1 if width == 64 else 2), Bottleneck(4 * width, width, 1)]
        inputs = 4 * width
    return Classifier(layers, inputs, classes)


def vgg(classes, norm):
    layers, inputs = [], 3
    for i, outputs in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        layers.append(conv(inputs, outputs, 3, norm=norm))
        if i < 2 or i % 2 == 1:
            layers.append(nn.MaxPool2d(2))
        inputs = outputs
    return Classifier(layers, inputs, classes)


def inception(classes):
    layers = [conv(3, 64, 3), nn.MaxPool2d(2), Inception(64, 128), Inception(128, 256), nn.MaxPool2d(2),
              Inception(256, 256), Inception(256, 512)]
    return Classifier(layers, 512, classes)


MODELS = {
    "mobilenet_v2": lambda classes: mobilenet_v2(classes, "relu6"),
    "mobilenet_v2_silu": lambda classes: mobilenet_v2(classes, "silu"),
    "bottleneck": bottleneck,
    "vgg": lambda classes: vgg(classes, True),
    "vgg_without_norms": lambda classes: vgg(classes, False),
    "inception": inception,
}
