"""Attackers: what the learned one finds, what it promises, and those that need no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from games import Brittle, Contrary, Echo, Match, Matching, game

import mir2bench
from mir2bench.attackers import list_attackers, make_attacker
from mir2bench.attackers.learned import Config, LearnedAttacker
from mir2bench.attackers.strongest import SELECTION_EPISODES, SELECTION_SEED
from mir2bench.engines.rendezvous_scripted import FleeTraitor
from mir2bench.errors import ConfigError, PartitionError, PolicyError, UnknownNameError
from mir2bench.learning.progress import Progress
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import IdlePolicy, Policy, RandomPolicy
from mir2bench.registration import VariantSpec

FIRST = Partition((1, 0, 0))
SMALL = Config(starts=1, hidden=16, worlds=32, rollout=6, minibatch=192)


def attack(
    variant: VariantSpec, victim: Policy, phi: Partition, *, config: Config = SMALL, seed: int = 0, budget: int = 2_000
) -> tuple[Any, list[Progress]]:
    reports: list[Progress] = []
    found = LearnedAttacker(config).attack(variant, victim, phi, seed=seed, budget=budget, callback=reports.append)
    return found, reports


def equal(one: Any, other: Any) -> bool:
    weights, others = one.actor.state_dict(), other.actor.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


# --- strength ---


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_weakness_is_found(seed: int) -> None:
    """Without the trigger the adversary costs its own share, 2 of 6. Pulled at once, it leaves two steps of play."""
    variant, fresh = game(Echo, 3), range(100)
    chance = rollout(variant, Brittle(), FIRST, RandomPolicy(variant.layout), fresh).returns.mean()
    assert 4.0 < chance < 4.5
    found, reports = attack(variant, Brittle(), FIRST, seed=seed, budget=10_000)
    assert rollout(variant, Brittle(), FIRST, found, fresh).returns.mean() == pytest.approx(4 / 3)  # the worst there is
    assert reports[-1].metrics["attacked_return"] == pytest.approx(4 / 3)


def test_the_one_who_cannot_pull_the_trigger_costs_its_share() -> None:
    found, _ = attack(game(Echo, 3), Brittle(), Partition((0, 0, 1)), budget=3_000)
    assert rollout(game(Echo, 3), Brittle(), Partition((0, 0, 1)), found, range(10)).returns.mean() == pytest.approx(4)


def test_continuous_attacks_from_scratch_and_from_a_script() -> None:
    """From scratch it learns at least to leave the middle: random play costs 0.27, a constant 1 or -1 costs 0.6."""
    variant, phi, fresh = game(Match), Partition((0, 1)), range(200)
    clean = rollout(variant, Matching(), Partition.of(2), None, fresh).returns.mean()
    worst = rollout(variant, Matching(), phi, Contrary(), fresh).returns.mean()
    assert clean == pytest.approx(0.0)
    assert worst == pytest.approx(-1.0, abs=0.05)
    for starts in (1, 2):
        config = replace(SMALL, starts=starts, rollout=50)
        found, _ = attack(variant, Matching(), phi, config=config, budget=8_000)
        assert rollout(variant, Matching(), phi, found, fresh).returns.mean() <= worst + 1e-6
        assert found.script is not None  # nothing beats the worst there is
        assert found.script[0] == "contrary"
    unscripted = replace(variant, engine="test_attackers:Unscripted")
    found, _ = attack(unscripted, Matching(), phi, config=replace(SMALL, rollout=50), budget=8_000)
    assert found.script is None
    assert rollout(variant, Matching(), phi, found, fresh).returns.mean() < -0.33


class Unscripted(Match):
    """Whose worst behavior is not known."""

    scripted_traitors: ClassVar[Mapping[str, str]] = {}


def test_discrete_attacks_start_from_a_script_too() -> None:
    variant = replace(game(Echo, 3), engine="test_attackers:Provoked")
    _, reports = attack(variant, Brittle(), FIRST, budget=3_000)
    assert reports[0].metrics == {  # before any training
        "attacked_return": pytest.approx(4 / 3),
        "attacked_return/now": pytest.approx(4 / 3),
    }
    assert reports[0].steps == 0


class Provoked(Echo):
    """Whose worst behavior is known."""

    scripted_traitors: ClassVar[Mapping[str, str]] = {"fives": "test_attackers:Fives"}


class Fives(IdlePolicy):
    """Always says 5."""

    def act(self, obs: np.ndarray, carry: Any, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        return np.full(obs.shape[:2], 5), carry


# --- what it promises ---


@pytest.mark.parametrize("starts", [1, 3])
def test_the_reported_return_never_rises_and_is_that_of_the_policy(starts: int) -> None:
    variant, phi = game(Match), Partition((1, 0))
    config = replace(SMALL, starts=starts)
    found, reports = attack(variant, Matching(), phi, config=config, budget=3_000)
    best = [report.metrics["attacked_return"] for report in reports]
    now = [report.metrics["attacked_return/now"] for report in reports]
    assert best == np.minimum.accumulate(now).tolist()
    seeds = range(SELECTION_SEED, SELECTION_SEED + SELECTION_EPISODES)
    assert rollout(variant, Matching(), phi, found, seeds).returns.mean() == pytest.approx(best[-1])
    assert sum("loss/policy" in report.metrics for report in reports) >= 4 * starts


@pytest.mark.parametrize("budget", [1, 50, 999, 5_000])
@pytest.mark.parametrize("starts", [1, 2])
def test_reported_steps_grow_and_stay_within_the_budget(budget: int, starts: int) -> None:
    config = replace(SMALL, starts=starts)
    _, reports = attack(game(Echo, 3), Brittle(), FIRST, config=config, budget=budget)
    steps = [report.steps for report in reports]
    assert steps == sorted(steps)
    assert steps[0] > 0
    assert steps[-1] <= budget
    assert {report.budget for report in reports} == {budget}


def test_the_seed_determines_the_attack() -> None:
    one, same, other = (attack(game(Echo, 3), Brittle(), FIRST, seed=seed)[0] for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)
    one, same, other = (attack(game(Match), Matching(), Partition((0, 1)), seed=seed)[0] for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)


def test_reports_change_nothing() -> None:
    silent = LearnedAttacker(SMALL).attack(game(Echo, 3), Brittle(), FIRST, seed=1, budget=2_000)
    assert equal(silent, attack(game(Echo, 3), Brittle(), FIRST, seed=1)[0])


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    attack(game(Match), Matching(), Partition((0, 1)), budget=500)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_victim_is_frozen() -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    found, _ = attack(variant, IdlePolicy(variant.layout), Partition.of(5, [2]), budget=400)
    weights = {name: value.clone() for name, value in found.actor.state_dict().items()}
    found.n_agents = 5  # any network serves as a team
    attack(variant, found, Partition.of(5, [0]), budget=400)
    assert all(torch.equal(value, weights[name]) for name, value in found.actor.state_dict().items())


@pytest.mark.parametrize("adversaries", [1, 2])
def test_masks_are_obeyed(toy: list[str], adversaries: int) -> None:
    """Training and measuring run in strict mode, where an illegal action raises; episodes end at random here."""
    variant = mir2bench.spec(toy[adversaries])
    phi = Partition.of(3, range(adversaries))
    found, _ = attack(variant, IdlePolicy(variant.layout), phi, budget=3_000)
    assert found.n_agents == adversaries
    idle = rollout(variant, IdlePolicy(variant.layout), phi, IdlePolicy(variant.layout), range(50)).returns.mean()
    attacked = rollout(variant, IdlePolicy(variant.layout), phi, found, range(50)).returns.mean()
    assert attacked < idle - 0.3 * adversaries
    obs = np.random.default_rng(0).random((500, adversaries, 4)).astype(np.float32)
    mask = np.tile(np.array([1, 0, 0], np.int8), (500, adversaries, 1))
    for deterministic in (True, False):
        actions, _ = found.act(obs, None, mask, rng=np.random.default_rng(0), deterministic=deterministic)
        assert not actions.any()


# --- errors ---


def test_what_cannot_be_attacked() -> None:
    with pytest.raises(PartitionError, match="needs a partition with at least one adversary, but phi is all 0"):
        attack(game(Echo, 3), Brittle(), Partition.of(3))
    for budget in (0, -10):
        with pytest.raises(ConfigError, match=f"the budget must be 1 step or more, but it is {budget}"):
            attack(game(Echo, 3), Brittle(), FIRST, budget=budget)
    with pytest.raises(PartitionError, match="phi has 2 entries, but this variant has 3 agents"):
        attack(game(Echo, 3), Brittle(), Partition((0, 1)))
    with pytest.raises(PartitionError, match="phi names 2 adversaries, but this variant allows exactly 1"):
        attack(game(Echo, 3), Brittle(), Partition((0, 1, 1)))


class Undefined(Match):
    """Rewards that are no numbers."""

    scripted_traitors: ClassVar[Mapping[str, str]] = {}

    def play(self, actions: np.ndarray) -> None:
        super().play(actions)
        self.reward[:] = np.nan


def test_returns_that_are_no_numbers() -> None:
    variant = replace(game(Match), engine="test_attackers:Undefined")
    with pytest.raises(PolicyError, match="finite"):
        attack(variant, Matching(), Partition((0, 1)), budget=8)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("starts", 0, "starts must be a finite number above 0, but it is 0"),
        ("lr", -1e-3, "lr must be a finite number above 0, but it is -0.001"),
        ("std", float("nan"), "std must be a finite number above 0, but it is nan"),
        ("clip", float("inf"), "clip must be a finite number above 0"),
        ("script_std", 0, "script_std must be a finite number above 0"),
        ("gamma", 1.1, "gamma and gae must be at most 1, but they are 1.1 and"),
        ("gae", 2.0, "gamma and gae must be at most 1"),
    ],
)
def test_bad_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})


# --- by name ---


def test_names(toy: list[str]) -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    scripted = set(variant.engine_class.scripted_traitors)
    assert "flee" in scripted
    assert list_attackers(variant) == sorted({"greedy", "idle", "learned", "random", "sb3-ppo"} | scripted)
    assert list_attackers(mir2bench.spec(toy[1])) == ["greedy", "idle", "learned", "random", "sb3-ppo"]
    assert list_attackers(game(Match)) == ["contrary", "greedy", "idle", "learned", "random", "sb3-ppo"]


@pytest.mark.parametrize(("name", "policy"), [("flee", FleeTraitor), ("idle", IdlePolicy), ("random", RandomPolicy)])
def test_attackers_that_need_no_training(name: str, policy: type) -> None:
    variant = mir2bench.spec("Rendezvous5-adv2-v0")
    phi = Partition.of(5, [1, 3])
    victim = IdlePolicy(variant.layout)
    found = make_attacker(name, variant).attack(variant, victim, phi, seed=0, budget=1)
    assert type(found) is policy
    episodes = rollout(variant, victim, phi, found, range(3))
    assert np.isfinite(episodes.returns).all()


def test_the_learned_attacker_by_name_and_by_path() -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    for name in ("learned", "mir2bench.attackers.learned:LearnedAttacker"):
        attacker: Any = make_attacker(name, variant)
        assert type(attacker) is LearnedAttacker
        assert attacker.config == Config()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learnt", "No attacker `learnt`. Did you mean `learned`"),
        ("fle", "No attacker `fle`. Did you mean `flee`"),
        ("contrary", "No attacker `contrary`"),  # another family's
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make_attacker(name, mir2bench.spec("Rendezvous5-adv1-v0"))


def test_classes_that_are_no_attackers() -> None:
    with pytest.raises(ConfigError, match="`games:Match` is no attacker: it lacks `attack"):
        make_attacker("games:Match", game(Match))
