"""Writes resnet8_step.safetensors: one training step of a small ResNet-8, computed by PyTorch.

    python -m pip install torch numpy safetensors
    python tests/data/resnet8_step.py

A CIFAR ResNet-8 of base width 4 (4, 8, 16 channels) sees four generated 16x16 images of 10 classes and takes
one step of SGD. The C++ tests load the file, take the same step, and compare every number.

Everything is stored as float32 and computed in float64 from those stored values, so that the file holds
the exact answer, rounded once. The inputs come from NumPy's PCG64 and do not change with PyTorch's version.

    images {4,16,16,3}  NHWC                    labels {4}  int64
    param.NAME   parameters and running statistics before the step
    grad.NAME    gradients of the mean loss, without weight decay
    after.NAME   parameters and running statistics after the step
    logits {4,10}, loss {}

Convolution weights are stored {out, kh, kw, in}. The options of the step stand in the file's metadata.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
from torch_resnet import ResNet  # noqa: E402

SEED = 14
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}
BATCH, SIZE, CLASSES = 4, 16, 10

# A gradient jumps where a ReLU's input changes sign. No input lies closer to zero than this, so that rounding
# in a float32 implementation, Winograd's included, cannot flip one.
RELU_MARGIN = 1e-4


def generated_images(random):
    """Smooth colour waves with a little noise, about zero mean and unit variance."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    images = np.empty((BATCH, SIZE, SIZE, 3))
    for n in range(BATCH):
        for c in range(3):
            fx, fy, phase = random.uniform(0.5, 2.5, 2).tolist() + [random.uniform(0, 2 * np.pi)]
            images[n, :, :, c] = 1.2 * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
    return (images + 0.4 * random.standard_normal(images.shape)).astype(np.float32)


def generated_value(name, shape, random):
    """Nothing is left at one or zero, where a missing term would go unseen."""
    if name.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean") or name.endswith("bias"):
        value = 0.2 * random.standard_normal(shape)
    elif len(shape) == 1:  # batch norm's weight
        value = random.uniform(0.6, 1.4, shape)
    else:  # He's initialisation
        value = np.sqrt(2.0 / np.prod(shape[1:])) * random.standard_normal(shape)
    return value.astype(np.float32)


def generated_model(random):
    model = ResNet([1, 1, 1], width=4, classes=CLASSES).double().train()
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(generated_value(name, tuple(tensor.shape), random)))
    return model


def stored(tensor):
    """As fusetape lays it out: channels last, float32."""
    value = tensor.detach().numpy()
    if value.ndim == 4:
        value = value.transpose(0, 2, 3, 1)
    return np.array(value, dtype=np.float32, order="C")


def state_of(model, prefix):
    return {f"{prefix}.{name}": stored(tensor) for name, tensor in model.state_dict().items()
            if not name.endswith("num_batches_tracked")}


def nearest_to_zero(model, images):
    """The smallest |input| of any ReLU, read without disturbing the running statistics."""
    nearest, relu = [], F.relu_

    def watched(x):
        nearest.append(x.detach().abs().min().item())
        return relu(x)

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    F.relu_ = watched
    try:
        with torch.no_grad():
            model(images)
    finally:
        F.relu_ = relu
        model.load_state_dict(before)
    return min(nearest)


def main():
    random = np.random.Generator(np.random.PCG64(SEED))
    model = generated_model(random)
    nhwc = generated_images(random)
    labels = random.permutation(CLASSES)[:BATCH].astype(np.int64)

    images = torch.from_numpy(nhwc).double().permute(0, 3, 1, 2)
    margin = nearest_to_zero(model, images)
    if margin < RELU_MARGIN:
        sys.exit(f"a ReLU's input lies {margin:.1e} from zero: choose another SEED than {SEED}")

    tensors = {"images": nhwc, "labels": labels, **state_of(model, "param")}
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    logits = model(images)
    loss = F.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    for name, parameter in model.named_parameters():
        tensors[f"grad.{name}"] = stored(parameter.grad)
    optimizer.step()

    tensors |= state_of(model, "after") | {"logits": stored(logits), "loss": stored(loss)}
    options = {"sgd": SGD, "batch_norm": {"momentum": 0.1, "eps": 1e-5}, "blocks": [1, 1, 1], "width": 4}
    path = HERE / "resnet8_step.safetensors"
    save_file(tensors, path, metadata={"options": json.dumps(options)})
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes, loss {loss.item():.6f}, "
          f"nearest ReLU input {margin:.1e}")


if __name__ == "__main__":
    main()
