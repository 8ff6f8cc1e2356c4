"""What an estimator holds still: parameters, draws, or the parameters of log q alone.

An estimator is a sum of terms whose gradients follow some paths and not others. `frozen` cuts the path through
parameters, `Detached` the one through draws; `held_guide` scores the draws a second time under a guide whose parameters
are held, so that only the path through the draws is left (Roeder, Wu & Duvenaud 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.tracing.terms import is_point
from ppvae.tracing.traces import PARTICLE_DIM, Seen, Traces


def free(s: Tensor) -> Tensor:
    """0 whose gradient is that of s: what is multiplied by it enters the gradient and not the value."""
    return s - s.detach()


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within this context the parameters of these modules are constants: nothing computed here moves them.

    Gradients still flow *through* the modules, to their inputs. Unlike ``requires_grad_(False)`` it also holds in a
    staged step, in which the parameters are tensors that stand in the modules' places.
    """
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (m._parameters, dict(m._parameters)) for module in modules for m in module.modules()
    ]
    try:
        for parameters, whole in kept:
            parameters.update({name: p.detach() for name, p in whole.items() if p is not None})
        yield
    finally:
        for parameters, whole in reversed(kept):
            parameters.update(whole)


class Detached(Messenger):
    """Cut the path through the guide's draws: each is a constant to all that follows, the guide's later sites included.

    Like every handler that changes a value it stands outside `ppvae.tracing.traces.run`, whose traces then record the change.
    """

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if _is_draw(msg) and not _replaying():
            msg["value"] = msg["value"].detach()


class Renamed(Messenger):
    """Give the story the guide's draws under another name: equal tensors, at which the gradient that comes back from the
    story can be told from what flows between the guide's own sites."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not _is_draw(msg):
            return
        if not _replaying():
            self.names.add(msg["name"])
        elif msg["name"] in self.names:  # not the draws that the guide leaves to the story: their path is the story's
            msg["value"] = msg["value"].view_as(msg["value"])


def held_guide(pair: Pair, table: Table, traces: Traces) -> Traces:
    """The same run with the guide's parameters held: log q(z) depends on them through the draws alone.

    The guide runs once more on the draws as the story saw them; the story's trace is the one that was run. What the
    guide's second run does to buffers is lost, as it should be.

    Raises:
        Problem: dropout in training, which would score the draws under another network than the one that drew them; a
            Delta.
    """
    refuse_points(traces)
    if any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in pair.modules()):
        raise Problem(
            "this gradient runs the guide twice, and the pair has dropout",
            "the second run would drop other units: another q than the one that was drawn from",
            "gradient='pathwise', or a guide without dropout",
        )
    seen = poutine.Trace()
    for name, site in traces.drawn():
        twin = traces.model.nodes.get(name, site)
        value = twin["value"] if twin is not site else site["value"].view_as(site["value"])
        seen.add_node(name, **{**site, "value": value})
    state = {name: p.detach() for name, p in pair.named_parameters()}
    state |= {name: b.clone() for name, b in pair.named_buffers()}
    guide = torch.func.functional_call(pair, state, (_guide_on, table, traces.particles, seen))
    return Traces(traces.model, guide, traces.particles, traces.rows)


def refuse_dependent(traces: Traces) -> None:
    """Draws in turn (`ppvae.nn.Mixture`): the others of a row tell where a draw comes from."""
    for name, site in traces.drawn():
        if torch.is_grad_enabled() and not getattr(site["fn"], "independent_draws", True):
            raise Problem(
                f"the guide draws {name!r} from a {type(site['fn']).__name__}, from its components in turn",
                "this gradient sets a draw against the other particles', which must not depend on it",
                "gradient='pathwise' or 'stl'",
            )


def refuse_points(traces: Traces) -> None:
    """A Delta at a value that is held, where a gradient is asked for: its log_density does not know where it stands."""
    for name, site in traces.drawn():
        if torch.is_grad_enabled() and is_point(site["fn"]):
            raise Problem(
                f"the guide makes {name!r} from other draws, or without chance",
                "this gradient scores a draw where it stands, and a Delta there has neither a path nor a score: what its "
                "parameters do to log q would be left out",
                f"gradient='pathwise'; or draw {name!r} from a TransformedDistribution, which has a density of its own",
            )


def _guide_on(pair: Pair, table: Table, particles: int, seen: poutine.Trace) -> poutine.Trace:
    """The guide's trace on given draws, in the surroundings that `ppvae.tracing.traces.run` gives it."""
    with ExitStack() as outer:
        if particles > 1:
            outer.enter_context(pyro.plate("particles", particles, dim=PARTICLE_DIM))
        if partly := table.partly_seen(pair):
            outer.enter_context(Seen(partly))
        program = EnumMessenger(-3 if particles == 1 else -4)(pair.guide)
        return poutine.trace(poutine.replay(program, seen)).get_trace(size=len(table), **table.call(pair))


def _is_draw(msg: dict[str, Any]) -> bool:
    return not msg["is_observed"] and not site_is_subsample(msg)


def _replaying() -> bool:
    """Whether it is the story that runs: it is replayed on the guide."""
    return any(isinstance(messenger, ReplayMessenger) for messenger in _PYRO_STACK)
