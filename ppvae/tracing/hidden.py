"""A site that is observed entry by entry, and goes on into the rest of the story."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from ppvae.errors import Problem

if TYPE_CHECKING:
    from ppvae.door import Table
    from ppvae.pair import Pair


class Hidden(Messenger):
    """Put observed entries into a site's value: where its mask is False the story's own draw stands, and counts 0.

    What the story draws after it (which entries were seen, say) depends on the completed value, so its draws are latents
    that the guide leaves to the story: log p - log p = 0 of the entries, and importance weights by what follows.

    It works below all handlers that stand already, down to the nearest block of these sites: what it changes is then what a trace,
    stock Pyro's too, records, an observed site under its mask.

    Args:
        entries: by name of the site, its values and True where they were observed, (N, D) each.
    """

    def __init__(self, entries: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.entries = entries

    def __enter__(self) -> Hidden:
        blocks = [i for i, messenger in enumerate(_PYRO_STACK) if self._hidden_by(messenger)]
        _PYRO_STACK.insert(blocks[-1] + 1 if blocks else 0, self)
        return self

    def __exit__(self, *error: Any) -> None:
        _PYRO_STACK.remove(self)

    def _hidden_by(self, messenger: Any) -> bool:
        sites = ({"name": name, "type": "sample", "is_observed": False, "infer": {}} for name in self.entries)
        return isinstance(messenger, BlockMessenger) and any(messenger.hide_fn(site) for site in sites)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.entries and not msg["is_observed"]:
            value, seen = self.entries[msg["name"]]
            if msg["fn"].event_dim and seen.shape[-1] != 1:
                raise Problem(
                    f"entries of {msg['name']!r} are missing and its features are one event",
                    "one density of all of them has none for some",
                    "complete rows, a mask by row (N, 1), or independent features under a plate at dim -1",
                )
            msg["is_observed"], msg["mask"] = True, seen
            if msg["fn"].event_dim:
                value, seen = value.unsqueeze(-2), seen.unsqueeze(-1)  # (N, 1, D), (N, 1, 1)
            msg["value"] = torch.where(seen, value, msg["value"])
            msg["infer"]["_hidden"] = True


def goes_on(site: dict[str, Any]) -> bool:
    """Whether a site's missing entries are the story's own draws, from which it goes on."""
    return site["infer"].get("_hidden", False)


def refuse_hidden(pair: Pair, table: Table) -> None:
    """Refuse rows whose missing entries are draws of the story, for what takes p(x | z) for their density."""
    for name in table.masks:
        if pair.hides(name):
            raise Problem(
                f"the story draws what is missing of {name!r}, and goes on from it",
                "given its latents a row's missing entries still depend on one another and on why they are missing",
                "impute() and log_evidence(), by importance weights",
            )
