"""`check_attacker` passes what is right and names what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from broken_algorithms import StubAttacker
from games import Brittle, Echo, Match, game

import mir2bench
from mir2bench.attackers import fixed_attackers
from mir2bench.attackers.greedy import GreedyAttacker
from mir2bench.errors import ConfigError, ConformanceError, PartitionError, UnknownNameError
from mir2bench.learning.rollout import rollout
from mir2bench.policies import IdlePolicy
from mir2bench.testing import check_attacker, check_env
from mir2bench.testing.games import Hum, planted

SMALL = {"starts": 1, "hidden": 16, "worlds": 32, "rollout": 12, "minibatch": 192}


@pytest.fixture
def continuous(fresh_registry: None) -> str:
    return mir2bench.register(game(Match))[0]


def breach(name: str) -> dict[str, Any]:
    return {"settings": {"breach": name}, "budget": 100, "planted": False}


def complaints(error: pytest.ExceptionInfo[ConformanceError]) -> list[str]:
    head, *lines = str(error.value).splitlines()
    assert head.startswith("The attacker ")
    assert head.endswith(" breaks its contract:")
    assert all(line.startswith("- ") and line.endswith(".") for line in lines)
    return [line[2:] for line in lines]


# --- what is right ---


def test_the_learned_attacker(toy: list[str], continuous: str) -> None:
    check_attacker("learned", toy[1], settings=SMALL, planted_budget=15_000)
    check_attacker("learned", toy[2], settings=SMALL, planted=False)
    check_attacker("learned", continuous, settings=SMALL, planted=False)


@pytest.mark.parametrize("adversaries", [1, 2])
def test_attackers_that_need_no_training(adversaries: int) -> None:
    variant = mir2bench.spec(f"Rendezvous5-adv{adversaries}-v0")
    for name in fixed_attackers(variant):
        check_attacker(name, variant, victim=IdlePolicy(variant.layout), planted=False)


def test_the_white_box_attacker(toy: list[str], continuous: str) -> None:
    """It is told everything, so it is played rather than shown observations, and it is not kept."""
    for variant in (toy[2], continuous):
        check_attacker(GreedyAttacker, variant, planted=False)
    with pytest.raises(
        ConformanceError, match="on mir2bench/Echo3-adv1-v0 raises NotApplicableError: the attacker `gree"
    ):
        check_attacker(GreedyAttacker, toy[1])


def test_classes_and_their_paths(toy: list[str]) -> None:
    for attacker in (StubAttacker, "broken_algorithms:StubAttacker"):
        check_attacker(attacker, mir2bench.spec(toy[2]), budget=100, planted=False)
        check_attacker(attacker, toy[1], phi=[0, 1, 0], **breach("recurrent"))


# --- what is wrong ---


class NoAttack:
    pass


class OldSignature(StubAttacker):
    def attack(self, variant: Any, victim: Any, phi: Any, *, seed: int, budget: int) -> Any: ...


class NeedsArguments:
    def __init__(self, strength: float) -> None: ...

    def attack(self, variant: Any, victim: Any, phi: Any, **kwargs: Any) -> Any: ...


class Forgetful(StubAttacker):
    def __init__(self, config: Any = None) -> None:
        self.strength = 1.0


@pytest.mark.parametrize(
    ("attacker", "expected"),
    [
        (NoAttack, ["it lacks `attack(variant, victim, phi, seed=..., budget=..., callback=...)`."]),
        (
            OldSignature,
            [
                "it is called as `attack(variant, victim, phi, seed=..., budget=..., callback=...)`, but the signature "
                "of `attack` does not allow that: got an unexpected keyword argument 'callback'."
            ],
        ),
        (
            NeedsArguments,
            ["its constructor must take no arguments, as it has no Config: missing a required argument: 'strength'."],
        ),
        (
            Forgetful,
            [
                "Forgetful() must keep its configuration as `config`: it is written beside results.",
                "Forgetful(Config()) must keep its configuration as `config`: it is written beside results.",
            ],
        ),
    ],
)
def test_classes_that_are_no_attackers(toy: list[str], attacker: Any, expected: list[str]) -> None:
    with pytest.raises(ConformanceError) as error:
        check_attacker(attacker, toy[1])
    assert complaints(error) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raises", "`attack` on mir2bench/Toy3-adv2-v0 raises ValueError: too small a budget."),
        ("numpy", "`attack` on mir2bench/Toy3-adv2-v0 changes numpy's global random state. Draw from generators that "),
        ("overrun", "`attack` on mir2bench/Toy3-adv2-v0 makes 200 environment steps on a budget of 100. Every "),
        ("unseeded", "two attacks with seed 0, the first with a callback, give different policies: everything must "),
        ("reports matter", "two attacks with seed 0, the first with a callback, give different policies: everything "),
        ("backward reports", "the steps in the reports must grow from 0 to the budget of 100, but they are 100, 5, "),
        ("weights", "`attack` changes the victim: the team is frozen. Work on `copy.deepcopy(victim)`."),
        ("whole team", "its policy says that it plays n_agents = 3, but there are 2 to play."),
        ("no policy", "it must return a policy, but NoneType lacks `initial_carry` and `act`."),
        ("policy: shape", "its policy: `act` must return actions (4, 2) int64, but it returns (4, 1) int64."),
        ("policy: mask", "its policy: `act` chooses action 2 where the mask forbids it, with deterministic=False."),
        ("policy: own dice", "its policy: `act` gives other actions for the same observations and `rng`: `rng` must "),
        ("policy: batch", "its policy: an episode's actions depend on the other episodes of the batch: row b must be "),
        ("policy: ", "its policy cannot be saved: only network policies can be saved, but this is a Wrong. "),
    ],
)
def test_attacks_that_break_a_promise(toy: list[str], name: str, expected: str) -> None:
    with pytest.raises(ConformanceError) as error:
        check_attacker(StubAttacker, toy[2], **breach(name))
    (found, *more) = complaints(error)
    assert more == []
    assert found.startswith(expected)


def test_adversaries_may_roll_dice_and_share_what_they_see(toy: list[str]) -> None:
    for name in ("policy: greedy dice", "policy: telepathy"):
        with pytest.raises(ConformanceError) as error:
            check_attacker(StubAttacker, toy[2], **breach(name))
        (found,) = complaints(error)
        assert found.startswith("its policy cannot be saved")


def test_a_victim_without_networks_is_watched_too(fresh_registry: None) -> None:
    class Excitable(Brittle):
        fives = 2.0

        def act(self, obs: Any, carry: Any, mask: Any = None, **kwargs: Any) -> Any:
            actions, carry = super().act(obs, carry, mask, **kwargs)
            return actions + (self.fives < 2), carry

    with pytest.raises(ConformanceError, match="`attack` changes the victim: the team is frozen"):
        check_attacker(StubAttacker, game(Echo, 3), victim=Excitable(), **breach("memory of the victim"))


# --- the planted weakness ---


@pytest.mark.parametrize(("discrete", "trigger"), [(True, 5), (False, 0.6)])
def test_the_planted_weakness_costs_what_it_says(discrete: bool, trigger: float) -> None:
    """Two agents of three play 0 in each of six steps, or in the first two only."""
    weakness = planted(discrete)

    class Always(IdlePolicy):
        says: float

        def act(self, obs: Any, carry: Any, mask: Any = None, **kwargs: Any) -> Any:
            actions, carry = super().act(obs, carry, None, **kwargs)
            return actions + np.asarray(self.says, actions.dtype), carry

    adversary, returns = Always(weakness.variant.layout), []
    for adversary.says in (1, trigger):
        returns.append(rollout(weakness.variant, weakness.victim, weakness.phi, adversary, [0]).returns[0])
    assert returns == pytest.approx([4.0, 4 / 3])
    assert (weakness.quiet, weakness.worst) == (4.0, 4 / 3)


@pytest.mark.parametrize("world", [0, 1])
def test_an_attacker_that_misses_it(toy: list[str], continuous: str, world: int) -> None:
    with pytest.raises(ConformanceError) as error:
        check_attacker("random", (toy[1], continuous)[world], planted_budget=2_000)
    (found,) = complaints(error)
    game, trigger, left = (("Echo", "action 5", 4.1), ("Hum", "an action from 0.3 to 0.7", 3.9))[world]
    assert found.startswith(
        f"in 2,000 steps it does not find the planted weakness of mir2bench/{game}3-adv1-v0 ({trigger}, twice in a "
        f"row): the team still gets {left}"
    )
    assert found.endswith("without the trigger and 1.33 with it. If it cannot by design, say planted=False.")


def test_the_games_are_sound_worlds(fresh_registry: None) -> None:
    for discrete, engine in ((True, Echo), (False, Hum)):
        assert planted(discrete).variant.engine_class is engine
        check_env(planted(discrete).variant, seeded=False)


# --- the check itself ---


def test_what_cannot_be_checked(toy: list[str]) -> None:
    with pytest.raises(ConfigError, match="Toy3-adv0-v0 has no adversaries, so nothing can be attacked. Choose one"):
        check_attacker("learned", toy[0])
    with pytest.raises(PartitionError, match="phi names 2 adversaries, but this variant allows exactly 1"):
        check_attacker("learned", toy[1], phi=[1, 1, 0])
    with pytest.raises(UnknownNameError, match="No attacker `learnt`. Did you mean `learned`"):
        check_attacker("learnt", toy[1])
    with pytest.raises(UnknownNameError, match="No setting `start`. Did you mean `starts`"):
        check_attacker("learned", toy[1], settings={"start": 1})
    with pytest.raises(UnknownNameError, match="No setting `starts`. There are: none"):
        check_attacker("random", toy[1], settings={"starts": 1})
