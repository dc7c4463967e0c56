"""The scripted rendezvous policies, and the score scale that is measured with them."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import numpy as np
import pytest

import mir2bench
from mir2bench import anchors
from mir2bench.attackers import fixed_attackers
from mir2bench.cli import run
from mir2bench.engines.base import Worlds
from mir2bench.engines.rendezvous_scripted import (
    STEP_LENGTH,
    STEP_TURN,
    CentroidTeam,
    CircleTraitor,
    DodgeTraitor,
    FleeTraitor,
    drive_to,
    others,
    touched_wall,
)
from mir2bench.errors import ConfigError, UnknownNameError
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.learning.rollout import Episodes, rollout
from mir2bench.partition import Partition

TRAITORS = {"flee": FleeTraitor, "dodge": DodgeTraitor, "circle": CircleTraitor}


def observe(poses: list[list[float]]) -> np.ndarray:
    """The observations (1, N, O) of robots at the given poses."""
    worlds = Worlds(_spec(len(poses)), 1)
    worlds.reset(seeds=[0], phi=[0] * len(poses), initial_state={"poses": poses})
    return worlds.engine.obs.copy()


def _spec(n_agents: int) -> mir2bench.VariantSpec:
    """A rendezvous world of any size."""
    return dataclasses.replace(mir2bench.spec("Rendezvous5-adv1-v0"), n_agents=n_agents)


def act(policy: Any, obs: np.ndarray) -> np.ndarray:
    return policy.act(obs, policy.initial_carry(len(obs)), rng=np.random.default_rng(0))[0]


def play(name: str, attacker: str | None, adversaries: list[int], episodes: int = 64) -> Episodes:
    """Episodes of the centroid team, clean or attacked."""
    variant = mir2bench.spec(name)
    phi = Partition.of(variant.n_agents, adversaries)
    team = make_scripted(variant, "centroid")
    if attacker is None:
        return rollout(variant, team, phi, None, range(episodes))
    adversary = fixed_attackers(variant)[attacker].attack(variant, team, phi, seed=0, budget=0)
    return rollout(variant, team, phi, adversary, range(episodes))


# --- geometry, by hand ---


def test_positions_of_others_in_the_own_frame() -> None:
    # Robot 1 is 100 cm north of robot 0, which looks 0.5 rad above east; robot 2 is 100 cm east.
    seen = others(observe([[50, 50, 0.5], [50, 150, 3.0], [150, 50, 6.0]]).astype(float), 3)
    assert seen.shape == (1, 3, 2, 2)
    expected = 100 * np.array([[np.sin(0.5), np.cos(0.5)], [np.cos(0.5), -np.sin(0.5)]])
    assert seen[0, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("pose", "wall"),
    [
        ([199.5, 100, 0.0], [1, 0]),  # the right wall, straight ahead
        ([199.5, 100, np.pi / 2], [0, -1]),  # the same wall, on the right hand
        ([100, 0.2, 0.0], [0, -1]),  # the bottom wall, on the right hand
        ([100, 199.9, 0.0], [0, 1]),
        ([0, 100, 0.0], [-1, 0]),
        ([100, 100, 0.0], [0, 0]),
    ],
)
def test_direction_of_a_touched_wall(pose: list[float], wall: list[float]) -> None:
    seen = touched_wall(observe([pose, [100, 100, 0]]), 2)[0, 0]
    assert seen == pytest.approx(np.array(wall, float), abs=1e-6)


@pytest.mark.parametrize(
    ("target", "wheels"),
    [
        ([10, 0], [1, 1]),
        ([-10, 0], [-1, -1]),
        ([STEP_LENGTH / 2, 0], [0.5, 0.5]),  # brakes to end on the point
        ([0, 10], [-1, 1]),  # turns left on the spot
        ([0, -10], [1, -1]),
        ([-10, 10], [1, -1]),  # turning right brings its back to a point behind on the left
        ([10, 10 * np.tan(STEP_TURN / 2)], [0, 1]),  # half the range turns, the other half drives
        ([-10, -10 * np.tan(STEP_TURN / 4)], [-0.25 - 0.75, 0.25 - 0.75]),
        ([0, 0], [0, 0]),
    ],
)
def test_wheels_towards_a_point(target: list[float], wheels: list[float]) -> None:
    found = drive_to(np.array([[target]], float))
    assert found.dtype == np.float32
    assert found[0, 0] == pytest.approx(np.array(wheels), abs=1e-6)


def test_a_robot_reaches_its_point_and_stays() -> None:
    # Two robots 60 cm apart meet in the middle: 30 cm at 1.507 cm a step are 19.9 steps.
    worlds = Worlds(_spec(2), 1)
    worlds.reset(seeds=[0], phi=[0, 0], initial_state={"poses": [[70, 100, 0], [130, 100, 0]]})
    team = CentroidTeam(worlds.layout)
    steps = 0
    while not worlds.done[0]:
        worlds.step(act(team, worlds.engine.obs))
        steps += 1
    assert worlds.engine.terminated[0]
    assert steps == 21  # 20 to arrive, one to stand still
    assert worlds.engine.poses[0, :, :2] == pytest.approx(np.full((2, 2), 100.0), abs=1e-3)


# --- what each policy does ---


def test_team_drives_to_the_centroid_of_all() -> None:
    # The centroid (100, 100) lies ahead of robot 0, behind robot 1, and where robot 2 stands.
    wheels = act(CentroidTeam(_spec(3).layout), observe([[60, 100, 0], [140, 100, 0], [100, 100, 1]]))
    assert wheels[0] == pytest.approx(np.array([[1, 1], [-1, -1], [0, 0]]), abs=1e-4)


def test_team_gathers_and_stops_from_every_start() -> None:
    for name in ("Rendezvous5-adv0-v0", "Rendezvous10-adv0-v0"):
        played = play(name, None, [])
        assert played.lengths.max() < 130
        assert played.returns.min() > -20


def test_flight_from_the_others() -> None:
    obs = observe([[100, 100, 0], [50, 100, 0], [50, 80, 0], [50, 120, 0]])
    assert act(FleeTraitor(_spec(4).layout), obs[:, :1])[0, 0] == pytest.approx(np.array([1, 1]), abs=1e-5)


def test_flight_slides_along_a_wall() -> None:
    # At the right wall, facing it; the others are to the lower left: up along the wall is to the left.
    obs = observe([[200, 100, 0], [150, 80, 0], [150, 60, 0]])
    assert act(FleeTraitor(_spec(3).layout), obs[:, :1])[0, 0] == pytest.approx(np.array([-1, 1]), abs=1e-5)


def test_several_adversaries_part() -> None:
    # Adversaries 0 and 1 side by side, the defenders below: alone each would flee straight up, together also sideways.
    poses = [[98, 100, np.pi / 2], [102, 100, np.pi / 2], [100, 60, 0], [100, 60, 0], [100, 60, 0]]
    obs = observe(poses)
    fleeing = FleeTraitor(_spec(5).layout)
    targets = fleeing._target(obs[:, :2].astype(float))[0]
    # Each weighs the defenders' centroid (-40 ahead, 2 to the inside) and its fellow (4 to the inside) by a half.
    expected = 100 * np.array([[20, 3], [20, -3]]) / np.hypot(20, 3)
    assert targets == pytest.approx(expected, abs=1e-3)


def test_cornered_adversary_breaks_out() -> None:
    layout = _spec(3).layout
    near = observe([[200, 100, 0], [190, 100, 0], [190, 100, 0]])[:, :1]
    far = observe([[200, 100, 0], [170, 100, 0], [170, 100, 0]])[:, :1]
    assert act(DodgeTraitor(layout), near)[0, 0] == pytest.approx(np.array([-1, -1]), abs=1e-5)
    assert np.array_equal(act(DodgeTraitor(layout), far), act(FleeTraitor(layout), far))


def test_circling_adversary_follows_the_walls_past_corners() -> None:
    worlds = Worlds(_spec(3), 1)
    poses = [[150, 100, 0], [100, 100, 0], [100, 100, 0]]
    worlds.reset(seeds=[0], phi=[1, 0, 0], initial_state={"poses": poses})
    circling = CircleTraitor(worlds.layout)
    path = []
    for _ in range(200):
        actions = np.zeros((1, 3, 2))
        actions[:, :1] = act(circling, worlds.engine.obs[:, :1])
        worlds.step(actions)
        path.append(worlds.engine.poses[0, 0, :2].copy())
    late = np.array(path[100:])
    assert np.linalg.norm(np.diff(late, axis=0), axis=1).mean() > 1.2  # of at most 1.507 cm a step
    assert late[:, 1].max() > 199  # passed the upper right corner
    assert late[:, 0].min() < 100  # and went on to the left
    assert np.minimum(late, 200 - late).min(axis=1).max() < 4  # always at some wall


@pytest.mark.parametrize("policy", [CentroidTeam, *TRAITORS.values()])
def test_policies_are_legal_and_independent_of_the_batch(policy: Any) -> None:
    spec = mir2bench.spec("Rendezvous10-adv2-v0")
    worlds = Worlds(spec, 16)
    worlds.reset(seeds=list(range(16)))
    rows = slice(None) if policy is CentroidTeam else [3, 7]
    obs = worlds.engine.obs[:, rows].copy()
    before = obs.copy()
    actions = act(policy(spec.layout), obs)
    assert actions.shape == (16, obs.shape[1], 2)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
    assert np.array_equal(obs, before)
    single = np.concatenate([act(policy(spec.layout), obs[b : b + 1]) for b in range(16)])
    assert np.array_equal(actions, single)


def test_every_traitor_hurts_the_centroid_team() -> None:
    clean = play("Rendezvous10-adv1-v0", None, []).returns
    idle = play("Rendezvous10-adv1-v0", "idle", [3]).returns
    for name in TRAITORS:
        attacked = play("Rendezvous10-adv1-v0", name, [3])
        loss = clean - attacked.returns
        assert loss.mean() - 4 * loss.std(ddof=1) / 8 > 6  # a good -9 becomes about -18
        assert attacked.returns.mean() < idle.mean() - 3
        if name != "flee":
            assert attacked.lengths.min() == 200  # never caught, so no early end


def test_registered_traitors_are_these() -> None:
    spec = mir2bench.spec("Rendezvous5-adv1-v0")
    assert list(spec.engine_class.scripted_traitors) == list(TRAITORS)
    for name, reference in spec.engine_class.scripted_traitors.items():
        assert reference == f"mir2bench.engines.rendezvous_scripted:{TRAITORS[name].__name__}"


# --- the score scale ---


@pytest.mark.parametrize(("n_agents", "episodes"), [(5, 96), (10, 96), (20, 48), (40, 24)])
def test_anchors_are_what_is_measured(n_agents: int, episodes: int) -> None:
    variant = mir2bench.spec(f"Rendezvous{n_agents}-adv1-v0")
    floor, ceiling, teams = anchors.measure_world(variant, episodes)
    assert [m.team for m in teams][-1] == "centroid"
    assert abs(floor.score - variant.floor.score) < 4 * floor.error
    assert abs(ceiling.score - variant.ceiling.score) < 4 * ceiling.error
    assert variant.floor.origin.startswith("random team, 4096 episodes")
    assert variant.ceiling.origin.startswith("centroid team, 4096 episodes")


def test_standard_error_and_line_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[int] = []

    def rollout(variant: Any, team: Any, phi: Partition, adversary: Any, seeds: list[int]) -> Episodes:
        played.extend(seeds)
        return Episodes(np.array([-1.0, -2.0, -3.0, -6.0])[: len(seeds)], np.full(len(seeds), 200), None)

    monkeypatch.setattr(anchors, "rollout", rollout)
    found = anchors.measure(mir2bench.spec("Rendezvous5-adv0-v0"), "idle", 4)
    assert found.score == -3.0
    assert found.error == pytest.approx(np.sqrt(14 / 3) / 2)
    assert (found.first_seed, found.last_seed) == (played[0], played[-1])
    line = tomllib.loads(found.toml("floor"))["floor"]
    assert line["score"] == -3.0
    assert line["origin"] == (
        f"idle team, 4 episodes without adversaries, seeds {played[0]} to {played[-1]}, standard error 1.080"
    )


def test_anchors_errors() -> None:
    spec = mir2bench.spec("Rendezvous5-adv0-v0")
    with pytest.raises(ConfigError, match="episodes must be 2 or more, since a standard error is needed, but it is 1"):
        anchors.measure(spec, "idle", 1)
    with pytest.raises(UnknownNameError, match="Did you mean `centroid`"):
        anchors.measure(spec, "centroids", 2)


def test_anchors_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--env", "Rendezvous5-adv0-v0", "Rendezvous5-adv2-v0", "--episodes", "4"]
    assert run(anchors.main, prog="anchors", args=args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # both variants are one world
    assert lines[0].startswith("# mir2bench/Rendezvous5: ")
    assert set(tomllib.loads("\n".join(lines[1:]))) == {"floor", "ceiling"}
    assert run(anchors.main, prog="anchors", args=["--env", "Rendezvous7-adv0-v0"]) == 2
    assert capsys.readouterr().err.startswith("error: No variant `Rendezvous7-adv0-v0`. Did you mean")
