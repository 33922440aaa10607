"""What dcgan.cpp does, in PyTorch: python examples/dcgan.py [STEPS]"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from shapes import shapes
from torch import nn

BATCH, SIZE, LATENT, WIDTH = 64, 32, 64, 32


def up(channels, out):
    return nn.Sequential(nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def down(channels, out):
    return nn.Sequential(nn.Conv2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2))


def weights_as_published(module):
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def main(steps):
    torch.manual_seed(1)
    random = np.random.default_rng(1)
    generator = nn.Sequential(nn.ConvTranspose2d(LATENT, 4 * WIDTH, 4, bias=False), nn.BatchNorm2d(4 * WIDTH),
                              nn.ReLU(), up(4 * WIDTH, 2 * WIDTH), up(2 * WIDTH, WIDTH),
                              nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1), nn.Tanh())
    discriminator = nn.Sequential(nn.Conv2d(3, WIDTH, 4, 2, 1), nn.LeakyReLU(0.2), down(WIDTH, 2 * WIDTH),
                                  down(2 * WIDTH, 4 * WIDTH), nn.Conv2d(4 * WIDTH, 1, 4), nn.Flatten())
    generator.apply(weights_as_published)
    discriminator.apply(weights_as_published)
    adam_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    real_label, fake_label = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

    for step in range(1, steps + 1):
        real, _ = shapes(random, BATCH, SIZE)
        fake = generator(torch.randn(BATCH, LATENT, 1, 1))
        loss_d = (F.binary_cross_entropy_with_logits(discriminator(real), real_label)
                  + F.binary_cross_entropy_with_logits(discriminator(fake.detach()), fake_label))
        adam_d.zero_grad()
        loss_d.backward()
        adam_d.step()

        fake = generator(torch.randn(BATCH, LATENT, 1, 1))
        loss_g = F.binary_cross_entropy_with_logits(discriminator(fake), real_label)
        adam_g.zero_grad()
        loss_g.backward()
        adam_g.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step}  discriminator {loss_d.item():.4f}  generator {loss_g.item():.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
