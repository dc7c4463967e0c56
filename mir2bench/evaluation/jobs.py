"""Plan -> jobs. A job is a piece of work whose key is the hash of all that determines its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import mir2bench
from mir2bench.attackers import make_attacker
from mir2bench.evaluation.contenders import Contender, scripted_class
from mir2bench.evaluation.protocol import CLEAN, PUBLIC, Budget, Draw, Protocol, attack_seed, transferred
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec

KINDS = ("train", "attack", "rollout")


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: "train", "attack" or "rollout".
        defender: name of the contender it is for.
        defender_seed: that contender's training seed.
        label: a readable name, unique within a study; also where its logs lie.
        variant: the world.
        params: plain data that, with the variant and the jobs of `needs`, determines the result.
        needs: role -> key of the job whose result is read ("victim", "adversary").
        paths: role -> folder of a policy bundle that existed before the study. Its content is in `params` as a hash.
        restart: number of the attack among those on the same cell.
        steps: environment steps it takes, for the progress bar.
    """

    kind: str
    defender: str
    defender_seed: int
    label: str
    variant: VariantSpec
    params: Mapping[str, Any]
    needs: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    restart: int = 0
    steps: int = 0

    @cached_property
    def key(self) -> str:
        """The first 24 hexadecimal digits of the sha256 of everything that determines the result."""
        return digest(
            {
                "kind": self.kind,
                "variant": self.variant.to_dict(),
                "params": dict(self.params),
                "needs": dict(self.needs),
                "mir2bench": mir2bench.__version__,
            }
        )[:24]


def digest(data: Any) -> str:
    """Return the sha256 of plain data, written as canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plan(
    protocol: Protocol,
    budget: Budget,
    variants: Sequence[VariantSpec],
    contenders: Sequence[Contender],
    draw: Draw = PUBLIC,
) -> list[Job]:
    """Return all jobs of a study: trainings first, then attacks, then roll-outs.

    Every job stands behind those it needs.
    """
    jobs: list[Job] = []
    for variant in variants:
        phis = protocol.partitions(variant, budget, draw)
        configs = {name: attacker_config(name, variant) for name in protocol.configurable} if phis else {}
        fixed = protocol.untrained(variant) if phis else ()
        teams = [[_Team(variant, budget, draw, c, index) for index in range(len(c.seeds))] for c in contenders]
        for team in (team for seeds in teams for team in seeds):
            jobs += [team.training] if team.training else []
            jobs.append(team.play(CLEAN, Partition.of(variant.n_agents)))
            for phi in phis:
                for attack in (team.attack(n, configs[n], phi, r) for n in protocol.trained for r in team.restarts):
                    jobs += [attack, team.play(attack.params["attacker"], phi, attack)]
                jobs += [team.play(name, phi) for name in fixed]
                jobs += [team.play(name, phi, config=configs[name]) for name in protocol.white_box]
        if protocol.transfer:
            jobs += _transfers(teams, phis)
    return sorted(jobs, key=lambda job: KINDS.index(job.kind))


def _transfers(teams: Sequence[Sequence[_Team]], phis: Sequence[Partition]) -> list[Job]:
    """Return the roll-outs of each team against the attackers of all other contenders.

    Of each contender, the attackers of the same seed index; one with fewer seeds starts again from its first.
    """
    jobs = []
    for seeds in teams:
        sources = [others for others in teams if others is not seeds]
        for index, team in enumerate(seeds):
            for source in (others[index % len(others)] for others in sources):
                for attack in (attack for phi in phis for attack in source.attacks[phi]):
                    name = transferred(source.contender.name, attack.params["attacker"])
                    jobs.append(team.play(name, phi_of(attack.params["phi"]), attack))
    return jobs


class _Team:
    """One seed of a contender on one variant, and the jobs that need it.

    Attributes:
        training: the job that trains it, or None if it exists already.
        attacks: phi -> the attacks planned so far.
        restarts: numbers of the attacks on each cell.
    """

    def __init__(self, variant: VariantSpec, budget: Budget, draw: Draw, contender: Contender, index: int) -> None:
        self.variant, self.budget, self.draw, self.contender = variant, budget, draw, contender
        self.seed = contender.seeds[index]
        self.restarts = range(budget.attack_restarts)
        self.attacks: dict[Partition, list[Job]] = {}
        self.training: Job | None = None
        self._where = f"{variant.id.rsplit('/', 1)[-1]}/{contender.name}-seed{self.seed}"
        self._needs: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._victim: dict[str, Any]
        if contender.kind == "trained":
            params = {
                "algorithm": contender.algorithm,
                "config": contender.config_on(variant),
                "seed": self.seed,
                "steps": budget.train_steps,
            }
            self.training = self._job("train", "train", params, budget.train_steps)
            self._needs = {"victim": self.training.key}
            self._victim = {"kind": "job"}
        elif contender.kind == "scripted":
            team = contender.algorithm
            self._victim = {"kind": "scripted", "team": team, "class": scripted_class(variant, team)}
        else:
            self._victim = {"kind": "bundle", "sha256": contender.hashes[index]}
            self._paths = {"victim": contender.bundles[index]}

    def attack(self, name: str, config: Mapping[str, Any], phi: Partition, restart: int) -> Job:
        """Return the job that trains an attacker."""
        params = {
            "victim": self._victim,
            "phi": phi_text(phi),
            "attacker": name,
            "config": config,
            "seed": self.draw.first_attack + attack_seed(self.seed, restart),
            "steps": self.budget.attack_steps,
        }
        label = f"{name}-phi{phi.label}-restart{restart}"
        job = self._job("attack", label, params, self.budget.attack_steps, restart=restart)
        self.attacks.setdefault(phi, []).append(job)
        return job

    def play(
        self, name: str, phi: Partition, trained: Job | None = None, config: Mapping[str, Any] | None = None
    ) -> Job:
        """Return the job that plays a cell.

        Args:
            name: the attacker's name in scores.
            phi: the partition.
            trained: the job that trains the attacker.
            config: the resolved configuration of an attacker that needs no training, if it has one.
        """
        params = {
            "victim": self._victim,
            "phi": phi_text(phi),
            "attacker": name,
            "adversary": "none" if name == CLEAN else "job" if trained else "untrained",
            "episodes": self.budget.episodes,
            "first_seed": self.draw.first_episode,
            "attacker_seed": trained.params["seed"] if trained else None,
        }
        if config is not None:
            params["config"] = config
        restart = trained.restart if trained else 0
        needs = {"adversary": trained.key} if trained else {}
        label = f"play-{name}-phi{phi.label}-restart{restart}"
        return self._job("rollout", label, params, self.budget.episodes * self.variant.horizon, needs, restart)

    def _job(
        self,
        kind: str,
        label: str,
        params: Mapping[str, Any],
        steps: int,
        needs: Mapping[str, str] | None = None,
        restart: int = 0,
    ) -> Job:
        return Job(
            kind,
            self.contender.name,
            self.seed,
            f"{self._where}/{label}",
            self.variant,
            params,
            {**self._needs, **(needs or {})},
            self._paths,
            restart,
            steps,
        )


def attacker_config(name: str, variant: VariantSpec) -> dict[str, Any]:
    """Return an attacker's resolved configuration as plain data; {} if it has none."""
    config: Any = getattr(make_attacker(name, variant), "config", None)
    return {} if config is None else dataclasses.asdict(config)


def phi_text(phi: Partition) -> str:
    """Return phi as a text of zeros and ones."""
    return "".join(map(str, phi.phi))


def phi_of(text: str) -> Partition:
    """Return the partition that `phi_text` wrote."""
    return Partition(tuple(map(int, text)))
