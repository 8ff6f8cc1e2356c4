"""Draws of a batch whose rows are spread over processes: each process draws for all rows, and keeps what falls to its own.

All processes hold the same generator state. A site in the data plate is drawn with the numbers of the whole batch, so every
row gets the numbers that one process would have given it, and the generators stay in step. A site outside the plate is drawn
by all processes alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppvae.tracing.traces import DATA_DIM, is_global
from ppvae.tracing.whole import Add, Place, Share, Whole


@contextmanager
def drawn_together(share: Share, add: Add) -> Iterator[None]:
    """Draw the sites of own rows as those of the whole batch are drawn.

    Args:
        share: own rows.
        add: sums a tensor over the processes, in place.

    Raises:
        Problem: a draw of which it cannot be told what belongs to which row: one outside of all sites, or in a shape that
            does not begin with the site's own.
    """
    sites = _Sites()
    with sites, Whole(share, add, lambda: sites.place):
        yield


@contextmanager
def observed_together(share: Share, add: Add) -> Iterator[None]:
    """The same for whatever is drawn in tensors of own rows, rows first."""
    place = Place("redraw", (share.worked_on,), 0)
    with Whole(share, add, lambda: place):
        yield


class _Sites(Messenger):
    """Knows the site that is being drawn. It stands outside all handlers of the pair: plates have shaped the site by then."""

    def __init__(self) -> None:
        super().__init__()
        self.place: Place | str | None = None  # a name alone: a site outside the data plate

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            return
        if is_global(msg):
            self.place = msg["name"]
        else:
            shape = tuple(msg["fn"].batch_shape)
            self.place = Place(msg["name"], shape, len(shape) + DATA_DIM)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.place = None

    def __exit__(self, *stop: Any) -> None:
        self.place = None
        super().__exit__(*stop)
