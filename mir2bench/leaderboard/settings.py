"""How the rows of a table were attacked: which may be compared, and which of two ways is the stronger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mir2bench.evaluation.jobs import digest
from mir2bench.evaluation.protocol import BUDGETS, PROTOCOLS, TRANSFER
from mir2bench.leaderboard.entry import Scores


@dataclass(frozen=True)
class Setting:
    """What must agree before two rows may be compared.

    Attributes:
        protocol: its name.
        budget: its name.
        attack_steps, restarts, episodes: what the budget came to.
        phis: the partitions that were attacked, sorted.
        attackers_sha256: of protocol and resolved attacker configurations.
    """

    protocol: str
    budget: str
    attack_steps: int
    restarts: int
    episodes: int
    phis: tuple[str, ...]
    attackers_sha256: str = ""

    @classmethod
    def of(cls, scores: Scores) -> Setting:
        """Return how a row was attacked."""
        budget = scores.budget
        effort = (budget.name, budget.attack_steps, budget.attack_restarts, budget.episodes)
        phis = tuple(sorted({cell.phi for cell in scores.cells}))
        return cls(scores.protocol, *effort, phis, scores.attackers_sha256)

    @property
    def attackers(self) -> frozenset[str]:
        """The attackers of the protocol that are trained or look into the team."""
        if self.protocol not in PROTOCOLS:
            return frozenset()
        protocol = PROTOCOLS[self.protocol]
        return frozenset({*protocol.trained, *protocol.white_box, *([TRANSFER] if protocol.transfer else [])})

    @property
    def strength(self) -> tuple[int, ...]:
        """What settings are sorted by: more attackers, longer attacks, more partitions, more episodes.

        A table of self-reported rows holds claims: no more work counts than the budget of that name does.
        """
        if self.budget not in BUDGETS:
            return len(self.attackers), 0, 0, 0
        most = BUDGETS[self.budget]
        steps = min(self.attack_steps, most.attack_steps) * min(self.restarts, most.attack_restarts)
        return len(self.attackers), steps, len(self.phis), min(self.episodes, most.episodes)

    @property
    def label(self) -> str:
        """The words for it."""
        starts = f" from each of {self.restarts} starts" if self.restarts > 1 else ""
        partitions = "1 partition" if len(self.phis) == 1 else f"{len(self.phis)} partitions"
        return f"{self.protocol}, {self.budget} budget, {self.attack_steps:,} attack steps{starts}, {partitions}"

    def weaknesses(self, other: Setting) -> list[str]:
        """Return in what it falls short of another."""
        lost = sorted(other.attackers - self.attackers)
        found = [f"{self.protocol} without {', '.join(lost)} instead of {other.protocol}"] if lost else []
        final = [budget in BUDGETS and BUDGETS[budget].board for budget in (self.budget, other.budget)]
        if final == [False, True]:
            found.append(f"{self.budget} budget instead of {other.budget}")
        for mine, theirs, what in (
            (self.attack_steps, other.attack_steps, "attack steps"),
            (self.restarts, other.restarts, "starts of each attack"),
            (len(self.phis), len(other.phis), "partitions"),
            (self.episodes, other.episodes, "episodes"),
        ):
            if mine < theirs:
                found.append(f"{mine:,} {what} instead of {theirs:,}")
        return found


def strongest_first(settings: Sequence[Setting]) -> list[Setting]:
    """Return the different ones of these settings."""
    return sorted(
        set(settings), key=lambda s: (*(-value for value in s.strength), s.protocol, s.budget, digest(s.phis))
    )


def labels(settings: Sequence[Setting]) -> dict[Setting, str]:
    """Return the words for each of different settings; a piece of a hash tells two with the same words apart."""
    count = Counter(setting.label for setting in settings)
    return {
        s: s.label + (f" ({digest([*s.phis, s.episodes, s.attackers_sha256])[:6]})" if count[s.label] > 1 else "")
        for s in settings
    }


def letters(number: int) -> str:
    """Return A to Z for 0 to 25, then AA, AB and so on."""
    text = ""
    while number >= 0:
        number, place = divmod(number, 26)
        text, number = chr(ord("A") + place) + text, number - 1
    return text
