"""Small pairs and data for any pair of the catalogue."""

import torch
from pyro import poutine

import ppvae

OPTIONS = {
    "multi_entity_vae": {"entities": 2, "hidden": (4, 4)},
    "shape_fa": {"parts": (4, 3, 2), "size": 2},
    "shape_vae": {"parts": (4, 3, 2), "hidden": (12, 12), "size": 6},
    "single_entity_vae": {"hidden": (4, 4)},
}
FEATURES = {"conv_vae": 16, "gae": 10, "multi_entity_vae": 64, "single_entity_vae": 64, "vgae": 10}
COVARIATES = {"label": lambda n: torch.randint(10, (n,)), "inputs": lambda n: torch.randn(n, 2)}


def pair(name, features=None, latents=2, seed=0, **options):
    torch.manual_seed(seed)
    options = OPTIONS.get(name, {}) | options
    return ppvae.make(name, features=features or FEATURES.get(name, 9), latents=latents, **options)


def data(made, rows=12, missing=0.4, seed=1):
    """Rows that the pair itself generates, with its covariates and all its other sites of data, and a mask of x:
    (entries, mask). Where x is not the only one, every fourth row has none of it."""
    torch.manual_seed(seed)
    given = {name: COVARIATES[name](rows) for name, needed in made.entries.items() if needed and name != "x"}
    with torch.no_grad():
        trace = poutine.trace(made.model).get_trace(size=rows, **given)
    others = {name: trace.nodes[name]["value"] for name in other_sites(made, given)}
    others = {name: value.to(torch.get_default_dtype()) for name, value in others.items()}
    others = {
        n: v.squeeze(-2) if made.sites(given)[n]["fn"].event_dim else v.expand(rows, -1) for n, v in others.items()
    }
    x = trace.nodes["x"]["value"]
    mask = torch.rand(x.shape) > missing
    if others:
        mask[1::4] = False
    return {"x": x, **given, **others}, mask


def other_sites(made, given=None):
    """The entries besides x that the story observes where they are given."""
    optional = [name for name, needed in made.entries.items() if not needed and name not in ("x", "seen")]
    return [name for name in optional if name in made.sites(given)]


def seen(made, entries, mask):
    """Masks by name: that of x, and of other sites' entries (a class: of its row), two in three seen, all where x is not."""
    others = {name: entries[name] for name in other_sites(made, entries) if name in entries}
    events = {n for n in others if made.sites(entries)[n]["fn"].event_dim}  # seen whole or not at all
    others = {n: value[:, :1] if n in events else value for n, value in others.items()}
    some = {n: (torch.arange(value.numel()) % 3 > 0).reshape(value.shape) for n, value in others.items()}
    for part in some.values():
        part[3::4] = False  # rows that have none of it
    return {"x": mask} | {name: part | ~mask.any(1, keepdim=True) for name, part in some.items()}


def direct(made, entries, mask):
    """The same as keywords of story and guide, without the door: a site that the story does not mask is left out."""
    masks = seen(made, entries, mask)
    found = {"mask": masks.pop("x")}
    for name, value in entries.items():
        if name not in masks:
            found[name] = value
        elif made.takes_mask(name):
            found |= {name: value, f"mask_{name}": masks[name]}
    return found


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
