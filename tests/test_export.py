"""What leaves for ArviZ: groups, files written block by block, and leave-one-out against the dense answer."""

import warnings

import arviz
import matplotlib
import numpy as np
import pytest
import torch
import xarray
from examples import linear_gaussian

import ppvae
from ppvae.conditioning import export

matplotlib.use("Agg")


def parts(made, x, mask, draws=200):
    """The arguments of `export.datatree`, made by hand from the exact posterior of factor analysis."""
    d = made.decoder
    with torch.no_grad():
        z = ppvae.condition(made, x, mask).sample(draws)["z"]
        likelihood = torch.distributions.Normal(z @ d.W.T + d.loc, d.scale)
        prior = torch.randn(draws, len(x), z.shape[-1])
        return {
            "draws": {"z": z},
            "completed": torch.where(mask, x, likelihood.sample()),
            "log_likelihood": likelihood.log_prob(x) * mask,
            "x": x,
            "mask": mask,
            "prior": {"z": prior, "x": torch.distributions.Normal(prior @ d.W.T + d.loc, d.scale).sample()},
            "sample_stats": {
                "log_weight": torch.randn(draws, len(x)),
                "ess": torch.full((len(x),), float(draws)),
                "pareto_k": torch.full((len(x),), -torch.inf),
            },
        }


def rows_of(given, where):
    cut = {name: given[name][:, where] for name in ("completed", "log_likelihood")}
    stats = {name: v[..., where] for name, v in given["sample_stats"].items()}
    both = {name: {k: v[:, where] for k, v in given[name].items()} for name in ("draws", "prior")}
    return export.datatree(**cut, **both, sample_stats=stats, x=given["x"][where], mask=given["mask"][where])


def test_the_groups_hold_the_prior_and_the_weights_under_arvizs_names(tmp_path):
    made, x, mask = linear_gaussian(N=6, D=4, K=2)
    given = parts(made, x, mask)
    tree = export.datatree(**given)
    assert set(tree.children) >= {"posterior", "prior", "prior_predictive", "sample_stats", "log_likelihood"}
    tree.to_netcdf(tmp_path / "run.nc")
    read = arviz.from_netcdf(tmp_path / "run.nc")
    assert read.prior["z"].dims == ("chain", "draw", "row", "z_dim_1") and "x" not in read.prior
    assert np.array_equal(read.prior_predictive["x"].values[0], given["prior"]["x"].numpy())
    assert read.sample_stats["log_weight"].dims == ("chain", "draw", "row")
    assert np.array_equal(read.sample_stats["log_weight"].values[0], given["sample_stats"]["log_weight"].numpy())
    assert read.sample_stats["ess"].dims == ("row",) and (read.sample_stats["pareto_k"].values == -np.inf).all()


def test_a_file_written_in_blocks_is_that_of_the_whole_tree(tmp_path):
    made, x, mask = linear_gaussian(N=11, D=4, K=2)
    given = parts(made, x, mask, draws=7)
    export.datatree(**given).to_netcdf(tmp_path / "whole.nc")
    blocks = (rows_of(given, slice(start, start + 4)) for start in range(0, 11, 4))
    export.write(tmp_path / "blocks.nc", blocks, rows=11)
    whole, cut = (xarray.open_datatree(tmp_path / name) for name in ("whole.nc", "blocks.nc"))
    assert set(whole.children) == set(cut.children)
    for group in whole.children:
        xarray.testing.assert_identical(whole[group].to_dataset(), cut[group].to_dataset())
        for name, variable in whole[group].data_vars.items():
            assert cut[group][name].dtype == variable.dtype
    assert arviz.from_netcdf(tmp_path / "blocks.nc").constant_data["mask"].dtype == bool


def test_nothing_is_left_behind_by_blocks_that_do_not_add_up(tmp_path):
    made, x, mask = linear_gaussian(N=8, D=4, K=2)
    given, path = parts(made, x, mask, draws=3), tmp_path / "run.nc"
    path.write_text("kept")
    for rows in (5, 9):
        with pytest.raises(ppvae.Problem, match="rows"):
            export.write(path, (rows_of(given, slice(s, s + 4)) for s in (0, 4)), rows=rows)
    assert path.read_text() == "kept" and [p.name for p in tmp_path.iterdir()] == ["run.nc"]


def test_arviz_summarises_plots_and_leaves_one_out(tmp_path):
    """PSIS-LOO of each observed entry against the dense log p(x_nd | the row's other entries)."""
    made, x, mask = linear_gaussian(N=12, D=8, K=2)
    made.decoder.log_scale.data.fill_(0.0)  # no entry alone decides: importance weights can leave it out
    with torch.no_grad():
        x = made.model(size=12)
    export.datatree(**parts(made, x, mask, draws=4000)).to_netcdf(tmp_path / "run.nc")
    read = arviz.from_netcdf(tmp_path / "run.nc")
    assert len(arviz.summary(read, kind="stats")) == 24
    axes = arviz.plot_forest(read, var_names=["z"], coords={"row": [0, 1]})
    assert axes is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the entries that are missing are constant, and ArviZ says so
        loo = arviz.loo(read, pointwise=True, var_name="x")
    d = made.decoder
    covariance = (d.W @ d.W.T + torch.diag(d.scale**2)).detach()
    exact = torch.zeros(12, 8)
    for n, k in mask.nonzero().tolist():
        o = mask[n].clone()
        o[k] = False
        gain = covariance[k, o] @ torch.linalg.inv(covariance[o][:, o]) if o.any() else torch.zeros(0)
        mean = d.loc[k] + gain @ (x[n, o] - d.loc[o])
        exact[n, k] = torch.distributions.Normal(mean, (covariance[k, k] - gain @ covariance[o, k]).sqrt()).log_prob(
            x[n, k]
        )
    found = torch.as_tensor(loo.loo_i.values)
    steady = mask & torch.as_tensor(loo.pareto_k.values < 0.7)
    assert steady.sum() > 0.8 * mask.sum()
    assert (found - exact)[steady].abs().mean() < 0.05 and abs((found - exact)[steady].sum()) < 0.5
