"""What a pair is made of, and what the catalogue keeps."""

import pickle
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, pair
from ppvae.models.factor_analysis import Decoder, model
from pyro import poutine
from torch import nn

import ppvae
from ppvae.files import read_record, write_record


def guide(encoder, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(encoder(x)[:, None], 1.0).to_event(1))


def test_a_pair_of_ones_own_in_ten_lines():
    mine = ppvae.Pair(model, guide, decoder=Decoder(4, 2), encoder=nn.Linear(4, 2))
    assert mine.entries == {"x": False} and not mine.exact
    x = mine.model(size=6).detach()
    ppvae.check(mine, x)
    ppvae.fit(mine, x, epochs=2)
    assert ppvae.condition(mine, x).log_evidence(20).shape == (6,)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ({"decoder": Decoder(4, 2), "encodr": nn.Linear(4, 2)}, "'encodr'"),
        ({"decoder": Decoder(4, 2), "training": nn.Linear(4, 2)}, "'training'"),
        ({"decoder": Decoder(4, 2), "forward": nn.Linear(4, 2)}, "'forward'"),
        ({"decoder": Decoder(4, 2), "encoder": torch.relu}, "not a torch.nn.Module"),
    ],
)
def test_a_wrong_module_is_refused(modules, says):
    with pytest.raises(ppvae.Problem, match=says):
        ppvae.Pair(model, guide, **modules)


def test_reserved_names_are_refused():
    for name in ("x", "mask", "size"):
        with pytest.raises(ppvae.Problem, match="meaning of its own"):
            ppvae.Pair(model, guide, decoder=Decoder(4, 2), **{name: nn.Linear(4, 2)})


def test_a_module_that_is_not_given_is_asked_for_by_name():
    with pytest.raises(ppvae.Problem, match="'encoder'"):
        ppvae.elbo()(ppvae.Pair(model, guide, decoder=Decoder(4, 2)), torch.randn(3, 4))


def test_loose_parameters_are_refused():
    def loose(decoder, x=None, **kw):
        return None

    with pytest.raises(ppvae.Problem, match="kw"):
        ppvae.Pair(loose, decoder=Decoder(4, 2))


def test_a_guide_without_a_mask_meets_missing_entries():
    def blind(encoder, x):
        guide(encoder, x)

    mine = ppvae.Pair(model, blind, decoder=Decoder(4, 2), encoder=nn.Linear(4, 2))
    x = torch.randn(5, 4)
    ppvae.elbo()(mine, x)
    with pytest.raises(ppvae.Problem, match="takes no mask"):
        ppvae.elbo()(mine, x, torch.rand(5, 4) > 0.5)


def test_a_guide_that_lacks_a_latent_is_refused_by_check():
    def empty(encoder, x, mask=True):
        encoder(x)

    with pytest.raises(ppvae.Problem, match="no site for the latent 'z'"):
        ppvae.check(ppvae.Pair(model, empty, decoder=Decoder(4, 2), encoder=nn.Linear(4, 2)), torch.randn(5, 4))


def test_what_fills_a_missing_entry_is_inside_the_support():
    for make_site, support in (
        (lambda: dist.LogNormal(torch.zeros(3), 1.0), "positive"),
        (lambda: dist.Beta(torch.ones(3), 1.0), "unit"),
        (lambda: dist.Poisson(torch.ones(3)), "count"),
        (lambda: dist.Normal(torch.zeros(3), 1.0), "real"),
        (lambda: dist.Gamma(torch.ones(3), 1.0), "positive"),
    ):

        def story(x=None, mask=True, *, size=1, make_site=make_site):
            with pyro.plate("data", size if x is None else len(x), dim=-2), pyro.plate("features", 3, dim=-1):
                with poutine.mask(mask=mask):
                    return pyro.sample("x", make_site(), obs=x)

        fill = torch.as_tensor(ppvae.Pair(story).fill("x"))
        assert make_site().support.check(fill) and make_site().log_prob(fill).isfinite().all(), support


def test_there_is_one_copy_of_every_class():
    assert "models" not in sys.modules and "guides" not in sys.modules
    for name in ppvae.names():
        for part in pair(name).modules():
            assert type(part).__module__.startswith(("ppvae.", "torch."))


def test_models_never_import_guides_and_the_machinery_names_no_model():
    root = Path(__file__).parent.parent
    for file in (root / "models").glob("*.py"):
        assert "guides" not in file.read_text(), file
    stories = {f.stem for f in (root / "models").glob("*.py")} - {"__init__", "vae", "factor_analysis", "mixed_vae"}
    for file in (root / "ppvae").rglob("*.py"):
        if file.parent.name in ("reproduce", "bench"):  # tables and timings are about pairs by name
            continue
        words = file.read_text().replace("ppvae.models.bayesian_linear", "")  # an example in a message
        assert not [s for s in stories if s in words], file


def test_a_file_of_another_version_is_refused_in_words(tmp_path):
    path = tmp_path / "old.pt"
    ppvae.save(ppvae.make("factor_analysis_exact", features=3, latents=1), path)
    record = read_record(path)
    record["state"]["decoder.V"] = record["state"].pop("decoder.W")
    write_record(path, record)
    with pytest.raises(ppvae.Problem, match="saved by another version"):
        ppvae.load(path)


def test_make_refuses_what_it_does_not_know():
    with pytest.raises(ppvae.Problem, match="no pair 'vea'"):
        ppvae.make("vea", features=3, latents=2)
    with pytest.raises(ppvae.Problem, match="no option 'widths'"):
        ppvae.make("vae", features=3, latents=2, widths=(3,))
    with pytest.raises(ppvae.Problem, match="latents is 0"):
        ppvae.make("vae", features=3, latents=0)
    with pytest.raises(ppvae.Problem, match="likelihood 'poisson'"):
        ppvae.make("vae", features=3, latents=2, likelihood="poisson")
    with pytest.raises(ppvae.Problem, match="no image"):
        ppvae.make("conv_vae", features=15, latents=2)


def test_a_saved_pair_runs_no_code_when_it_is_loaded(tmp_path):
    made = pair("vae", hidden=(8,))
    ppvae.save(made, tmp_path / "a.pt")
    record = torch.load(tmp_path / "a.pt", weights_only=True)
    assert record["name"] == "vae" and record["arguments"]["hidden"] == (8,)
    assert [f.name for f in tmp_path.iterdir()] == ["a.pt"]  # no draft stays behind

    class Code:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "ran", "yes"))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Code()))
    torch.save({"ppvae": 1, "x": Code()}, tmp_path / "worse.pt")
    for name in ("evil.pt", "worse.pt", "absent.pt"):
        with pytest.raises(ppvae.Problem):
            ppvae.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ppvae.Problem, match="does not hold a pair"):
        ppvae.load(tmp_path / "list.pt")


def test_a_pair_of_ones_own_is_not_saved_by_name(tmp_path):
    mine = ppvae.Pair(model, guide, decoder=Decoder(4, 2), encoder=nn.Linear(4, 2))
    with pytest.raises(ppvae.Problem, match="not built by ppvae.make"):
        ppvae.save(mine, tmp_path / "a.pt")
    with pytest.raises(ppvae.Problem, match="no folder"):
        ppvae.save(pair("vae"), tmp_path / "nowhere" / "a.pt")
    assert not list(tmp_path.iterdir())


def test_importing_changes_no_global_switch():
    code = (
        "import torch, pyro; a = (torch.distributions.Distribution._validate_args, torch.get_default_dtype(), len(pyro.get_param_store()));"
        "import ppvae; b = (torch.distributions.Distribution._validate_args, torch.get_default_dtype(), len(pyro.get_param_store()));"
        "assert a == b, (a, b)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_conv_layers_see_particles_and_odd_images():
    for features, options in ((49, {}), (28 * 20, {"height": 28}), (3 * 25, {"channels": 3})):
        made = pair("conv_vae", features=features, **options)
        entries, mask = data(made, rows=4)
        assert ppvae.iw_elbo(3)(made, entries, {"x": mask}).shape == (4,)
