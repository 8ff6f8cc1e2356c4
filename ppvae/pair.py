"""A pair: a generative story and an inference program for it, with the modules that they share.

The story and the guide are plain functions. Each receives the modules that its own parameters name,
then the data, by name:

    def model(decoder, x=None, mask=True, *, size=1): ...
    def guide(encoder, x, mask=True): ...
    pair = Pair(model, guide, decoder=Decoder(), encoder=Encoder())

``x`` absent generates, ``x`` present is observed; ``mask`` is True where an entry was observed.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to

from ppvae.errors import Problem, own_words
from ppvae.tracing.hidden import Hidden

RESERVED = {"x", "mask", "size", "model", "guide", "training"}
SEEN = "seen"  # the entry of a story that says which entries of x were observed: the mask of x, unless it is given
_serial = itertools.count()


class Pair(nn.Module):
    """Bind a story and a guide to the modules that their parameters name.

    Args:
        model: the story, ``model(*modules, x=None, mask=True, *, size=1)``. Further parameters are
            further entries of the data by name (``y=None``, ``mask_y=True``; ``label`` without a default
            is a covariate that must be given).
        guide: the inference program, ``guide(*modules, x, mask=True)``, or None where there are no latents.
            ``guide.exact = True`` declares that it is the posterior itself; `ppvae.check` holds it to that.
        **modules: the modules, by the names under which the two functions ask for them.

    Raises:
        Problem: a module that neither function asks for, a reserved name, something that is no module.
    """

    if TYPE_CHECKING:  # the modules are the user's, by the user's names

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, model: Callable, guide: Callable | None = None, **modules: nn.Module) -> None:
        super().__init__()
        self._functions = {"model": model, "guide": guide or _no_latents}
        self._takes = {side: _parameters(side, function) for side, function in self._functions.items()}
        asked = {name for takes in self._takes.values() for name in takes}
        for name, module in modules.items():
            _refuse_module(name, module, asked)
            self.add_module(name, module)
        self._built: tuple[str, dict[str, Any]] | None = None  # how `make` built it, for `save`
        self._sites: dict[str, Any] | None = None
        self._fills: dict[str, Tensor | float] = {}
        self._label = f"pair{next(_serial)}"

    # --- what it is made of ---------------------------------------------------------------------------

    @property
    def entries(self) -> dict[str, bool]:
        """The entries of the data that story and guide take by name, and whether each must be given."""
        found: dict[str, bool] = {}
        for side in ("model", "guide"):
            for name, parameter in self._takes[side].items():
                if name in self._modules or name in ("mask", "size") or name.startswith("mask_"):
                    continue
                needed = parameter.default is inspect.Parameter.empty and name != "x"
                found[name] = found.get(name, False) or needed
        return found

    @property
    def exact(self) -> bool:
        """Whether the guide is declared to be the posterior itself."""
        return getattr(self._functions["guide"], "exact", False)

    def modules_of(self, side: str) -> list[nn.Module]:
        """The modules that the function of a side, "model" or "guide", asks for."""
        return [module for name, module in self.named_children() if name in self._takes[side]]

    def takes_mask(self, name: str) -> bool:
        """Whether the story masks this entry itself (else the site is observed where seen, drawn where not)."""
        return _mask_name(name) in self._takes["model"]

    def hides(self, name: str) -> bool:
        """Whether the story draws what is missing of this entry and goes on from it (`ppvae.tracing.hidden`): only the
        guide takes its mask, as one that completes nothing does."""
        return not self.takes_mask(name) and _mask_name(name) in self._takes["guide"]

    def seen(self, x: Tensor, mask: Tensor | bool) -> dict[str, Tensor]:
        """The entry `SEEN` by the mask of x, 1 = observed, where the story takes it."""
        return {SEEN: torch.ones_like(x) * mask} if SEEN in self._takes["model"] else {}

    # --- the two programs, as plain Pyro callables ----------------------------------------------------

    def model(
        self, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int | None = None, **entries: Any
    ) -> Any:
        """Run the story: generate ``size`` rows, or observe x (N, D) where mask is True."""
        if size is None and x is None and not any(v is not None for v in entries.values()):
            self._refuse_shared_latents()
        return self._run("model", x=x, mask=mask, size=1 if size is None else size, **entries)

    def guide(
        self, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int | None = None, **entries: Any
    ) -> Any:
        """Run the guide on x (N, D); ``size`` is accepted so that Pyro can call both alike."""
        return self._run("guide", x=x, mask=mask, size=1 if size is None else size, **entries)

    def forward(self, function: Callable, *args: Any) -> Any:
        """Call ``function(pair, *args)``; lets `torch.func.functional_call` swap the parameters."""
        return function(self, *args)

    def _run(self, side: str, **given: Any) -> Any:
        if any(getattr(messenger, "param_only", False) for messenger in _PYRO_STACK):
            pyro.module(self._label, self)  # stock SVI collects its parameters from these sites
        takes = self._takes[side]
        given = {name: value for name, value in given.items() if value is not None}
        self._refuse_unknown(given)
        if side == "guide" and isinstance(given["mask"], Tensor) and "x" in takes and "mask" not in takes:
            raise Problem(
                "some entries are missing and the guide takes no mask",
                "it was written for complete rows and would read what fills the gaps as data",
                "add `mask=True` to the guide's parameters, and use it (or ignore it on purpose)",
            )
        hidden = self._hidden(given) if side == "model" else {}
        if side == "model" and "x" in given:
            given = {**self.seen(given["x"], given["mask"]), **given}
        call: dict[str, Any] = {}
        for name, parameter in takes.items():
            if name in self._modules:
                call[name] = self._modules[name]
            elif name in given and name not in hidden:
                call[name] = self._filled(name, given)
            elif parameter.default is inspect.Parameter.empty:
                raise Problem(
                    f"the {side} needs {name!r}, which was not given",
                    f"{name!r} is neither a module of this pair nor in the data",
                    f"give the data as {{'x': x, {name!r}: …}}, or the module by keyword to Pair",
                )
        if not hidden:
            return self._functions[side](**call)
        if "size" in takes:
            call["size"] = len(next(iter(hidden.values()))[0])
        with Hidden(hidden):
            return self._functions[side](**call)

    def _hidden(self, given: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        """The entries that the story draws where they are missing: (values, mask) by name."""
        masks = {name: given.get(_mask_name(name)) for name in given if name in self.entries and self.hides(name)}
        return {name: (given[name], mask) for name, mask in masks.items() if isinstance(mask, Tensor)}

    def _refuse_unknown(self, given: dict[str, Any]) -> None:
        known = self.entries
        for name in given:
            if name not in known and name.removeprefix("mask_") not in known and name not in ("x", "mask", "size"):
                raise Problem(
                    f"the data hold {name!r}, which neither the story nor the guide takes",
                    "a misspelt name; it would be ignored in silence",
                    f"this pair takes: {', '.join(known)}",
                )

    def _filled(self, name: str, given: dict[str, Any]) -> Any:
        """An entry as the functions see it: whatever stands where it is missing is replaced, once, here."""
        value, seen = given[name], given.get(_mask_name(name), True)
        if name not in self.entries or isinstance(seen, bool):
            return value
        return torch.where(seen, value, self.fill(name, given))

    def _refuse_shared_latents(self) -> None:
        for messenger in _PYRO_STACK:
            data = getattr(messenger, "data", None)
            if isinstance(data, dict) and self.entries.keys() & data.keys():
                raise Problem(
                    "the story was conditioned on data and called without `size`",
                    "it would draw one latent and share it among all rows",
                    "call it with size=len(x): poutine.condition(pair.model, {'x': x})(size=len(x)), "
                    "or pass x itself: pair.model(x)",
                )

    # --- what the sites of the story accept -----------------------------------------------------------

    def sites(self, given: dict[str, Any] | None = None) -> dict[str, Any]:
        """Pyro's message of each site as one generated row has it, by name; found once.

        ``given`` holds the covariates that the story needs; their first row is used.
        """
        if self._sites is None:
            covariates = {
                name: given[name][:1]
                for name, needed in self.entries.items()
                if needed and given and isinstance(given.get(name), Tensor)
            }
            devices = {p.device for p in self.parameters() if p.is_cuda}
            with (
                own_words(),
                torch.no_grad(),
                torch.random.fork_rng(devices),
                poutine.block(),
                poutine.trace() as tracer,
            ):
                self._run("model", mask=True, size=1, **covariates)
            self._sites = {
                name: site
                for name, site in tracer.trace.nodes.items()
                if site["type"] == "sample" and not site_is_subsample(site)
            }
        return self._sites

    def fill(self, name: str, given: dict[str, Any] | None = None) -> Tensor | float:
        """What stands at a missing entry: a value inside the site's support, so that its density is finite.

        0 outside the support would give NaN gradients even under a mask (a LogNormal's, say). No bound depends
        on the value: the likelihood masks it, and a network that ignores the mask reads it as "nothing there".
        """
        if name not in self._fills:
            site = self.sites(given).get(name)
            self._fills[name] = 0.0 if site is None else _inside(site["fn"])
        return self._fills[name]

    def __setstate__(self, state: dict[str, Any]) -> None:  # a copy trains under a name of its own
        super().__setstate__(state)
        self._label = f"pair{next(_serial)}"


def _inside(site: Any) -> Tensor | float:
    support = getattr(site.support, "base_constraint", site.support)
    if support.event_dim:  # a simplex, say: the mean is inside
        return site.mean.detach().reshape(site.event_shape)
    if support.is_discrete:
        return float(getattr(support, "lower_bound", 0))
    return float(biject_to(support)(torch.zeros(())))


def _no_latents() -> None:
    """The guide of a story without latents."""


def _mask_name(name: str) -> str:
    return "mask" if name == "x" else f"mask_{name}"


def _parameters(side: str, function: Callable) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(function).parameters)
    loose = [p for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if loose:
        raise Problem(
            f"the {side} takes {loose[0]}",
            "modules and data are bound by the names of parameters",
            "name each module and each entry of the data in the function's signature",
        )
    return parameters


def _refuse_module(name: str, module: Any, asked: set[str]) -> None:
    if name in RESERVED or hasattr(nn.Module(), name):
        raise Problem(
            f"a module is called {name!r}",
            f"{name!r} has a meaning of its own in a pair",
            "choose another name, in the function's signature and here",
        )
    if not isinstance(module, nn.Module):
        raise Problem(
            f"{name!r} is a {type(module).__name__}, not a torch.nn.Module",
            "a pair keeps, trains and saves modules",
            f"wrap it in a module, or bind it: partial(model, {name}=…)",
        )
    if name not in asked:
        raise Problem(
            f"neither the story nor the guide has a parameter {name!r}",
            "a misspelt name, or a module that nothing uses",
            f"the functions ask for: {', '.join(sorted(asked)) or 'nothing'}",
        )
    if any(getattr(part, "_pyro_samples", None) for part in module.modules()):
        raise Problem(
            f"{name!r} holds PyroSample priors",
            "inside the data plate they would be drawn once a row, without a word",
            "draw the weight in the story, outside the data plate: see ppvae.models.bayesian_linear",
        )
