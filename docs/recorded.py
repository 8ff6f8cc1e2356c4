"""The pair of the recorded page: digits with holes, so that its encoder has seen rows that are erased."""

import sys

import torch

import ppvae

digits = ppvae.data.load("digits")
x = digits.rows("train").repeat(4, 1)
torch.manual_seed(0)
share = torch.rand(len(x), 1)  # of a row's blocks that are erased: from none to all
blocks = torch.rand(len(x), 6) < share
mask = ~blocks.reshape(-1, 3, 2).repeat_interleave(4, 2).repeat_interleave(3, 1)[:, :8].reshape(-1, 64)
mask[~mask.any(1)] = True

pair = ppvae.make("vae", features=64, latents=2, likelihood="normal", hidden=(128, 64), encoder="mask")
ppvae.fit(pair, x, mask, objective=ppvae.iw_elbo(5), epochs=50, learning_rate=0.002)
ppvae.save(pair, sys.argv[1], data="digits")
