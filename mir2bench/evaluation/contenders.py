"""Who is evaluated: defenders to train, scripted teams, and policy bundles that exist already."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mir2bench.defenders import get_defender
from mir2bench.errors import ConfigError, PolicyError, unknown_name
from mir2bench.plugins import make_config, recommended
from mir2bench.policies import Policy, load_policy, read_bundle
from mir2bench.registration import VariantSpec

SCRIPTED = "scripted:"
"""Prefix of scripted teams on the command line, as in `scripted:centroid`."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the results: a defender with its seeds.

    Attributes:
        name: its name in tables and scores; unique within a study.
        kind: "trained", "scripted" or "bundle".
        algorithm: name of the defender or of the scripted team.
        config: the defender's resolved configuration; empty for scripted teams.
        configs: variant id -> its configuration there, for variants that recommend other settings.
        seeds: training seeds; a scripted team has the single seed 0.
        bundles: absolute path of each seed's policy bundle; only for kind "bundle".
        hashes: sha256 of each bundle's content.
    """

    name: str
    kind: str
    algorithm: str
    config: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    bundles: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def config_on(self, variant: VariantSpec) -> dict[str, Any]:
        """Return its configuration on a variant."""
        return dict(self.configs.get(variant.id, self.config))

    def to_dict(self) -> dict[str, Any]:
        """Return all that determines its results as plain data; where a bundle lies is no part of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "algorithm": self.algorithm,
            "config": dict(self.config),
            "configs": {variant: dict(config) for variant, config in self.configs.items()},
            "seeds": list(self.seeds),
            "hashes": list(self.hashes),
        }


def resolve_contenders(
    algorithms: Sequence[str],
    policies: Sequence[str | Path],
    settings: Sequence[str],
    seeds: Sequence[int],
    variants: Sequence[VariantSpec],
) -> list[Contender]:
    """Look up everything that was named, so that a misspelt name costs no training.

    Args:
        algorithms: defenders' names, "package.module:Class", or "scripted:<team>".
        policies: folders of policy bundles; those that differ in their seed alone become one contender.
        settings: "KEY=VALUE" for every algorithm that has KEY, or "ALGORITHM.KEY=VALUE".
        seeds: training seeds.
        variants: where they will play.

    Raises:
        UnknownNameError: no such algorithm, scripted team or setting.
        ConfigError: a setting has a wrong value, or something was named twice.
        PolicyError: a bundle is damaged or does not fit a variant.
    """
    repeated = sorted({a for a in algorithms if list(algorithms).count(a) > 1})
    if repeated:
        raise ConfigError(f"`{repeated[0]}` is named twice. Name each algorithm once.")
    trained = [a for a in algorithms if not a.startswith(SCRIPTED)]
    configs = {variant.id: resolve_configs(trained, settings, variant) for variant in variants}
    contenders: list[Contender] = []
    for name in algorithms:
        if name.startswith(SCRIPTED):
            team = name.removeprefix(SCRIPTED)
            for variant in variants:
                scripted_class(variant, team)
            contenders.append(Contender(name, "scripted", team))
        else:
            own = {variant: found[name] for variant, found in configs.items()}
            contenders.append(Contender(name, "trained", name, next(iter(own.values())), tuple(seeds), configs=own))
    return contenders + _bundles(policies, variants, {c.name for c in contenders})


def scripted_class(variant: VariantSpec, team: str) -> str:
    """Return "module:Class" of a scripted team.

    Raises:
        UnknownNameError: the variant's family has no such team.
    """
    teams = variant.engine_class.scripted_teams
    if team not in teams:
        raise unknown_name(f"scripted team of {variant.family}", team, teams)
    return teams[team]


def make_scripted(variant: VariantSpec, team: str) -> Policy:
    """Build a scripted team."""
    module, _, name = scripted_class(variant, team).partition(":")
    return getattr(importlib.import_module(module), name)(variant.layout)


def resolve_configs(
    algorithms: Sequence[str], settings: Sequence[str], variant: VariantSpec
) -> dict[str, dict[str, Any]]:
    """Return each algorithm's complete configuration on a variant with `settings` applied; see `resolve_contenders`."""
    classes = {name: get_defender(name).Config for name in algorithms}
    chosen = {name: recommended(name, classes[name], variant, shared=True) for name in algorithms}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"a setting must look like KEY=VALUE, but it is {setting!r}.")
        owner, _, short = key.rpartition(".")
        if owner and owner not in classes:
            raise unknown_name("algorithm in this command", owner, classes)
        candidates = [owner] if owner else list(algorithms)
        takers = [name for name in candidates if short in _fields(classes[name])]
        if not takers:
            raise unknown_name("setting", short, {f for name in candidates for f in _fields(classes[name])})
        for name in takers:
            chosen[name][short] = value
    return {name: dataclasses.asdict(make_config(classes[name], chosen[name])) for name in algorithms}


def _fields(config: type) -> set[str]:
    return {f.name for f in dataclasses.fields(config)}


def _bundles(policies: Sequence[str | Path], variants: Sequence[VariantSpec], taken: set[str]) -> list[Contender]:
    groups: dict[str, list[tuple[int, str, str]]] = {}
    about: dict[str, dict[str, Any]] = {}
    for given in policies:
        folder = Path(given).resolve()
        card = read_bundle(folder)
        for variant in variants:
            load_team_bundle(folder, variant)
        group = json.dumps([card["algorithm"], card["config"]], sort_keys=True)
        about[group] = card
        groups.setdefault(group, []).append((card["seed"], str(folder), hash_folder(folder)))
    contenders = []
    for group, members in groups.items():
        members.sort()
        seeds = [seed for seed, _, _ in members]
        if len(set(seeds)) < len(seeds):
            twice = next(s for s in seeds if seeds.count(s) > 1)
            raise ConfigError(
                f"two bundles of `{about[group]['algorithm']}` have the same configuration and seed {twice}: "
                f"{', '.join(path for seed, path, _ in members if seed == twice)}. Leave one out."
            )
        base = name = about[group]["algorithm"]
        number = 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        contenders.append(
            Contender(
                name=name,
                kind="bundle",
                algorithm=base,
                config=about[group]["config"],
                seeds=tuple(seeds),
                bundles=tuple(path for _, path, _ in members),
                hashes=tuple(digest for _, _, digest in members),
            )
        )
    return contenders


def load_team_bundle(folder: Path, variant: VariantSpec) -> Policy:
    """Load a team's bundle to play `variant`.

    Raises:
        PolicyError: it is damaged, belongs to another world, or holds adversaries.
    """
    policy = load_policy(folder, variant)
    count = read_bundle(folder)["n_agents"]
    if count != variant.n_agents:
        raise PolicyError(
            f"{folder} holds a policy of {count} adversaries, not a team of {variant.n_agents}. "
            "Give the bundle of a defender."
        )
    return policy


def hash_folder(folder: Path) -> str:
    """Return the sha256 of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
