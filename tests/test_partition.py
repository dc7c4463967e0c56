"""Partitions: enumeration, sampling, errors, and the perturbed joint action."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from mir2bench.errors import PartitionError
from mir2bench.partition import (
    Partition,
    count_partitions,
    enumerate_partitions,
    perturb,
    sample_partition,
    sample_partitions,
)


def test_enumeration_by_hand() -> None:
    assert [p.phi for p in enumerate_partitions(3, 0)] == [(0, 0, 0)]
    assert [p.phi for p in enumerate_partitions(3, 1)] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert [p.adversaries for p in enumerate_partitions(4, 2)] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize(("n", "k"), [(1, 0), (5, 2), (7, 7), (10, 3)])
def test_count_is_the_number_enumerated(n: int, k: int) -> None:
    partitions = list(enumerate_partitions(n, k))
    assert len(set(partitions)) == len(partitions) == count_partitions(n, k) == math.comb(n, k)
    assert all(p.weight == k and p.n_agents == n for p in partitions)


def test_attributes_and_identity() -> None:
    phi = Partition.of(6, [4, 1])
    assert phi == Partition((0, 1, 0, 0, 1, 0))
    assert phi.adversaries == (1, 4)
    assert phi.label == "1+4"
    assert Partition.of(6).label == "none"
    assert phi.to_array().dtype == np.int8
    assert phi.to_array().tolist() == [0, 1, 0, 0, 1, 0]
    assert len({phi, Partition.of(6, (1, 4)), Partition.of(6)}) == 2
    with pytest.raises(FrozenInstanceError):
        phi.phi = (0,)  # type: ignore[misc]


def test_sampling_is_uniform_and_seeded() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(sample_partition(4, 2, rng) for _ in range(6000))
    assert set(counts) == set(enumerate_partitions(4, 2))
    # 1000 expected; the standard deviation of each count is 28.9, so 150 is more than five of them.
    assert all(abs(count - 1000) < 150 for count in counts.values())
    again = np.random.default_rng(0)
    assert Counter(sample_partition(4, 2, again) for _ in range(6000)) == counts


def test_sampled_partitions_are_distinct_sorted_and_seeded() -> None:
    drawn = sample_partitions(10, 2, 5, np.random.default_rng(3))
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn, key=lambda p: p.adversaries)
    assert drawn == sample_partitions(10, 2, 5, np.random.default_rng(3))
    assert drawn != sample_partitions(10, 2, 5, np.random.default_rng(4))
    assert sample_partitions(5, 2, 10, np.random.default_rng(0)) == list(enumerate_partitions(5, 2))
    assert sample_partitions(5, 0, 5, np.random.default_rng(0)) == [Partition.of(5)]


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ([0, 1], "2 entries, but this variant has 3 agents"),
        ([0, 1, 0, 0], "4 entries, but this variant has 3 agents"),
        ([0, 2, 0], r"only 0 \(defender\) and 1 \(adversary\), but it is \[0, 2, 0\]"),
        ([0, 0.5, 0], "only 0"),
        ([0, float("nan"), 1], "only 0"),
        ([0, None, 1], "only 0"),
        ([0, "x", 1], "only 0"),
        ([1, 1, 0], r"names 2 adversaries, but this variant allows exactly 1 \(or none"),
        ([[0, 1, 0]], "flat list of 3 zeros and ones"),
        ([[0, 1], [0]], "flat list of 3 zeros and ones"),
        (1, "flat list of 3 zeros and ones, but it is 1"),
        ("010", "flat list of 3 zeros and ones, but it is '010'"),
        (None, "flat list"),
    ],
)
def test_bad_phi(phi: object, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        Partition.parse(phi, 3, 1)


def test_good_phi_in_every_form() -> None:
    expected = Partition((0, 1, 0))
    for phi in (expected, [0, 1, 0], (False, True, False), np.array([0.0, 1.0, 0.0]), np.array([0, 1, 0], np.int8)):
        assert Partition.parse(phi, 3, 1) == expected
    assert Partition.parse([0, 0, 0], 3, 2).weight == 0  # the clean control arm
    assert Partition.parse([1, 1, 0], 3).weight == 2  # any number


def test_adversaries_out_of_range() -> None:
    with pytest.raises(PartitionError, match=r"adversaries \[0, 3\] are not all agents of 0 to 2"):
        Partition.of(3, [0, 3])
    with pytest.raises(PartitionError, match="are not all agents"):
        Partition.of(3, [-1])


def test_perturb_by_hand() -> None:
    team = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    attack = np.array([[[-1, -2], [-3, -4]], [[-5, -6], [-7, -8]]], dtype=np.float32)
    joint = perturb(team, attack, Partition((1, 0, 1)))
    assert joint.tolist() == [[[-1, -2], [2, 3], [-3, -4]], [[-5, -6], [8, 9], [-7, -8]]]
    assert joint.dtype == np.float32
    assert team[0, 0].tolist() == [0, 1]  # the input stays as it was


def test_perturb_discrete_and_mixed_types() -> None:
    assert perturb(np.array([[0, 1, 2]]), np.array([[5]]), Partition((0, 1, 0))).tolist() == [[0, 5, 2]]
    joint = perturb(np.zeros((1, 2, 1), dtype=np.int64), np.full((1, 1, 1), 0.5, np.float32), Partition((1, 0)))
    assert joint.ravel().tolist() == [0.5, 0.0]  # not cut to an integer
    assert perturb(np.ones((1, 2, 1)), np.empty((1, 0, 1)), Partition((0, 0))).ravel().tolist() == [1.0, 1.0]
