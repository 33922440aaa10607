"""Writes models_pytorch.safetensors: gradients of the networks in fusetape/models, computed by PyTorch.

    python -m pip install torch torchvision numpy safetensors
    python tests/data/models_pytorch.py

Each network sees generated images in training mode; the loss is the mean cross entropy, everything is computed in
float64. torchvision's networks are taken where it has them, at the sizes below. Values come from a hash of a
parameter's place in the list and an element's place in fusetape's layout, so that the file need not hold them:
tests/nn/models_test.cpp makes the same. For each network NAME, in the order of fusetape's named_parameters():

    NAME.rule     {parameters, 2}: value = first + second·u(parameter, element), u in [-1, 1)
    NAME.norm     {parameters}: the gradient's 2-norm
    NAME.samples  {parameters, 64}: elements j·count/64 of the gradient; all of a smaller one, then zeros
    NAME.loss     {}
"""

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import convnext, mobilenetv2, resnet, vgg, vision_transformer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import segmentation  # noqa: E402

SAMPLES = 64
IMAGES = 1 << 20  # the images' place in the list of parameters


def hashed(parameter, count):
    """In [-1, 1): the upper 24 bits of splitmix64's finaliser of a number of 64."""
    with np.errstate(over="ignore"):
        z = (np.uint64(parameter) << np.uint64(40)) + np.arange(count, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1


def to_torch(values, shape):
    """From fusetape's layout {first, kh, kw, last}."""
    if len(shape) == 4:
        first, last, kh, kw = shape
        return values.reshape(first, kh, kw, last).transpose(0, 3, 1, 2)
    return values.reshape(shape)


def from_torch(values):
    return (values.transpose(0, 2, 3, 1) if values.ndim == 4 else values).reshape(-1)


class WideBlock(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 or channels != out else None

    def forward(self, x):
        first = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(first))))
        return y + (self.shortcut(first) if self.shortcut else x)


def wide_resnet(depth, widen):
    layers, channels = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for stage in range(3):
        for block in range((depth - 4) // 6):
            out = 16 * widen * 2**stage
            layers.append(WideBlock(channels, out, 2 if stage > 0 and block == 0 else 1))
            channels = out
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(channels, 10))


class UNet(segmentation.UNet):
    """A row of logits for each pixel."""

    def forward(self, x):
        return super().forward(x).permute(0, 2, 3, 1).flatten(0, 2)


class Airbench(nn.Module):
    """As its paper describes it."""

    def __init__(self, width):
        super().__init__()

        def norm(channels):
            layer = nn.BatchNorm2d(channels, eps=1e-12)
            layer.weight.requires_grad_(False)
            return layer

        def block(channels, out):
            return nn.Sequential(nn.Conv2d(channels, out, 3, 1, 1, bias=False), nn.MaxPool2d(2), norm(out), nn.GELU(),
                                 nn.Conv2d(out, out, 3, 1, 1, bias=False), norm(out), nn.GELU())

        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad_(False)
        self.blocks = nn.Sequential(block(24, width), block(width, 4 * width), block(4 * width, 4 * width))
        self.fc = nn.Linear(4 * width, 10, bias=False)

    def forward(self, x):
        return self.fc(F.max_pool2d(self.blocks(F.gelu(self.whitening(x))), 3).flatten(1)) / 9


def smooth(make):
    """With GELU: over so many layers, rounding in float32 would carry some inputs of ReLUs across zero."""
    model = make()
    for module in model.modules():
        if hasattr(module, "relu"):
            module.relu = nn.GELU()
    return model


def vgg16(norms, hidden=0):
    features = vgg.make_layers(vgg.cfgs["D"], norms)
    for layer in features if norms else []:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None  # which batch norm makes void
    if hidden == 0:
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def small_convnext():
    stages = [convnext.CNBlockConfig(32, 64, 2), convnext.CNBlockConfig(64, None, 2)]
    return torchvision.models.ConvNeXt(stages, num_classes=10)


def small_vit():
    return vision_transformer.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=48,
                                                mlp_dim=96, num_classes=10)


def in_fusetapes_order(name, model):
    """Named parameters. Elsewhere the orders are the same."""
    parameters = dict(model.named_parameters())
    if name != "vit":
        return list(parameters.items())
    names = ["class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"]
    names += [n for n in parameters if n not in names]
    return [(n, parameters[n]) for n in names]


# images, their size, model
NETWORKS = {
    "resnet18": (4, 64, partial(smooth, resnet.resnet18)),
    "resnet34": (4, 64, partial(smooth, resnet.resnet34)),
    "resnet50": (4, 64, partial(smooth, resnet.resnet50)),
    "wide_resnet": (4, 16, partial(wide_resnet, 16, 2)),
    "mobilenet_v2": (4, 64, partial(mobilenetv2.mobilenet_v2, dropout=0.0)),
    "vgg16": (4, 32, partial(vgg16, False)),
    "vgg16_norms": (4, 32, partial(vgg16, True)),
    "vgg16_hidden": (4, 32, partial(vgg16, True, 32)),
    "unet": (2, 16, partial(UNet, 8, 2, 3)),
    "convnext": (4, 32, small_convnext),
    "vit": (4, 32, small_vit),
    "airbench": (8, 32, partial(Airbench, 16)),
}


def rule(name, shape):
    if name.endswith("norm.weight") or (name.endswith("weight") and len(shape) == 1):
        return 1.0, 0.2
    if "scale" in name:
        return 0.0, 0.5
    if name.endswith("weight"):  # of a convolution or product: He's variance, without a transposed one's stride
        return 0.0, math.sqrt(6 / (math.prod(shape) / shape[0]))
    return 0.0, 0.1


def columns_from_chw(name, parameter_name, values):
    """fusetape flattens {7, 7, 512}, torchvision {512, 7, 7}."""
    if (name, parameter_name) != ("vgg16_hidden", "3.weight"):
        return values
    return values.reshape(-1, 512, 49).transpose(0, 2, 1).reshape(-1)


def columns_to_chw(name, parameter_name, values):
    if (name, parameter_name) != ("vgg16_hidden", "3.weight"):
        return values
    return values.reshape(-1, 49, 512).transpose(0, 2, 1).reshape(-1)


def step(name):
    count, size, make = NETWORKS[name]
    model = make().double().train()
    parameters = in_fusetapes_order(name, model)
    rules = np.array([rule(n, tuple(p.shape)) for n, p in parameters], dtype=np.float32)
    for index, (parameter_name, parameter) in enumerate(parameters):
        base, scale = rules[index].astype(np.float64)
        values = (base + scale * hashed(index, parameter.numel())).astype(np.float32).astype(np.float64)
        values = columns_to_chw(name, parameter_name, values)
        parameter.data.copy_(torch.from_numpy(to_torch(values, tuple(parameter.shape)).copy()))

    pixels = (1.5 * hashed(IMAGES, count * size * size * 3)).astype(np.float32).astype(np.float64)
    logits = model(torch.from_numpy(pixels.reshape(count, size, size, 3)).permute(0, 3, 1, 2))
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])
    loss.backward()

    norms, samples = [], np.zeros((len(parameters), SAMPLES))
    for index, (parameter_name, parameter) in enumerate(parameters):
        frozen = parameter.grad is None
        gradient = np.zeros(parameter.numel()) if frozen else from_torch(parameter.grad.numpy())
        gradient = columns_from_chw(name, parameter_name, gradient)
        norms.append(np.linalg.norm(gradient))
        taken = gradient if len(gradient) < SAMPLES else gradient[np.arange(SAMPLES) * len(gradient) // SAMPLES]
        samples[index, : len(taken)] = taken
    print(f"{name}: {len(parameters)} parameters of {sum(p.numel() for _, p in parameters)} elements, "
          f"loss {loss.item():.6f}")
    return {"rule": rules, "norm": np.array(norms), "samples": samples, "loss": np.array(loss.item())}


def main():
    tensors = {f"{name}.{key}": np.asarray(value, dtype=np.float32)
               for name in NETWORKS for key, value in step(name).items()}
    versions = {"torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0]}
    path = Path(__file__).with_suffix(".safetensors")
    save_file(tensors, path, metadata=versions)
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
