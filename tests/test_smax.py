"""SMAX: what is registered without JAX, and with it the adapter against JaxMARL itself and numbers computed by hand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.seeding import np_random

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.engines.smax import MAX_COOLDOWN, SmaxEngine
from mir2bench.errors import MissingDependencyError, SpecError, StateError
from mir2bench.policies import RandomPolicy

needs_jax = pytest.mark.skipif(
    not (importlib.util.find_spec("jax") and importlib.util.find_spec("jaxmarl")), reason="the extra smax is missing"
)
MAPS = {
    "3m": (3, 3),
    "4m_vs_3m": (4, 3),
    "5m_vs_3m": (5, 3),
    "8m": (8, 8),
    "9m_vs_8m": (9, 8),
    "5m_vs_6m": (5, 6),
    "8m_vs_9m": (8, 9),
    "10m_vs_11m": (10, 11),
    "25m": (25, 25),
    "27m_vs_30m": (27, 30),
}


# --- without JAX ---


def test_every_map_is_registered() -> None:
    ids = mir2bench.list_variants(family="smax")
    assert {i.split("SMAX-")[1].rsplit("-adv", 1)[0] for i in ids} == set(MAPS)
    assert [i for i in ids if "9m_vs_8m" in i] == [f"mir2bench/SMAX-9m_vs_8m-adv{k}-v0" for k in (0, 1, 2)]
    for i in ids:
        variant = mir2bench.spec(i)
        n, m = MAPS[i.split("SMAX-")[1].rsplit("-adv", 1)[0]]
        assert (variant.n_agents, variant.engine_args, variant.horizon) == (n, {"enemies": m}, 100)
        assert (variant.requires, variant.attack_reward) == ("smax", "signed")
        assert all(word in variant.description for word in ("damage", "speed", "reward", "starts", "100 steps"))


def test_layout_names_all_numbers() -> None:
    layout = mir2bench.spec("SMAX-4m_vs_3m-adv1-v0").layout
    assert (layout.obs_dim, layout.state_dim, layout.action_dim) == (13 * 6 + 10 + 4, 12 * 7, 8)
    assert layout.action_fields == ("stop", "north", "south", "east", "west", "attack_0", "attack_1", "attack_2")
    assert layout.observation_fields[:3] == ("other_0_health", "other_0_dx", "other_0_dy")
    assert layout.observation_fields[39:41] == ("enemy_0_health", "enemy_0_dx")
    assert layout.observation_fields[-14:-10] == ("own_health", "own_x", "own_y", "own_cooldown")
    assert layout.observation_fields[-4:] == ("id_0", "id_1", "id_2", "id_3")
    assert layout.state_fields[40:42] == ("enemy_0_health", "enemy_0_x")
    assert layout.state_fields[70:] == tuple(
        f"{unit}_{what}"
        for what in ("team", "type")
        for unit in (*(f"ally_{i}" for i in range(4)), *(f"enemy_{e}" for e in range(3)))
    )
    for bad in (0, True, 2.0):
        with pytest.raises(SpecError, match="SMAX needs 1 or more enemies, but it got"):
            SmaxEngine.layout(3, bad)  # type: ignore[arg-type]


def test_without_the_extra_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mir2bench.engines.smax_functions", raising=False)
    for missing in ("jax", "jaxmarl.environments.smax"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=r'package `jax\w*`.* Run: pip install "mir2bench\[smax\]"'):
        gymnasium.make("mir2bench/SMAX-3m-adv0-v0")


# --- with it ---


@pytest.fixture(scope="module")
def three() -> Worlds:
    """Three worlds of 4m_vs_3m; JAX compiles for their number only once."""
    pytest.importorskip("jaxmarl")
    return Worlds(mir2bench.spec("SMAX-4m_vs_3m-adv1-v0"), 3)


def start(**changes: Any) -> dict[str, np.ndarray]:
    """Four allies in the west, three enemies far from them in the east."""
    units = {
        "allies": np.array([[4.0, y, 45.0, 0.0] for y in (4.0, 6.0, 8.0, 10.0)]),
        "enemies": np.array([[28.0, y, 45.0, 0.0] for y in (4.0, 6.0, 8.0)]),
    }
    return units | changes


def play(worlds: Worlds, rng: np.random.Generator, steps: int) -> list[list[np.ndarray]]:
    """Record everything that a batch gives under random legal actions, without resets."""
    record = []
    for _ in range(steps):
        mask = worlds.engine.mask
        assert mask is not None
        actions = (rng.random((3, *mask.shape[1:]))[: len(mask)] * mask).argmax(axis=-1)
        worlds.step(actions)
        engine = worlds.engine
        arrays = (engine.obs, engine.state, engine.mask, engine.terminated, *engine.channels.values())
        record.append([np.array(a) for a in arrays])
    return record


@needs_jax
def test_single_and_batched_worlds_play_the_same(three: Worlds) -> None:
    """To the last bit, but for observations, which JAX may round otherwise for another batch size."""
    single = Worlds(three.variant, 1)
    three.reset(seeds=[7, 8, 9])
    starts = three.engine.obs.copy()
    batched = play(three, np.random.default_rng(0), 30)
    single.reset(seeds=[7])
    np.testing.assert_allclose(single.engine.obs[0], starts[0], rtol=0, atol=1e-6)
    assert not np.array_equal(starts[0], starts[1])
    for together, alone in zip(batched, play(single, np.random.default_rng(0), 30), strict=True):
        np.testing.assert_allclose(together[0][:1], alone[0], rtol=0, atol=1e-6)
        for a, b in zip(together[1:], alone[1:], strict=True):
            assert a[:1].tobytes() == b.tobytes()
    three.reset(seeds=[7, 8, 9])
    for first, again in zip(batched, play(three, np.random.default_rng(0), 30), strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))


@needs_jax
def test_partial_reset_leaves_the_others_alone(three: Worlds) -> None:
    three.reset(seeds=[1, 2, 3])
    undisturbed = play(three, np.random.default_rng(1), 12)
    three.reset(seeds=[1, 2, 3])
    before = play(three, np.random.default_rng(1), 6)
    old = {name: getattr(three.engine, name).copy() for name in ("obs", "state", "mask", "reward")}
    three.reset([1])
    for name, values in old.items():
        assert np.array_equal(getattr(three.engine, name)[[0, 2]], values[[0, 2]]), name
    assert not np.array_equal(three.engine.obs[1], old["obs"][1])
    rng = np.random.default_rng(1)
    rng.random((6, 3, 4, 8))
    after = play(three, rng, 6)
    for expected, given in zip(undisturbed, before + after, strict=True):
        assert all(np.array_equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(expected, given, strict=True))


@needs_jax
def test_starts_do_not_share_their_key_with_the_first_step(three: Worlds) -> None:
    import jax

    from mir2bench.engines.smax_functions import functions

    three.reset(seeds=[4, 5, 6])
    start = three.engine.snapshot(1)["allies"][:, :2]
    key = three.engine._keys[1].copy()  # type: ignore[attr-defined]
    derived = np.stack([key, *jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key)))])
    places = np.asarray(functions(4, 3).start(derived).state.unit_positions)[:, :4]
    assert not any(np.array_equal(start, place) for place in places)


@needs_jax
def test_it_is_jaxmarl_that_plays(three: Worlds) -> None:
    import jax
    from jaxmarl.environments.smax import HeuristicEnemySMAX

    from mir2bench.engines.smax_functions import HeuristicEnemySMAX as Used
    from mir2bench.engines.smax_functions import Scenario

    assert Used is HeuristicEnemySMAX
    scenario = Scenario(jax.numpy.zeros(7, dtype=jax.numpy.uint8), 4, 3, False, False)
    env = HeuristicEnemySMAX(scenario=scenario)
    three.reset(seeds=[4, 5, 6])
    drawn = np_random(5)[0].integers(2**32, size=(2, 2), dtype=np.uint32)
    key, first = (jax.random.wrap_key_data(data) for data in drawn)
    _, state = env.reset(first)
    order, rng, returns = [4, 0, 2, 1, 3, 5, 6, 7], np.random.default_rng(2), 0.0
    for _ in range(20):
        obs, legal = env.get_obs(state), env.get_avail_actions(state)
        mask, engine = three.engine.mask, three.engine
        assert mask is not None
        for i, agent in enumerate(env.agents):
            assert np.allclose(engine.obs[1, i, :-4], obs[agent], atol=1e-5)
            assert np.array_equal(mask[1, i], np.asarray(legal[agent])[order])
        assert np.allclose(engine.state[1], env.get_world_state(state), atol=1e-4)
        actions = (rng.random(mask.shape) * mask).argmax(axis=-1)
        key, now = jax.random.split(key)
        chosen = {agent: np.int32(order[actions[1, i]]) for i, agent in enumerate(env.agents)}
        _, state, rewards, dones, _ = env.step_env(now, state, chosen)
        if three.engine.terminated[0] or three.engine.terminated[2]:
            three.reset(np.flatnonzero(three.done))
        three.step(actions)
        assert engine.reward[1] == pytest.approx(float(rewards["ally_0"]), abs=1e-6)
        assert engine.terminated[1] == bool(dones["__all__"])
        returns += engine.reward[1]
        if engine.terminated[1]:
            break
    assert returns > 0.0


@needs_jax
def test_moves_by_hand(three: Worlds) -> None:
    three.reset(initial_state=start())
    three.step(np.array([[2, 3, 4, 1], [0, 0, 0, 0], [3, 3, 3, 3]]))
    speed = 3.15 * 0.5  # cells per step
    moved = [three.engine.snapshot(w)["allies"][:, :2] - start()["allies"][:, :2] for w in range(3)]
    assert moved[0] == pytest.approx(np.array([[0, -speed], [speed, 0], [-speed, 0], [0, speed]]), abs=1e-5)
    assert moved[1] == pytest.approx(np.zeros((4, 2)))
    assert moved[2] == pytest.approx(np.full((4, 2), [speed, 0.0]), abs=1e-5)
    layout, enemy = three.layout, three.layout.observation_fields.index("enemy_0_health")
    assert not three.engine.obs[:, :, enemy].any()  # too far to be seen
    own = layout.observation_fields.index("own_x")
    assert three.engine.obs[2, :, own] == pytest.approx((4.0 + speed) / 32.0)


@needs_jax
def test_rewards_by_hand(three: Worlds) -> None:
    engine, channels = three.engine, ("team", "signed", "won", "lost")
    west = [[4.0, y, 45.0, 0.0] for y in (4.0, 6.0, 8.0)]
    duel = start(
        allies=np.array([*west, [20.0, 16.0, 18.0, 0.0]]),
        enemies=np.array([[24.0, 16.0, 45.0, 0.0], [31.0, 30.0, 0.0, 0.0], [31.0, 31.0, 0.0, 0.0]]),
    )
    three.reset(initial_state=duel)
    assert engine.mask is not None
    assert engine.mask[0, 3].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    three.step(np.array([[0, 0, 0, 5], [0, 0, 0, 0], [0, 0, 0, 5]]))
    hit, pain = 9 / 45 / 3, 9 / 45 / 4  # shares of all enemies' and of all allies' health
    assert [engine.channels[key][0] for key in channels] == pytest.approx([hit, hit - pain, 0, 0], abs=1e-6)
    assert [engine.channels[key][1] for key in channels] == pytest.approx([0, -pain, 0, 0], abs=1e-6)
    assert engine.snapshot(0)["allies"][3, 2] == 9.0
    shots = engine.snapshot(0)["shots"]
    assert shots == pytest.approx(np.array([[20.0, 16.0, 24.0, 16.0], [24.0, 16.0, 20.0, 16.0]]), abs=1e-5)
    assert engine.snapshot(1)["shots"] == pytest.approx(np.array([[24.0, 16.0, 20.0, 16.0]]), abs=1e-5)
    # A last hit on both sides: the ally dies, and so does the only enemy. Three allies are left: a victory.
    allies, enemies = duel["allies"].copy(), duel["enemies"].copy()
    allies[3, 2] = enemies[0, 2] = 9.0
    three.reset(initial_state={"allies": allies, "enemies": enemies})
    three.step(np.array([[0, 0, 0, 5]] * 3))
    assert [engine.channels[key][2] for key in channels] == pytest.approx([hit + 1, hit + 1 - pain, 1, 0], abs=1e-6)
    assert engine.terminated.all()
    assert engine.mask[0, 3].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert not engine.obs[0, 3, :-4].any()
    # The same without the other three and without an answer: a defeat.
    allies[:3, 2] = 0.0
    three.reset(initial_state={"allies": allies, "enemies": enemies})
    three.step(np.array([[0, 0, 0, 0]] * 3))
    assert [engine.channels[key][1] for key in channels] == pytest.approx([0, -pain - 1, 0, 1], abs=1e-6)
    assert engine.terminated.all()
    three.reset(initial_state=duel)
    assert not engine.terminated.any()
    assert not engine.channels["lost"].any()
    assert engine.snapshot(0)["shots"].shape == (0, 4)


@needs_jax
def test_the_edge_kills(three: Worlds) -> None:
    allies = start()["allies"]
    allies[0, 0] = 1.0
    three.reset(initial_state=start(allies=allies))
    three.step(np.array([[4, 0, 0, 0]] * 3))
    assert three.engine.snapshot(0)["allies"][:, 2].tolist() == [0.0, 45.0, 45.0, 45.0]
    assert three.engine.channels["signed"] == pytest.approx(np.full(3, -1 / 4), abs=1e-6)


@needs_jax
def test_time_limit_is_a_truncation(three: Worlds) -> None:
    dead = [[31.0, 30.0, 0.0, 0.0], [31.0, 31.0, 0.0, 0.0]]
    # An enemy that walks to where it once was told to, out of sight of all.
    hidden = start(enemies=np.array([[31.0, 28.0, 45.0, 0.0], *dead]), goals=np.full((3, 2), [31.0, 28.0]))
    three.reset(initial_state=hidden)
    for _ in range(100):
        assert not three.done.any()
        three.step(np.zeros((3, 4), dtype=np.int64))
    assert three.truncated.all()
    assert not three.engine.terminated.any()


@needs_jax
def test_a_snapshot_resumes(three: Worlds) -> None:
    three.reset(seeds=[11, 12, 13])
    play(three, np.random.default_rng(3), 8)
    obs, state, mask = three.engine.obs[1].copy(), three.engine.state[1].copy(), three.engine.mask[1].copy()  # type: ignore[index]
    saved = three.engine.snapshot(1)
    three.reset([0], initial_state=saved)
    assert three.engine.obs[0].tobytes() == obs.tobytes()
    assert three.engine.state[0].tobytes() == state.tobytes()
    assert three.engine.mask[0].tobytes() == mask.tobytes()  # type: ignore[index]
    again = three.engine.snapshot(0)
    assert all(np.array_equal(saved[key], again[key]) for key in saved if key != "shots")


@needs_jax
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allies": np.zeros((3, 4))}, r"allies has shape \(3, 4\), but it must be \(4, 4\)"),
        ({"allies": "here"}, r"allies must hold real numbers in an array of shape \(4, 4\)"),
        ({"enemies": np.zeros((3, 4))}, "all enemies are dead"),
        ({"units": 1}, "with attacks, goals, moves, shots, targets as further keys at most, but it holds"),
        ({"enemies": np.full((3, 4), np.nan)}, r"enemies \[0, 1, 2\] are not finite"),
        (
            {"enemies": np.full((3, 4), [32.0, 4.0, 45.0, 0.0])},
            r"enemies \[0, 1, 2\] stand where nobody lives: 0 < x < 32",
        ),
        ({"enemies": [[3.0, 4.0, 45.0, 0.0]] * 2 + [[1e300, 4.0, 0.0, 0.0]]}, r"enemies \[2\] lie farther than 1,000"),
        ({"enemies": np.full((3, 4), [3.0, 4.0, 46.0, 0.0])}, "must have a health from 0 to 45"),
        (
            {"enemies": np.full((3, 4), [3.0, 4.0, 45.0, MAX_COOLDOWN + 0.1])},
            "must have a cooldown from -10,000 to 11.76 game loops",
        ),
        ({"enemies": np.full((3, 4), [3.0, 4.0, 45.0, -1e9])}, "must have a cooldown from -10,000 to 11.76 game loops"),
        ({"targets": np.array([0, 1, 4])}, "targets must hold 3 integers from -1 to 3, but it is array"),
        ({"attacks": np.full(7, 0.5)}, "attacks must hold 7 integers from 0 to 8"),
        ({"moves": np.full((7, 2), 1e30)}, "moves must lie between -32 and 32"),
    ],
)
def test_impossible_starts_are_refused(three: Worlds, change: dict[str, Any], message: str) -> None:
    three.reset(seeds=[1, 2, 3])
    before = three.engine.obs.copy()
    with pytest.raises(StateError, match=message):
        three.reset(initial_state=start(**change))
    assert np.array_equal(three.engine.obs, before)
    with pytest.raises(StateError, match="but it holds list"):
        three.reset(initial_state=[])


@needs_jax
def test_importing_jax_leaves_standard_output_and_the_global_generator_alone() -> None:
    script = "import sys, numpy as np; a, g = (sys.stdout, sys.stderr), str(np.random.get_state()); "
    script += "import mir2bench.engines.smax_functions; "
    script += "assert (sys.stdout, sys.stderr) == a; assert str(np.random.get_state()) == g; print('done')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


@needs_jax
def test_teams_rank_as_they_should(three: Worlds) -> None:
    from mir2bench.engines.smax_scripted import NearestTeam
    from mir2bench.learning.rollout import rollout
    from mir2bench.partition import Partition
    from mir2bench.policies import IdlePolicy

    variant = mir2bench.spec("SMAX-4m_vs_3m-adv0-v0")
    means = [
        rollout(variant, team(variant.layout), Partition.of(4), None, range(3)).returns.mean()
        for team in (IdlePolicy, RandomPolicy, NearestTeam)
    ]
    assert means[0] == 0.0
    assert means[0] < means[1] < 0.5 * means[2]
