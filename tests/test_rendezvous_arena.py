"""The arena: rendezvous bit for bit without its conditions, and what each of them does."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.engines.rendezvous_arena import Conditions
from mir2bench.errors import SpecError
from mir2bench.registration import VariantSpec

ID = "mir2bench/RendezvousArena10-adv1-v0"
NOTHING = {name: 0.0 for name in dataclasses.asdict(Conditions()) if name != "noise"}


def arena(**conditions: float) -> VariantSpec:
    """Return the arena with these conditions alone."""
    return dataclasses.replace(mir2bench.spec(ID), engine_args={**NOTHING, **conditions})


def play(variant: VariantSpec, batch: int = 3, steps: int = 30, **reset: Any) -> tuple[Worlds, list[np.ndarray]]:
    """Play fixed actions; return the worlds and all that was seen on the way."""
    worlds = Worlds(variant, batch, threads=1)
    worlds.reset(seeds=list(range(7, 7 + batch)), **reset)
    engine = worlds.engine
    seen = [engine.obs.copy(), engine.state.copy(), worlds.phi.copy()]
    for t in range(steps):
        actions = np.sin(0.3 * t + np.arange(20)).reshape(1, 10, 2).repeat(batch, axis=0)
        worlds.step(actions)
        seen += [engine.obs.copy(), engine.state.copy(), engine.reward.copy(), engine.poses.copy()]  # type: ignore[attr-defined]
    return worlds, seen


def facing(gap: float) -> dict[str, np.ndarray]:
    """Two robots that face each other in the middle, the others out of the way."""
    poses = np.array([[10.0 + 20 * i, 10.0, 0.0] for i in range(10)])
    poses[0], poses[1] = (100.0 - gap / 2, 100.0, 0.0), (100.0 + gap / 2, 100.0, np.pi)
    return {"poses": poses}


def move(variant: VariantSpec, actions: np.ndarray, steps: int, start: dict[str, np.ndarray]) -> Worlds:
    worlds = Worlds(variant, 1, threads=1)
    worlds.reset(seeds=[0], initial_state=start)
    for _ in range(steps):
        worlds.step(actions[None])
    return worlds


def test_without_conditions_it_is_rendezvous_bit_for_bit() -> None:
    plain = mir2bench.spec("Rendezvous10-adv1-v0")
    quiet = dataclasses.replace(mir2bench.spec(ID), engine_args={"noise": 0.0, "body_radius": 0.0})
    for variant in (arena(), quiet):
        (one, first), (other, second) = play(plain), play(variant)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
        one.reset(), other.reset()  # also the draws that follow
        assert one.engine.obs.tobytes() == other.engine.obs.tobytes()


def test_a_trifle_of_a_body_changes_the_path_of_the_code_but_not_of_the_robots() -> None:
    """One sub-step at a time, and observed through the camera, it is still the same physics."""
    _, first = play(mir2bench.spec("Rendezvous10-adv1-v0"))
    _, second = play(arena(body_radius=1e-9))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def test_the_registered_worlds_have_the_documented_conditions() -> None:
    for k in (0, 1):
        given = mir2bench.spec(f"RendezvousArena10-adv{k}-v0").engine_args
        assert {**given, "noise": 1.0} == dataclasses.asdict(Conditions())


def test_results_do_not_depend_on_the_batch() -> None:
    variant = mir2bench.spec(ID)
    (_, alone), (_, many) = play(variant, batch=1), play(variant, batch=4)
    assert all(a[0].tobytes() == b[0].tobytes() for a, b in zip(alone, many, strict=True))
    sliced = Worlds(variant, 4, threads=3)
    whole = Worlds(variant, 4, threads=1)
    for worlds in (sliced, whole):
        worlds.reset(seeds=[1, 2, 3, 4])
        for t in range(5):
            worlds.step(np.cos(t + np.arange(80)).reshape(4, 10, 2))
    assert sliced.engine.obs.tobytes() == whole.engine.obs.tobytes()


@pytest.mark.parametrize("name", [n for n in NOTHING if n != "body_radius"])
def test_each_condition_has_an_effect_and_its_own_kind(name: str) -> None:
    value = {"delay": 0.13, "camera_position": 1.0, "dropped": 0.3, "stale": 0.3, "slip": 0.3}.get(name, 0.1)
    _, calm = play(arena())
    _, rough = play(arena(**{name: value}))
    moved = not np.allclose(calm[-1], rough[-1], atol=1e-9)
    seen_otherwise = not np.allclose(calm[-4], rough[-4], atol=1e-6)
    assert seen_otherwise
    assert moved == (name in ("wheel_noise", "calibration", "slip", "delay"))
    if not moved:  # the camera changes what policies read, never the truth
        np.testing.assert_allclose(calm[-3], rough[-3], atol=1e-6)
        np.testing.assert_allclose(calm[-2], rough[-2], atol=1e-9)


def test_bodies_push_each_other_and_stay_inside() -> None:
    ahead = np.zeros((10, 2))
    ahead[:2] = 1.0
    worlds = move(arena(body_radius=3.5), ahead, 20, facing(20.0))
    poses = worlds.engine.snapshot(0)["poses"]
    assert poses[1, 0] - poses[0, 0] == pytest.approx(7.0, abs=1e-6)
    assert poses[:2, 0].mean() == pytest.approx(100.0, abs=1e-6)  # equals push in vain
    ahead[1] = 0.0
    poses = move(arena(body_radius=3.5), ahead, 30, facing(20.0)).engine.snapshot(0)["poses"]
    assert poses[1, 0] > 115.0  # who stands is pushed on
    ahead[:] = 1.0
    worlds = move(arena(body_radius=3.5), ahead, 150, facing(20.0))
    poses = worlds.engine.snapshot(0)["poses"]
    assert poses[2:, 0].max() == pytest.approx(196.5)
    at_wall = worlds.engine.obs[0, int(poses[:, 0].argmax()), 45:48]
    np.testing.assert_allclose(at_wall, [0.0, 1.0, 0.0], atol=1e-6)  # the body's edge touches the wall ahead


def test_robots_that_start_on_one_spot_are_pushed_apart() -> None:
    worlds = Worlds(arena(body_radius=3.5), 1)
    worlds.reset(seeds=[0], initial_state={"poses": np.full((10, 3), 1.0)})
    poses = worlds.engine.snapshot(0)["poses"]
    apart = np.linalg.norm(poses[:, None, :2] - poses[None, :, :2], axis=-1) + 99 * np.eye(10)
    assert apart.min() > 6.5
    assert poses[:, :2].min() >= 3.5


def test_a_delay_holds_back_the_wheels_and_not_the_price() -> None:
    ahead = np.ones((10, 2))
    for delay, steps, way in ((0.05, 1, 0.5), (0.05, 2, 1.5), (0.2, 2, 0.0), (0.25, 3, 0.5)):
        worlds = move(arena(delay=delay), ahead, steps, facing(50.0))
        moved = worlds.engine.snapshot(0)["poses"][0, 0] - 75.0
        assert moved == pytest.approx(way * 1.50688, abs=1e-9)
        assert worlds.engine.channels["action"][0] == pytest.approx(-0.001)


def test_the_team_has_gathered_when_all_but_the_adversaries_are_near() -> None:
    worlds = Worlds(arena(), 2)
    start = {"poses": np.array([[100.0 + i, 100.0, 0.0] for i in range(9)] + [[180.0, 180.0, 0.0]])}
    worlds.reset(seeds=[0, 0], phi=[[0] * 9 + [1], [1] + [0] * 9], initial_state=start)
    assert worlds.engine.reached(worlds.phi).tolist() == [True, False]  # type: ignore[attr-defined]


def test_conditions_that_cannot_be() -> None:
    for conditions, message in (
        ({"slippage": 0.1}, "no condition 'slippage'. There are: body_radius"),
        ({"slip": 1.5}, "slip must be a number from 0 to 1"),
        ({"delay": -0.1}, "delay must be"),
        ({"noise": True}, "noise must be"),
    ):
        with pytest.raises(SpecError, match=message):
            arena(**conditions).layout  # noqa: B018
    assert Conditions.of({"slip": 0.6, "noise": 2.0}).slip == 1.0
