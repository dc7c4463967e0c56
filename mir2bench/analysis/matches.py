"""What analyses of given policies share: which teams play, who of them is adversarial, and how adversaries behave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mir2bench.attackers import is_trained, make_attacker
from mir2bench.cli import parse_phi
from mir2bench.errors import ConfigError, PartitionError
from mir2bench.evaluation.contenders import SCRIPTED
from mir2bench.evaluation.protocol import get_budget
from mir2bench.evaluation.single import check_seed, load_adversaries, load_team, parse_steps, show_progress
from mir2bench.partition import Partition
from mir2bench.policies import Policy, read_bundle
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class MatchOptions:
    """Which teams play against which adversaries."""

    policy: tuple[str, ...]
    """Policy bundles of teams of one world, or scripted:TEAM."""
    env: str | None = None
    """Variant; the default is what the first policy was trained on."""
    phi: str | None = None
    """Adversarial agents: indices as in 3 or 2,5, or N zeros and ones. The default is what --adversary was trained for,
    else the first K agents."""
    attacker: str | None = None
    """Attacker: learned (the default), random, idle, a scripted traitor of the family, or another of mir2bench.attack;
    each policy gets its own."""
    adversary: Path | None = None
    """Policy bundle of adversaries, instead of an attacker: the same for every policy."""
    budget: str = "quick"
    """Environment steps of the attack, or the name of a budget: smoke, quick, standard or paper."""
    seed: int = 0
    """Determines everything that the attacker and the analysis draw."""
    out: Path | None = None
    """Folder to write; the default is runs/<date-time>-<analysis>."""


@dataclass(frozen=True)
class Team:
    """One of the policies.

    Attributes:
        name: how tables and figures call it; unique within an analysis.
        source: what the command line named.
        policy: the policy itself.
    """

    name: str
    source: str
    policy: Policy


@dataclass(frozen=True)
class Matches:
    """Everything that was named, loaded and checked.

    Attributes:
        variant: what is played.
        teams: in the order of the command line.
        phi: who is adversarial.
        attacker: how tables and figures call the attacker.
        adversary: the adversaries, if they are the same for every team.
        steps: environment steps of an attack.
        seed: of an attack.
    """

    variant: VariantSpec
    teams: tuple[Team, ...]
    phi: Partition
    attacker: str
    adversary: Policy | None
    steps: int
    seed: int

    @property
    def trained(self) -> bool:
        """Whether the attacker is trained against each team."""
        return self.adversary is None and is_trained(self.attacker, self.variant)

    def attack(self, team: Team) -> Policy:
        """Return the adversaries that play against a team; an attacker that learns is trained now."""
        if self.adversary is not None:
            return self.adversary
        attacker = make_attacker(self.attacker, self.variant)
        bars = show_progress(f"{self.attacker} on {team.name}, phi {self.phi.label}")
        # What needs no training shows none.
        with bars if self.trained else contextlib.nullcontext() as report:
            return attacker.attack(
                self.variant, team.policy, self.phi, seed=self.seed, budget=self.steps, callback=report
            )

    def to_dict(self) -> dict[str, object]:
        """Return the facts that a summary names."""
        return {
            "variant": self.variant.id,
            "policies": {team.name: team.source for team in self.teams},
            "phi": list(self.phi.phi),
            "attacker": self.attacker,
            "attack_steps": self.steps if self.trained else None,
        }


def load_matches(options: MatchOptions) -> Matches:
    """Load and check what the options name; nothing is trained yet.

    Raises:
        PolicyError: a bundle is damaged, of another world, or of the other side.
        PartitionError: phi does not fit the variant, or leaves no adversary or no defender.
        UnknownNameError: no such attacker, budget or scripted team.
        ConfigError: no policy, or options that contradict each other.
    """
    check_seed(options.seed)
    if not options.policy:
        raise ConfigError("--policy names no policy. Give the folder of one policy bundle or more.")
    if options.attacker is not None and options.adversary is not None:
        raise ConfigError("give --attacker or --adversary, not both.")
    steps = parse_steps(options.budget, lambda name: get_budget(name).attack_steps)
    variant, _ = load_team(options.policy[0], options.env)
    names = _names(options.policy)
    teams = tuple(
        Team(name, source, load_team(source, variant.id)[1]) for name, source in zip(names, options.policy, strict=True)
    )
    n, k = variant.n_agents, variant.n_adversaries
    phi = None if options.phi is None else parse_phi(options.phi, n, k)
    adversary = None
    if options.adversary is not None:
        phi, adversary = load_adversaries(options.adversary, variant, phi)
        attacker = f"{_label(options.adversary)} (bundle)"
    else:
        phi = Partition.of(n, range(k)) if phi is None else phi
        attacker = options.attacker or "learned"
        make_attacker(attacker, variant)
    check_sides(phi)
    return Matches(variant, teams, phi, attacker, adversary, steps, options.seed)


def check_sides(phi: Partition) -> None:
    """Raise `PartitionError` unless there are both defenders and adversaries."""
    if phi.weight == 0:
        raise PartitionError(
            "an attacked episode needs at least one adversary, but phi names none. Name agents with --phi, in a "
            "variant whose id has -adv1 or more."
        )
    if phi.weight == phi.n_agents:
        raise PartitionError(
            f"phi names all {phi.n_agents} agents as adversaries: no defender is left to look at. Name fewer."
        )


def _label(folder: str | Path) -> str:
    card = read_bundle(folder)
    return f"{card['algorithm']} seed {card['seed']}"


def _names(sources: tuple[str, ...]) -> Iterator[str]:
    """Yield a short and unique name for each policy: its algorithm and seed."""
    taken: set[str] = set()
    for source in sources:
        base = source
        if not source.startswith(SCRIPTED):
            base = _label(source)
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base} ({number})"
        taken.add(name)
        yield name
