"""Rows that do not fit into memory: gathered from files a batch at a time, by a thread that reads ahead.

While a step computes, a second thread copies the rows of the next few batches out of the files. What it leaves is the
very batch that rows in memory would give: the same rows in the same order, cast alike, with masks of the same shape.
Numbers at random are drawn in the main thread only, so the same seed gives the same bits.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.fitting.mapped import Mapped, gather
from ppvae.fitting.redrawing import Redraw, observe
from ppvae.fitting.survey import Survey, survey
from ppvae.pair import Pair

AHEAD = 4  # batches that are read or being read while one is worked on
READER = "ppvae-reader"


@dataclass(frozen=True)
class Streamed:
    """Rows in files, in the place of a `Table` of which only some rows are asked for at a time.

    Attributes:
        mapped: the files.
        survey: what holds for all rows.
        home: an empty tensor of the dtype and on the device that batches have.
        observed: some rows, and x of them as it was drawn from what is stored; no others can be asked for. None: x as stored.
    """

    mapped: Mapped
    survey: Survey
    home: Tensor
    observed: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def open(cls, pair: Pair, mapped: Mapped, redraw: Redraw | None) -> Streamed:
        """Read all rows once, and refuse what the door refuses."""
        home = next(pair.parameters(), torch.zeros(())).detach().new_empty(0)
        return cls(mapped, survey(pair, mapped, redraw), home)

    def __len__(self) -> int:
        return len(self.mapped)

    @property
    def values(self) -> dict[str, Tensor]:
        """The extremes of each column for the column, (2, …): what is said of the scale of the data is said of these."""
        return {name: torch.stack([low, self.survey.high[name]]) for name, low in self.survey.low.items()}

    def rows(self, index: Tensor | slice) -> Table:
        """The rows of ``index``, as a batch of the same data set."""
        index = np.arange(len(self))[index] if isinstance(index, slice) else index.cpu().numpy()
        return self._table(*self._read(index))

    def batches(self, order: Tensor, size: int) -> Iterator[Table]:
        """The rows of ``order``, so many at a time, read ahead. The thread ends with the loop over them, however it ends."""
        parts = iter(np.split(order.cpu().numpy(), range(size, len(order), size)))
        reader = ThreadPoolExecutor(1, READER)
        try:
            ahead = deque(reader.submit(self._read, index) for index in islice(parts, AHEAD))
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(reader.submit(self._read, index) for index in islice(parts, 1))
                yield self._table(*batch)
        finally:
            reader.shutdown(cancel_futures=True)

    def observed_at(self, state: list[Tensor], redraw: Redraw, rows: Tensor) -> Streamed:
        """These rows, with x of ``rows`` (sorted) as the survey drew it from that state on: drawn again, and put on disk."""
        kept, home, shape = rows.cpu().numpy(), self.home, (len(rows), self.mapped.values["x"].shape[1])
        with tempfile.TemporaryFile() as file, torch.random.fork_rng(range(len(state) - 1)):
            set_generators(state)
            for start, values, _ in self.mapped.parts():
                x = observe(torch.as_tensor(values["x"]).to(home), redraw)
                inside = kept[slice(*kept.searchsorted((start, start + len(x))))] - start
                _write(file, x[torch.as_tensor(inside, device=home.device)].cpu().numpy())
                if start + len(x) > kept[-1]:
                    break
            file.flush()
            drawn = np.memmap(file, home.cpu().numpy().dtype, "r", shape=shape)
        return replace(self, observed=(kept, drawn))

    def _read(self, index: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Called in the reading thread."""
        try:
            values, masks = self.mapped.take(index, pinned=self.home.is_cuda)
            if self.observed is not None:
                kept, x = self.observed
                place = kept.searchsorted(index)
                if (kept.take(place, mode="clip") != index).any():
                    raise LookupError("rows that were not observed")
                values["x"] = gather(x, place, pinned=self.home.is_cuda)
        except Problem:
            raise
        except Exception as error:  # a disk and a memory that is full each have exceptions of their own
            raise Problem(
                f"rows cannot be read from the file ({type(error).__name__}: {error})",
                "a disk that fails, or too little memory for a batch",
                "a smaller batch_size, or a copy of the file on another disk",
            ) from error
        return values, masks

    def _table(self, values: dict[str, Tensor], masks: dict[str, Tensor]) -> Table:
        """What the reading thread left, as the door would have made it. No copy waits for the GPU."""
        found = {name: self._to(value).to(self.home.dtype) for name, value in values.items()}
        found = {name: v[:, None] if name in self.survey.by_row else v for name, v in found.items()}
        masks = {name: self._seen(name, found[name], masks.get(name)) for name in found if name in self.survey.widths}
        return Table(found, masks, len(self))

    def _seen(self, name: str, value: Tensor, mask: Tensor | None) -> Tensor:
        """True where observed, of the same shape in every batch."""
        if mask is None:
            seen = ~value.isnan()
        else:
            seen = self._to(mask).bool()
            seen = seen[:, None] if seen.dim() == 1 else seen
            seen = seen & ~value.isnan() if name in self.survey.holes else seen
        whole = seen.shape[-1] > self.survey.widths[name]  # columns that are one event
        return seen.all(-1, keepdim=True) if whole else seen

    def _to(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.home.device, non_blocking=True)


def _write(file: IO[bytes], rows: np.ndarray) -> None:
    try:
        file.write(rows.data)
    except OSError as error:
        raise Problem(
            f"the held-out rows cannot be written to {tempfile.gettempdir()} ({error.strerror})",
            "a full disk: what was drawn of them once is kept there",
            "a smaller held_out, or TMPDIR on another disk",
        ) from error


def generators() -> list[Tensor]:
    """The states of all generators: the CPU's, then those of the GPUs."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_generators(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])
