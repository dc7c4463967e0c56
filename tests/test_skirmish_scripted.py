"""Scripted teams and traitors of Skirmish: what they choose in set situations, and what that is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mir2bench
from mir2bench.attackers import make_attacker
from mir2bench.engines.base import Worlds
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition

VARIANT = mir2bench.spec("Skirmish-4m_vs_3m-adv1-v0")
NO_OP, STOP, NORTH, SOUTH, EAST, WEST, ATTACK = range(7)
FAR = [(25.0, 16.0, 45.0, 0.0), (26.0, 16.0, 45.0, 0.0), (27.0, 16.0, 45.0, 0.0)]
EPISODES = range(3000, 3064)


def choices(policy: Any, allies: list[tuple[float, ...]], enemies: list[tuple[float, ...]]) -> list[int]:
    """Return what each agent orders in a set situation."""
    worlds = Worlds(VARIANT, 1)
    worlds.reset(seeds=[0], initial_state={"allies": allies, "enemies": enemies})
    actions, _ = policy.act(
        worlds.engine.obs, policy.initial_carry(1), worlds.engine.mask, rng=np.random.default_rng(0)
    )
    return actions[0].tolist()


def marine(x: float, y: float = 16.0, health: float = 45.0) -> tuple[float, ...]:
    return (x, y, health, 0.0)


def traitor(name: str) -> Any:
    phi = Partition.of(4, [0])
    return make_attacker(name, VARIANT).attack(VARIANT, make_scripted(VARIANT, "hold"), phi, seed=0, budget=1)


def won(team: str, phi: list[int] | None = None, adversary: str = "") -> float:
    partition = Partition.of(4, phi or [])
    policy = make_scripted(VARIANT, team)
    attacker = (
        make_attacker(adversary, VARIANT).attack(VARIANT, policy, partition, seed=0, budget=1) if adversary else None
    )
    victories = rollout(VARIANT, policy, partition, attacker, EPISODES).won
    assert victories is not None
    return float(victories.mean())


# --- teams ---


def test_open_loop_teams_see_nothing_but_what_is_legal() -> None:
    allies = [marine(4.0), marine(6.0, 14.0), marine(8.0), marine(10.0, 16.0, 0.0)]
    assert choices(make_scripted(VARIANT, "hold"), allies, FAR) == [STOP, STOP, STOP, NO_OP]
    assert choices(make_scripted(VARIANT, "advance"), allies, FAR) == [EAST, EAST, EAST, NO_OP]
    near = [marine(13.0), marine(11.0), marine(13.5)]  # agents 0 and 1 are too far away, agent 2 reaches all
    assert choices(make_scripted(VARIANT, "hold"), allies, near) == [STOP, ATTACK + 1, ATTACK, NO_OP]


def test_nearest_and_weakest() -> None:
    allies = [marine(8.0), marine(9.0, 14.0), marine(9.0, 18.0), marine(1.0, 9.0)]
    enemies = [marine(13.0, 16.0, 30.0), marine(12.0), marine(13.0, 15.0, 6.0)]
    assert choices(make_scripted(VARIANT, "nearest"), allies, enemies)[:3] == [ATTACK + 1] * 3
    assert choices(make_scripted(VARIANT, "focus"), allies, enemies)[:3] == [ATTACK + 2] * 3
    assert choices(make_scripted(VARIANT, "nearest"), allies, enemies)[3] == EAST  # sees nobody


def test_the_wounded_expert_steps_back() -> None:
    allies = [marine(9.0, 15.0), marine(9.0, 16.0), marine(9.0, 17.0), marine(10.0, 16.0, 12.0)]
    found = choices(make_scripted(VARIANT, "expert"), allies, [marine(13.5, y) for y in (15.0, 16.0, 17.0)])
    assert found[3] == WEST
    assert min(found[:3]) >= ATTACK


def test_better_scripts_win_more() -> None:
    rates = {team: won(team) for team in ("idle", "random", "hold", "expert")}
    assert rates["idle"] == rates["random"] == 0.0
    assert rates["hold"] > 0.9
    assert rates["expert"] == 1.0


# --- traitors ---


def test_rush_walks_into_the_enemy_and_never_shoots() -> None:
    allies = [marine(10.0), marine(5.0), marine(5.0, 12.0), marine(5.0, 20.0)]
    assert choices(traitor("rush"), allies, [marine(14.0), *FAR[:2]])[0] == EAST
    assert choices(traitor("rush"), allies, [marine(10.5, 12.0), *FAR[:2]])[0] == SOUTH


def test_block_stands_between_an_ally_and_the_enemy() -> None:
    allies = [marine(10.0, 20.0), marine(10.0), marine(1.0, 9.0), marine(1.0, 23.0)]
    assert choices(traitor("block"), allies, [marine(14.0), *FAR[:2]])[0] == SOUTH  # to one cell before agent 1


def test_hide_runs_to_the_corner() -> None:
    allies = [marine(10.0, 12.0), marine(5.0), marine(5.0, 12.0), marine(5.0, 20.0)]
    assert choices(traitor("hide"), allies, FAR)[0] == WEST
    assert choices(traitor("hide"), [marine(0.0, 12.0), *allies[1:]], FAR)[0] == SOUTH


def test_flank_runs_to_the_other_corner() -> None:
    allies = [marine(10.0, 20.0), marine(5.0), marine(5.0, 12.0), marine(5.0, 20.0)]
    assert choices(traitor("flank"), allies, FAR)[0] == EAST
    assert choices(traitor("flank"), [marine(31.9, 20.0), *allies[1:]], FAR)[0] == NORTH


@pytest.mark.parametrize("name", ["idle", "hide", "rush"])
def test_traitors_cost_a_simple_team_its_victories(name: str) -> None:
    assert won("hold", [1], name) < won("hold") - 0.3


# --- the planted weakness ---


class Lurk:
    """One adversary that walks west for some steps and stays there."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def initial_carry(self, batch: int) -> np.ndarray:
        return np.zeros((batch, 1))

    def act(
        self, obs: np.ndarray, carry: np.ndarray, mask: Any = None, *, rng: Any, deterministic: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.where((carry < self.steps) & (mask[..., WEST] > 0), WEST, STOP)
        return np.where(mask[..., NO_OP] > 0, NO_OP, wanted), carry + 1


def test_the_planted_team_plays_like_the_expert_until_someone_lurks() -> None:
    assert won("planted") == won("expert") == 1.0
    rates = {
        team: rollout(VARIANT, make_scripted(VARIANT, team), Partition.of(4, [1]), Lurk(4), EPISODES).won
        for team in ("expert", "planted")
    }
    assert np.mean(rates["expert"]) > 0.7  # an agent less is no disaster
    assert np.mean(rates["planted"]) < 0.1


def test_no_script_pulls_the_trigger() -> None:
    for name in VARIANT.engine_class.scripted_traitors:
        assert won("planted", [1], name) > 0.7


# --- all of them ---


@pytest.mark.parametrize("name", ["Skirmish-5m_vs_3m-adv2-v0", "Skirmish-9m_vs_8m-adv1-v0"])
def test_scripts_are_legal_and_independent_of_the_batch(name: str) -> None:
    variant = mir2bench.spec(name)
    phi = Partition.of(variant.n_agents, range(variant.n_adversaries))
    engine = variant.engine_class
    for traitor in engine.scripted_traitors:
        adversary = make_attacker(traitor, variant).attack(
            variant, make_scripted(variant, "focus"), phi, seed=0, budget=1
        )
        rollout(variant, make_scripted(variant, "focus"), phi, adversary, range(8))  # an illegal action raises
    for team in sorted(set(engine.scripted_teams) - {"random"}):
        policy = make_scripted(variant, team)
        worlds = Worlds(variant, 6)
        worlds.reset(seeds=list(range(6)))
        carry = policy.initial_carry(6)
        alone = [policy.initial_carry(1)] * 6
        for _ in range(30):
            obs, mask = worlds.engine.obs.copy(), worlds.engine.mask
            assert mask is not None
            single = []
            for b in range(6):
                one, alone[b] = policy.act(obs[b : b + 1], alone[b], mask[b : b + 1], rng=np.random.default_rng(0))
                single.append(one)
            actions, carry = policy.act(obs, carry, mask, rng=np.random.default_rng(0))
            assert np.array_equal(actions, np.concatenate(single))
            worlds.step(actions)
            worlds.reset(np.flatnonzero(worlds.done))
