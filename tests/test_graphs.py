"""Graphs as rows of pairs: story and guides against loops and dense matrices, the split, and what is refused."""

import itertools
import math
from dataclasses import replace

import joblib
import numpy as np
import pytest
import torch

import ppvae
from ppvae.data import graphs as data
from ppvae.data.graphs import graph, graph_pairs, held_out_links
from ppvae.machine import own_generators
from ppvae.nn.graphs import nodes_of, smooth
from ppvae.reproduce import Run
from ppvae.reproduce import graphs as reproduce
from ppvae.tracing.terms import log_weights

NAMES = ("vgae", "gae")
WEIGHTED = ppvae.elbo(likelihood={"x": ppvae.balanced})


def pair(name, n, latents=2, seed=0, **options):
    torch.manual_seed(seed)
    return ppvae.make(name, features=n * (n - 1) // 2, latents=latents, **options)


def some_graphs(rows, n, share=0.4, seed=1):
    """x (rows, D) of random links, and a mask that hides one pair in four."""
    chance = torch.Generator().manual_seed(seed)
    x, mask = (torch.rand(rows, n * (n - 1) // 2, generator=chance) for _ in range(2))
    return (x < share).double(), mask < 0.75


def adjacency(x, mask, n):
    """A of one graph by a loop over its pairs, the missing ones left out."""
    A = np.zeros((n, n))
    for column, (i, j) in enumerate(itertools.combinations(range(n), 2)):
        A[i, j] = A[j, i] = float(x[column]) * bool(mask[column])
    return A


def normalised(A):
    """D^-1/2 (A + I) D^-1/2, dense."""
    full = A + np.eye(len(A))
    root = np.diag(full.sum(1) ** -0.5)
    return root @ full @ root


def encoded(made, x, mask, nodes=None):
    """loc (and scale) of each row, (N, n, K)."""
    q = made.encoder(x, mask, nodes)
    base = getattr(q, "base_dist", None)
    return [q.mean[:, 0]] if base is None else [base.loc[:, 0], base.scale[:, 0]]


# --- the story ------------------------------------------------------------------------------------------------------------


def test_the_decoder_is_a_sigmoid_of_inner_products_pair_by_pair():
    n, K = 5, 3
    made = pair("vgae", n, K)
    z = torch.randn(2, 4, 1, n, K)
    probs = made.decoder(z).probs
    assert probs.shape == (2, 4, 10)
    for p, row in itertools.product(range(2), range(4)):
        points = z[p, row, 0].tolist()
        for column, (i, j) in enumerate(itertools.combinations(range(n), 2)):
            product = sum(a * b for a, b in zip(points[i], points[j], strict=True))
            assert probs[p, row, column].item() == pytest.approx(1 / (1 + math.exp(-product)), rel=1e-12)


@pytest.mark.parametrize("features", [0, 2, 4, 7, 3_665_279])
def test_features_that_are_no_number_of_pairs_are_refused(features):
    with pytest.raises(ppvae.Problem, match="no graph has so many pairs|whole number"):
        ppvae.make("vgae", features=features, latents=2)


def test_every_number_of_pairs_has_its_number_of_nodes():
    assert [nodes_of(n * (n - 1) // 2) for n in range(2, 200)] == list(range(2, 200))


# --- the convolution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_convolution_is_a_product_with_the_normalised_adjacency(n):
    x, mask = some_graphs(4, n)
    mask[0] = False  # a graph of which nothing was seen
    x[1], mask[1] = 1, True
    h = torch.randn(4, n, 3)
    found = smooth((x > 0) & mask, h)
    for row in range(4):
        assert np.allclose(found[row], normalised(adjacency(x[row], mask[row], n)) @ h[row].numpy(), atol=1e-14)


def test_the_convolution_is_an_operation_as_torch_wants_it():
    """Its gradient against differences, its shapes without values, and that it changes nothing."""
    x, mask = some_graphs(2, 5)
    linked, h = (x > 0) & mask, torch.randn(2, 5, 3, requires_grad=True)
    torch.library.opcheck(
        smooth, (linked, h), test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )
    assert torch.autograd.gradcheck(lambda h: smooth(linked, h), h)


@pytest.mark.parametrize(("name", "attributes", "hidden"), [*itertools.product(NAMES, (None, 4), ((6,), (6, 3), ()))])
def test_the_encoder_is_the_networks_of_the_paper(name, attributes, hidden):
    n, K = 5, 2
    made = pair(name, n, K, attributes=attributes, hidden=hidden)
    x, mask = some_graphs(3, n)
    nodes = None if attributes is None else torch.randn(3, n, attributes)
    found = encoded(made, x, mask, nodes)
    *weights, last = (p.detach().numpy() for p in made.encoder.parameters())
    for row in range(3):
        smoothing = normalised(adjacency(x[row], mask[row], n))
        h = np.eye(n) if nodes is None else nodes[row].numpy()
        for W in weights:
            h = np.maximum(smoothing @ h @ W, 0)
        heads = np.split(smoothing @ h @ last, len(found), 1)
        assert np.allclose(found[0][row].detach(), heads[0], atol=1e-13)
        if name == "vgae":
            assert np.allclose(found[1][row].detach(), np.exp(heads[1]) + 1e-3, atol=1e-13)


def test_each_head_begins_as_one_of_its_own_width():
    """Uniform within sqrt(6 / (inputs + outputs)): Glorot & Bengio 2010, for each head by itself."""
    heads = pair("vgae", 30, 16, hidden=(32,)).encoder.heads.weight.detach()
    bound = math.sqrt(6 / (32 + 16))
    assert heads.shape == (32, 32) and 0.98 * bound < heads.abs().max() <= bound
    assert abs(heads.var() - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / heads.numel())


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_a_missing_pair_is_not_read(name):
    x, mask = some_graphs(3, 6)
    made = pair(name, 6)
    results = []
    for fill in (0.0, 1.0):
        filled = torch.where(mask, x, fill)
        codes = torch.cat(encoded(made, filled, mask), -1)
        torch.manual_seed(0)
        bound = WEIGHTED(made, filled, mask).sum()
        gradient = torch.autograd.grad(bound + codes.square().sum(), list(made.parameters()))
        results.append([codes, bound, *gradient])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("name", "attributes"), [*itertools.product(NAMES, (None, 4))])
def test_several_graphs_are_read_one_by_one(name, attributes):
    made = pair(name, 5, attributes=attributes)
    x, mask = some_graphs(3, 5)
    nodes = None if attributes is None else torch.randn(3, 5, attributes)
    together = encoded(made, x, mask, nodes)
    for row in range(3):
        alone = encoded(made, x[row : row + 1], mask[row : row + 1], None if nodes is None else nodes[row : row + 1])
        assert all(torch.allclose(a[row], b[0], atol=1e-14) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_nodes_permutes_their_codes(name):
    n = 6
    made = pair(name, n, attributes=3)
    x, mask = some_graphs(1, n)
    nodes, order = torch.randn(1, n, 3), torch.randperm(n)
    i, j = torch.triu_indices(n, n, 1)
    column = torch.zeros(n, n, dtype=torch.long)
    column[i, j] = column[j, i] = torch.arange(len(i))
    moved = column[order[i], order[j]]
    there = encoded(made, x[:, moved], mask[:, moved], nodes[:, order])
    here = encoded(made, x, mask, nodes)
    assert all(torch.allclose(a[:, order], b, atol=1e-13) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_nodes_without_links_have_finite_codes_bounds_and_gradients(name):
    x = graph_pairs([[0], [1]], 2).new_zeros(1, 15)
    x[0, 0] = 1
    mask = torch.ones_like(x, dtype=torch.bool)
    for hidden in (0, slice(None)):  # the one link is held out; nothing is seen at all
        mask[0, hidden] = False
        made = pair(name, 6)
        bound = WEIGHTED(made, x.double(), mask).sum()
        gradients = torch.autograd.grad(bound, list(made.parameters()), allow_unused=True)
        assert bound.isfinite() and all(g is None or g.isfinite().all() for g in gradients)


# --- bounds and objectives ------------------------------------------------------------------------------------------------


def test_bounds_of_a_tiny_graph_stay_below_the_evidence_and_reach_it():
    """n = 4, K = 1: log p(x_o) by Gauss-Hermite quadrature over the four latents."""
    x, mask = torch.tensor([[1.0, 0, 1, 1, 0, 1]]), torch.tensor([[True, True, False, True, True, True]])
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    z = np.stack(np.meshgrid(*[points] * 4, indexing="ij"), -1).reshape(-1, 4)
    prior = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4, indexing="ij"), -1).reshape(-1, 4), -1)
    likelihood = np.ones(len(z))
    for column, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        if mask[0, column]:
            sign = 1 if x[0, column] else -1
            likelihood *= 1 / (1 + np.exp(-sign * z[:, i] * z[:, j]))
    evidence = math.log(prior @ likelihood)

    made = pair("vgae", 4, latents=1)
    with torch.no_grad():
        weights = log_weights(made, ppvae.door.enter(made, x, mask), 200_000)[:, 0]
    elbo, w = weights.mean(), (weights - evidence).exp()
    assert elbo + 5 * weights.std() / math.sqrt(len(w)) < evidence
    assert abs(w.mean() - 1) < 5 * w.std() / math.sqrt(len(w))
    with torch.no_grad():
        closed = torch.stack([ppvae.elbo(2000)(made, x, mask) for _ in range(5)])
    assert abs(closed.mean() - elbo) < 5 * weights.std() / math.sqrt(10_000)


def test_the_weighted_bound_is_the_loss_of_the_paper():
    """Over the entries of A off its diagonal, M = n (n - 1): M (norm mean(w BCE) + KL / M), the mean of both halves."""
    n = 7
    x, _ = some_graphs(1, n)
    made = pair("vgae", n, 3)
    loc, scale = (t[0].detach().numpy() for t in encoded(made, x, True))
    torch.manual_seed(5)
    noise = torch.randn(1, 1, n, 3)[0, 0].numpy()
    torch.manual_seed(5)
    bound = WEIGHTED(made, x).item()
    z = loc + scale * noise
    A, logits, off = adjacency(x[0], x[0] >= 0, n), z @ z.T, ~np.eye(n, dtype=bool)
    M, links = off.sum(), A.sum()
    w = np.where(A > 0, (M - links) / links, 1.0)
    entropy = w * (np.log1p(np.exp(logits)) - A * logits)
    norm = M / (2 * (M - links))
    kl = -0.5 * np.sum(1 + 2 * np.log(scale) - loc**2 - scale**2)
    factor = M / (M - links)
    assert M * norm * entropy[off].mean() / factor == pytest.approx(-bound - kl, rel=1e-10)


@pytest.mark.parametrize(("name", "weight"), [("vgae", 1.0), ("gae", 0.0)])
def test_the_table_maximises_what_the_paper_does(name, weight):
    """Half the weighted cross-entropy of all n² entries of A + I, and the KL."""
    n = 7
    x, mask = some_graphs(1, n)
    made = pair(name, n, 3)
    torch.manual_seed(5)
    found = reproduce.as_published(weight, ppvae.balanced(x, mask))(made, x, mask).item()
    torch.manual_seed(5)
    loc, *scale = (t[0].detach().numpy() for t in encoded(made, x, mask))
    z = loc + (scale[0] * torch.randn(1, 1, n, 3)[0, 0].numpy() if scale else 0)
    A, seen = adjacency(x[0], mask[0], n), adjacency(torch.ones(21), mask[0], n)
    w = (seen.sum() - A.sum()) / A.sum()
    A, seen, logits = A + np.eye(n), seen + np.eye(n), z @ z.T
    entropy = (seen * np.where(A > 0, w, 1.0) * (np.log1p(np.exp(logits)) - A * logits)).sum()
    kl = -0.5 * np.sum(1 + 2 * np.log(scale[0]) - loc**2 - scale[0] ** 2) if scale else 0.0
    assert -found == pytest.approx(entropy / 2 + weight * kl, rel=1e-10)


def test_without_weight_of_the_kl_a_point_is_fitted_by_the_likelihood_alone():
    x, mask = some_graphs(2, 5)
    made = pair("gae", 5)
    likelihood = ppvae.elbo().terms(made, x, mask).likelihood
    assert torch.equal(ppvae.elbo(kl=ppvae.beta(0.0))(made, x, mask), likelihood)
    z = encoded(made, x, mask)[0]
    by_hand = -0.5 * (z**2 + math.log(2 * math.pi)).sum((1, 2))
    assert torch.allclose(ppvae.elbo()(made, x, mask), likelihood + by_hand, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_staged_step_follows_graphs_with_other_numbers_of_links(name):
    """Batches of one shape whose links differ in number: bit for bit the eager step's."""
    x, mask = some_graphs(6, 6)
    x[0] = 0
    x[1] = 1
    nodes, ends = torch.randn(6, 6, 3), []
    for compile in ("auto", "off"):
        made = pair(name, 6, attributes=3)
        options = {"epochs": 4, "batch_size": 2, "compile": compile, "learning_rate": 1e-2}
        fitted = ppvae.fit(made, {"x": x, "nodes": nodes}, mask, objective=WEIGHTED, **options)
        assert fitted.step.startswith("staged" if compile == "auto" else "eager")
        ends.append(made.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_with_pairs_held_out_is_fitted(name):
    x, mask = some_graphs(1, 8)
    made = pair(name, 8)
    before = WEIGHTED(made, x, mask).item()
    fitted = ppvae.fit(made, x, mask, objective=WEIGHTED, epochs=60, learning_rate=3e-2)
    assert fitted.step == "staged" and fitted.history[-1]["bound"] > before


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_pair_holds_weights_alone(name, tmp_path):
    made = pair(name, 6, attributes=3)
    ppvae.save(made, tmp_path / "graph.pt")
    again = ppvae.load(tmp_path / "graph.pt")
    x, mask = some_graphs(2, 6)
    nodes = torch.randn(2, 6, 3)
    assert all("weight" in key for key in made.state_dict())
    assert all(map(torch.equal, encoded(made, x, mask, nodes), encoded(again, x, mask, nodes)))


@pytest.mark.parametrize(
    ("attributes", "nodes", "words"),
    [
        (3, None, "no 'nodes'"),
        (None, (2, 5, 3), "made without attributes"),
        (3, (2, 5, 4), r"has shape \(2, 5, 4\), where \(2, 5, 3\) belongs"),
        (3, (2, 6, 3), r"has shape \(2, 6, 3\), where \(2, 5, 3\) belongs"),
        (3, (2, 5), r"has shape \(2, 5\)"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_attributes_that_do_not_fit_are_refused(name, attributes, nodes, words):
    made = pair(name, 5, attributes=attributes)
    entries = {"x": some_graphs(2, 5)[0]} | ({} if nodes is None else {"nodes": torch.randn(nodes)})
    with pytest.raises(ppvae.Problem, match=words):
        ppvae.fit(made, entries, epochs=1)


@pytest.mark.parametrize(
    "options",
    [{"hidden": 3}, {"hidden": (0,)}, {"hidden": ("3",)}, {"attributes": 0}, {"attributes": 2.0}, {"attributes": True}],
)
def test_sizes_that_are_none_are_refused(options):
    with pytest.raises(ppvae.Problem, match="hidden is|attributes is"):
        ppvae.make("vgae", features=10, latents=2, **options)


def chance_of_auc(links, others):
    """Standard deviation of the AUC of scores that know nothing (Mann & Whitney 1947)."""
    return math.sqrt((links + others + 1) / (12 * links * others))


@pytest.mark.parametrize("name", NAMES)
def test_links_of_blocks_are_predicted(name):
    torch.set_default_dtype(torch.float32)
    made_up = reproduce.blocks(nodes=80, within=0.6)
    split = held_out_links(made_up.x, 0)
    _, codes = reproduce.fit_codes(name, made_up, split, False, 200, 0)[
        -1
    ]  # without attributes: nothing to go by at first
    auc, _ = reproduce.ranked(codes, made_up.x, split.test)
    held_out = int(split.test.sum()) // 2
    assert auc > 0.5 + 5 * chance_of_auc(held_out, held_out)


# --- data -----------------------------------------------------------------------------------------------------------------


def test_a_list_of_links_becomes_a_row_of_pairs():
    edges = np.array([[0, 3, 1, 4], [2, 1, 4, 0]])
    x = graph_pairs(edges, 5)
    wanted = [{i, j} in [set(e) for e in edges.T.tolist()] for i, j in itertools.combinations(range(5), 2)]
    assert x.shape == (1, 10) and x.dtype == torch.float32 and x[0].bool().tolist() == wanted
    assert torch.equal(x, graph_pairs(torch.from_numpy(edges).flip(0), 5))
    assert torch.equal(x, graph_pairs(edges.astype(float).tolist(), 5))


@pytest.mark.parametrize(
    ("edges", "nodes", "words"),
    [
        ([[0, 1], [1, 1]], 3, r"link 1 is \[1, 1\]: a node linked to itself \(1 such"),
        ([[0, 1, 1], [1, 2, 0]], 3, r"the link of 0 and 1 stands in columns 0 and 2 \(1 such"),
        ([[0, 1, 0], [1, 2, 1]], 3, "the link of 0 and 1 stands in columns 0 and 2"),
        ([[0, 1], [1, 3]], 3, r"link 1 is \[1, 3\]: outside 0 … 2"),
        ([[0, -1], [1, 2]], 3, r"link 1 is \[-1, 2\]: outside"),
        ([[0.0, 1.5], [1.0, 2.0]], 3, r"link 1 is \[1.5, 2.0\]: not whole"),
        ([[0.0, math.nan], [1.0, 2.0]], 3, "link 1 is .*not whole"),
        ([[0, 1, 2], [1, 2, 0], [2, 0, 1]], 3, r"shape \(3, 3\)"),
        ([0, 1], 3, r"shape \(2,\)"),
        ([[], []], 3, "there is no link"),
        ([[True, False], [False, True]], 3, "bool values"),
        ([["a"], ["b"]], 3, "<U1 values"),
        (torch.eye(2) > 0, 3, "bool values"),
        ([[0], [1]], 1, "nodes is 1"),
        ([[0], [1]], 2.0, "nodes is 2.0"),
    ],
)
def test_lists_that_are_no_graph_are_refused(edges, nodes, words):
    with pytest.raises(ppvae.Problem, match=words):
        graph_pairs(edges, nodes)


def test_nodes_without_links_are_said():
    with pytest.warns(ppvae.Caution, match="2 of 4 nodes have no link"):
        graph_pairs([[0], [3]], 4)


def test_held_out_links_are_links_and_as_many_pairs_without_one():
    x = (torch.rand(1, 780, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    links = int(x.sum())
    found = held_out_links(x, 3)
    for part, share in ((found.valid, 0.05), (found.test, 0.1)):
        assert part.shape == x.shape and part.dtype == torch.bool
        assert x[part].sum() == int(share * links) and (x[part] == 0).sum() == int(share * links)
    assert (found.mask.int() + found.valid.int() + found.test.int() == 1).all()
    assert all(map(torch.equal, found, held_out_links(x, 3)))
    assert not torch.equal(found.test, held_out_links(x, 4).test)
    none = held_out_links(x, valid=0)
    assert not none.valid.any() and none.test.any()


def test_every_pair_is_held_out_alike():
    """Over 400 splits each link is in the test part with the same chance, each non-link too, within 5 sigma."""
    x = torch.zeros(1, 66)
    x[0, ::3] = 1
    times = sum(held_out_links(x, seed).test.double() for seed in range(400))[0]
    for kind in (x[0] == 1, x[0] == 0):
        share = times[kind].mean() / 400
        assert ((times[kind] - 400 * share).abs() < 5 * (400 * share * (1 - share)).sqrt()).all()


def test_missing_pairs_are_held_out_of_nothing():
    x = (torch.rand(1, 780, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    x[0, :300] = torch.nan
    found = held_out_links(x)
    assert not any(part[0, :300].any() for part in found)
    assert (found.mask.int() + found.valid.int() + found.test.int())[0, 300:].eq(1).all()


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (torch.zeros(1, 10), {}, "no pair is linked"),
        (torch.full((1, 10), math.nan), {}, "every pair is missing"),
        (torch.ones(2, 10), {}, r"x is of shape \(2, 10\)"),
        ([[0, 1]], {}, "x is a list"),
        (torch.tensor([[0, 1, 0.5]]), {}, "x is 0.5 at column 2"),
        (torch.ones(1, 780), {}, "as many of 0 pairs without one"),
        (torch.eye(780)[:1], {}, "rounds to none"),
        (torch.arange(780)[None] < 3, {"valid": 0, "test": 0.2}, "(?s)rounds to none.*test=0.34"),
        (torch.arange(780)[None] % 2, {"valid": 0.5, "test": 0.6}, "429 of 390 links"),
        (torch.arange(780)[None] % 2, {"test": 1.0}, "test is 1.0"),
        (torch.arange(780)[None] % 2, {"valid": -0.1}, "valid is -0.1"),
        (torch.arange(780)[None] % 2, {"valid": "0.1"}, "valid is '0.1'"),
        (torch.arange(780)[None] % 2, {"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(x, options, words):
    with pytest.raises(ppvae.Problem, match=words):
        held_out_links(x.float() if isinstance(x, torch.Tensor) else x, **options)


SIZES = {"cora": (2708, 5278, 1433, 0), "citeseer": (3327, 4552, 3703, 48)}


@pytest.mark.parametrize("name", SIZES)
def test_the_citation_networks_are_those_of_the_paper(name, data_folder):
    found = graph(name, folder=data_folder)
    n, E, F, alone = SIZES[name]
    assert (found.nodes, found.edges.shape, found.attributes.shape) == (n, (2, E), (1, n, F))
    assert found.x.shape == (1, n * (n - 1) // 2) and found.x.sum() == E and len(found.label) == n
    assert n - len(found.edges.unique()) == alone and (found.edges[0] < found.edges[1]).all()
    raw = np.load(data_folder / f"planetoid/{name}.npz", allow_pickle=False)
    row = n // 2
    words = raw["feat_indices"][raw["feat_indptr"][row] : raw["feat_indptr"][row + 1]]
    assert found.attributes[0, row].nonzero().flatten().tolist() == sorted(words.tolist())
    assert f"{name}: {n} nodes, {E} links, {F} attributes" in repr(found)


def test_graphs_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("PPVAE_DATA", raising=False)
    with pytest.raises(ppvae.Problem, match="kimiyoung/planetoid.*\n.*PPVAE_DATA"):
        graph("cora")
    with pytest.raises(ppvae.Problem, match="cora.npz is not in"):
        graph("cora", folder=tmp_path)
    with pytest.raises(ppvae.Problem, match="is not a folder"):
        graph("cora", folder=tmp_path / "nowhere")
    with pytest.raises(ppvae.Problem, match="no graph 'coora'"):
        graph("coora")
    np.savez(tmp_path / "cora.npz", **{key: np.zeros((2, 3)) for key in data.ARRAYS})
    with pytest.raises(ppvae.Problem, match="sha256"):
        graph("cora", folder=tmp_path)


# --- the table ------------------------------------------------------------------------------------------------------------


def test_the_table_has_each_row_and_a_picture(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setitem(reproduce.BUDGETS, "smoke", reproduce.Budget(("blocks",), 3))
    with joblib.parallel_config(backend="sequential"):
        cells = reproduce.vgae(Run(seeds=1, budget="smoke", figures=tmp_path))
    assert [(cell.row, cell.column) for cell in cells] == [
        (row, f"Blocks, {column}") for row in reproduce.ROWS for column in ("AUC", "AP", "steps", "AUC after all")
    ]
    assert all(0 <= cell.value <= 1 for cell in cells if "steps" not in cell.column)
    assert [file.name for file in tmp_path.iterdir()] == ["vgae-blocks.png"]


def test_the_published_figures_have_their_places():
    assert (
        reproduce.REFERENCE["VGAE", "Cora, AUC"] == 0.914
        and reproduce.REFERENCE["GAE, no features", "Citeseer, AP"] == 0.841
    )
    assert len(reproduce.REFERENCE) == 16


def test_auc_and_average_precision_are_of_the_pairs_held_out():
    """The pairs of four points: three links and one pair that is none are scored, by products 6, 3, 2 and 4."""
    codes = torch.tensor([[1.0, 0.0], [6.0, 0.0], [3.0, 1.0], [2.0, -2.0]])
    x = torch.tensor([[1.0, 1, 1, 0, 0, 0]])  # (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
    held_out = torch.tensor([[True, True, True, False, False, True]])
    auc, precision = reproduce.ranked(codes, x, held_out)
    assert auc == 1 / 3 and precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@pytest.mark.parametrize("pair, reads", reproduce.ROWS.values())
def test_what_is_held_out_moves_no_bit_of_the_codes(pair, reads):
    torch.set_default_dtype(torch.float32)
    data = reproduce.blocks()
    split = held_out_links(data.x, 0)
    turned = replace(data, x=torch.where(split.mask, data.x, 1 - data.x))
    found = [reproduce.fit_codes(pair, of, split, reads, 5, 0)[-1][1] for of in (data, turned)]
    assert torch.equal(*found)
    seen = split.mask.clone()
    seen[:, data.x[0].nonzero()[:40, 0]] = False  # what is not held out does
    assert not torch.equal(found[0], reproduce.fit_codes(pair, data, split._replace(mask=seen), reads, 5, 0)[-1][1])


def test_of_several_first_weights_the_best_go_on(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(reproduce, "TRIED", 2)
    data = reproduce.blocks()
    split = held_out_links(data.x, 0)
    with own_generators(1):
        starts = [reproduce.Start("gae", data, split, True) for _ in range(reproduce.STARTS)]
    for start in starts:
        start.go_on(2)
    best = max(range(len(starts)), key=lambda i: starts[i].number)
    found = reproduce.fit_codes("gae", data, split, True, 4, 1)
    assert [step for step, _ in found] == [2, 4] and len({start.number for start in starts}) == len(starts)
    assert torch.equal(found[0][1], starts[best].found[0][1]) and not torch.equal(found[0][1], found[1][1])


def test_choices_are_made_by_the_pairs_for_choices_and_the_others_are_scored():
    torch.set_default_dtype(torch.float32)
    data = reproduce.blocks()
    split = held_out_links(data.x, 3)
    (look,) = reproduce._one("blocks", "VGAE", 3, 5)[1]
    (_, codes), *_ = reproduce.fit_codes("vgae", data, split, True, 5, 3)
    assert look == (5, reproduce.ranked(codes, data.x, split.valid)[0], *reproduce.ranked(codes, data.x, split.test))


def test_the_number_of_steps_is_that_of_the_best_mean_over_splits():
    valid = [[0.5, 0.8, 0.6], [0.5, 0.6, 0.9]]
    looks = [[reproduce.Look(10 * (k + 1), v, 0.0, 0.0) for k, v in enumerate(row)] for row in valid]
    assert reproduce.best(looks) == 2
