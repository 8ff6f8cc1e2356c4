"""What tests/test_processes.py runs in one process and in two: fits by name, and fits that are refused."""

import os
import signal
import traceback

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from examples import pair
from torch import nn

import ppvae
from ppvae.fitting.update import Update

N, D = 33, 6  # four batches of 8, and one of a single row: the second process has none of it
OPTIONS = {"epochs": 5, "batch_size": 8, "learning_rate": 1e-2, "compile": "off"}
STAGED = {"compile": "auto"}  # takes a second a fit


def rows():
    generator = torch.Generator().manual_seed(4)
    real = torch.randn(N, D, generator=generator)
    grey = torch.rand(N, D, generator=generator)
    mask = torch.rand(N, D, generator=generator) > 0.3
    mask[:, 0] = True
    return real, grey, (grey < 0.4).to(real), mask


class Numbers(nn.Module):
    def __init__(self, seed=3, **shapes):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))


def mixture(theta, x=None, mask=True, *, size=1):
    """y ~ Categorical(logits),  x | y ~ N(loc_y, 1)."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=theta.logits)).long()
        with pyro.plate("features", D, dim=-1):
            return pyro.sample("x", dist.Normal(theta.loc[y.squeeze(-1)], 1.0), obs=x)


def classes(infer):
    def guide(phi, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", dist.Categorical(logits=(x @ phi.A).unsqueeze(-2)), infer=infer)

    return guide


def mixed(infer=None):
    return ppvae.Pair(mixture, classes(infer or {}), theta=Numbers(logits=3, loc=(3, D)), phi=Numbers(5, A=(D, 3)))


def shares(theta, x=None, mask=True, *, size=1):
    """z ~ Dirichlet(1),  x | z ~ N(W z, 1)."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        z = pyro.sample("z", dist.Dirichlet(torch.ones(1, 3)))
        with pyro.plate("features", D, dim=-1):
            return pyro.sample("x", dist.Normal(torch.einsum("...k,dk->...d", z.squeeze(-2), theta.W), 1.0), obs=x)


def of_shares(phi, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Dirichlet(nn.functional.softplus(x @ phi.A + 1).unsqueeze(-2) + 0.1))


def angles(theta, x=None, mask=True, *, size=1):
    """z ~ VonMises(0, 1),  x | z ~ N(w z, 1)."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        z = pyro.sample("z", dist.VonMises(torch.zeros(1, 1), 1.0).to_event(1))
        with pyro.plate("features", D, dim=-1):
            return pyro.sample("x", dist.Normal(z.squeeze(-2) * theta.w, 1.0), obs=x)


def of_angles(phi, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.VonMises((x @ phi.A).unsqueeze(-2), 1.0).to_event(1))


def vae(name="vae", **options):
    return pair(name, features=D, hidden=(8,), **options)


def with_buffers():
    """A network that holds what is no number to be averaged: a causal mask, and flags."""
    made = vae()
    made.encoder.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1))
    made.encoder.register_buffer("flags", torch.tensor([True, False]), persistent=False)
    return made


def fits(folder):
    """What is fitted, by name: a pair, and how."""
    real, grey, bits, mask = rows()
    mapped = {}
    for name, x in {"grey": grey, "bits": bits}.items():
        path = f"{folder}/{name} {os.getpid()}.npy"
        np.save(path, x.numpy())
        mapped[name] = np.load(path, mmap_mode="r")
    labels = torch.arange(N) % 10
    inputs = torch.arange(2.0 * N).reshape(N, 2) / N
    return {
        "elbo, held out": (vae(), {"x": bits, "held_out": 0.25, "patience": 2, "epochs": 12, "learning_rate": 0.3}),
        "iw_elbo(5), missing": (vae(), {"x": bits, "mask": mask, "objective": ppvae.iw_elbo(5), **STAGED}),
        "not at random": (
            vae("vae_not_at_random"),
            {"x": real, "mask": mask, "objective": ppvae.iw_elbo(3), **STAGED},
        ),
        "dreg": (vae(), {"x": bits, "objective": ppvae.iw_elbo(5, gradient="dreg")}),
        "exact": (pair("factor_analysis_exact", features=D), {"x": real, "mask": mask, **STAGED}),
        "redrawn": (vae(), {"x": grey, "redraw": torch.bernoulli, **STAGED}),
        "redrawn from files": (vae(), {"x": mapped["grey"], "held_out": 0.25, "redraw": torch.bernoulli}),
        "buffers": (with_buffers(), {"x": bits}),
        "from files": (vae(), {"x": mapped["bits"], "held_out": 0.25}),
        "discrete, enumerated": (mixed({"enumerate": "parallel"}), {"x": real}),
        "discrete, score": (mixed(), {"x": real, "objective": ppvae.elbo(5, gradient="score")}),
        "discrete, vimco": (mixed(), {"x": real, "objective": ppvae.iw_elbo(5, gradient="vimco")}),
        "by rejection": (
            ppvae.Pair(shares, of_shares, theta=Numbers(W=(D, 3)), phi=Numbers(A=(D, 3))),
            {"x": real, **STAGED},
        ),
        "global": (pair("bayesian_linear", features=1), {"x": {"x": real[:, :1], "inputs": inputs}}),
        "asleep": (vae(), {"x": bits, "objective": ppvae.wake_sleep(sleep=True)}),
        "two layers, annealed": (
            vae("two_layer"),
            {"x": bits, "objective": ppvae.elbo(kl=ppvae.annealed(0.5)), "clip": 0.5},
        ),
        "labels": (
            vae("conditional_vae"),
            {"x": {"x": bits, "label": labels}, "objective": ppvae.elbo(kl=ppvae.capacity(1.0, 2.0))},
        ),
    }


def fitted(made, options):
    """A fit, with the bound of each of its steps."""
    bounds, plain = [], Update.__call__

    def noted(self, batch, done):
        numbers = plain(self, batch, done)
        bounds.append(float(numbers[0]))
        return numbers

    Update.__call__ = noted
    try:
        result = ppvae.fit(made, **{**OPTIONS, **options})
    finally:
        Update.__call__ = plain
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]
    return {
        "bounds": bounds,
        "history": history,
        "state": made.state_dict(),
        "stopped": result.stopped,
        "step": result.step,
    }


def resumed(path, seed=7):
    """A fit under a checkpoint, begun with other weights."""
    return fitted(vae(seed=seed), {"x": rows()[2], "held_out": 0.25, "checkpoint": path, "epochs": 4})


def interrupted(path):
    """The same, stopped in the third of its epochs; what is left is the file."""
    steps, plain = [], Update.__call__

    def stopping(self, batch, done):
        steps.append(1)
        if len(steps) == 9:  # four a pass
            raise KeyboardInterrupt
        return plain(self, batch, done)

    Update.__call__ = stopping
    try:
        ppvae.fit(vae(), rows()[2], held_out=0.25, checkpoint=path, **{**OPTIONS, "epochs": 4})
    except KeyboardInterrupt:
        return
    finally:
        Update.__call__ = plain
    raise AssertionError("it was not interrupted")


class Coupled:
    """No mean over rows, and does not say so."""

    def __call__(self, made, x, mask=None):
        bound = ppvae.elbo()(made, x, mask)
        return bound - (bound - bound.mean()).square().mean()


class PerBatch:
    """A penalty that is shared by the rows of a batch, small beside the bound."""

    def __call__(self, made, x, mask=None):
        bound = ppvae.elbo()(made, x, mask)
        return bound - sum(p.square().sum() for p in made.parameters()) / len(bound)


class Bad:
    """A bound that goes wrong in one row, not on the first steps."""

    def __init__(self, wrong):
        self.wrong, self.steps = wrong, 0

    def __call__(self, made, x, mask=None):
        self.steps += torch.is_grad_enabled()
        bound = ppvae.elbo()(made, x, mask)
        bad = x.values["x"][:, 0] == 5.0
        if self.steps < 8 or not bad.any():
            return bound
        return self.wrong(bound, bad)


def singular(bound, bad):
    raise torch.linalg.LinAlgError("not positive definite")


def refused(rank, folder):
    """What cannot be fitted by two processes as by one, by name: a call."""
    real, _, bits, _ = rows()
    real[7, 0] = 5.0
    dropping, norming = vae(), vae()
    dropping.decoder.net.append(nn.Dropout(0.5))
    norming.encoder.net.append(nn.BatchNorm1d(8))
    normal = {"likelihood": "normal"}
    nan = Bad(lambda bound, bad: torch.where(bad, torch.nan, bound))
    return {
        "free bits": lambda: ppvae.fit(vae(), bits, objective=ppvae.elbo(kl=ppvae.free_bits(0.1)), **OPTIONS),
        "coupled": lambda: ppvae.fit(vae(), bits, objective=Coupled(), **OPTIONS),
        "per batch": lambda: ppvae.fit(vae(**normal).float(), 30 * real, objective=PerBatch(), **OPTIONS),
        "dropout": lambda: ppvae.fit(dropping, bits, **OPTIONS),
        "batch norm": lambda: ppvae.fit(norming, bits, **OPTIONS),
        "angles": lambda: ppvae.fit(
            ppvae.Pair(angles, of_angles, theta=Numbers(w=D), phi=Numbers(A=(D, 1))),
            real,
            objective=ppvae.wake_sleep(),
            **OPTIONS,
        ),
        "other data": lambda: ppvae.fit(vae(**normal), real * (1 + rank), **OPTIONS),
        "other options": lambda: ppvae.fit(vae(**normal), real, **{**OPTIONS, "epochs": 2 + rank}),
        "other networks": lambda: ppvae.fit(vae(latents=2 + rank, **normal), real, **OPTIONS),
        "a file of one": lambda: ppvae.fit(
            vae(seed=7),
            bits,
            held_out=0.25,
            checkpoint=f"{folder}/by one" if rank else None,
            **{**OPTIONS, "epochs": 4},
        ),
        "nan": lambda: ppvae.fit(vae(**normal), real, objective=nan, **OPTIONS),
        "singular": lambda: ppvae.fit(vae(**normal), real, objective=Bad(singular), **OPTIONS),
    }


class Killed:
    """The second process is killed in a step; the first then waits for it."""

    def __init__(self, rank):
        self.rank, self.steps = rank, 0

    def __call__(self, made, x, mask=None):
        self.steps += 1
        if self.rank == 1 and self.steps == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return ppvae.elbo()(made, x, mask)


def said(call):
    try:
        call()
    except ppvae.Problem as problem:
        return str(problem)
    except Exception:
        return traceback.format_exc()
    return "nothing"


def work(rank, told, folder):
    """All of it, as one of two processes."""
    os.environ |= {**told, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = {"fits": {name: fitted(*job) for name, job in fits(folder).items()}}
    seeded = vae(seed=rank)  # other weights: the first process's count
    found["fits"]["seeded"] = fitted(seeded, {"x": rows()[2]})
    found["resumed"] = resumed(f"{folder}/by one")
    interrupted(f"{folder}/by two")
    found["problems"] = {name: said(call) for name, call in refused(rank, folder).items()}
    torch.save(found, f"{folder}/found {rank}")
    said(lambda: ppvae.fit(vae(), rows()[2], objective=Killed(rank), **OPTIONS))
    torch.save("", f"{folder}/survived {rank}")
