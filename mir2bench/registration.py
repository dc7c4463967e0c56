"""Variants as data: `registry/<family>.toml` -> `VariantSpec` -> Gymnasium ids.

A registry file describes one family. Each `[[world]]` gives one world and the numbers of adversaries it is offered
with; world `Rendezvous10` with `adversaries = [0, 1]` and `version = 0` becomes `mir2bench/Rendezvous10-adv0-v0` and
`mir2bench/Rendezvous10-adv1-v0`. Unknown and missing keys are errors that name file, key and what is allowed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import gymnasium

from mir2bench.content import content_dir
from mir2bench.errors import MissingDependencyError, SpecError, short, unknown_name

NAMESPACE = "mir2bench"
_ID = re.compile(r"[A-Za-z0-9_]+/[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*-adv(\d+)-v(\d+)")
_FAMILY_KEYS = {"family", "engine", "description", "world"}
_WORLD_KEYS = {"name", "version", "adversaries", "agents", "horizon", "floor", "ceiling", "history"}
_FAMILY_OPTIONAL = {"settings"}
_WORLD_OPTIONAL = {"engine_args", "description", "attack_reward", "requires", "settings"}


@dataclass(frozen=True, slots=True)
class Anchor:
    """One end of a variant's score scale.

    Attributes:
        score: mean team return per episode, raw (not normalized).
        origin: who earns it and how it was measured.
    """

    score: float
    origin: str


@dataclass(frozen=True)
class VariantSpec:
    """Everything that defines one A2Dec-POMDP variant (paper, Eq. 2).

    Attributes:
        id: Gymnasium id, `mir2bench/<World>-adv<K>-v<version>`.
        family: name of the registry family, for filtering.
        n_agents: N.
        n_adversaries: K; Phi^alpha holds all partitions with exactly K adversaries.
        horizon: time limit in steps, reported as truncation.
        engine: "module:Class" of the batched engine.
        engine_args: its keyword arguments, beside the batch size and N.
        floor, ceiling: the ends of the normalized score.
        attack_reward: the reward channel that attackers minimize; "team" is the team's own reward.
        requires: the pip extra that the engine needs, or "".
        description: one sentence for people.
        history: one line per version: what changed, why, and whether returns change.
        settings: what algorithms should use here in place of their defaults: "KEY" -> value for every defender that has
            KEY, and "ALGORITHM" -> {"KEY": value} for one defender or attacker. Advice, not a part of the world.

    Raises:
        SpecError: the values contradict each other or themselves.
    """

    id: str
    family: str
    n_agents: int
    n_adversaries: int
    horizon: int
    engine: str
    floor: Anchor
    ceiling: Anchor
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    attack_reward: str = "team"
    requires: str = ""
    description: str = ""
    history: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        match = _ID.fullmatch(self.id)
        if not match:
            raise SpecError(
                f"The id {self.id!r} must read `namespace/World-adv<K>-v<version>`, and a world's name may hold "
                "letters, digits, `_` and single `-` only."
            )
        if not 0 <= self.n_adversaries <= self.n_agents:
            raise SpecError(f"{self.id}: {self.n_adversaries} adversaries among {self.n_agents} agents; give 0 to N.")
        if int(match[1]) != self.n_adversaries:
            raise SpecError(f"{self.id}: the id must end in `-adv{self.n_adversaries}`, as n_adversaries says.")
        if self.horizon < 1:
            raise SpecError(f"{self.id}: the horizon must be 1 step or more, but it is {self.horizon}.")
        if self.engine.count(":") != 1:
            raise SpecError(f"{self.id}: `engine` must be 'module:Class', but it is {self.engine!r}.")
        if not self.floor.score < self.ceiling.score:
            raise SpecError(f"{self.id}: the floor {self.floor.score} must lie below the ceiling {self.ceiling.score}.")

    @property
    def version(self) -> int:
        """The number after `-v`."""
        return int(self.id.rsplit("-v", 1)[1])

    @property
    def engine_class(self) -> Any:
        """The engine's class, imported on first use.

        Raises:
            MissingDependencyError: a package that the engine needs is not installed; the message has the pip line.
        """
        module, _, name = self.engine.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as error:
            if error.name and error.name.split(".")[0] == "mir2bench":
                raise
            advice = f'Run: pip install "mir2bench[{self.requires}]"' if self.requires else "Install it."
            raise MissingDependencyError(
                f"{self.id} needs the package `{error.name}`, which is not installed. {advice}"
            ) from error

    @property
    def layout(self) -> Any:
        """Sizes and names of observations, state and actions: an `engines.base.Layout`.

        Raises:
            SpecError: `engine_args` holds a name, or a list or table, that the engine does not take.
        """
        function = self.engine_class.layout
        try:
            inspect.signature(function).bind(self.n_agents, **self.engine_args)
        except TypeError as error:
            raise SpecError(f"{self.id}: `engine_args` does not fit {self.engine}: {error}.") from error
        try:
            return function(self.n_agents, **self.engine_args)
        except TypeError as error:
            odd = [name for name, value in self.engine_args.items() if isinstance(value, list | dict)]
            if not odd:
                raise
            raise SpecError(
                f"{self.id}: {', '.join(odd)} in `engine_args` must be a number or a text for {self.engine}, "
                "not a list or a table."
            ) from error

    @property
    def observation_fields(self) -> tuple[str, ...]:
        """A name for each of the O numbers of one agent's observation."""
        return self.layout.observation_fields

    @property
    def state_fields(self) -> tuple[str, ...]:
        """A name for each of the S numbers of the global state."""
        return self.layout.state_fields

    def normalize(self, score: Any) -> Any:
        """Map raw team returns to the scale on which the floor is 0 and the ceiling is 1."""
        return (score - self.floor.score) / (self.ceiling.score - self.floor.score)

    def to_dict(self) -> dict[str, Any]:
        """Return what defines the world as plain data, for hashes and JSON."""
        return {
            "id": self.id,
            "family": self.family,
            "n_agents": self.n_agents,
            "n_adversaries": self.n_adversaries,
            "horizon": self.horizon,
            "engine": self.engine,
            "engine_args": dict(self.engine_args),
            "floor": {"score": self.floor.score, "origin": self.floor.origin},
            "ceiling": {"score": self.ceiling.score, "origin": self.ceiling.origin},
            "attack_reward": self.attack_reward,
            "requires": self.requires,
            "description": self.description,
            "history": list(self.history),
        }


_SPECS: dict[str, VariantSpec] = {}


def spec(variant: str | VariantSpec) -> VariantSpec:
    """Return the spec of a variant; the `mir2bench/` in front may be left out.

    Raises:
        UnknownNameError: no such variant; the message suggests close names.
    """
    if isinstance(variant, VariantSpec):
        return variant
    name = variant if "/" in variant else f"{NAMESPACE}/{variant}"
    if name not in _SPECS:
        raise unknown_name("variant", variant, _SPECS)
    return _SPECS[name]


def list_variants(family: str | None = None, adversaries: int | None = None) -> list[str]:
    """Return the ids of all registered variants, in order of registration.

    Args:
        family: only this family, in any case.
        adversaries: only variants with exactly this K.

    Raises:
        UnknownNameError: no such family.
    """
    families = {s.family.lower(): s.family for s in _SPECS.values()}
    if family is not None and family.lower() not in families:
        raise unknown_name("family", family, families.values())
    return [
        s.id
        for s in _SPECS.values()
        if (family is None or s.family.lower() == family.lower())
        and (adversaries is None or s.n_adversaries == adversaries)
    ]


def register(source: str | Path | VariantSpec) -> list[str]:
    """Register variants from a TOML file or one spec, and return their ids.

    All variants of a file are checked before the first is registered.

    Raises:
        SpecError: the file cannot be read, has unknown, missing or wrong entries, or names an id that exists already.
    """
    specs = [source] if isinstance(source, VariantSpec) else load_family(Path(source))
    for new in specs:
        if _SPECS.get(new.id, new) != new:
            raise SpecError(f"{new.id} is registered already with other content. A change needs a new version number.")
    for new in specs:
        if new.id in _SPECS:
            continue
        _SPECS[new.id] = new
        gymnasium.register(
            id=new.id,
            entry_point="mir2bench.views.gym_env:GymEnv",
            vector_entry_point="mir2bench.views.vector_env:VectorEnv",
            kwargs={"variant": new.id},
            # Order, validity and the time limit are the view's own work; a wrapper for each would only add time.
            order_enforce=False,
            disable_env_checker=True,
        )
    return [new.id for new in specs]


def register_builtin() -> None:
    """Register every file in `registry/` and every third-party `mir2bench.variants` entry point.

    An entry point gives a path, a spec, or a function that returns one. One that fails only warns: a broken plugin must
    not take everything else with it.
    """
    for path in sorted(content_dir("registry").glob("*.toml")):
        register(path)
    for entry in entry_points(group="mir2bench.variants"):
        try:
            loaded = entry.load()
            register(cast("Any", loaded() if callable(loaded) else loaded))
        except Exception as error:  # whatever a plugin may raise
            warnings.warn(
                f"The variants of entry point `{entry.name} = {entry.value}` are missing: {error}", stacklevel=2
            )


def load_family(path: Path) -> list[VariantSpec]:
    """Read one registry file.

    Raises:
        SpecError: see `register`.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"Cannot read the registry file {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}.") from error
    _check_keys(data, f"{path}", _FAMILY_KEYS, _FAMILY_OPTIONAL)
    worlds = data["world"]
    if not isinstance(worlds, list) or not worlds:
        raise SpecError(f"{path}: `world` must be one or more [[world]] tables.")
    specs: list[VariantSpec] = []
    for number, world in enumerate(worlds, 1):
        where = f"{path}, [[world]] number {number}"
        _check_keys(world, where, _WORLD_KEYS, _WORLD_OPTIONAL)
        specs += _world_specs(data, world, where)
    ids = [s.id for s in specs]
    if len(set(ids)) < len(ids):
        raise SpecError(f"{path}: the id {next(i for i in ids if ids.count(i) > 1)} is described twice.")
    return specs


def _world_specs(family: Mapping[str, Any], world: Mapping[str, Any], where: str) -> list[VariantSpec]:
    def integer(key: str, low: int) -> int:
        value = world[key]
        if type(value) is not int or value < low:
            raise SpecError(f"{where}: `{key}` must be an integer of {low} or more, but it is {short(value)}.")
        return value

    def text(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise SpecError(f"{where}: `{key}` must be a text, but it is {short(value)}.")
        return value

    def anchor(key: str) -> Anchor:
        table = world[key]
        if not isinstance(table, dict):
            raise SpecError(
                f"{where}: `{key}` must be a table {{score = ..., origin = ...}}, but it is {short(table)}."
            )
        _check_keys(table, f"{where}, `{key}`", {"score", "origin"}, set())
        score = table["score"]
        if isinstance(score, bool) or not isinstance(score, int | float) or not -1e9 < score < 1e9:
            raise SpecError(f"{where}: `{key}.score` must be a finite number, but it is {short(score)}.")
        return Anchor(float(score), text(table, "origin"))

    name, engine = text(world, "name"), text(family, "engine")
    n_agents, version, horizon = integer("agents", 1), integer("version", 0), integer("horizon", 1)
    counts = world["adversaries"]
    if not isinstance(counts, list) or not counts or any(type(k) is not int or not 0 <= k < n_agents for k in counts):
        raise SpecError(
            f"{where}: `adversaries` must list numbers from 0 to {n_agents - 1}, but it is {short(counts)}."
        )
    floor, ceiling = anchor("floor"), anchor("ceiling")
    engine_args = world.get("engine_args", {})
    if not isinstance(engine_args, dict):
        raise SpecError(f"{where}: `engine_args` must be a table, but it is {short(engine_args)}.")
    history = world["history"]
    if not isinstance(history, list) or len(history) != version + 1 or not all(isinstance(h, str) for h in history):
        raise SpecError(f"{where}: `history` must hold one line for each of the versions 0 to {version}.")
    settings = _merge(*(_settings(table, where) for table in (family, world)))
    shared: dict[str, Any] = {
        "family": text(family, "family"),
        "n_agents": n_agents,
        "horizon": horizon,
        "engine": engine,
        "engine_args": engine_args,
        "floor": floor,
        "ceiling": ceiling,
        "attack_reward": text(world, "attack_reward", "team"),
        "requires": text(world, "requires", ""),
        "description": text(world, "description", text(family, "description")),
        "history": tuple(history),
        "settings": settings,
    }
    try:
        return [VariantSpec(id=f"{NAMESPACE}/{name}-adv{k}-v{version}", n_adversaries=k, **shared) for k in counts]
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error


def _settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings = table.get("settings", {})
    tables = [settings, *(v for v in settings.values() if isinstance(v, dict))] if isinstance(settings, dict) else []
    flat = [v for table in tables for v in table.values() if table is not settings or not isinstance(v, dict)]
    if not tables or not all(isinstance(v, bool | int | float | str) for v in flat):
        raise SpecError(
            f"{where}: `settings` must be a table of plain values, or of such tables by algorithm, but it is "
            f"{short(settings)}."
        )
    return settings


def _merge(family: Mapping[str, Any], world: Mapping[str, Any]) -> dict[str, Any]:
    """Let a world's settings take the place of its family's, also inside the tables of algorithms."""
    merged = dict(family)
    for key, value in world.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _check_keys(table: Any, where: str, required: set[str], optional: set[str]) -> None:
    allowed = required | optional
    if not isinstance(table, Mapping):
        raise SpecError(f"{where}: must be a table of `key = value` lines, but it is {short(table)}.")
    for key in table:
        if key not in allowed:
            raise SpecError(f"{where}: {unknown_name('key', key, allowed)} Allowed: {', '.join(sorted(allowed))}.")
    for key in sorted(required):
        if key not in table:
            raise SpecError(f"{where}: the key `{key}` is missing. Needed: {', '.join(sorted(required))}.")


@cache
def ensure_registered() -> None:
    """Register the built-in variants once per process."""
    register_builtin()
