"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import mir2bench
from mir2bench import registration

# Torch reads it when it is imported. With tiny networks more threads only wait for each other: six times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # so that a registry file can name `toy:ToyEngine`


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Undo, after the test, whatever it registers."""
    specs, ids = dict(registration._SPECS), set(gymnasium.registry)
    yield
    registration._SPECS.clear()
    registration._SPECS.update(specs)
    for new in set(gymnasium.registry) - ids:
        del gymnasium.registry[new]


@pytest.fixture
def toy(fresh_registry: None) -> list[str]:
    """Register the toy family for one test and return its ids: K = 0, 1, 2."""
    return mir2bench.register(HERE / "toy.toml")


@pytest.fixture(autouse=True)
def global_random_state_untouched() -> Iterator[None]:
    """Fail every test after which numpy's global generator is not where it was."""
    before = np.random.get_state()
    yield
    after = np.random.get_state()
    if not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
        np.random.set_state(before)
        pytest.fail("numpy's global random state was changed")
