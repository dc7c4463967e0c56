"""`check_defender` passes what is right and names what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from broken_algorithms import Config, Stub, StubDefender
from games import Match, Recall, game

import mir2bench
from mir2bench import defenders
from mir2bench.errors import ConfigError, ConformanceError, UnknownNameError
from mir2bench.testing import check_defender
from mir2bench.testing.common import Trial


@pytest.fixture
def continuous(fresh_registry: None) -> str:
    return mir2bench.register(game(Match))[0]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Fail every test after which torch is not as it was."""
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state()
    yield
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def breach(name: str) -> dict[str, Any]:
    return {"settings": {"breach": name}, "budget": 100}


def complaints(error: pytest.ExceptionInfo[ConformanceError]) -> list[str]:
    head, *lines = str(error.value).splitlines()
    assert head.endswith(" breaks its contract:")
    assert all(line.startswith("- ") and line.endswith(".") for line in lines)
    return [line[2:] for line in lines]


# --- what is right ---


@pytest.mark.parametrize("name", sorted(defenders._BUILTIN))
def test_built_in_defenders(name: str, toy: list[str], continuous: str) -> None:
    check_defender(name, toy[1], budget=200)
    check_defender(name, continuous, budget=200)


def test_recurrent_teams(fresh_registry: None) -> None:
    small = {"recurrent": True, "hidden": 8, "worlds": 8, "batch_size": 4, "warmup": 0}
    check_defender("maddpg", game(Recall), settings=small, budget=100)


def test_the_default_world() -> None:
    check_defender(StubDefender, budget=100)


def test_classes_and_their_paths(toy: list[str]) -> None:
    for defender in (StubDefender, "broken_algorithms:StubDefender"):
        check_defender(defender, mir2bench.spec(toy[1]), budget=100)
        check_defender(defender, toy[0], **breach("recurrent"))


# --- what is wrong with the class ---


class NoConfig:
    def train(self, variant: Any, *, seed: int, budget: int, callback: Any = None) -> None: ...


class OldSignature(StubDefender):
    def train(self, variant: Any, seed: int, steps: int) -> None: ...  # type: ignore[override]


class TrainNoMethod(StubDefender):
    train = 3  # type: ignore[assignment]


class PlainConfig(StubDefender):
    class Config:
        rate = 0.5


@dataclass
class Loose:
    rate: float = 0.5


class LooseConfig(StubDefender):
    Config = Loose

    def __init__(self, config: Any = None) -> None:
        self.config = Loose() if config is None else config


@dataclass(frozen=True)
class Rich:
    rate: float
    layers: tuple[int, ...] = (64, 64)
    names: list[str] = field(default_factory=list)
    limit: float = float("inf")
    device: Any = None
    steps: int = field(default=3, init=False)


class RichConfig(StubDefender):
    Config = Rich


@dataclass(frozen=True)
class Contradictory:
    """Attributes: rate."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        raise ConfigError("rate must be above 1, but it is 0.5.")


class ContradictoryConfig(StubDefender):
    Config = Contradictory


@dataclass(frozen=True)
class Shifting:
    """Attributes: rate."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", self.rate + 1)


class ShiftingConfig(StubDefender):
    Config = Shifting

    def __init__(self, config: Any = None) -> None:
        self.config = Shifting() if config is None else config


class WithoutConstructor(StubDefender):
    def __init__(self) -> None: ...


class NeedsConfig(StubDefender):
    def __init__(self, config: Config) -> None:
        self.config = config


class Forgetful(StubDefender):
    def __init__(self, config: Config | None = None) -> None:
        self.breach = "" if config is None else config.breach


@pytest.mark.parametrize(
    ("defender", "expected"),
    [
        (NoConfig, ["it lacks `Config`."]),
        (Stub, ["it lacks `train(variant, seed=..., budget=..., callback=...)`."]),
        (
            OldSignature,
            [
                "it is called as `train(variant, seed=..., budget=..., callback=...)`, but the signature of `train` "
                "does not allow that: missing a required argument: 'steps'."
            ],
        ),
        (TrainNoMethod, ["`train` must be a method, but it is 3 of type int."]),
        (StubDefender(), ["it is no class, but <broken_algorithms.StubDefender object at *> of type StubDefender."]),
        (
            PlainConfig,
            ["its Config must be a dataclass, but it is the class Config. Write `@dataclass(frozen=True)` above it."],
        ),
        (
            LooseConfig,
            [
                "its Config must not change once it is made: write `@dataclass(frozen=True)`.",
                "Config.rate is not documented: say in the docstring of Config what it does.",
            ],
        ),
        (
            RichConfig,
            [
                "Config.rate has no default value. Give it one.",
                "Config.layers has the default (64, 64) of type tuple, but settings are plain values: bool, int, float "
                "or str.",
                "Config.names has the default [] of type list, but settings are plain values: bool, int, float or str.",
                "Config.limit has the default inf, which JSON cannot hold. Give a finite number.",
                "Config.device has the default None of type NoneType, but settings are plain values: bool, int, float "
                "or str.",
                "Config.steps cannot be set: leave `init=False` out.",
            ],
        ),
        (
            ContradictoryConfig,
            [
                "Config() raises ConfigError: rate must be above 1, but it is 0.5: all defaults together must be "
                "allowed."
            ],
        ),
        (
            ShiftingConfig,
            ["a Config that is written as JSON and read again differs: keep the fields as they are given."],
        ),
        (
            WithoutConstructor,
            [
                "its constructor must take a Config, as in `def __init__(self, config=None)`: too many positional "
                "arguments."
            ],
        ),
        (
            NeedsConfig,
            [
                "NeedsConfig() raises TypeError: NeedsConfig.__init__() missing 1 required positional argument: "
                "'config': the constructor takes a Config, or nothing."
            ],
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
def test_classes_that_are_no_defenders(toy: list[str], defender: Any, expected: list[str]) -> None:
    with pytest.raises(ConformanceError) as error:
        check_defender(defender, toy[1], budget=100)
    found = [_without_address(line) for line in complaints(error)]
    assert found == expected


def _without_address(text: str) -> str:
    head, at, tail = text.partition(" at 0x")
    return f"{head} at *{tail[tail.index('>') :]}" if at else text


# --- what is wrong with training ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raises", "`train` raises ValueError: too small a budget."),
        ("numpy", "`train` changes numpy's global random state. Draw from generators that are made from `seed`."),
        ("python", "`train` changes Python's global random state. Draw from generators that are made from `seed`."),
        (
            "torch",
            "`train` changes torch's global random state. Draw from generators that are made from `seed`. Initial "
            "weights are drawn inside `with torch.random.fork_rng(devices=[])`.",
        ),
        ("threads", "`train` changes torch's number of threads. Decorate the method with "),
        ("dtype", "`train` changes torch's default dtype. Name dtypes where you need them."),
        (
            "overrun",
            "`train` makes 200 environment steps on a budget of 100. Every step of every parallel world counts;",
        ),
        ("unseeded", "two trainings with seed 0, the first with a callback, give different policies: "),
        ("reports matter", "two trainings with seed 0, the first with a callback, give different policies: "),
        ("no reports", "`train` never calls `callback`: report progress, the last time when the budget is used up."),
        ("reports without an end", "the last report must name all 100 steps of the budget, but it names 50."),
        (
            "backward reports",
            "the steps in the reports must grow from 0 to the budget of 100, but they are 100, 5, 100.",
        ),
        ("reports of another budget", "the reports must name the budget of 100, but one names 101."),
        (
            "reports of another kind",
            "the callback must get `mir2bench.learning.progress.Progress` objects, but it got (100, 100).",
        ),
        ("metrics of another kind", "the metric 'greedy_return' in the reports must be a number, but it is 'high'."),
    ],
)
def test_trainings_that_break_a_promise(toy: list[str], name: str, expected: str) -> None:
    with pytest.raises(ConformanceError) as error:
        check_defender(StubDefender, toy[1], **breach(name))
    (found,) = complaints(error)
    assert found.startswith(expected)
    assert "StubDefender" in str(error.value)


def test_an_exception_keeps_its_traceback(toy: list[str]) -> None:
    with pytest.raises(ConformanceError) as error:
        check_defender(StubDefender, toy[1], **breach("raises"))
    assert isinstance(error.value.__cause__, ValueError)


def test_what_is_worth_a_warning(toy: list[str]) -> None:
    with pytest.warns(UserWarning, match="StubDefender gives one and the same policy for seeds 3 and 4") as caught:
        check_defender(StubDefender, toy[1], seed=3, **breach("ignores the seed"))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match='StubDefender reports no "greedy_return", so no figure'):
        check_defender(StubDefender, toy[1], **breach("no learning curve"))


# --- what is wrong with the policy ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no policy", "it must return a policy, but NoneType lacks `initial_carry` and `act`."),
        ("policy: raises", "it raises IndexError: list index out of range."),
        (
            "policy: rows",
            "`initial_carry(4)` must return None or an array with 4 rows, one per episode, but it returns (5, 2) f",
        ),
        ("policy: alone", "`act` must return the pair (actions, carry), but it returns (4, 3) int64."),
        ("policy: writes", "`act` must not write into the observations, masks or memory it is given: work on copies."),
        ("policy: writes into the carry", "`act` must not write into the observations, masks or memory it is given: "),
        (
            "policy: carry",
            "`act` must return a carry like the first one, (4, 2) float64, but it returns (4, 1) float64.",
        ),
        ("policy: shape", "`act` must return actions (4, 3) int64, but it returns (4, 1) int64."),
        ("policy: type", "`act` must return actions (4, 3) int64, but it returns (4, 3) int32."),
        ("policy: range", "`act` chooses action 4, but actions run from 0 to 2, with deterministic=True."),
        ("policy: mask", "`act` chooses action 2 where the mask forbids it, with deterministic=False."),
        ("policy: own dice", "`act` gives other actions for the same observations and `rng`: `rng` must be its only "),
        ("policy: greedy dice", "greedy actions (deterministic=True) depend on `rng`."),
        ("policy: memory in itself", "it remembers something itself: two runs that take turns disturb each other. "),
        (
            "policy: batch",
            "an episode's actions depend on the other episodes of the batch: row b must be computed from ",
        ),
        (
            "policy: telepathy",
            "the action of agent 0 depends on what other agents observe, but execution is decentralized",
        ),
    ],
)
def test_policies_that_break_the_protocol(toy: list[str], name: str, expected: str) -> None:
    with pytest.raises(ConformanceError) as error:
        check_defender(StubDefender, toy[1], **breach(name))
    (found,) = complaints(error)
    assert found.removeprefix("its policy: ").startswith(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("policy: type", "`act` must return actions (4, 2, 1) float32, but it returns (4, 2, 1) float64."),
        ("policy: range", " for a component, but actions must be finite and in [-1, 1], with d"),
        ("policy: nan", "`act` chooses nan for a component, but actions must be finite and in [-1, 1], with d"),
        ("policy: greedy dice", "greedy actions (deterministic=True) depend on `rng`."),
        ("policy: batch", "an episode's actions depend on the other episodes of the batch"),
        ("policy: telepathy", "the action of agent 0 depends on what other agents observe"),
    ],
)
def test_the_same_for_continuous_actions(continuous: str, name: str, expected: str) -> None:
    with pytest.raises(ConformanceError) as error:
        check_defender(StubDefender, continuous, **breach(name))
    (found,) = complaints(error)
    assert expected in found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("policy: ", "its policy cannot be saved: only network policies can be saved, but this is a Wrong. Trained "),
        ("diverged", "its policy cannot be saved: the policy's weights are not all finite: its training has diverged"),
        (
            "lossy",
            "its policy acts otherwise when it is saved and loaded again. A bundle holds the actor's weights and ",
        ),
        ("n_agents", "its policy says that it plays n_agents = 4, but there are 3 to play."),
    ],
)
def test_policies_that_cannot_be_kept(toy: list[str], name: str, expected: str) -> None:
    with pytest.raises(ConformanceError) as error:
        check_defender(StubDefender, toy[1], **breach(name))
    (found,) = complaints(error)
    assert found.startswith(expected)


# --- the check itself ---


def test_all_problems_are_told_at_once(toy: list[str]) -> None:
    class Sloppy(StubDefender):
        def train(self, variant: Any, **kwargs: Any) -> Any:
            np.random.random()
            return super().train(variant, **kwargs)

    with pytest.raises(ConformanceError) as error:
        check_defender(Sloppy, toy[1], **breach("overrun"))
    first, second = complaints(error)  # once, though each training does both
    assert first.startswith("`train` changes numpy's")
    assert second.startswith("`train` makes 200")


def test_what_cannot_be_checked(toy: list[str]) -> None:
    with pytest.raises(UnknownNameError, match="No defender `madpg`. Did you mean `maddpg`"):
        check_defender("madpg")
    with pytest.raises(UnknownNameError, match="No variant `Rendezvuos10-adv1-v0`"):
        check_defender("maddpg", "Rendezvuos10-adv1-v0")
    with pytest.raises(UnknownNameError, match="No setting `braech`. Did you mean `breach`"):
        check_defender(StubDefender, toy[1], settings={"braech": "x"})
    with pytest.raises(ConfigError, match="Cannot import the defender `no_module:X`"):
        check_defender("no_module:X")


def test_measuring_is_free(toy: list[str]) -> None:
    from mir2bench.learning import rollout
    from mir2bench.partition import Partition
    from mir2bench.policies import IdlePolicy

    variant, problems = mir2bench.spec(toy[1]), []
    with Trial(problems, "this") as trial:
        StubDefender().play(variant, 30)
        rollout.rollout(variant, IdlePolicy(variant.layout), Partition.of(3), None, range(5))
        env: Any = mir2bench.parallel_env(toy[1])
        env.reset(seed=0)
        env.step(dict.fromkeys(env.agents, 0))
    assert trial.steps == 31
    assert rollout.Worlds.__name__ == "Worlds"
    assert (problems, trial.error) == ([], None)


def test_interrupts_pass_and_everything_is_put_back() -> None:
    problems: list[str] = []
    with pytest.raises(KeyboardInterrupt), Trial(problems, "this"):
        torch.manual_seed(0)
        np.random.seed(0)
        raise KeyboardInterrupt
    assert len(problems) == 2


def test_checking_environments_needs_no_torch() -> None:
    code = "import sys; from mir2bench.testing import check_env; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="module 'mir2bench.testing' has no attribute 'check_all'"):
        mir2bench.testing.check_all  # type: ignore[attr-defined]  # noqa: B018
