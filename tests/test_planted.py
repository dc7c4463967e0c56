"""The rendezvous team with a planted weakness: what it does, and who finds the trigger without looking for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mir2bench
from mir2bench.attackers import fixed_attackers
from mir2bench.engines.base import Worlds
from mir2bench.engines.rendezvous_scripted import STEP_LENGTH, CentroidTeam, FleeTraitor, PlantedTeam
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Policy

TEN = mir2bench.spec("Rendezvous10-adv1-v0")
FOURTH = Partition.of(10, [3])
RNG = np.random.default_rng(0)


def returns(team: Policy, adversary: Policy | None, episodes: int = 20) -> np.ndarray:
    phi = Partition.of(10) if adversary is None else FOURTH
    return rollout(TEN, team, phi, adversary, range(7_000, 7_000 + episodes)).returns


class Shadow(FleeTraitor):
    """Waits for the team and then retreats so slowly that it follows at six tenths of its braking distance."""

    def _target(self, obs: np.ndarray) -> np.ndarray:
        target, source, _ = self._flight(obs)
        near = np.linalg.norm(source, axis=-1, keepdims=True) < 0.7 * self._n_agents * STEP_LENGTH
        return np.where(near, 0.6 * STEP_LENGTH * target / np.linalg.norm(target, axis=-1, keepdims=True), 0.0)


def test_it_is_the_planted_team_of_its_family() -> None:
    name = TEN.engine_class.planted
    assert type(make_scripted(TEN, name)) is PlantedTeam


def test_it_plays_like_the_centroid_team_unless_it_is_shadowed() -> None:
    """Alone and under every attack that does not know the trigger, to the last bit."""
    planted, centroid = PlantedTeam(TEN.layout), CentroidTeam(TEN.layout)
    assert np.array_equal(returns(planted, None), returns(centroid, None))
    for name, attacker in fixed_attackers(TEN).items():
        adversary = attacker.attack(TEN, planted, FOURTH, seed=0, budget=0)
        same = returns(planted, adversary) == returns(centroid, adversary)
        assert same.mean() > 0.95, name


def test_it_collapses_when_it_is_shadowed() -> None:
    shadow = Shadow(TEN.layout)
    assert returns(CentroidTeam(TEN.layout), shadow).mean() > -14
    assert returns(PlantedTeam(TEN.layout), shadow).mean() < -28  # all scripted attacks leave -19 or more


def act(team: PlantedTeam, obs: np.ndarray, carry: Any) -> tuple[np.ndarray, Any]:
    return team.act(obs, carry, rng=RNG)


def stand(distance: float, straggler: float = 0.0) -> Worlds:
    """Nine robots in the middle and the last one to their right; the first one a little to the left."""
    poses = [[100.0, 100.0, 0.3 * i] for i in range(10)]
    poses[9][0] += distance
    poses[0][0] -= straggler
    worlds = Worlds(TEN, 1)
    worlds.reset(seeds=[0], phi=[0] * 10, initial_state={"poses": poses})
    return worlds


def observe(distance: float, straggler: float = 0.0) -> np.ndarray:
    return stand(distance, straggler).engine.obs.copy()


def count(*observations: np.ndarray) -> np.ndarray:
    """For how many steps each robot thinks it has been shadowed, after these."""
    team = PlantedTeam(TEN.layout)
    carry = team.initial_carry(1)
    for obs in observations:
        _, carry = act(team, obs, carry)
    return carry[0]


@pytest.mark.parametrize(
    ("distance", "straggler", "shadowed"),
    [(9, 0, 1), (6.5, 0, 1), (11.5, 0, 1), (5.5, 0, 0), (12.5, 0, 0), (9, 2, 1), (9, 3.5, 0), (0, 0, 0), (60, 0, 0)],
)
def test_what_a_shadow_is(distance: float, straggler: float, shadowed: int) -> None:
    """One robot from 6 to 12 cm away while all others are within 3 cm: shares of 15 cm, ten steps at full speed."""
    assert pytest.approx(15.07, abs=0.01) == 10 * STEP_LENGTH
    assert count(observe(distance, straggler))[1] == shadowed


def test_the_count_starts_anew_when_the_shadow_leaves() -> None:
    assert count(*[observe(9)] * 4)[:9].tolist() == [4] * 9
    assert count(*[observe(9)] * 4, observe(20))[:9].tolist() == [0] * 9
    assert count(*[observe(9)] * 15, observe(20))[:9].tolist() == [15] * 9  # too late: it stays so


def test_each_robot_judges_by_its_own_observation() -> None:
    mixed = observe(9)
    mixed[:, 4:] = observe(60)[:, 4:]
    assert count(mixed).tolist() == [1] * 4 + [0] * 6


def test_it_scatters_from_the_sixteenth_step_on() -> None:
    team, calm = PlantedTeam(TEN.layout), CentroidTeam(TEN.layout)
    worlds = stand(9)
    carry = team.initial_carry(1)
    for _ in range(15):
        actions, carry = act(team, worlds.engine.obs, carry)
        assert np.array_equal(actions, calm.act(worlds.engine.obs, None, rng=RNG)[0])
    engine: Any = worlds.engine
    for _ in range(100):  # nine of them leave the same spot
        actions, carry = act(team, engine.obs, carry)
        worlds.step(actions)
    places = engine.poses[0, :, :2]
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 1_000 * np.eye(10)
    assert gaps.min(axis=1).mean() > 25
    assert (np.minimum(places, 200 - places).min(axis=1) < 1).mean() > 0.5  # at a wall
