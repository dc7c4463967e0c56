"""What an evaluation consists of: budgets, partitions, attackers, and the seeds that everything is drawn from.

Protocol `paper-v1` is the paper's: every defender is trained with S seeds; with one adversary each of the N agents is
attacked in turn, with several 5 sampled partitions are; the attacker is learned, zero-sum, against the frozen team.
Untrained attackers (random, idle, the family's scripted traitors) are played beside it as sanity columns, and a clean
control arm (phi = 0) on the same evaluation seeds.

Protocol `suite-v1` attacks the same cells with a whole suite: also greedy against the team's own critic where it ships
one, PPO of Stable-Baselines3, and the attackers that were trained against the study's other defenders. What counts is
the worst over the suite in each cell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mir2bench.attackers import fixed_attackers
from mir2bench.errors import ConfigError, unknown_name
from mir2bench.partition import Partition, count_partitions, enumerate_partitions, sample_partitions
from mir2bench.registration import VariantSpec

CLEAN = "none"
"""Name of the attacker in the clean control arm."""
ROBUST, WORST = "robust", "worst"
"""Arms: in each cell the strongest of the attackers trained against this very team, and the strongest of all."""
TRANSFER = "transfer"
"""Arm of the attackers that were trained against other defenders; their own names begin with it, see `transferred`."""

_EVALUATION_SEED = 2_000_000_000_000  # above every 32-bit number, so that no training seed can meet it
_VALIDATION_SEED = 1_000_000_000_000
_PARTITION_SEED = 20_240_101
_ATTACK_SEED_STEP = 1_000  # attack seeds are 1000 (restart + 1) + the defender's seed


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a study does.

    Attributes:
        name: what `--budget` calls it.
        train_steps: environment steps to train one defender.
        attack_steps: environment steps to train one attacker.
        attack_restarts: attackers trained per cell; the strongest counts.
        defender_seeds: S, training seeds per defender.
        episodes: evaluation episodes per cell.
        partitions: most partitions attacked per variant; None leaves the number to the protocol.
        board: whether its results may enter the leaderboard.
    """

    name: str
    train_steps: int
    attack_steps: int
    attack_restarts: int
    defender_seeds: int
    episodes: int
    partitions: int | None
    board: bool

    def __post_init__(self) -> None:
        for field in ("train_steps", "attack_steps", "attack_restarts", "defender_seeds", "episodes", "partitions"):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ConfigError(f"budget `{self.name}`: {field} must be 1 or more, but it is {getattr(self, field)}.")
        if not self.defender_seeds < _ATTACK_SEED_STEP:
            raise ConfigError(
                f"{self.defender_seeds} seeds are too many: seeds from {_ATTACK_SEED_STEP} on belong to attackers. "
                f"Ask for fewer than {_ATTACK_SEED_STEP}."
            )


BUDGETS = {
    budget.name: budget
    for budget in (
        #      name        train_steps attack_steps restarts seeds episodes partitions board
        Budget("smoke", 2_000, 2_000, 1, 1, 4, 2, False),
        Budget("quick", 250_000, 300_000, 1, 1, 32, None, False),
        Budget("standard", 300_000, 400_000, 1, 5, 32, None, True),
        Budget("paper", 10_000_000, 10_000_000, 1, 5, 32, None, True),
    )
}


def get_budget(name: str) -> Budget:
    """Return the budget of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in BUDGETS:
        raise unknown_name("budget", name, BUDGETS)
    return BUDGETS[name]


@dataclass(frozen=True, slots=True)
class Draw:
    """Where the random numbers of a study's attacks and evaluation episodes begin.

    The default, `PUBLIC`, is known to all. Whoever must not be prepared for gives another.

    Attributes:
        first_episode: seed of the first evaluation episode; the others count up from it.
        first_attack: added to the seed of every attack.
        partitions: which of the protocol's partitions are attacked, as texts of zeros and ones; () for the budget's.
    """

    first_episode: int = _EVALUATION_SEED
    first_attack: int = 0
    partitions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.first_episode < _EVALUATION_SEED or self.first_attack < 0:
            raise ConfigError(
                f"evaluation episodes start at seed {_EVALUATION_SEED} or above and attack seeds at 0 or above, apart "
                f"from all training seeds, but they start at {self.first_episode} and {self.first_attack}."
            )


PUBLIC = Draw()
"""What every study uses."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Which attackers play against which partitions.

    Attributes:
        name: what `--protocol` calls it.
        trained: attackers that are trained for each cell.
        sampled_partitions: how many partitions are sampled where there is more than one adversary.
        white_box: attackers that need no training but look into the team; a team that lacks what they need is not
            played by them.
        transfer: whether the attackers trained against the other defenders of a study are played too.
        headline: the arm that robustness is judged by, "robust" or "worst".
    """

    name: str
    trained: tuple[str, ...]
    sampled_partitions: int
    white_box: tuple[str, ...] = ()
    transfer: bool = False
    headline: str = ROBUST

    def __post_init__(self) -> None:
        if self.headline not in (ROBUST, WORST) or (self.headline == ROBUST and not self.trained):
            raise ConfigError(
                f"protocol `{self.name}`: the headline must be `{WORST}`, or `{ROBUST}` if attackers are trained, but "
                f"it is `{self.headline}` with {len(self.trained)} of them."
            )

    @property
    def configurable(self) -> tuple[str, ...]:
        """The attackers that may have a configuration."""
        return (*self.trained, *self.white_box)

    def partitions(self, variant: VariantSpec, budget: Budget, draw: Draw = PUBLIC) -> list[Partition]:
        """Return the partitions to attack, in lexicographic order; the same for every defender and seed.

        All N for one adversary, `sampled_partitions` distinct ones for more, none for the plain Dec-POMDP; of these
        the ones that `draw` picks, if it does.
        """
        n, k = variant.n_agents, variant.n_adversaries
        if k == 0:
            return []
        if k == 1:
            chosen = list(enumerate_partitions(n, 1))
        else:
            rng = np.random.default_rng(_PARTITION_SEED)
            chosen = sample_partitions(n, k, min(self.sampled_partitions, count_partitions(n, k)), rng)
        if draw.partitions:
            return [phi for phi in chosen if "".join(map(str, phi.phi)) in draw.partitions]
        return chosen[: budget.partitions]

    def untrained(self, variant: VariantSpec) -> tuple[str, ...]:
        """Return the attackers that need no training and ignore the team: random, idle, the family's traitors."""
        return tuple(fixed_attackers(variant))

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as plain data."""
        return {**asdict(self), "trained": list(self.trained), "white_box": list(self.white_box)}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("paper-v1", trained=("learned",), sampled_partitions=5),
        Protocol(
            "suite-v1",
            trained=("learned", "sb3-ppo"),
            sampled_partitions=5,
            white_box=("greedy",),
            transfer=True,
            headline=WORST,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def evaluation_seeds(episodes: int) -> list[int]:
    """Return the seeds of the evaluation episodes: the same for every cell, apart from all training seeds."""
    return [_EVALUATION_SEED + episode for episode in range(episodes)]


def validation_seeds(episodes: int) -> list[int]:
    """Return seeds for looking at a policy outside a study, so that tuning never sees the evaluation episodes."""
    return [_VALIDATION_SEED + episode for episode in range(episodes)]


def attack_seed(defender_seed: int, restart: int) -> int:
    """Return the seed of an attacker: one per defender seed and restart, the same for every partition."""
    return _ATTACK_SEED_STEP * (restart + 1) + defender_seed


def transferred(defender: str, attacker: str) -> str:
    """Return the name in scores of an attacker that was trained against another defender: "transfer:maddpg/learned"."""
    return f"{TRANSFER}:{defender}/{attacker}"


def is_transferred(attacker: str) -> bool:
    """Whether an attacker of that name was trained against another defender."""
    return attacker.startswith(f"{TRANSFER}:")
