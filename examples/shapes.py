"""Generated images of shapes on a noisy ground, and which class each pixel is: 0 ground, 1 disc, 2 square."""

import numpy as np
import torch


def shapes(random, count, size):
    """Images {count, 3, size, size} in [-1, 1], classes {count, size, size}."""
    images = random.normal(0, 0.2, (count, 3, size, size)).astype(np.float32)
    classes = np.zeros((count, size, size), dtype=np.int64)
    y, x = np.mgrid[0:size, 0:size]
    for n in range(count):
        for kind in (1, 2):
            cy, cx = random.integers(0, size, 2)
            radius = random.integers(size // 8, size // 4 + 1)
            dy, dx = abs(y - cy), abs(x - cx)
            inside = dy * dy + dx * dx <= radius * radius if kind == 1 else np.maximum(dy, dx) <= radius
            classes[n][inside] = kind
            images[n, :, inside] += random.uniform(-1, 1, 3).astype(np.float32)
    return torch.from_numpy(images.clip(-1, 1)), torch.from_numpy(classes)
