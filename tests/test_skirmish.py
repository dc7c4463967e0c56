"""Skirmish against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from skirmish_cases import ATTACK, EAST, FAR, NO_OP, NORTH, SOUTH, STOP, WEST, started, step

import mir2bench
from mir2bench.engines.base import Worlds

# --- orders and walls ---


def test_moves_cover_one_and_an_eighth_cells() -> None:
    places = [(5.0, 12.0), (8.0, 14.0), (5.0, 16.0), (5.0, 18.0), (5.0, 20.0)]
    after = step(started(places, FAR[:1]), NORTH, SOUTH, EAST, WEST, STOP)
    expected = [(5, 13.125), (8, 12.875), (6.125, 16), (3.875, 18), (5, 20)]
    assert after["allies"][:, :2].tolist() == [list(map(float, place)) for place in expected]
    assert after["last_actions"].tolist() == [NORTH, SOUTH, EAST, WEST, STOP]


@pytest.mark.parametrize(
    ("place", "moves"),
    [
        ((16.0, 16.0), (1, 1, 1, 1)),
        ((16.0, 22.999), (1, 1, 1, 1)),
        ((16.0, 23.0), (0, 1, 1, 1)),  # the cell north of 23 is 24, no longer on the strip
        ((16.0, 9.0), (1, 1, 1, 1)),
        ((16.0, 8.999), (1, 0, 1, 1)),
        ((30.999, 16.0), (1, 1, 1, 1)),
        ((31.0, 16.0), (1, 1, 0, 1)),
        ((0.001, 16.0), (1, 1, 1, 1)),  # SMAC truncates towards zero, so x - 1 = -0.999 is still in cell 0
        ((0.0, 16.0), (1, 1, 1, 0)),
        ((0.0, 8.0), (1, 0, 1, 0)),
    ],
)
def test_moves_are_legal_where_the_next_cell_is_walkable(place: Any, moves: Any) -> None:
    engine: Any = started([place], FAR).engine
    assert engine.mask[0, 0].tolist() == [0, 1, *moves, 0, 0]
    assert engine.obs[0, 0, :4].tolist() == list(moves)


def test_walls_stop_a_unit() -> None:
    after = step(started([(16.0, 22.9), (16.0, 9.05), (30.9, 16.0), (0.5, 12.0)], FAR), NORTH, SOUTH, EAST, WEST)
    assert after["allies"][:, :2].tolist() == [
        [16.0, math.nextafter(24.0, 0.0)],
        [16.0, 8.0],
        [math.nextafter(32.0, 0.0), 16.0],
        [0.0, 12.0],
    ]


def test_units_that_overlap_are_pushed_apart() -> None:
    # Centers 0.5 apart: each goes half of the missing 0.25. A third unit that touches nobody stays.
    after = step(started([(5.0, 12.0), (5.5, 12.0), (5.0, 13.0)], FAR), STOP, STOP, STOP)
    assert after["allies"][:, :2] == pytest.approx(np.array([(4.875, 12), (5.625, 12), (5, 13)]), abs=1e-12)
    # On one spot, they part along x by their ids.
    after = step(started([(5.0, 12.0), (5.0, 12.0)], FAR), STOP, STOP)
    assert after["allies"][:, :2].tolist() == [[4.625, 12.0], [5.375, 12.0]]
    # Friend and foe alike, but the dead are no obstacle. At 0.75 they only touch.
    after = step(started([(5.0, 12.0), (5.0, 12.1, 0.0, 0.0), (5.0, 12.75)], FAR), STOP, NO_OP, STOP)
    assert after["allies"][:, :2].tolist() == [[5.0, 12.0], [5.0, 12.1], [5.0, 12.75]]
    after = step(started([(5.0, 12.0)], [(5.0, 12.5), *FAR]), STOP)
    assert after["allies"][0, :2] == pytest.approx((5, 11.875), abs=1e-12)
    assert after["enemies"][0, :2] == pytest.approx((5, 12.625), abs=1e-12)


def test_a_walking_unit_pushes_a_standing_one() -> None:
    after = step(started([(5.0, 12.0), (5.75, 12.0)], FAR), EAST, STOP)
    # Half of each loop's 0.140625 for both.
    assert after["allies"][:, 0] == pytest.approx((5 + 8 * 0.0703125, 5.75 + 8 * 0.0703125), abs=1e-12)


# --- shots ---


def test_a_shot() -> None:
    worlds = started([(10.0, 16.0)], [(15.75, 16.0), *FAR])
    after = step(worlds, ATTACK)
    # Both shoot in the first of 8 loops, since the attacked shoots back. 13.77 - 7 loops are left of the cooldown.
    assert after["allies"].tolist() == [[10.0, 16.0, 39.0, pytest.approx(6.77)]]
    assert after["enemies"][0].tolist() == [15.75, 16.0, 39.0, pytest.approx(6.77)]
    assert after["shots"].tolist() == [[10.0, 16.0, 15.75, 16.0], [15.75, 16.0, 10.0, 16.0]]
    assert after["targets"].tolist() == [0, -1, -1]
    engine = worlds.engine
    assert engine.reward[0] == pytest.approx(0.32877, abs=5e-6)
    assert engine.channels["signed"][0] == 0.0
    assert engine.channels["team"] is engine.reward
    # 6.77 loops later, in the seventh of the next step, they shoot again: 13.54 - 1 are left.
    after = step(worlds, ATTACK)
    assert after["allies"][0, 2:] == pytest.approx((33.0, 12.54))
    assert step(worlds, STOP)["shots"].shape == (0, 4)


def test_the_weapon_reaches_center_distance_5_75() -> None:
    after = step(started([(10.0, 16.0)], [(15.7501, 16.0), *FAR]), ATTACK)
    # One loop of walking for both, then the shots: 13.77 - 6 loops are left.
    assert after["allies"][0] == pytest.approx((10.140625, 16, 39, 7.77))
    assert after["enemies"][0] == pytest.approx((15.609475, 16, 39, 7.77))


@pytest.mark.parametrize(("distance", "legal"), [(5.0, 1), (6.0, 1), (6.0001, 0), (8.0, 0)])
def test_an_attack_may_be_ordered_within_6(distance: float, legal: int) -> None:
    engine: Any = started([(10.0, 12.0)], [(10.0, 12.0 + distance), *FAR]).engine
    assert engine.mask[0, 0].tolist() == [0, 1, 1, 1, 1, 1, legal, 0, 0]
    assert engine.obs[0, 0, 4] == legal


def test_the_agents_units_are_passive() -> None:
    after = step(started([(10.0, 16.0)], [(13.0, 16.0), *FAR]), STOP)
    assert after["allies"].tolist() == [[10.0, 16.0, 39.0, 0.0]]
    assert after["enemies"][0, 2] == 45.0


def test_a_waiting_weapon_is_ready_at_once_and_its_period_holds_on_average() -> None:
    # The cooldown at the start of a step tells in which of its loops the next shot comes.
    worlds = started([(10.0, 16.0)], [(15.0, 16.0), *FAR])
    shots = []
    for number in range(12):
        engine: Any = worlds.engine
        engine.units[0, :2, 2] = 45.0  # nobody dies
        engine.units[0, 2:, :2] = ((31.0, 9.0), (31.0, 23.0))
        before = engine.units[0, 0, 3]
        after = step(worlds, ATTACK)
        if len(after["shots"]):
            fired = 8 * number + max(math.ceil(before) - 1, 0)
            shots.append(fired)
    # Shot k comes in the first loop that starts 13.77 k or more after the first: 13.77, 27.54, 41.31, 55.08, ...
    assert shots == [0, 14, 28, 42, 56, 69, 83]


def test_45_hit_points_are_8_hits_and_a_fair_duel_ends_in_two_deaths() -> None:
    worlds = started([(10.0, 16.0)], [(15.0, 16.0)])
    rewards, signed = [], []
    while not worlds.engine.terminated[0]:
        after = step(worlds, ATTACK)
        rewards.append(worlds.engine.reward[0])
        signed.append(worlds.engine.channels["signed"][0])
    # The eighth shot comes in loop 97 = 12 * 8 + 1, counted from 0: in step 13.
    assert len(rewards) == 13
    assert after["allies"].tolist() == [[10.0, 16.0, 0.0, 0.0]]
    assert after["enemies"].tolist() == [[15.0, 16.0, 0.0, 0.0]]
    # Neither bonus; what is left of the health and 10 points count.
    assert rewards[-1] == pytest.approx((3 + 10) * 20 / 255)
    assert sum(rewards) == pytest.approx(55 * 20 / 255)
    assert signed == [0.0] * 13
    assert worlds.engine.channels["won"][0] == worlds.engine.channels["lost"][0] == 0.0


def test_overkill_is_wasted_and_costs_the_cooldown() -> None:
    worlds = started([(10.0, 15.0), (10.0, 16.0), (10.0, 17.0)], [(14.0, 16.0, 7.0, 5.0), *FAR])
    after = step(worlds, ATTACK, ATTACK, ATTACK)
    assert after["enemies"][0].tolist() == [14.0, 16.0, 0.0, 0.0]
    assert after["allies"][:, 2:] == pytest.approx(np.array([[45, 6.77]] * 3))
    assert len(after["shots"]) == 3
    assert worlds.engine.reward[0] == pytest.approx((7 + 10) / 18.25)
    # The dead can be attacked no more, and the order of the dead itself is no-op.
    mask: Any = worlds.engine.mask
    assert mask[0, :, ATTACK].tolist() == [0, 0, 0]


def test_an_order_lapses_with_its_target() -> None:
    # The first ally's shot kills in loop 1; the second, out of reach, walks one loop and then stands.
    after = step(started([(10.0, 12.0), (10.0, 21.9)], [(10.0, 16.0, 6.0, 9.0), *FAR]), ATTACK, ATTACK)
    assert after["allies"][1] == pytest.approx((10, 21.9 - 0.140625, 45, 0))


# --- rewards ---


@pytest.mark.parametrize(("enemies", "hit", "kill", "win"), [(3, 0.32877, 0.54795, 10.9589), (8, 0.1875, 0.3125, 6.25)])
def test_reward_of_hit_kill_and_victory(enemies: int, hit: float, kill: float, win: float) -> None:
    crowd = [(31.0, 9.0 + k, 0.0, 0.0) for k in range(enemies - 1)]
    worlds = started([(10.0, 16.0)], [(15.0, 16.0, 6.0, 14.0 - 1.0), *crowd])
    step(worlds, ATTACK)
    engine = worlds.engine
    assert engine.reward[0] == pytest.approx(hit + kill + win, abs=1e-4)
    assert engine.channels["signed"][0] == engine.reward[0]
    assert (engine.terminated[0], engine.channels["won"][0], engine.channels["lost"][0]) == (True, 1.0, 0.0)


def test_a_defeat_costs_nothing_in_training_and_much_under_attack() -> None:
    worlds = started([(10.0, 16.0, 6.0, 0.0), (5.0, 9.0, 0.0, 0.0)], [(13.0, 16.0), *FAR])
    step(worlds, STOP, NO_OP)
    engine = worlds.engine
    assert engine.reward[0] == 0.0
    assert engine.channels["signed"][0] == pytest.approx(-(6 + 10 + 200) / 18.25)
    assert (engine.terminated[0], engine.channels["won"][0], engine.channels["lost"][0]) == (True, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "worst"), [("3m", -20.0), ("4m_vs_3m", -23.01), ("5m_vs_3m", -26.03), ("9m_vs_8m", -21.72)]
)
def test_a_team_that_never_shoots_gets_the_lowest_signed_return(name: str, worst: float) -> None:
    total, signed, worlds = play(name, lambda mask: mask.argmax(axis=-1))
    assert total == 0.0
    assert signed == pytest.approx(worst, abs=0.005)
    assert worlds.engine.channels["lost"][0] == 1.0


def test_a_victory_returns_exactly_20() -> None:
    def fire(mask: np.ndarray) -> np.ndarray:
        order = mask * np.where(np.arange(9) >= ATTACK, 2, 1)
        return np.where(mask[..., 1] > 0, order[..., 1:].argmax(axis=-1) + 1, 0)

    total, signed, worlds = play("5m_vs_3m", fire)
    assert worlds.engine.channels["won"][0] == 1.0
    assert total == pytest.approx(20.0, abs=1e-12)
    assert signed < 20.0


def play(name: str, choose: Any) -> tuple[float, float, Worlds]:
    """Play one episode and return the sums of both rewards."""
    worlds = Worlds(mir2bench.spec(f"Skirmish-{name}-adv0-v0"), 1)
    worlds.reset(seeds=[1])
    total = signed = 0.0
    while not worlds.done[0]:
        worlds.step(choose(worlds.engine.mask))
        total += worlds.engine.reward[0]
        signed += worlds.engine.channels["signed"][0]
    return total, signed, worlds


def test_the_time_limit_truncates() -> None:
    # The only ally stands in a corner that the enemies' march does not come near.
    worlds = started([(31.0, 8.5)], [(20.0, 16.0)])
    for number in range(1, 61):
        step(worlds, STOP)
        assert bool(worlds.truncated[0]) == (number == 60)
    assert not worlds.engine.terminated[0]
    assert worlds.engine.channels["signed"][0] == worlds.engine.reward[0] == 0.0
    assert worlds.engine.snapshot(0)["enemies"][0] == pytest.approx((9, 16, 45, 0))


# --- enemies ---


def test_enemies_march_to_where_the_allies_start() -> None:
    after = step(started([(2.0, 23.0)], [(23.0, 16.0), (9.0, 9.0)]), STOP)
    assert after["enemies"][:, :2].tolist() == [[21.875, 16.0], [9.0, 10.125]]
    assert after["targets"].tolist() == [-1, -1]


@pytest.mark.parametrize(("distance", "target"), [(5.374, 0), (5.375, -1), (5.5, -1)])
def test_enemies_scan_5_cells_beyond_the_edge_of_a_unit(distance: float, target: int) -> None:
    after = step(started([(9.0 + distance, 16.0)], [(9.0, 16.0)]), STOP)  # it has arrived and stands still
    assert after["targets"].tolist() == [target]
    assert after["allies"][0, 2] == (39.0 if target == 0 else 45.0)


def test_enemies_choose_the_nearest() -> None:
    allies = [(6.0, 16.0), (9.0, 18.5), (12.0, 16.0)]
    assert step(started(allies, [(9.0, 16.0)]), STOP, STOP, STOP)["targets"].tolist() == [1]
    # One that attacks is no better than a nearer one that does not; out of scan range it is better than none.
    assert step(started(allies, [(9.0, 16.0)]), ATTACK, STOP, STOP)["targets"].tolist() == [1]
    assert step(started([(9.0, 21.6), (9.0, 10.5)], [(9.0, 16.0)]), STOP, ATTACK)["targets"].tolist() == [1]


def test_enemies_keep_a_target_within_reach() -> None:
    allies, enemy = [(9.0, 21.5), (9.0, 18.0)], [(9.0, 16.0)]
    after = step(started(allies, enemy, targets=[0]), STOP, STOP)
    assert (after["targets"].tolist(), after["allies"][:, 2].tolist()) == ([0], [39.0, 45.0])
    # The farther one is out of reach now and does not shoot: the nearer one is chosen.
    after = step(started([(9.0, 21.8), (9.0, 18.0)], enemy, targets=[0]), STOP, STOP)
    assert (after["targets"].tolist(), after["allies"][:, 2].tolist()) == ([1], [45.0, 39.0])
    # But one that attacks back is chased, past the nearer one.
    after = step(started([(9.0, 21.8), (7.0, 17.0)], enemy, targets=[0]), ATTACK, STOP)
    assert (after["targets"].tolist(), after["allies"][:, 2].tolist()) == ([0], [39.0, 45.0])
    assert after["enemies"][0, 1] == 16.140625


def test_enemies_do_not_follow_who_runs_out_of_reach() -> None:
    worlds = started([(9.0, 21.7)], [(9.0, 16.0, 45.0, 12.0)], targets=[0])
    after = step(worlds, NORTH)
    assert after["targets"].tolist() == [-1]
    assert after["enemies"][0, :2].tolist() == [9.0, 16.0]
    assert after["allies"][0, 2] == 45.0


def test_enemies_turn_to_the_next_when_a_target_dies() -> None:
    worlds = started([(9.0, 18.0, 6.0, 0.0), (9.0, 20.0)], [(9.0, 16.0), (9.0, 14.0)])
    after = step(worlds, STOP, STOP)
    assert after["allies"][:, 2].tolist() == [0.0, 45.0]  # both had the first as a target, and one shot was wasted
    # The first scans the second ally at once; the other marches until it is nearer than 5.375, for which 5 loops do.
    assert after["targets"].tolist() == [1, 1]
    assert after["enemies"][:, 1].tolist() == [16.0, 14.0 + 5 * 0.140625]


# --- observation, state ---


def test_observation_and_state_by_hand() -> None:
    allies = [(10.0, 16.0, 39.0, 7.5), (10.0, 12.0, 45.0, 0.0), (4.0, 9.0, 0.0, 0.0)]
    enemies = [(14.0, 13.0, 27.0, 3.0), (10.0, 22.0, 9.0, 0.0), (19.0, 16.0, 45.0, 0.0), (8.0, 16.0, 0.0, 0.0)]
    engine: Any = started(allies, enemies, last_actions=[STOP, 7, NO_OP]).engine
    assert engine.obs.dtype == engine.state.dtype == np.float32
    assert engine.mask.dtype == np.int8
    nothing = [0.0] * 5
    first = [1, 5 / 9, 4 / 9, -3 / 9, 27 / 45]
    assert engine.obs[0, 0] == pytest.approx(
        # moves, enemies (the third is 9 away, just not seen; the fourth is dead), allies, own health, id
        [1, 1, 1, 1, *first, 1, 6 / 9, 0, 6 / 9, 9 / 45, *nothing, *nothing]
        + [1, 4 / 9, 0, -4 / 9, 1, *nothing, 39 / 45, 1, 0, 0]
    )
    assert engine.obs[0, 1] == pytest.approx(
        [1, 1, 1, 1, 1, math.sqrt(17) / 9, 4 / 9, 1 / 9, 27 / 45, *nothing, *nothing, *nothing]
        + [1, 4 / 9, 0, 4 / 9, 39 / 45, *nothing, 1, 0, 1, 0]
    )
    assert engine.obs[0, 2].tolist() == [0.0] * 35 + [0, 0, 1]
    assert engine.mask[0].tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    played = np.eye(10)
    assert engine.state[0] == pytest.approx(
        [39 / 45, 0.5, -6 / 32, 0, 1, 0, -6 / 32, -4 / 32, 0, 0, 0, 0]
        + [27 / 45, -2 / 32, -3 / 32, 9 / 45, -6 / 32, 6 / 32, 1, 3 / 32, 0, 0, 0, 0]
        + [*played[STOP], *played[7], *played[NO_OP]]
    )


def test_the_state_has_no_last_action_at_the_start() -> None:
    worlds = started([(10.0, 16.0), (10.0, 12.0, 0.0, 0.0)], FAR)
    assert not worlds.engine.state[0, -16:].any()
    step(worlds, EAST, NO_OP)
    assert np.flatnonzero(worlds.engine.state[0, -16:]).tolist() == [EAST, 8 + NO_OP]


def test_seen_but_not_attackable() -> None:
    engine: Any = started([(10.0, 16.0)], [(17.2, 16.0), *FAR]).engine
    assert engine.obs[0, 0, 4:9] == pytest.approx([0, 0.8, 0.8, 0, 1])
