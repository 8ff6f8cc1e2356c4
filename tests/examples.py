"""Small pairs and data for any pair of the catalogue."""

import torch

import ppvae

FEATURES = {"conv_vae": 16}
COVARIATES = {"label": lambda n: torch.randint(10, (n,)), "inputs": lambda n: torch.randn(n, 2)}


def pair(name, features=None, latents=2, seed=0, **options):
    torch.manual_seed(seed)
    return ppvae.make(name, features=features or FEATURES.get(name, 9), latents=latents, **options)


def data(made, rows=12, missing=0.4, seed=1):
    """Rows that the pair itself generates, with its covariates, and a mask: (entries, mask)."""
    torch.manual_seed(seed)
    given = {name: COVARIATES[name](rows) for name, needed in made.entries.items() if needed and name != "x"}
    with torch.no_grad():
        x = made.model(size=rows, **given)
    mask = torch.rand(x.shape) > missing
    return {"x": x, **given}, mask


def linear_gaussian(name="factor_analysis_exact", N=40, D=8, K=3, seed=0, **options):
    """A factor analysis with random W, loc, psi, and rows of it under a random mask: (pair, x, mask)."""
    made = pair(name, features=D, latents=K, seed=seed, **options)
    made.decoder.set_(
        torch.randn(D, K), torch.randn(D), torch.rand(D if not options.get("tied") else 1).expand(D) + 0.3
    )
    with torch.no_grad():
        x = made.model(size=N)
    mask = torch.rand(N, D) > 0.4
    mask[0], mask[1] = False, True  # nothing observed, everything observed
    return made, x, mask
