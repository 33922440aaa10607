"""Writes schedules_pytorch.txt: what PyTorch's schedules give over 200 steps, for tests/nn/schedule_test.cpp.

    python tests/data/schedules_pytorch.py > tests/data/schedules_pytorch.txt
"""

import warnings

import torch
from torch.optim import lr_scheduler as lrs

STEPS = 200


def values(make, key="lr", lr=0.4):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9)
    schedule = make(optimizer)
    taken = []
    for _ in range(STEPS):
        taken.append(optimizer.param_groups[0][key])
        optimizer.step()
        schedule.step()
    return taken


def cycle(o, **more):
    return lrs.OneCycleLR(o, max_lr=0.8, total_steps=STEPS + 1, **more)


def sequence(o):
    first = lrs.LinearLR(o, start_factor=0.1, total_iters=20)
    return lrs.SequentialLR(o, [first, lrs.StepLR(o, 30, 0.5), lrs.ExponentialLR(o, 0.98)], milestones=[20, 110])


TABLE = {
    "StepLR": lambda o: lrs.StepLR(o, 30, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [20, 50, 51, 150], 0.3),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.97),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 150, 1.7),
    "CosineLR": lambda o: lrs.CosineAnnealingLR(o, 200, 0.01),
    "CosineRestartsLR": lambda o: lrs.CosineAnnealingWarmRestarts(o, 13, 2, 0.02),
    "CosineRestartsLR equal": lambda o: lrs.CosineAnnealingWarmRestarts(o, 40, 1),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.05, 0.5, 15, 25, cycle_momentum=False),
    "CyclicLR halving": lambda o: lrs.CyclicLR(o, 0.05, 0.5, 20, mode="triangular2", cycle_momentum=False),
    "OneCycleLR": lambda o: cycle(o, cycle_momentum=False),
    "SequentialLR": sequence,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("# PyTorch", torch.__version__.split("+")[0])
    for name, make in TABLE.items():
        print(name, *(f"{v:.13g}" for v in values(make)), sep=",")
    print("OneCycleLR momentum", *(f"{v:.13g}" for v in values(cycle, "momentum")), sep=",")
