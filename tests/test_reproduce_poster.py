"""The tables of fitted images: the command, what was published, and every figure of merit against brute force."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

import ppvae
from ppvae.cli.reproduce import _parts
from ppvae.plots.images import square
from ppvae.plots.style import mosaic
from ppvae.plots.values import means_at
from ppvae.reproduce import Cell, Run, codes, collapse, conditional, fitting, iwae, table

KEYS = {"name", "budget", "seeds", "machine", "seconds", "results", "data"}
ROWS = {
    "iwae": ["VAE", "IWAE", "IWAE, DReG"],
    "latents": ["2 latents", "20 latents", "200 latents"],
    "collapse": ["Plain", "Annealed", "Cyclic", "Free bits"],
    "manifold": ["Digits", "Faces"],
    "tsne": ["Codes, 20 latents", "t-SNE of the codes", "Pixels"],
    "conditional": ["Conditional VAE, draws", "Conditional VAE, means", "Real"],
}
PICTURES = {
    "manifold": ["manifold-digits.png", "manifold-digits_binary.png"],
    "tsne": ["tsne-digits_binary.png"],
    "conditional": ["conditional-digits_binary.png"],
}
BURDA = {  # table 1; DReG as re-run
    ("VAE", "L=1, k=1"): 86.76,
    ("VAE", "L=1, k=5"): 86.47,
    ("VAE", "L=1, k=50"): 86.35,
    ("VAE", "L=2, k=1"): 85.33,
    ("IWAE", "L=1, k=1"): 86.76,
    ("IWAE", "L=1, k=5"): 85.54,
    ("IWAE", "L=1, k=50"): 84.78,
    ("IWAE", "L=2, k=1"): 85.33,
    ("IWAE", "L=2, k=5"): 83.89,
    ("IWAE", "L=2, k=50"): 82.90,
    ("IWAE, DReG", "L=1, k=1"): 86.08,
    ("IWAE, DReG", "L=1, k=5"): 84.90,
    ("IWAE, DReG", "L=1, k=50"): 84.32,
}


@pytest.mark.parametrize("name", list(ROWS))
def test_the_command_writes_the_table_and_the_pictures(ppvae_, name):
    code, out, err = ppvae_("reproduce", name, "--seeds", 1, "--budget", "smoke", "--json", "t.json", "--figures", "p")
    assert code == 0, err
    record = json.load(open("t.json"))
    assert record.keys() == KEYS and (record["name"], record["budget"], record["seeds"]) == (name, "smoke", 1)
    assert "binary, redrawn for each use" in record["data"]["digits_binary"] and "rows to train on" in out
    assert list(dict.fromkeys(r["row"] for r in record["results"])) == ROWS[name]
    for r in record["results"]:
        assert r.keys() == {"row", "column", "value", "sd", "reference"} and r["sd"] is None
        assert np.isfinite(r["value"])
        assert r["reference"] == (BURDA.get((r["row"], r["column"])) if name == "iwae" else None)
    for picture in PICTURES.get(name, []):
        assert open(f"p/{picture}", "rb").read(8) == b"\x89PNG\r\n\x1a\n"


def test_the_published_likelihoods():
    assert iwae.REFERENCE == BURDA


def test_one_seed_unless_more_are_asked_for_and_an_interrupted_table_leaves_no_file(ppvae_, monkeypatch):
    seen = []

    def stopped(run, spent, seed):
        seen.append(run.seeds)
        raise KeyboardInterrupt

    monkeypatch.setattr(iwae, "_one_seed", stopped)
    code, _, _ = ppvae_("reproduce", "iwae", "--budget", "smoke", "--json", "t.json")
    assert code != 0 and seen == [1]
    with pytest.raises(FileNotFoundError):
        open("t.json")


def test_a_figure_is_a_mean_of_rows_and_a_gain_the_mean_of_their_differences(monkeypatch):
    likelihoods = iter(torch.randn(20, 40).cumsum(0))
    drawn = []

    def evidence(pair, x, particles, seed):
        drawn.append(next(likelihoods))
        return drawn[-1]

    monkeypatch.setattr(iwae, "train", lambda run, what, *_, **__: what)
    monkeypatch.setattr(iwae, "log_evidence", evidence)
    found = {(c.row, c.column): c.value for c in table("iwae")(Run(1, "smoke"))}
    order = [("VAE", "L=1, k=1"), ("IWAE, DReG", "L=1, k=1"), *((row, "L=1, k=5") for row in iwae.OBJECTIVES)]
    by_place = dict(zip(order, (x.numpy() for x in drawn), strict=False))
    by_place["IWAE", "L=1, k=1"] = by_place["VAE", "L=1, k=1"]  # one objective, trained once
    for (row, column), x in by_place.items():
        assert found[row, column] == pytest.approx(-x.mean(), abs=1e-12)
        assert found[row, f"{column}, standard error"] == pytest.approx(stats.sem(x), abs=1e-12)
        if (row, column) not in {("VAE", "L=1, k=1"), ("VAE", "L=1, k=5"), ("IWAE", "L=1, k=1")}:
            gain = x - by_place["VAE", column]
            assert found[row, f"{column}, gain on VAE"] == pytest.approx(gain.mean(), abs=1e-12)
            assert found[row, f"{column}, gain's standard error"] == pytest.approx(stats.sem(gain), abs=1e-12)
    assert len(drawn) == 8 and ("IWAE, DReG", "L=2, k=5") not in found


def test_the_objectives_are_in_their_order():
    pair = ppvae.make("vae", 12, 2, hidden=(8,))
    x = torch.bernoulli(torch.full((6, 12), 0.5))
    assert iwae.OBJECTIVES["VAE"](5) == ppvae.elbo(5) and iwae.OBJECTIVES["IWAE"](5) == ppvae.iw_elbo(5)
    assert iwae.OBJECTIVES["IWAE, DReG"](5) == ppvae.iw_elbo(5, gradient="dreg")
    with torch.no_grad():
        values = {}
        for name, objective in (
            ("mean", ppvae.elbo(5, gradient="stl")),
            *((n, iwae.OBJECTIVES[n](5)) for n in ROWS["iwae"][1:]),
        ):
            torch.manual_seed(3)
            values[name] = objective(pair, x)
    assert (values["mean"] < values["IWAE"]).all()  # Jensen, on the same draws
    assert torch.allclose(values["IWAE"], values["IWAE, DReG"], atol=1e-10, rtol=0)  # one bound, two gradients


def line(rows=5, features=6):
    """A VAE of one latent, logits linear in it, and binary rows; its evidence by 120 nodes of Gauss-Hermite."""
    pair = ppvae.make("vae", features, 1, hidden=(4,))
    x = torch.bernoulli(torch.full((rows, features), 0.4))
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    with torch.no_grad():
        logits = pair.decoder(torch.from_numpy(nodes)[:, None]).logits.numpy()  # (120, D)
    log_p = (x.numpy()[:, None] * logits - np.logaddexp(0, logits)).sum(-1)  # (N, 120)
    return pair, x, np.log(np.exp(log_p) @ weights / np.sqrt(2 * np.pi))


def test_log_evidence_is_what_quadrature_gives():
    pair, x, wanted = line()
    estimates = torch.stack([fitting.log_evidence(pair, x, 5000, seed) for seed in range(20)]).numpy()
    error = estimates.std(0, ddof=1) / np.sqrt(20)
    assert (error < 0.03).all() and (abs(estimates.mean(0) - wanted) < 5 * error).all()
    assert torch.equal(fitting.log_evidence(pair, x, 50, 1), fitting.log_evidence(pair, x, 50, 1))


def test_the_bound_is_what_quadrature_gives():
    pair, x, evidence = line()
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    with torch.no_grad():
        q = pair.encoder(x)
        loc, scale = q.mean.reshape(-1).numpy(), q.stddev.reshape(-1).numpy()
        z = loc[:, None] + scale[:, None] * nodes  # (N, 120)
        logits = pair.decoder(torch.from_numpy(z)[..., None]).logits.numpy()
    likelihood = (x.numpy()[:, None] * logits - np.logaddexp(0, logits)).sum(-1) @ weights / np.sqrt(2 * np.pi)
    wanted = likelihood - (0.5 * (loc**2 + scale**2 - 1) - np.log(scale))
    estimates = torch.stack([fitting.bound(pair, x, seed, draws=500) for seed in range(20)]).numpy()
    error = estimates.std(0, ddof=1) / np.sqrt(20)
    assert (error < 1e-2).all() and (abs(estimates.mean(0) - wanted) < 5 * error).all()
    assert (wanted < evidence).all()


def test_training_is_by_the_seed_alone():
    x, said = torch.rand(64, 5).float(), []
    torch.set_default_dtype(torch.float32)

    def weights(seed):
        run = Run(1, "smoke", None, said.append)
        pair = fitting.train(run, "a", seed, "vae", x, 1, redraw=torch.bernoulli, latents=2, hidden=(4,))
        return torch.cat([p.detach().flatten().cpu() for p in pair.parameters()])

    before = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))
    assert said[0] == "a, seed 0: 1 epochs of 64 rows" and said[1].startswith("a, seed 0: bound -")


def test_images_are_the_first_rows_of_each_split_as_observed():
    run = Run(1, "smoke")
    rows, source = fitting.images(run, "digits_binary", 30, 10), ppvae.data.load("digits_binary")
    assert torch.equal(rows.stored, source.rows("train")[:30]) and torch.equal(rows.test, source.observed("test")[:10])
    assert torch.equal(rows.test_label, source.labels("test")[:10]) and len(rows.train) == len(rows.train_label) == 30
    assert rows.train.unique().tolist() == [0, 1] and rows.shape == (8, 8)
    assert run.data == {"digits_binary": f"{source.scaling}; 30 rows to train on, 10 to test on"}


def test_the_manifold_is_the_decoder_at_the_inverse_normal_cdf():
    side = 4
    z = square(side).reshape(side, side, 2)
    u = (np.arange(side) + 0.5) / side
    for i in range(side):
        for j in range(side):
            wanted = stats.norm.ppf([u[j], u[side - 1 - i]])  # right, then up
            assert np.allclose(z[i, j], wanted, atol=1e-12, rtol=0)
    assert torch.allclose(Normal(0, 1).cdf(z[0, :, 0]), torch.from_numpy(u), atol=1e-12)
    pair = ppvae.make("vae", 6, 2, hidden=())
    weight, bias = (p.detach().numpy() for p in pair.decoder.head.linear.parameters())
    x = means_at(pair, z.reshape(-1, 2))
    for m, point in enumerate(z.reshape(-1, 2).numpy()):
        assert np.allclose(x[m], 1 / (1 + np.exp(-(weight @ point + bias))), atol=1e-10, rtol=0)


def test_images_side_by_side():
    images = torch.rand(6, 12)
    whole = mosaic(images, (3, 4), 2)
    assert whole.shape == (9, 8)
    for m in range(6):
        i, j = divmod(m, 2)
        assert np.array_equal(whole[3 * i : 3 * i + 3, 4 * j : 4 * j + 4], images[m].reshape(3, 4).numpy())


def test_agreement_is_the_nearest_others_label():
    points, label = torch.randn(40, 3), torch.arange(40) % 3
    points[7] = points[5]  # of another label: each other's nearest
    wanted = []
    for i, p in enumerate(points):
        others = [j for j in range(40) if j != i]
        nearest = min(others, key=lambda j: float((points[j] - p).square().sum()))
        wanted.append(float(label[nearest] == label[i]))
    found = codes.agreement(points, label)
    assert found.tolist() == wanted and found[5] == found[7] == 0


def test_codes_are_the_encoders_means():
    pair = ppvae.make("vae", 6, 3, hidden=(4,))
    x = torch.rand(5, 6)
    wanted = torch.stack([pair.encoder(row[None]).base_dist.loc[0, 0] for row in x]).detach()
    assert torch.allclose(fitting.codes(pair, x), wanted, atol=1e-12)


def test_samples_on_demand_share_their_noise_and_bear_the_labels_asked_for():
    pair = ppvae.make("conditional_vae", 30, 2, hidden=(5,))
    torch.manual_seed(4)
    draws, means, label = conditional.on_demand(pair, 7)
    torch.manual_seed(4)
    z = torch.randn(7, 2)
    for n in range(7):
        for c in range(10):
            wanted = pair.decoder(z[n : n + 1], torch.tensor([c])).mean[0]
            assert torch.allclose(means[10 * n + c], wanted, atol=1e-12) and label[10 * n + c] == c
    deviation = (draws - means).sum() / (means * (1 - means)).sum().sqrt()
    assert draws.unique().tolist() == [0, 1] and abs(deviation) < 5


def test_called_is_the_share_that_the_classifier_reads_as_asked():
    class Threshold:
        def predict(self, x):
            return (x[:, 0] > 0.5).astype(int)

    x, label = torch.rand(20, 3), torch.arange(20) % 2
    wanted = [float(int(row[0] > 0.5) == int(c)) for row, c in zip(x, label, strict=True)]
    assert conditional.called(Threshold(), x, label).tolist() == wanted


def test_a_place_without_a_figure_is_left_empty():
    cells = [Cell("a", "x", 1.0, None, 2.0), Cell("a", "y", 3.0, None, 4.0), Cell("b", "y", 5.0, None, None)]
    (part,) = _parts(cells)
    assert [list(column.cells) for column in part.columns] == [
        ["a", "b"],
        ["1 [dim](2)[/]", ""],
        ["3 [dim](4)[/]", "5"],
    ]


@pytest.mark.slow
def test_collapse_is_shown_and_cured():
    torch.set_default_dtype(torch.float32)
    found = {(c.row, c.column): c.value for c in collapse.collapse(Run(1, "cpu"))}
    for site, units in (("z1", 20), ("z2", 10)):
        assert found["Plain", f"KL of {site}"] < 1 and found["Plain", f"active units of {site}"] <= 0.1 * units
        assert found["Free bits", f"KL of {site}"] > 0.9 * collapse.FLOOR
        assert found["Free bits", f"active units of {site}"] >= 0.3 * units
    gain = found["Free bits", "test ELBO"] - found["Plain", "test ELBO"]
    assert gain > 5 * found["Plain", "test ELBO, standard error"]
