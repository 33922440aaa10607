"""Writes optimizers_pytorch.txt: what PyTorch's optimizers make of three parameters, for tests/nn/step_test.cpp.

    python tests/data/optimizers_pytorch.py > tests/data/optimizers_pytorch.txt
"""

import torch

STEPS = 12
torch.set_default_dtype(torch.float64)  # that of NAdam's product of momenta, whatever the parameters are of


def run(make):
    parameters = [torch.nn.Parameter(torch.sin(torch.arange(n, dtype=torch.float64))) for n in (5, 3)]
    optimizer = make(parameters)
    for step in range(STEPS):
        for p in parameters:
            p.grad = torch.cos(torch.arange(p.numel(), dtype=torch.float64) * (step + 1))
        optimizer.step()
    return torch.cat([p.detach() for p in parameters])


print("# PyTorch", torch.__version__.split("+")[0])
for name, options in (
    ("nadam", {"lr": 0.01}),
    ("nadam_coupled", {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("nadam_decoupled", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
):
    values = run(lambda parameters: torch.optim.NAdam(parameters, **options))
    print(name, *(repr(float(x)) for x in values))
