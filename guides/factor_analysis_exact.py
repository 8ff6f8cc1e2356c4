r"""Factor analysis with its exact posterior, whatever is missing.

    z_n | x_n,o ~ N(P_n^-1 W' M_n Psi^-1 (x_n - loc), P_n^-1),  P_n = I + sum_j m_nj w_j w_j' / psi_j

log p(x_o, z) - log q(z) is log p(x_o) for every z: the ELBO with one draw is the log-evidence, without variance.

References: Rubin & Thayer 1982; with missing entries Williams, Nash & Nazabal 2018.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor

from ppvae import Pair, exact


def guide(decoder: Decoder, x: Tensor, mask: Tensor | bool = True) -> None:
    q = exact.posterior(decoder.W, decoder.loc, decoder.scale, x, mask)  # batch (N,), event (K,)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.MultivariateNormal(q.loc[:, None], scale_tril=q.scale_tril[:, None]))  # (…, N, 1, K)


guide.exact = True  # type: ignore[attr-defined]  # a function carries what it declares


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and its exact posterior; ``tied``: one noise scale for all features (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied))
