"""The table of objects of parts: what is dropped, how it is scored, and that it is made whole."""

import json

import pytest
import torch

from ppvae.data.shapes import shapes
from ppvae.nn import patterns
from ppvae.reproduce import shapes as table
from ppvae.reproduce.run import Run

TINY = table.Budget(40, 300, 1, 1e-3, 1.0, (8, 8), 4, 3, 3, 2, 5, 3, (2, 1, 1))


@pytest.fixture(scope="module")
def chairs():
    return shapes("chairs", rows=60, points=300)


def test_parts_are_dropped_whole_a_quarter_of_them_never_all_and_never_none(chairs):
    rows = chairs.rows("train")
    dropped = table.drop_parts(chairs, rows, 3000, seed=0)
    whole = torch.stack([p.isnan().all(-1) for p in dropped.x.split(chairs.sizes, -1)], -1)
    some = torch.stack([p.isnan().any(-1) for p in dropped.x.split(chairs.sizes, -1)], -1)
    assert torch.equal(whole, some)
    there = dropped.exists > 0
    gone = whole & there
    assert gone.any(-1).all() and (there & ~gone).any(-1).all() and whole[~there].all()
    assert torch.equal(dropped.x[~dropped.x.isnan()], dropped.truth[~dropped.x.isnan()])
    # what a loop of independent draws that starts again at all or none gives, part by part
    draw = torch.Generator().manual_seed(1)
    counts = there.sum(-1)
    expected = torch.stack([_share(int(c), draw) for c in counts.unique()])
    for c, share in zip(counts.unique(), expected, strict=True):
        found = gone[counts == c].sum(-1).double() / c
        assert abs(found.mean() - share) < 5 * (0.25 * 0.75 / c / len(found)) ** 0.5 + 0.01


def _share(parts, draw):
    kept = torch.rand(20000, parts, generator=draw) >= 0.25
    fine = kept.any(-1) & ~kept.all(-1)
    return (~kept[fine]).double().mean()


def test_the_error_is_that_of_hidden_entries_of_parts_that_exist(chairs):
    dropped = table.drop_parts(chairs, chairs.rows("train"), 5, seed=0)
    found = table.error(torch.where(dropped.x.isnan(), dropped.truth.nan_to_num() + 0.5, dropped.x), dropped)
    assert torch.allclose(found.double(), torch.full((5,), 0.25), atol=1e-6)


def test_the_angle_between_normals_is_in_degrees():
    a = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0]])
    b = torch.tensor([[9.0, 9, 9, 1, 1, 0, 9, 9, 9, 0, 3, 0]])
    assert abs(table.angle(b, a) - 22.5) < 1e-4
    b[0, 6:] = torch.nan  # absent
    assert abs(table.angle(b, a) - 45) < 1e-4


def test_layerwise_of_shapes_beats_a_gaussian_of_each_pattern(chairs):
    made = table.noisy(chairs, 0)
    rows = made.rows("train")
    spent = TINY._replace(linear=6, iterations=30)
    seen = patterns(rows["exists"])
    fitted = table.fit_linear(Run(), made, rows, seen, 8, spent, 0)
    parts = table.Parts(made.x.shape[1], made.sizes, seen)
    plain = table.ppvae.Pair(
        table.shape_gaussian.model, decoder=table.shape_gaussian.Decoder(parts, rows["x"], rows["exists"])
    )
    test = {name: value.double() for name, value in made.rows("valid").items()}
    known = (test["exists"][:, None] == parts.bits).all(-1).any(-1)
    test = {name: value[known] for name, value in test.items()}
    ours = table.evidence("ShapeFA-8", fitted, test, spent).mean()
    assert ours > table.evidence(table.GAUSSIAN, plain, test, spent).mean() + 0.1


@pytest.mark.filterwarnings("ignore::ppvae.Caution")  # three iterations of EM
def test_the_table_is_made(ppvae_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(table.BUDGETS, "smoke", TINY)
    monkeypatch.setattr(table, "CLASSES", ("chairs", "humans"))
    monkeypatch.delenv("PPVAE_DATA", raising=False)
    monkeypatch.setattr(table, "LATENTS", (8, 64))
    monkeypatch.setitem(table.BUDGETS, "smoke", TINY._replace(linear=7))
    code, out, err = ppvae_("reproduce", "shapes", "--budget", "smoke", "--json", "t.json", "--figures", "pictures")
    assert code == 0, err
    assert "humans are left out: no folder holds human_shapes.npz" in out
    found = {(c["row"], c["column"]): c["value"] for c in json.loads((tmp_path / "t.json").read_text())["results"]}
    assert {row for row, _ in found} == set(table.ROWS)
    assert {column for _, column in found} == {f"{m}, chairs" for m in table.MEASURES}
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {
        f"chairs-{n}.png"
        for n in ("samples", "completions", "traversals", "interpolations", "normals", "surfaces", "latents")
    }
