"""How each page of the catalogue fits its pair: a short program that the page shows and `make docs` runs, on data that are made or ship.

A program leaves ``pair``, the ``train`` rows it was fitted to and the ``test`` rows that it is scored on, entries by name,
NaN = missing.
"""

DIGITS = """
digits = ppvae.data.load("digits")  # 1,797 images of 8 x 8, grey levels between 0 and 1
train, test = ({"x": digits.rows(split)} for split in ("train", "test"))
for rows in (train, test):  # half of the pixels are missing, at random
    rows["x"] = rows["x"].masked_fill(~ppvae.data.mcar(rows["x"], 0.5, seed=1), torch.nan)
"""
LABELLED = """
digits = ppvae.data.load("digits")
train, test = (
    {"x": digits.rows(split), "label": digits.labels(split)} for split in ("train", "test")
)
"""
SOME_LABELLED = """
digits = ppvae.data.load("digits")
train, test = ({"x": digits.rows(split)} for split in ("train", "test"))
known = ppvae.data.mcar(train["x"][:, :1], 0.9, seed=1)  # one class in ten
train["y"] = digits.labels("train").float()[:, None].masked_fill(~known, torch.nan)
test["y"] = torch.full_like(test["x"][:, :1], torch.nan)  # none
"""
SELF_MASKED = """
digits = ppvae.data.load("digits")
columns = [10, 18, 26, 34, 42, 50]  # a stroke down the image
train, test = ({"x": digits.rows(split)[:, columns]} for split in ("train", "test"))
mean = train["x"].mean(0)
for rows in (train, test):
    rows["x"] = rows["x"].masked_fill(rows["x"] > mean, torch.nan)  # missing because it is large
"""
PEOPLE = """
import pandas as pd

age = torch.distributions.Normal(45.0, 12.0).sample((600,))
rooms = torch.poisson(age / 12)
size = (rooms + torch.randn(600) > 4).long()
words = ["small" if s == 0 else "large" for s in size]
frame = pd.DataFrame({"age": age, "rooms": rooms.int(), "size": words})
frame = frame.mask(torch.rand(600, 3).numpy() < 0.2)  # a fifth of the cells is missing
schema = ppvae.data.Schema.of(frame)
x = torch.as_tensor(schema.encode(frame)).float()
x = x[~x.isnan().all(1)]
train, test = {"x": x[:-100]}, {"x": x[-100:]}
"""
GRAPHS = """
nodes = 16
group = torch.rand(400, nodes) < 0.5  # two groups, other ones in each graph, with links within them mostly
i, j = torch.triu_indices(nodes, nodes, 1)
graphs = torch.bernoulli(torch.where(group[:, i] == group[:, j], 0.8, 0.1))
hidden = torch.rand(graphs.shape) < 0.1  # one pair of nodes in ten is not known
train, test = ({"x": rows} for rows in graphs.masked_fill(hidden, torch.nan).split(300))
"""
SPRITES = """
scenes = ppvae.data.sprites(700, most=2, size=16).x  # up to two sprites, three channels of bits
train, test = {"x": scenes[:600]}, {"x": scenes[600:]}
"""
CHAIRS = """
chairs = ppvae.data.shapes("chairs", rows=200, points=80)  # parts that come and go
train, test = chairs.rows("train"), chairs.rows("test")
for rows in (train, test):
    rows["x"] = rows["x"] + 0.03 * torch.randn(rows["x"].shape)
sizes = {"parts": chairs.sizes, "patterns": ppvae.nn.patterns(train["exists"])}
"""
GREEDY = """
layers = ppvae.exact.layerwise(train["x"], chairs.sizes, latents=8, size=16, tolerance=0.1)  # closed forms, greedily
pair.decoder.top.set_(*layers.top)
pair.decoder.bottom.set_(*layers.bottom)
"""
LINEAR = """
inputs = torch.randn(200, 3)
x = inputs @ torch.randn(3, 5) + 0.5 * torch.randn(200, 5)
train = test = {"x": x, "inputs": inputs}
"""

FACTORS = 10


def program(name: str) -> str:
    """The program of a pair."""
    data, pair, fit = _parts(name)
    fitted = fit if "\n" in fit else f"ppvae.fit(pair, train, {fit})"
    return f"{data.strip()}\n\npair = ppvae.make({pair})\n{fitted.strip()}"


def _parts(name: str) -> tuple[str, str, str]:
    if name == "factor_analysis_not_at_random":
        how = "objective=ppvae.iw_elbo(20), epochs=40, learning_rate=0.01"
        return SELF_MASKED, f'"{name}", features=6, latents=2, mechanism="sign_known"', how
    if name == "factor_analysis_masked":  # a network of two layers
        return DIGITS, f'"{name}", features=64, latents={FACTORS}', "epochs=80, learning_rate=0.01"
    if name.startswith("factor_analysis"):
        return DIGITS, f'"{name}", features=64, latents={FACTORS}', "epochs=40, learning_rate=0.02"
    image = f'"{name}", features=64, latents={FACTORS}, likelihood="normal", hidden=(128, 64)'
    fit = "objective=ppvae.iw_elbo(5), epochs=150, learning_rate=0.003"
    small = "objective=ppvae.iw_elbo(5), epochs=60, batch_size=32, learning_rate=0.005"
    graph = (GRAPHS, f'"{name}", features=120, latents=2', "epochs=400, learning_rate=0.01")
    chair = f'"{name}", features=chairs.x.shape[1], latents=8, size=16, **sizes'
    scene = f'"{name}", features=3 * 16 * 16, latents={{}}, channels=3, hidden=(8, 16)'
    return {
        "adgm": (
            SOME_LABELLED,
            image,
            "objective=ppvae.semi_supervised(alpha=10.0), epochs=60, batch_size=32, learning_rate=0.005",
        ),
        "bayesian_linear": (LINEAR, f'"{name}", features=5, latents=3', "epochs=600, learning_rate=0.01"),
        "conditional_vae": (LABELLED, image, fit),
        "conv_vae": (
            DIGITS,
            f'"{name}", features=64, latents={FACTORS}, likelihood="normal", hidden=(16, 32)',
            small,
        ),
        "gae": graph,
        "imputation_mixture": (DIGITS, image, small),
        "mixed_vae": (PEOPLE, f'"{name}", latents=2, **schema.options', fit.replace("150", "100")),
        "multi_entity_vae": (SPRITES, scene.format("6, entities=3"), "epochs=25, batch_size=16, learning_rate=0.003"),
        "multimodal_vae": (
            SOME_LABELLED,
            f"{image}, classes=(10,)",
            'objective=ppvae.telbo({"y": 10.0}), epochs=60, batch_size=32, learning_rate=0.005',
        ),
        "semi_supervised_vae": (
            SOME_LABELLED,
            image,
            "objective=ppvae.semi_supervised(alpha=10.0), epochs=60, batch_size=32, learning_rate=0.005",
        ),
        "shape_fa": (CHAIRS, chair, GREEDY),
        "shape_vae": (CHAIRS, f"{chair}, hidden=(64, 64)", "epochs=150, learning_rate=0.003"),
        "single_entity_vae": (SPRITES, scene.format("18"), "epochs=25, batch_size=16, learning_rate=0.003"),
        "two_layer": (DIGITS, image.replace("latents=10", "latents=5"), fit),
        "vae": (DIGITS, image, fit),
        "vae_not_at_random": (
            SELF_MASKED,
            f'"{name}", features=6, latents=2, mechanism="sign_known"',
            "objective=ppvae.iw_elbo(20), epochs=60, learning_rate=0.003",
        ),
        "vgae": graph,
    }[name]
