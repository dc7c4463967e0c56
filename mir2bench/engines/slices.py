"""Cutting a batch into one slice per thread, and running the slices; shared by the compiled engines."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

_WORLDS_PER_THREAD = 128  # below this a thread costs more than it saves


def cut(batch: int, threads: int | None) -> list[tuple[int, int]]:
    """Cut the batch into one contiguous slice (first, last) per thread.

    Args:
        batch: B.
        threads: how many; None takes one per 128 worlds, at most one per core that numba may use.
    """
    if threads is None:
        import numba

        # Not get_num_threads(): it starts numba's own pool, which sets OpenMP's thread count, and so torch's, anew.
        threads = min(numba.config.NUMBA_NUM_THREADS, batch // _WORLDS_PER_THREAD)  # type: ignore[attr-defined]
    edges = np.linspace(0, batch, max(1, threads) + 1).astype(int).tolist()
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def run(work: Callable[[int, int], None], slices: list[tuple[int, int]]) -> None:
    """Call `work` on every slice: the first here, the rest on threads (the kernels release the GIL)."""
    rest = [_pool().submit(work, *part) for part in slices[1:]]
    work(*slices[0])
    for future in rest:
        future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="mir2bench-engine")


if hasattr(os, "register_at_fork"):  # not on Windows
    # Threads do not survive a fork: a child that inherited the pool would wait for them for ever.
    os.register_at_fork(after_in_child=_pool.cache_clear)
