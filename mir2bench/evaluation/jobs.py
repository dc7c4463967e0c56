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
from mir2bench.evaluation.protocol import CLEAN, Budget, Protocol, attack_seed, evaluation_seeds
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
    protocol: Protocol, budget: Budget, variants: Sequence[VariantSpec], contenders: Sequence[Contender]
) -> list[Job]:
    """Return all jobs of a study: trainings first, then attacks, then roll-outs.

    Every job stands behind those it needs.
    """
    jobs: list[Job] = []
    for variant in variants:
        for contender in contenders:
            for index in range(len(contender.seeds)):
                jobs += _seed_jobs(protocol, budget, variant, contender, index)
    return sorted(jobs, key=lambda job: KINDS.index(job.kind))


def _seed_jobs(protocol: Protocol, budget: Budget, variant: VariantSpec, contender: Contender, index: int) -> list[Job]:
    """Return the jobs of one defender seed on one variant."""
    seed = contender.seeds[index]
    where = f"{variant.id.rsplit('/', 1)[-1]}/{contender.name}-seed{seed}"
    jobs: list[Job] = []
    needs: dict[str, str] = {}
    paths: dict[str, str] = {}
    if contender.kind == "trained":
        params = {
            "algorithm": contender.algorithm,
            "config": dict(contender.config),
            "seed": seed,
            "steps": budget.train_steps,
        }
        train = Job("train", contender.name, seed, f"{where}/train", variant, params, steps=budget.train_steps)
        jobs.append(train)
        needs = {"victim": train.key}
        victim: dict[str, Any] = {"kind": "job"}
    elif contender.kind == "scripted":
        team = contender.algorithm
        victim = {"kind": "scripted", "team": team, "class": scripted_class(variant, team)}
    else:
        victim = {"kind": "bundle", "sha256": contender.hashes[index]}
        paths = {"victim": contender.bundles[index]}

    def attack(name: str, phi: Partition, restart: int) -> Job:
        params = {
            "victim": victim,
            "phi": phi_text(phi),
            "attacker": name,
            "config": attacker_config(name, variant),
            "seed": attack_seed(seed, restart),
            "steps": budget.attack_steps,
        }
        label = f"{where}/{name}-phi{phi.label}-restart{restart}"
        return Job("attack", contender.name, seed, label, variant, params, needs, paths, restart, budget.attack_steps)

    def play(name: str, phi: Partition, trained: Job | None = None, restart: int = 0) -> Job:
        params = {
            "victim": victim,
            "phi": phi_text(phi),
            "attacker": name,
            "adversary": "none" if name == CLEAN else "job" if trained else "untrained",
            "episodes": budget.episodes,
            "first_seed": evaluation_seeds(1)[0],
            "attacker_seed": trained.params["seed"] if trained else None,
        }
        upstream = {**needs, "adversary": trained.key} if trained else needs
        label = f"{where}/play-{name}-phi{phi.label}-restart{restart}"
        steps = budget.episodes * variant.horizon
        return Job("rollout", contender.name, seed, label, variant, params, upstream, paths, restart, steps)

    jobs.append(play(CLEAN, Partition.of(variant.n_agents)))
    for phi in protocol.partitions(variant, budget):
        for name in protocol.trained:
            for restart in range(budget.attack_restarts):
                trained = attack(name, phi, restart)
                jobs += [trained, play(name, phi, trained, restart)]
        jobs += [play(name, phi) for name in protocol.untrained(variant)]
    return jobs


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
