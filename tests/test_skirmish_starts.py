"""Skirmish: its maps, how battles start, and what bad input is told."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skirmish_cases import ATTACK, FAR, STOP, started, step, variant

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.engines.skirmish import formation
from mir2bench.engines.skirmish_units import UNIT_TYPES
from mir2bench.errors import ActionError, SpecError, StateError, UnknownNameError

# --- the maps ---


@pytest.mark.parametrize(
    ("name", "allies", "enemies", "obs", "state", "actions", "horizon"),
    [
        ("3m-adv0", 3, 3, 33, 48, 9, 60),
        ("4m_vs_3m-adv1", 4, 3, 39, 61, 9, 60),
        ("5m_vs_3m-adv2", 5, 3, 45, 74, 9, 60),
        ("8m-adv0", 8, 8, 88, 168, 14, 120),
        ("9m_vs_8m-adv2", 9, 8, 94, 186, 14, 120),
        ("5m_vs_6m-adv0", 5, 6, 60, 98, 12, 70),
        ("8m_vs_9m-adv0", 8, 9, 93, 179, 15, 120),
        ("10m_vs_11m-adv0", 10, 11, 115, 243, 17, 150),
        ("25m-adv0", 25, 25, 275, 950, 31, 150),
        ("27m_vs_30m-adv0", 27, 30, 312, 1170, 36, 180),
    ],
)
def test_sizes(name: str, allies: int, enemies: int, obs: int, state: int, actions: int, horizon: int) -> None:
    spec = mir2bench.spec(f"Skirmish-{name}-v0")
    layout = spec.layout
    assert (spec.n_agents, layout.obs_dim, layout.state_dim, layout.action_dim) == (allies, obs, state, actions)
    assert (spec.horizon, spec.attack_reward) == (horizon, "signed")
    worlds = Worlds(spec, 2)
    worlds.reset(seeds=[0, 1])
    engine: Any = worlds.engine
    assert engine.obs.shape == (2, allies, obs)
    assert engine.state.shape == (2, state)
    assert engine.mask.shape == (2, allies, actions)
    start = engine.snapshot(0)
    assert (len(start["allies"]), len(start["enemies"])) == (allies, enemies)


def test_adversaries_on_offer() -> None:
    names = [name.removeprefix("mir2bench/Skirmish-") for name in mir2bench.list_variants(family="Skirmish")]
    expected = ["3m-adv0", "4m_vs_3m-adv0", "4m_vs_3m-adv1", *(f"5m_vs_3m-adv{k}" for k in range(3)), "8m-adv0"]
    expected += [*(f"9m_vs_8m-adv{k}" for k in range(3)), "5m_vs_6m-adv0", "8m_vs_9m-adv0", "10m_vs_11m-adv0"]
    assert names == [f"{name}-v0" for name in [*expected, "25m-adv0", "27m_vs_30m-adv0"]]


def test_the_page_about_it_has_the_right_table() -> None:
    page = (Path(__file__).parent.parent / "docs" / "skirmish.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \|" + r" ([\d, ]+) \|" * 7 + "$", page, re.MULTILINE)}
    expected: dict[str, list[Any]] = {}
    for spec in map(mir2bench.spec, mir2bench.list_variants(family="Skirmish")):
        layout, name = spec.layout, spec.id.split("-")[1]
        row = [spec.n_agents, spec.engine_args["enemies"], [], layout.obs_dim, layout.state_dim, layout.action_dim]
        expected.setdefault(name, [*row, spec.horizon])[2].append(spec.n_adversaries)
    assert rows == {name: tuple(str(value).strip("[]") for value in row) for name, row in expected.items()}


def test_every_map_shares_one_compilation() -> None:
    from mir2bench.engines import skirmish_kernels

    for enemies in (1, 4):
        worlds = started([(10.0, 16.0)] * enemies, [(15.0, 16.0)] * enemies)
        step(worlds, *[STOP] * enemies)
    assert len(skirmish_kernels.advance.signatures) == len(skirmish_kernels.observe.signatures) == 1


def test_names_of_the_fields() -> None:
    layout = variant(2, 1).layout
    assert layout.action_fields == ("no_op", "stop", "north", "south", "east", "west", "attack_0")
    assert layout.observation_fields == (
        *("can_move_north", "can_move_south", "can_move_east", "can_move_west"),
        *("enemy_0_attackable", "enemy_0_distance", "enemy_0_dx", "enemy_0_dy", "enemy_0_health"),
        *("other_0_visible", "other_0_distance", "other_0_dx", "other_0_dy", "other_0_health"),
        *("own_health", "id_0", "id_1"),
    )
    assert layout.state_fields[:11] == (
        *("ally_0_health", "ally_0_cooldown", "ally_0_x", "ally_0_y"),
        *("ally_1_health", "ally_1_cooldown", "ally_1_x", "ally_1_y", "enemy_0_health", "enemy_0_x", "enemy_0_y"),
    )
    assert layout.state_fields[11] == "ally_0_last_no_op"
    assert layout.state_fields[-1] == "ally_1_last_attack_0"


@pytest.mark.parametrize(
    ("count", "places"),
    [
        (1, [(9.0, 16.0)]),
        (3, [(8.625, 15.6), (9.425, 15.6), (8.625, 16.4)]),
        (4, [(8.625, 15.6), (9.425, 15.6), (8.625, 16.4), (9.425, 16.4)]),
        (5, [(8.25, 15.575), (9.05, 15.575), (9.85, 15.575), (8.25, 16.375), (9.05, 16.375)]),
        (9, [(x, y) for y in (15.2, 16.0, 16.8) for x in (8.25, 9.05, 9.85)]),
    ],
)
def test_formation(count: int, places: Any) -> None:
    np.testing.assert_allclose((9, 16) + formation(count, 0.75), places, rtol=0, atol=1e-12)


def test_starts_without_jitter_are_the_formations_in_order_of_x_and_y() -> None:
    worlds = Worlds(variant(3, 3, group_jitter=0.0, unit_jitter=0.0), 1)
    worlds.reset(seeds=[0])
    start = worlds.engine.snapshot(0)
    assert start["allies"] == pytest.approx(
        np.array([(8.625, 15.6, 45, 0), (8.625, 16.4, 45, 0), (9.425, 15.6, 45, 0)])
    )
    assert start["enemies"] == pytest.approx(
        np.array([(23.375, 16.4, 45, 0), (22.575, 16.4, 45, 0), (23.375, 15.6, 45, 0)])
    )
    assert start["targets"].tolist() == start["last_actions"].tolist() == [-1, -1, -1]
    assert start["shots"].shape == (0, 4)


def test_starts_are_jittered_uniformly_and_ids_follow_x_and_y() -> None:
    batch = 2000
    worlds = Worlds(mir2bench.spec("Skirmish-8m-adv0-v0"), batch)
    worlds.reset(seeds=range(batch))
    units: Any = worlds.engine.units  # type: ignore[attr-defined]
    assert (units[..., 2:] == (45.0, 0.0)).all()
    assert (np.diff(units[:, :8, 0], axis=1) > 0).all()
    shifts = units[:, 8:, :2] - ((23, 16) - formation(8, 0.75))  # enemies keep their order
    groups = shifts.mean(axis=1)
    assert 0.5 < np.abs(shifts).max() < 0.6
    assert np.abs(groups).max() < 0.6
    # A uniform number in [-1, 1] has the standard deviation 0.577; over 2,000 worlds it is known to 2 %.
    assert (shifts - groups[:, None]).std() == pytest.approx(0.1 * 0.577 * math.sqrt(7 / 8), rel=0.03)
    assert groups.std(axis=0) == pytest.approx([0.5 * 0.577] * 2, rel=0.06)
    assert np.abs(groups.mean(axis=0)).max() < 0.03
    allied = units[:, :8, :2].mean(axis=1) - (9, 16) - formation(8, 0.75).mean(axis=0)
    assert abs(np.corrcoef(allied[:, 0], groups[:, 0])[0, 1]) < 0.1  # the sides are shifted by themselves
    assert abs(np.corrcoef(allied.T)[0, 1]) < 0.1


def test_large_jitter_stays_on_the_strip() -> None:
    worlds = Worlds(variant(324, 3, group_jitter=2.0), 50)
    worlds.reset(seeds=range(50))
    y: Any = worlds.engine.units[..., 1]  # type: ignore[attr-defined]
    assert y.min() == 8.0
    assert y.max() == math.nextafter(24.0, 0.0)


# --- bad input ---


class Unreadable:
    """As a tensor that needs gradients."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("Call detach() first.")


GOOD = {"allies": [(5.0, 16.0, 45.0, 0.0)] * 2, "enemies": [(20.0, 16.0, 45.0, 0.0)]}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([1, 2], r'initial_state must be \{"allies": \(2, 4\), "enemies": \(1, 4\)\} .* but it holds list'),
        ({"allies": GOOD["allies"]}, r"but it holds \['allies'\]"),
        (
            {**GOOD, "foes": []},
            r"last_actions, shots, targets as further keys at most, .* \['allies', 'enemies', 'foes'\]",
        ),
        ({**GOOD, 3: []}, r"it holds \['3', 'allies', 'enemies'\]"),
        ({**GOOD, "allies": "x"}, r"allies must hold real numbers in an array of shape \(2, 4\)"),
        ({**GOOD, "allies": [(5.0, 16.0, 45.0, 0.0), (5.0,)]}, r"allies must be .*; its rows are uneven"),
        ({**GOOD, "allies": np.full((2, 4), 16.0 + 1j)}, r"allies must hold real numbers"),
        ({**GOOD, "allies": np.full((2, 4), np.longdouble("1e4000"))}, r"allies \[0, 1\] are not finite"),
        (
            {**GOOD, "allies": Unreadable()},
            r"allies must be an array of shape \(2, 4\): .*cannot become one: Call detach",
        ),
        ({**GOOD, "allies": [(5.0, 16.0, 45.0, 0.0)]}, r"allies has shape \(1, 4\), but it must be \(2, 4\): x, y, h"),
        ({**GOOD, "enemies": [(20.0, 16.0, math.nan, 0.0)]}, r"enemies \[0\] are not finite. First of them: \[20"),
        ({**GOOD, "enemies": [(32.0, 16.0, 45.0, 0.0)]}, r"enemies \[0\] are outside the map: 0 <= x < 32"),
        ({**GOOD, "enemies": [(-0.1, 16.0, 45.0, 0.0)]}, r"enemies \[0\] are outside the map"),
        (
            {**GOOD, "allies": [(5.0, 7.9, 45.0, 0.0), (5.0, 24.0, 45.0, 0.0)]},
            r"allies \[0, 1\] stand where nobody can walk: 8 <= y < 24. First of them: \[5.0, 7.9, 45.0, 0.0\]",
        ),
        ({**GOOD, "enemies": [(20.0, 16.0, 46.0, 0.0)]}, r"enemies \[0\] must have a health from 0 to 45"),
        ({**GOOD, "enemies": [(20.0, 16.0, -1.0, 0.0)]}, r"enemies \[0\] must have a health from 0 to 45"),
        ({**GOOD, "enemies": [(20.0, 16.0, 45.0, -1.0)]}, r"enemies \[0\] must have a cooldown from 0 to 13.77 game l"),
        ({**GOOD, "enemies": [(20.0, 16.0, 45.0, 13.8)]}, r"must have a cooldown from 0 to 13.77"),
        ({**GOOD, "enemies": [(20.0, 16.0, 0.0, 0.0)]}, r"all enemies are dead: that battle is over"),
        ({**GOOD, "targets": [2]}, r"targets must hold 1 integers from -1 to 1, but it is \[2\]"),
        ({**GOOD, "targets": [0.0]}, r"targets must hold 1 integers"),
        ({**GOOD, "targets": [[0], [0, 1]]}, r"targets must hold 1 integers"),
        ({**GOOD, "last_actions": [7, -1]}, r"last_actions must hold 2 integers from -1 to 6, but it is \[7, -1\]"),
        ({**GOOD, "last_actions": [1]}, r"last_actions must hold 2 integers"),
    ],
)
def test_impossible_starts_are_explained(start: Any, message: str) -> None:
    worlds = Worlds(variant(2, 1), 1)
    worlds.reset(seeds=[0])
    before = worlds.engine.snapshot(0)
    with pytest.raises(StateError, match=message):
        worlds.reset(initial_state=start)
    after = worlds.engine.snapshot(0)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_start_of_the_dead_may_lie_anywhere() -> None:
    worlds = started([(5.0, 16.0), (0.0, 0.0, 0.0, 3.0)], FAR)
    assert worlds.engine.snapshot(0)["allies"][1].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_a_given_start_uses_up_the_same_random_numbers() -> None:
    spec = variant(2, 1)
    one, other = Worlds(spec, 1), Worlds(spec, 1)
    one.reset(seeds=[5])
    other.reset(seeds=[5], initial_state=GOOD)
    one.reset()
    other.reset()
    assert one.engine.obs.tobytes() == other.engine.obs.tobytes()


def test_an_illegal_action_is_explained() -> None:
    worlds = started([(10.0, 16.0), (10.0, 12.0)], [(20.0, 16.0)])
    with pytest.raises(
        ActionError, match=r"agent 1 of world 0 chose action 6, which is not legal now: its mask is \[0, 1"
    ):
        worlds.step(np.array([[STOP, ATTACK]]))


@pytest.mark.parametrize(
    ("given", "close"),
    [
        ("Skirmish-4m_v_3m-adv1-v0", "Skirmish-4m_vs_3m-adv1-v0"),
        ("Skirmish-3m-adv1-v0", "Skirmish-3m-adv0-v0"),
        ("skirmish-25m-adv0-v0", "Skirmish-25m-adv0-v0"),
        ("Skirmish-10m_vs_12m-adv0-v0", "Skirmish-10m_vs_11m-adv0-v0"),
    ],
)
def test_an_unknown_map_suggests_a_known_one(given: str, close: str) -> None:
    with pytest.raises(UnknownNameError, match=f"No variant `{given}`. Did you mean .*`mir2bench/{close}`"):
        mir2bench.spec(given)


@pytest.mark.parametrize("side", ["ally", "enemy"])
def test_another_type_of_unit_is_a_row(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    marine = UNIT_TYPES["marine"]
    monkeypatch.setitem(UNIT_TYPES, "giant", replace(marine, health=125.0, radius=0.6, damage=10.0))
    spec = replace(mir2bench.spec("Skirmish-3m-adv0-v0"), engine_args={"enemies": 3, f"{side}_type": "giant"})
    worlds = Worlds(spec, 1)
    worlds.reset(seeds=[0])
    giants, marines = ("allies", "enemies") if side == "ally" else ("enemies", "allies")
    start = worlds.engine.snapshot(0)
    assert set(start[giants][:, 2]) == {125.0}
    assert set(start[marines][:, 2]) == {45.0}
    for units, x in ((giants, 14.0), (marines, 17.0)):
        start[units][:, :2] = [(x, y) for y in (14.0, 16.0, 18.0)]
    worlds.reset(initial_state={name: start[name] for name in ("allies", "enemies")})
    worlds.step(np.array([[6, 7, 8]]))
    hurt = {units: set((start[units] - worlds.engine.snapshot(0)[units])[:, 2]) for units in (giants, marines)}
    assert hurt == {giants: {6.0}, marines: {10.0}}


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"enemies": 0}, SpecError, "Skirmish needs 1 or more enemies, but it got 0"),
        ({"enemies": "3"}, SpecError, "1 or more enemies, but it got '3'"),
        ({"enemies": 3, "ally_type": "marines"}, UnknownNameError, "No unit type `marines`. Did you mean `marine`?"),
        ({"enemies": 3, "enemy_type": 7}, UnknownNameError, "No unit type `7`. There are: marine"),
        ({"enemies": 3, "group_jitter": -1.0}, SpecError, "`group_jitter` must be a number of cells from 0 to 2"),
        ({"enemies": 3, "group_jitter": [0.5]}, SpecError, "group_jitter in `engine_args` must be a number or a text"),
        ({"enemies": 3, "group_jitter": "a"}, SpecError, "`group_jitter` must be a number of cells from 0 to 2"),
        ({"enemies": 3, "unit_jitter": math.nan}, SpecError, "`unit_jitter` must be a number of cells from 0 to 2"),
        ({"enemy": 3}, SpecError, "`engine_args` does not fit mir2bench.engines.skirmish:SkirmishEngine"),
    ],
)
def test_bad_engine_arguments(args: Any, error: type[Exception], message: str) -> None:
    spec = replace(mir2bench.spec("Skirmish-3m-adv0-v0"), engine_args=args)
    with pytest.raises(error, match=message):
        Worlds(spec, 1)
