"""Writes losses_pytorch.txt: losses and gradients of PyTorch in f64, for tests/ops/losses_test.cpp, which has the same
cases in the same order.

    python tests/data/losses_pytorch.py > tests/data/losses_pytorch.txt
"""

import math

import torch
import torch.nn.functional as F

f64 = torch.float64
WEIGHT = [0.5, 2.0, 1.25, 0.0, 3.0]


def wave(shape, pace, size=2.0):
    """The same numbers as in the test."""
    n = math.prod(shape)
    return torch.tensor([size * math.sin(pace * (i + 1)) for i in range(n)], dtype=f64).reshape(shape)


def unit(shape, pace):
    return (wave(shape, pace, 1.0) + 1) / 2


def labels(shape, ignored=False):
    values = [(3 * i + i // 4) % 5 for i in range(math.prod(shape))]
    if ignored:
        values = [-100 if i % 3 == 1 else v for i, v in enumerate(values)]
    return torch.tensor(values).reshape(shape)


def classes_second(x):
    """PyTorch has the classes on axis 1."""
    return x.movedim(-1, 1) if x.dim() > 2 else x


def cross_entropy(shape, soft=False, **options):
    def loss(x, reduction):
        more = dict(options)
        ignored = "ignore_index" in more
        if more.pop("weight", False):
            more["weight"] = torch.tensor(WEIGHT, dtype=f64)
        target = classes_second(F.softmax(wave(shape, 0.71), -1)) if soft else labels(shape[:-1], ignored)
        return F.cross_entropy(classes_second(x), target, reduction=reduction, **more)

    return shape, 1.3, loss


def nll(shape, **options):
    def loss(x, reduction):
        more = dict(options)
        if more.pop("weight", False):
            more["weight"] = torch.tensor(WEIGHT, dtype=f64)
        return F.nll_loss(classes_second(F.log_softmax(x, -1)), labels(shape[:-1], "ignore_index" in more),
                          reduction=reduction, **more)

    return shape, 1.3, loss


def paired(function, shape=(4, 5), of_unit=False, **options):
    def loss(x, reduction):
        return function(torch.sigmoid(x) if of_unit else x, unit(shape, 0.37), reduction=reduction, **options)

    return shape, 1.3, loss


def kl(x, target, reduction):
    p = target / target.sum(-1, keepdim=True)
    terms = F.kl_div(F.log_softmax(x, -1), p, reduction="none").sum(-1)
    return {"none": terms, "sum": terms.sum(), "mean": terms.mean()}[reduction]


def focal(x, target, reduction, alpha, gamma):
    """torchvision.ops.sigmoid_focal_loss (0.26), written out."""
    p = torch.sigmoid(x)
    ce = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    terms = ce * (1 - (p * target + (1 - p) * (1 - target))) ** gamma
    if alpha >= 0:
        terms = (alpha * target + (1 - alpha) * (1 - target)) * terms
    return {"none": terms, "sum": terms.sum(), "mean": terms.mean()}[reduction]


CASES = {
    "hard": cross_entropy((6, 5)),
    "hard over axes": cross_entropy((2, 3, 2, 5), label_smoothing=0.1),
    "weight": cross_entropy((6, 5), weight=True),
    "weight, smoothing": cross_entropy((2, 3, 5), weight=True, label_smoothing=0.2),
    "ignored": cross_entropy((2, 4, 5), ignore_index=-100),
    "ignored, smoothing": cross_entropy((8, 5), ignore_index=-100, label_smoothing=0.1),
    "ignored, weight, smoothing": cross_entropy((8, 5), ignore_index=-100, weight=True, label_smoothing=0.3),
    "soft": cross_entropy((6, 5), soft=True),
    "soft over axes": cross_entropy((2, 3, 5), soft=True, label_smoothing=0.1),
    "soft, weight, smoothing": cross_entropy((6, 5), soft=True, weight=True, label_smoothing=0.1),
    "nll": nll((6, 5)),
    "nll, weight, ignored": nll((2, 4, 5), weight=True, ignore_index=-100),
    "l1": paired(F.l1_loss),
    "huber": paired(F.huber_loss, delta=0.7),
    "bce": paired(F.binary_cross_entropy, of_unit=True),
    "kl": paired(kl),
    "focal": paired(focal, alpha=0.25, gamma=2),
    "focal, no alpha": paired(focal, alpha=-1, gamma=1.5),
}

if __name__ == "__main__":
    print("# PyTorch", torch.__version__.split("+")[0])
    for name, (shape, pace, loss) in CASES.items():
        x = wave(shape, pace).requires_grad_()
        values = []
        for reduction in ("mean", "sum", "none"):
            result = loss(x, reduction)
            total = result if reduction != "none" else (result * wave(tuple(result.shape), 0.9)).sum()
            (gradient,) = torch.autograd.grad(total, x)
            values += [*result.detach().reshape(-1).tolist(), *gradient.reshape(-1).tolist()]
        print(name, *(f"{v:.16g}" for v in values), sep=";")
