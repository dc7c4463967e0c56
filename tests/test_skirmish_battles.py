"""Whole Skirmish battles: against the slow implementation, in batches, on threads, from snapshots."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import skirmish_reference as reference

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.policies import RandomPolicy

THREE = "Skirmish-3m-adv0-v0"


def random_legal(mask: np.ndarray, rng: np.random.Generator, fight: bool = False) -> np.ndarray:
    """Return random legal actions; with `fight`, attacks where there are any and stop elsewhere."""
    weights = rng.random(mask.shape)
    if fight:
        weights[..., 6:] += 1.0
        weights[..., 2:6] = -0.5
    return np.where(mask > 0, weights, -1.0).argmax(axis=-1)


def assert_same_numbers(battle: reference.Battle, engine: Any) -> None:
    """Compare all that the engine reports of its first world, but the rewards, with the slow implementation."""
    units = np.array([[u.x, u.y, u.health, u.cooldown] for u in battle.allies + battle.enemies])
    np.testing.assert_allclose(engine.units[0], units, rtol=0, atol=1e-9)
    agents = range(len(battle.allies))
    assert engine.mask[0].tolist() == [battle.mask(i) for i in agents]
    np.testing.assert_allclose(engine.obs[0], [battle.observation(i) for i in agents], rtol=0, atol=1e-6)
    np.testing.assert_allclose(engine.state[0], battle.state(), rtol=0, atol=1e-6)


def assert_same_outcome(battle: reference.Battle, engine: Any) -> None:
    """Compare the rewards, the end and the shots of the last step."""
    assert engine.reward[0] == pytest.approx(battle.reward, abs=1e-12)
    assert engine.channels["signed"][0] == pytest.approx(battle.signed, abs=1e-12)
    assert engine.channels["won"][0] == battle.won
    assert engine.channels["lost"][0] == battle.lost
    assert engine.terminated[0] == battle.over
    shots = np.array(battle.shots).reshape(-1, 4)
    np.testing.assert_allclose(engine.snapshot(0)["shots"], shots, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "episodes"), [("3m", 12), ("4m_vs_3m", 6), ("5m_vs_6m", 8), ("10m_vs_11m", 1)])
def test_whole_episodes_against_the_slow_implementation(name: str, episodes: int) -> None:
    worlds = Worlds(mir2bench.spec(f"Skirmish-{name}-adv0-v0"), 1)
    engine: Any = worlds.engine
    outcomes = set()
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        worlds.reset(seeds=[seed])
        start = engine.snapshot(0)
        battle = reference.Battle(start["allies"].tolist(), start["enemies"].tolist())
        assert_same_numbers(battle, engine)
        while not worlds.done[0]:
            actions = random_legal(engine.mask, rng, fight=seed % 2 == 0)
            worlds.step(actions)
            battle.step(actions[0].tolist())
            assert_same_outcome(battle, engine)
            assert_same_numbers(battle, engine)
        outcomes.add((battle.won, battle.lost))
    if name in ("3m", "4m_vs_3m"):
        assert outcomes >= {(True, False), (False, True)}


def random_start(n: int, m: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return any configuration: anywhere, in a crowd, at edges, with dead and hurt units."""
    kind = rng.integers(4)
    center = rng.uniform((3, 11), (29, 21))
    places = rng.uniform((0, 8), (32, 24), (n + m, 2))
    if kind < 2:
        places = np.clip(center + (6, 1)[kind] * rng.normal(size=(n + m, 2)), (0, 8), (31.99, 23.99))
    if kind == 2:
        places = np.floor(places)  # on the edges of cells, on one spot, exactly in line
    health = rng.choice((0.0, 45.0, 3.0, 6.0, 27.0), n + m)
    health[[0, n]] = 9.0
    cooldown = rng.choice((0.0, 0.5, 1.0, 7.25, 13.77), n + m)
    units = np.column_stack([places, health, cooldown])
    return {"allies": units[:n], "enemies": units[n:]}


def test_10000_states_against_the_slow_implementation() -> None:
    rng = np.random.default_rng(0)
    seen = np.zeros(9, dtype=np.int64)
    worlds = Worlds(mir2bench.spec(THREE), 1)
    worlds.reset(seeds=[0])
    engine: Any = worlds.engine
    policy = RandomPolicy(worlds.layout)
    for number in range(10000):
        start = random_start(3, 3, rng)
        worlds.reset(initial_state=start)
        battle = reference.Battle(start["allies"].tolist(), start["enemies"].tolist())
        masks = [battle.mask(i) for i in range(3)]
        assert engine.mask[0].tolist() == masks
        actions = policy.act(engine.obs, None, engine.mask, rng=rng)[0]
        assert all(masks[i][action] for i, action in enumerate(actions[0]))
        seen += engine.mask[0].sum(axis=0)
        if number % 20 == 0:
            for unit in battle.allies + battle.enemies:
                unit.cooldown *= unit.alive
            assert_same_numbers(battle, engine)
            worlds.step(actions)  # strict: it raises if an action is illegal
            battle.step(actions[0].tolist())
            assert_same_outcome(battle, engine)
            assert_same_numbers(battle, engine)
    assert (seen > 1000).all()


# --- batches, threads, copies, snapshots ---


def trajectory(worlds: Worlds, steps: int, actions_of: Any) -> list[bytes]:
    """Play some steps, resetting worlds that end, and return every world's arrays, world by world and step by step."""
    engine: Any = worlds.engine
    records: list[bytes] = []
    for number in range(steps):
        worlds.step(actions_of(engine.mask, number))
        channels = list(engine.channels.values())
        for b in range(worlds.batch):
            arrays = (engine.obs, engine.state, engine.mask, *channels, engine.terminated, engine.units)
            records.append(b"".join(array[b].tobytes() for array in arrays) + engine.snapshot(b)["shots"].tobytes())
        if worlds.done.any():
            worlds.reset(np.flatnonzero(worlds.done))
    return records


@pytest.mark.parametrize("name", ["3m", "9m_vs_8m"])
@pytest.mark.parametrize("batch", [3, 32])
def test_a_batch_plays_as_single_worlds_do(name: str, batch: int) -> None:
    spec = mir2bench.spec(f"Skirmish-{name}-adv0-v0")
    scores = np.random.default_rng(0).random((40, 32, spec.n_agents, spec.layout.action_dim))

    def choose(mask: np.ndarray, number: int, first: int) -> np.ndarray:
        return np.where(mask > 0, scores[number, first : first + len(mask)], -1.0).argmax(axis=-1)

    together = Worlds(spec, batch)
    together.reset(seeds=range(batch))
    records = trajectory(together, 40, lambda mask, number: choose(mask, number, 0))
    for world in (0, 1, batch - 1):
        alone = Worlds(spec, 1)
        alone.reset(seeds=[world])
        expected = trajectory(alone, 40, lambda mask, number, world=world: choose(mask, number, world))
        assert records[world::batch] == expected


@pytest.mark.parametrize("threads", [2, 3, None])
def test_threads_do_not_change_a_bit(threads: int | None) -> None:
    played = []
    for count in (1, threads):
        worlds, rng = Worlds(mir2bench.spec(THREE), 300, threads=count), np.random.default_rng(0)
        worlds.reset(seeds=range(300))
        played.append(trajectory(worlds, 12, lambda mask, number, rng=rng: random_legal(mask, rng)))
    assert played[0] == played[1]


def test_a_snapshot_goes_on_as_the_battle_does() -> None:
    spec = mir2bench.spec("Skirmish-5m_vs_6m-adv0-v0")
    worlds, rng = Worlds(spec, 1), np.random.default_rng(1)
    worlds.reset(seeds=[1])
    targets = compared = 0
    while not worlds.done[0]:
        worlds.step(random_legal(worlds.engine.mask, rng))
        if worlds.elapsed[0] % 5 or worlds.engine.terminated[0]:
            continue
        start = worlds.engine.snapshot(0)
        targets += int((start["targets"] >= 0).sum())
        going_on, resumed = copy.deepcopy(worlds), Worlds(spec, 1)
        resumed.reset(seeds=[9], initial_state=start)
        while not going_on.engine.terminated[0] and resumed.elapsed[0] < 8:
            for name in ("obs", "state", "mask"):
                assert getattr(resumed.engine, name).tobytes() == getattr(going_on.engine, name).tobytes()
            actions = random_legal(going_on.engine.mask, rng)
            for each in (going_on, resumed):
                each.step(actions)
            assert resumed.engine.reward[0] == going_on.engine.reward[0]
            compared += 1
        after, expected = resumed.engine.snapshot(0), going_on.engine.snapshot(0)
        assert all(after[key].tobytes() == expected[key].tobytes() for key in expected)
    assert targets > 5
    assert compared > 20


def test_a_snapshot_is_a_copy_and_a_start_without_targets_and_actions_is_enough() -> None:
    worlds = Worlds(mir2bench.spec(THREE), 1)
    worlds.reset(seeds=[0])
    start = worlds.engine.snapshot(0)
    for array in start.values():
        array[...] = 0
    assert worlds.engine.snapshot(0)["allies"].all(axis=0)[:3].all()
    start = worlds.engine.snapshot(0)
    obs = worlds.engine.obs.copy()
    worlds.reset(initial_state={key: start[key] for key in ("allies", "enemies")})
    assert worlds.engine.obs.tobytes() == obs.tobytes()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda worlds: pickle.loads(pickle.dumps(worlds))])
def test_copies_go_on_by_themselves(duplicate: Any) -> None:
    worlds, rng = Worlds(mir2bench.spec(THREE), 2), np.random.default_rng(0)
    worlds.reset(seeds=[0, 1])
    trajectory(worlds, 15, lambda mask, _: random_legal(mask, rng))
    twin = duplicate(worlds)
    played = []
    for each in (worlds, twin):
        draws = np.random.default_rng(1)
        played.append(trajectory(each, 30, lambda mask, _, draws=draws: random_legal(mask, draws)))
    assert played[0] == played[1]
    before = worlds.engine.units.copy()  # type: ignore[attr-defined]
    twin.reset(seeds=[5, 6])
    assert worlds.engine.units.tobytes() == before.tobytes()  # type: ignore[attr-defined]


def test_seeds_rule_the_starts() -> None:
    worlds = Worlds(mir2bench.spec(THREE), 3)
    worlds.reset(seeds=[4, 4, 5])
    obs = worlds.engine.obs
    assert obs[0].tobytes() == obs[1].tobytes() != obs[2].tobytes()
    worlds.reset([1])
    assert obs[0].tobytes() != obs[1].tobytes()
