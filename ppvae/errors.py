"""What a person meets when something is wrong: what was seen, the likely cause, what to try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Problem(ValueError):
    """A wrong input or an unsound pair. The command line prints it and exits with code 2.

    Args:
        seen: what was found, with the values.
        cause: the likely cause, or why it cannot be used.
        remedy: what to try.
    """

    def __init__(self, seen: str, cause: str = "", remedy: str = "") -> None:
        super().__init__(seen, cause, remedy)
        self.seen, self.cause, self.remedy = seen, cause, remedy

    def __str__(self) -> str:
        if not self.cause:  # raised again by Pyro, which puts message and shapes into one string
            return self.seen
        return f"{self.seen}\n  Likely cause: {self.cause}\n  Try: {self.remedy}"


class Caution(UserWarning):
    """Something that is computed as asked and is probably not what was meant."""


@contextmanager
def own_words() -> Iterator[None]:
    """Pyro's and torch's own complaints, as a Problem."""
    try:
        yield
    except Problem:
        raise
    except (ValueError, RuntimeError, NotImplementedError, KeyError, TypeError, AttributeError, IndexError) as error:
        if any(words in str(error) for words in ("same device", "same dtype")):
            raise Problem(
                f"the pair's parts do not fit together: {str(error).splitlines()[0]}",
                "a part of it was moved to another device or type",
                "move the pair as one: pair.to(device), pair.double()",
            ) from error
        raise Problem(
            f"the pair does not run on these data: {type(error).__name__}: {error}",
            "a shape that does not broadcast over rows and particles, or a value outside a site's support",
            "pyro.poutine.trace(pair.model).get_trace(x, mask).format_shapes() shows each site",
        ) from error


def refuse_count(name: str, value: Any) -> None:
    """Refuse what is no number of draws."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Problem(
            f"{name} is {value!r}", f"{name} is a number of draws, a whole number of at least 1", f"{name}=100"
        )
