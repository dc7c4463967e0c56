"""The adapter to the real SMAC, against a stand-in on top of the Skirmish engine, and what it says is missing."""

from __future__ import annotations

import dataclasses
import gc
import io
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from rich.console import Console
from smac_stand_in import SMACMap, StarCraft2Env, install

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.errors import ConfigError, MissingDependencyError, StateError
from mir2bench.evaluation.protocol import get_budget
from mir2bench.evaluation.study import Study
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import RandomPolicy
from mir2bench.transfer import Options as TransferOptions
from mir2bench.transfer import targets

MAPS = {
    "3m": (3, 3, 60),
    "4m_vs_3m": (4, 3, 60),
    "5m_vs_3m": (5, 3, 60),
    "8m": (8, 8, 120),
    "9m_vs_8m": (9, 8, 120),
    "5m_vs_6m": (5, 6, 70),
    "8m_vs_9m": (8, 9, 120),
    "10m_vs_11m": (10, 11, 150),
    "25m": (25, 25, 150),
    "27m_vs_30m": (27, 30, 180),
}


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[StarCraft2Env]:
    """The stand-in as the installed `smac`."""
    install(monkeypatch, tmp_path / "StarCraftII")
    return StarCraft2Env


def fight(worlds: Worlds, rng: np.random.Generator) -> np.ndarray:
    """Legal joint actions: attack when possible, else mostly walk east."""
    mask = worlds.engine.mask
    assert mask is not None
    wish = rng.random(mask.shape) * mask
    wish[..., 6:] *= 3.0
    wish[..., 4] *= 2.0
    return wish.argmax(axis=-1)


# --- what is registered ---


def test_every_map_is_registered_with_the_layout_of_skirmish() -> None:
    ids = mir2bench.list_variants(family="smac")
    assert {i.split("SMAC-")[1].rsplit("-adv", 1)[0] for i in ids} == set(MAPS)
    assert [i for i in ids if "5m_vs_3m" in i] == [f"mir2bench/SMAC-5m_vs_3m-adv{k}-v0" for k in (0, 1, 2)]
    for i in ids:
        variant, twin = mir2bench.spec(i), mir2bench.spec(i.replace("SMAC", "Skirmish"))
        n, m, limit = MAPS[variant.engine_args["map_name"]]
        assert (variant.n_agents, variant.engine_args["enemies"], variant.horizon) == (n, m, limit)
        assert variant.engine_args["episode_limit"] == variant.horizon == twin.horizon
        assert variant.layout == twin.layout
        assert variant.attack_reward == "signed"
        assert "never against the game" in variant.description
    assert [mir2bench.spec(f"SMAC-{name}-adv0-v0").layout.state_dim for name in list(MAPS)[:3]] == [48, 61, 74]


# --- against the stand-in ---


@pytest.mark.parametrize(("name", "episodes"), [("3m", 4), ("4m_vs_3m", 4)])
def test_same_numbers_as_skirmish_from_the_same_start(game: type[StarCraft2Env], name: str, episodes: int) -> None:
    smac = Worlds(mir2bench.spec(f"SMAC-{name}-adv0-v0"), 2)
    twin = Worlds(mir2bench.spec(f"Skirmish-{name}-adv0-v0"), 1, threads=1)
    rng = np.random.default_rng(0)
    smac.reset(seeds=[5, 6])
    ends = []
    for _ in range(episodes):
        twin.reset(seeds=[0], initial_state=smac.engine.snapshot(0))
        done = False
        while not done:
            for array in ("obs", "state", "mask"):
                assert np.array_equal(getattr(smac.engine, array)[0], getattr(twin.engine, array)[0]), array
            actions = fight(smac, rng)
            smac.step(actions)
            twin.step(actions[:1])
            for key, values in twin.engine.channels.items():
                assert smac.engine.channels[key][0] == pytest.approx(values[0], abs=1e-9), key
            assert smac.engine.terminated[0] == twin.engine.terminated[0]
            assert smac.truncated[0] == twin.truncated[0]
            done = smac.done[0]
            if smac.done[1]:
                smac.reset([1])
        ends.append((bool(twin.engine.channels["won"][0]), bool(twin.engine.channels["lost"][0])))
        smac.reset([0])
    assert (False, True) in ends  # a price of 200 for the defeat was among the compared numbers
    assert {(env.map_name, env.n_agents) for env in game.launches} == {(name, smac.variant.n_agents)}
    assert len(game.launches) == 2  # one process per world, however many episodes


def place(env: StarCraft2Env, worlds: Worlds, allies: list[list[float]], enemies: list[list[float]]) -> None:
    """Let the stand-in's battle and the adapter go on from other places."""
    start = {"allies": np.array(allies), "enemies": np.array(enemies)}
    env.engine.reset([0], [np.random.default_rng(0)], start)
    env._read()
    worlds.engine._observe(0)  # type: ignore[attr-defined]


def test_rewards_by_hand(game: type[StarCraft2Env]) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    worlds.reset(seeds=[0])
    engine, scale = worlds.engine, 20 / (3 * 10 + 200 + 3 * 45)
    away = [[1.0, 9.0, 45.0, 0.0], [1.0, 10.0, 45.0, 0.0]]
    dead = [[23.0, 17.0, 0.0, 0.0], [23.0, 18.0, 0.0, 0.0]]
    # An ally and an enemy that are about to shoot: 6 each. The ally dies of it.
    place(game.launches[0], worlds, [*away, [20.0, 16.0, 6.0, 0.0]], [[23.0, 16.0, 45.0, 0.0], *dead])
    worlds.step(np.array([[1, 1, 6]]))
    assert engine.reward[0] == pytest.approx(6 * scale)
    assert engine.channels["signed"][0] == pytest.approx((6 - 6 - 10) * scale)
    assert not worlds.done[0]
    assert engine.mask is not None
    assert engine.mask[0, 2].tolist() == [1] + [0] * 8  # the dead have no choice
    # The enemy dies of it as well: a victory, since two allies are left.
    worlds.reset(seeds=[0])
    place(game.launches[1], worlds, [*away, [20.0, 16.0, 6.0, 0.0]], [[23.0, 16.0, 6.0, 0.0], *dead])
    worlds.step(np.array([[1, 1, 6]]))
    assert engine.reward[0] == pytest.approx((6 + 10 + 200) * scale)
    assert engine.channels["signed"][0] == pytest.approx(200 * scale)
    assert [engine.channels[key][0] for key in ("won", "lost", "restarts")] == [1.0, 0.0, 0.0]
    assert engine.terminated[0]
    # The last ally dies and cannot shoot back: a defeat.
    gone = [[x, y, 0.0, 0.0] for x, y, *_ in away]
    worlds.reset(seeds=[0])
    place(game.launches[2], worlds, [*gone, [20.0, 16.0, 6.0, 10.0]], [[23.0, 16.0, 45.0, 0.0], *dead])
    worlds.step(np.array([[0, 0, 6]]))
    assert engine.reward[0] == 0.0
    assert engine.channels["signed"][0] == pytest.approx(-(6 + 10 + 200) * scale)
    assert [engine.channels[key][0] for key in ("won", "lost", "restarts")] == [0.0, 1.0, 0.0]
    assert engine.terminated[0]
    # Both shoot, and nobody is left: neither.
    worlds.reset(seeds=[0])
    place(game.launches[3], worlds, [*gone, [20.0, 16.0, 6.0, 0.0]], [[23.0, 16.0, 6.0, 0.0], *dead])
    worlds.step(np.array([[0, 0, 6]]))
    assert engine.reward[0] == pytest.approx((6 + 10) * scale)
    assert engine.channels["signed"][0] == pytest.approx(0.0)
    assert [engine.channels[key][0] for key in ("won", "lost", "restarts")] == [0.0, 0.0, 0.0]
    assert engine.terminated[0]


def test_time_limit_truncates_and_the_game_goes_on(game: type[StarCraft2Env]) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    worlds.reset(seeds=[1])
    # In the corner nobody finds them.
    hidden = [[1.0, 9.0, 45.0, 0.0], [1.0, 10.0, 45.0, 0.0], [1.0, 11.0, 45.0, 0.0]]
    place(game.launches[0], worlds, hidden, [[23.0, y, 45.0, 0.0] for y in (15.0, 16.0, 17.0)])
    for _ in range(60):
        assert not worlds.done[0]
        worlds.step(np.ones((1, 3), dtype=np.int64))
    assert worlds.truncated[0]
    assert not worlds.engine.terminated[0]
    assert game.launches[0].timeouts == 1
    worlds.reset()
    assert len(game.launches) == 1


def test_a_seed_means_a_new_game_and_the_same_trajectory(game: type[StarCraft2Env]) -> None:
    variant = mir2bench.spec("SMAC-4m_vs_3m-adv1-v0")

    def play(worlds: Worlds, seed: int) -> list[Any]:
        worlds.reset(seeds=[seed])
        rng, record = np.random.default_rng(1), [worlds.engine.obs.copy()]
        while not worlds.done.any():
            worlds.step(fight(worlds, rng))
            record += [worlds.engine.obs.copy(), worlds.engine.reward.copy()]
        return record

    worlds = Worlds(variant, 1)
    first, other = play(worlds, 3), play(worlds, 4)
    again, fresh = play(worlds, 3), play(Worlds(variant, 1), 3)
    assert len(game.launches) == 4
    for record in (again, fresh):
        assert len(record) == len(first)
        assert all(np.array_equal(a, b) for a, b in zip(first, record, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert [env.seed() for env in game.launches[::2]] == [game.launches[0].seed()] * 2
    worlds.reset()
    assert len(game.launches) == 4  # no new seed, no new game
    worlds.reset()
    assert len(game.launches) == 4  # nor after an episode cut short, once a battle has ended
    worlds.reset(seeds=[9])
    worlds.reset()
    assert len(game.launches) == 6  # but before that, a reset of the same object would start a second process
    assert [env.running for env in game.launches] == [False, False, False, False, False, True]
    assert {env.max_reward for env in game.launches} == {365}


def test_rollout_plays_a_batch(game: type[StarCraft2Env]) -> None:
    variant = mir2bench.spec("SMAC-3m-adv0-v0")
    played = rollout(variant, RandomPolicy(variant.layout), Partition.of(3), None, [0, 1, 2])
    assert played.won is not None
    assert played.won.shape == (3,)
    assert (played.lengths <= 60).all()
    gc.collect()
    assert not any(env.running for env in game.launches)  # the worlds are gone, and so are their games


@pytest.mark.parametrize("kind", ["report", "raise"])
def test_a_crash_truncates_and_is_counted(game: type[StarCraft2Env], kind: str) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 2)
    worlds.reset(seeds=[0, 1])
    rng = np.random.default_rng(2)
    game.crashes[:] = [(3, kind)]
    for _ in range(3):
        worlds.step(fight(worlds, rng))
        assert not worlds.done.any()
        assert worlds.engine.channels["restarts"].tolist() == [0.0, 0.0]
    before = worlds.engine.obs.copy()
    worlds.step(fight(worlds, rng))
    assert worlds.truncated.tolist() == [True, False]
    assert worlds.engine.terminated.tolist() == [False, False]
    assert worlds.engine.channels["restarts"].tolist() == [1.0, 0.0]
    assert worlds.engine.restarts == 1  # type: ignore[attr-defined]
    assert [values[0] for key, values in worlds.engine.channels.items() if key != "restarts"] == [0.0] * 4
    assert np.array_equal(worlds.engine.obs[0], before[0])  # the last that was seen of it
    assert not np.array_equal(worlds.engine.obs[1], before[1])
    assert worlds.engine.snapshot(0)["allies"].shape == (3, 4)
    other = worlds.engine.obs[1].copy()
    worlds.reset([0])
    assert not worlds.engine.channels["restarts"].any()
    assert len(game.launches) == 3
    assert [env.running for env in game.launches] == [False, True, True]
    assert np.array_equal(worlds.engine.obs[1], other)
    while not worlds.done.any():
        worlds.step(fight(worlds, rng))
    assert worlds.engine.channels["restarts"].tolist() == [0.0, 0.0]


def test_an_evaluation_counts_the_episodes_it_lost(game: type[StarCraft2Env]) -> None:
    variant = mir2bench.spec("SMAC-3m-adv0-v0")
    game.crashes[:] = [(3, "report")]
    played = rollout(variant, RandomPolicy(variant.layout), Partition.of(3), None, range(2))
    assert (played.lost, played.program) == (1, "StarCraft II 4.10.0.75689")
    assert rollout(variant, RandomPolicy(variant.layout), Partition.of(3), None, range(2)).lost == 0


def test_a_study_keeps_the_version_of_the_game(game: type[StarCraft2Env], tmp_path: Path) -> None:
    budget = dataclasses.replace(get_budget("smoke"), episodes=2)
    plan = Study.resolve(["scripted:idle"], variants=["SMAC-3m-adv0-v0"], budget=budget)
    summary = plan.run(tmp_path / "study", workers=1, console=Console(file=io.StringIO()))
    assert summary["programs"] == ["StarCraft II 4.10.0.75689"]
    assert "StarCraft II 4.10.0.75689" in (tmp_path / "study" / "report" / "index.html").read_text()


def test_a_missing_game_is_told_before_a_study_begins() -> None:
    with pytest.raises(MissingDependencyError, match="smac"):
        Study.resolve(["scripted:idle"], variants=["SMAC-3m-adv0-v0"])


def test_teams_of_skirmish_can_be_transferred(game: type[StarCraft2Env]) -> None:
    options = TransferOptions(policy=("scripted:expert",), to="SMAC-4m_vs_3m-adv1-v0")
    source = mir2bench.spec("Skirmish-4m_vs_3m-adv1-v0")
    assert list(targets(source, options)) == ["training", "target"]
    with pytest.raises(ConfigError, match="--levels cannot be set for mir2bench/SMAC-4m_vs_3m-adv1-v0"):
        targets(source, dataclasses.replace(options, levels=(0.0, 1.0)))


def test_other_errors_are_not_taken_for_crashes(game: type[StarCraft2Env], monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    worlds.reset(seeds=[0])

    def broken(self: Any, actions: Any) -> Any:
        raise KeyError("a mistake")

    monkeypatch.setattr(StarCraft2Env, "step", broken)
    with pytest.raises(KeyError, match="a mistake"):
        worlds.step(np.ones((1, 3), dtype=np.int64))


def test_maps_are_given_by_argument_and_the_registry_is_left_alone(game: type[StarCraft2Env]) -> None:
    starcraft2 = sys.modules["smac.env.starcraft2.starcraft2"]
    maps: Any = sys.modules["smac.env.starcraft2.maps.smac_maps"]
    lookup, known = starcraft2.get_map_params, set(maps.map_param_registry)  # type: ignore[attr-defined]
    for _ in range(2):
        Worlds(mir2bench.spec("SMAC-4m_vs_3m-adv0-v0"), 1).reset(seeds=[0])
    assert starcraft2.get_map_params is lookup  # type: ignore[attr-defined]
    assert set(maps.map_param_registry) == known
    assert "4m_vs_3m" not in known
    names = [kind.__name__ for kind in SMACMap.__subclasses__()]
    assert names.count("4m_vs_3m") == 1  # pysc2 refuses a name that stands twice
    assert game.launches[0].episode_limit == 60


def test_starts_cannot_be_set(game: type[StarCraft2Env]) -> None:
    env = gymnasium.make("mir2bench/SMAC-3m-adv0-v0")
    start = {"allies": np.zeros((3, 4)), "enemies": np.zeros((3, 4))}
    with pytest.raises(StateError, match="`initial_state` cannot be set. Take the Skirmish variant"):
        env.reset(seed=0, options={"initial_state": start})
    assert game.launches == []


def test_version_is_recorded_and_others_warn(game: type[StarCraft2Env], monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    worlds.reset(seeds=[0])
    assert worlds.engine.game_version == "4.10.0.75689"  # type: ignore[attr-defined]
    monkeypatch.setattr(StarCraft2Env, "version", "5.0.13")
    worlds = Worlds(mir2bench.spec("SMAC-3m-adv0-v0"), 1)
    with pytest.warns(UserWarning, match=r"This is StarCraft II 5\.0\.13, not 4\.10"):
        worlds.reset(seeds=[0])


# --- what is missing ---


def make() -> None:
    gymnasium.make("mir2bench/SMAC-3m-adv0-v0")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder from which packages are imported, and nothing known of any `smac`."""
    for name in [name for name in sys.modules if name.split(".")[0] == "smac"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


REAL = {"smac/__init__.py": "", "smac/env/__init__.py": "", "smac/env/starcraft2/__init__.py": ""}


def test_without_the_package(packages: Path) -> None:
    with pytest.raises(
        MissingDependencyError, match=r"which is not installed. Run: pip install git\+https://github.com"
    ):
        make()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"smac/__init__.py": "", "smac/facade/__init__.py": ""},
            r"PyPI's `smac` \(SMAC3\), a tuner of hyperparameters. Run: pip uninstall smac, then: pip install git\+",
        ),
        ({"smac/__init__.py": "import ConfigSpaceThatIsNotThere", "smac/facade/__init__.py": ""}, "SMAC3"),
        ({"smac/__init__.py": ""}, "the installed package of that name is another one. Run: pip uninstall smac"),
        (
            {**REAL, "smac/env/starcraft2/starcraft2.py": "import pysc2_that_is_not_there"},
            "`smac` needs `pysc2_that_is_not_there`, which is not installed",
        ),
        (
            {**REAL, "smac/env/starcraft2/starcraft2.py": "raise TypeError('Descriptors cannot be created.\\nIf')"},
            r"importing it raises TypeError: Descriptors cannot be created. If .*PROTOCOL_BUFFERS_PYTHON_IMPLEMENT",
        ),
    ],
)
def test_with_another_or_a_broken_package(packages: Path, files: dict[str, str], message: str) -> None:
    write(packages, files)
    with pytest.raises(MissingDependencyError, match=message):
        make()


def test_without_the_game_or_the_map(
    game: type[StarCraft2Env], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make()
    (tmp_path / "StarCraftII" / "Maps" / "SMAC_Maps" / "3m.SC2Map").unlink()
    with pytest.raises(MissingDependencyError, match=r"SMAC_Maps/3m\.SC2Map is missing. docs/smac\.md tells"):
        make()
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nothing"))
    with pytest.raises(MissingDependencyError, match="SC2PATH must name the folder of .*nothing' is no folder"):
        make()
    monkeypatch.delenv("SC2PATH")
    with pytest.raises(MissingDependencyError, match="SC2PATH must name its folder, but it is not set"):
        make()
