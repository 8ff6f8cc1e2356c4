r"""The exact posterior of objects of parts under two linear layers, whatever is missing.

    e_n | x_n,o ~ p(e | x_o)   where e_n is not observed: a part of which something was seen exists, one of which only 0 was does not
    u_n | x_n,o ~ p(u | x_o),  factor analysis whose representations have the prior N(loc_T, W_T W_T' + Psi_T)
    z_n | u_n ~ p(z | u),      factor analysis of the representations

What is observed says no more of e, since no other parameter depends on it; and no more of z than u does. So log p(x_o, e, z, u) -
log q is log p(x_o), with e where that was observed, for every draw. `ppvae.exact.layerwise` fits the two layers in closed form.

References: Nash & Williams 2017, eq. 3.7-3.9; Tang, Salakhutdinov & Hinton 2012, Deep mixtures of factor analysers, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.shape_fa import Decoder, model
from torch import Tensor

from ppvae import Pair, exact
from ppvae.nn.events import by_row
from ppvae.nn.filled import observed
from ppvae.nn.parts import Parts, Patterns


def guide(decoder: Decoder, x: Tensor, exists: Tensor | None = None, mask: Tensor | bool = True) -> None:
    law = decoder.parts.given(x, mask)
    there = law.least.squeeze(-2) if exists is None else exists  # (N, P)
    mask = observed(x, mask) & decoder.parts.spread(there)
    with pyro.plate("data", len(x), dim=-2):
        if exists is None:
            pyro.sample("exists", law)  # (…, N, 1, P)
        u = pyro.sample("u", by_row(u_given_x(decoder, x, mask)))  # (…, N, 1, P U)
        pyro.sample("z", z_given_u(decoder, u))  # (…, N, 1, K)


guide.exact = True  # type: ignore[attr-defined]  # a function carries what it declares


def u_given_x(decoder: Decoder, x: Tensor, mask: Tensor) -> dist.MultivariateNormal:
    """p(u | x_o), batch (N,), event (P U,): u = loc_T + L v with v ~ N(0, I), L L' = W_T W_T' + Psi_T."""
    top, bottom = decoder.top, decoder.bottom
    L = torch.linalg.cholesky(top.W @ top.W.T + torch.diag(top.scale.square()))
    loc = bottom.loc + decoder.loadings @ top.loc
    v = exact.posterior(decoder.loadings @ L, loc, bottom.scale, x, mask)
    return dist.MultivariateNormal(top.loc + v.loc @ L.T, scale_tril=L @ v.scale_tril)


def z_given_u(decoder: Decoder, u: Tensor) -> dist.MultivariateNormal:
    """p(z | u), u (…, P U) to batch (…), event (K,)."""
    top = decoder.top
    z = exact.posterior(top.W, top.loc, top.scale, u.reshape(-1, u.shape[-1]))
    return dist.MultivariateNormal(z.loc.reshape(*u.shape[:-1], -1), scale_tril=z.scale_tril[0])


def make(
    features: int, latents: int, parts: Sequence[int] | None = None, patterns: Patterns | None = None, size: int = 16
) -> Pair:
    """ShapeFA and its exact posterior.

    Args:
        features: D.
        latents: K.
        parts: how many of the features each part has, in their order; None: all are one part.
        patterns: of existence among the rows to train on, ``ppvae.nn.patterns(exists)``; None: all are as probable.
        size: U, of the representation of a part.
    """
    return Pair(model, guide, decoder=Decoder(Parts(features, parts, patterns), latents, size))
