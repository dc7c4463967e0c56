"""When the games of SMAC's worlds end: at `close`, after a start that failed, after a training. With the stand-in."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from smac_stand_in import StarCraft2Env, install

import mir2bench
from mir2bench.attackers import make_attacker
from mir2bench.defenders import make_defender
from mir2bench.engines.base import Worlds
from mir2bench.errors import GameError, StateError
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import RandomPolicy


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[StarCraft2Env]:
    """The stand-in as the installed `smac`."""
    install(monkeypatch, tmp_path / "StarCraftII")
    return StarCraft2Env


def test_a_game_that_does_not_start_is_tried_again_and_then_given_up(game: type[StarCraft2Env]) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    game.fail_to_launch = 2
    worlds.reset(seeds=[0])
    assert worlds.engine.restarts == 2  # type: ignore[attr-defined]
    assert len(game.launches) == 1
    game.fail_to_launch = 3
    with pytest.raises(GameError, match="did not start with the map 3m in 3 attempts"):
        worlds.reset(seeds=[1])
    with pytest.raises(ResetNeeded, match="no episode is running"):
        worlds.step(np.ones((1, 3), dtype=np.int64))


def test_an_environment_whose_game_did_not_start_must_be_reset(game: type[StarCraft2Env]) -> None:
    env = gymnasium.make("mir2bench/SMAC-3m-adv0-v0").unwrapped
    env.reset(seed=0)
    game.fail_to_launch = 3
    with pytest.raises(GameError):
        env.reset(seed=1)
    with pytest.raises(ResetNeeded, match="no episode is running"):
        env.step(np.ones(3, dtype=np.int64))
    env.reset(seed=1)
    env.step(np.ones(3, dtype=np.int64))


def faces() -> dict[str, Any]:
    """Each face of a SMAC variant and an action that is legal at the start."""
    variant, four = "mir2bench/SMAC-4m_vs_3m-adv1-v0", np.ones(4, dtype=np.int64)
    team = RandomPolicy(mir2bench.spec(variant).layout)
    return {
        "gym": (gymnasium.make(variant), four),
        "vector": (gymnasium.make_vec(variant, num_envs=2), np.ones((2, 4), dtype=np.int64)),
        "parallel": (mir2bench.parallel_env(variant), {f"agent_{i}": 1 for i in range(4)}),
        "attacker": (mir2bench.AttackerEnv(variant, team), 1),
        "defender": (mir2bench.DefenderEnv(variant, team), four),
    }


@pytest.mark.parametrize("face", ["gym", "vector", "parallel", "attacker", "defender"])
def test_closing_an_environment_ends_its_games(game: type[StarCraft2Env], face: str) -> None:
    env, action = faces()[face]
    for _ in range(2):
        env.reset(seed=0)
        assert any(launch.running for launch in game.launches)
        env.close()
        assert not any(launch.running for launch in game.launches)
        env.close()
        with pytest.raises(ResetNeeded):
            env.step(action)


def test_games_that_started_before_one_failed_can_be_closed(
    game: type[StarCraft2Env], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, _ = faces()["vector"]
    env.reset(seed=0)
    env.close()
    launch = StarCraft2Env._launch

    def once(self: StarCraft2Env) -> None:
        game.fail_to_launch = 3 * any(other.running for other in game.launches)
        launch(self)

    monkeypatch.setattr(StarCraft2Env, "_launch", once)
    with pytest.raises(GameError):
        env.reset(seed=1)
    assert [other.running for other in game.launches] == [False, False, True]
    env.close()
    assert not any(other.running for other in game.launches)


def test_a_start_that_the_user_stopped_must_be_made_again(
    game: type[StarCraft2Env], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gymnasium.make("mir2bench/SMAC-3m-adv0-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(StateError):  # changes nothing
        env.reset(options={"initial_state": 1})
    env.step(np.ones(3, dtype=np.int64))

    def stopped(self: StarCraft2Env) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StarCraft2Env, "_launch", stopped)
    with pytest.raises(KeyboardInterrupt):
        env.reset(seed=1)
    with pytest.raises(ResetNeeded, match="no episode is running"):
        env.step(np.ones(3, dtype=np.int64))


def test_running_games_are_not_copied(game: type[StarCraft2Env]) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    twin = copy.deepcopy(worlds)
    worlds.reset(seeds=[0])
    with pytest.raises(GameError, match="Running games cannot be copied"):
        copy.deepcopy(worlds)
    twin.reset(seeds=[0])
    assert [launch.running for launch in game.launches] == [True, True]
    del twin
    gc.collect()
    assert [launch.running for launch in game.launches] == [True, False]


def evaluate() -> None:
    variant = mir2bench.spec("SMAC-3m-adv0-v0")
    rollout(variant, RandomPolicy(variant.layout), Partition.of(3), None, range(2))


def train() -> None:
    variant = mir2bench.spec("SMAC-3m-adv0-v0")
    make_defender("maddpg", variant, {"worlds": 2}).train(variant, seed=0, budget=8)


def attack() -> None:
    variant = mir2bench.spec("SMAC-4m_vs_3m-adv1-v0")
    for name in ("sb3-ppo", "learned"):
        attacker = make_attacker(name, variant, {"starts": 1, "worlds": 2})
        attacker.attack(variant, RandomPolicy(variant.layout), Partition.of(4, [0]), seed=0, budget=64)


@pytest.mark.parametrize("work", [evaluate, train, attack])
def test_finished_work_leaves_no_game_behind(game: type[StarCraft2Env], work: Callable[[], None]) -> None:
    gc.disable()  # the games must not wait for it
    try:
        work()
        assert game.launches
        assert not any(launch.running for launch in game.launches)
    finally:
        gc.enable()
