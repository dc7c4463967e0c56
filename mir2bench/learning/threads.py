"""One torch thread for everything that trains or evaluates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread inside; also a decorator.

    Sums in another order would make other results, and networks of this size gain nothing from more threads: run
    several trainings beside each other instead.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
