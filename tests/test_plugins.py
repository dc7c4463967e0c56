"""Algorithms by name, and their settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import games
import pytest

import mir2bench
from mir2bench import plugins
from mir2bench.attackers import make_attacker
from mir2bench.defenders import get_defender, list_defenders
from mir2bench.defenders.maddpg import MADDPG
from mir2bench.defenders.mir2 import MIR2
from mir2bench.errors import ConfigError, UnknownNameError
from mir2bench.plugins import find_class, known_names, make_config

BUILTIN = {"maddpg": "mir2bench.defenders.maddpg:MADDPG"}
LACKED = "`train(variant, seed=..., budget=..., callback=...)`"


class OnlyTrain:
    """A class that lacks `Config`."""

    def train(self, variant: Any, *, seed: int, budget: int, callback: Any = None) -> None: ...


class ThinConfig(OnlyTrain):
    """Whose settings cannot be written down."""

    @dataclass(frozen=True)
    class Config:
        layers: tuple[int, ...] = (64, 64)


class FixedConfig(OnlyTrain):
    """Whose Config is no dataclass."""

    Config: ClassVar[Any] = {"lr": 1e-3}


class Impatient:
    """An attacker that does not take a callback, and a constructor that takes too much."""

    def __init__(self, rate: float) -> None: ...

    def attack(self, variant: Any, victim: Any, phi: Any, *, seed: int, budget: int) -> None: ...


class Distribution:
    """Stands for an installed package."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages with entry points are installed."""
    installed: list[EntryPoint] = []

    def pretend(group: str, name: str, value: str, package: str = "") -> None:
        entry = EntryPoint(name, value, group)
        if package:
            vars(entry).update(dist=Distribution(package))
        installed.append(entry)

    monkeypatch.setattr(plugins, "entry_points", lambda group: [e for e in installed if e.group == group])
    return pretend


# --- names ---


def test_builtin_defenders() -> None:
    assert {"maddpg", "mir2"} <= set(list_defenders())
    assert get_defender("maddpg") is MADDPG
    assert get_defender("mir2") is MIR2


def test_classes_by_path() -> None:
    assert get_defender("mir2bench.defenders.mir2:MIR2") is MIR2
    assert find_class("toy", "games:Contrary", {}, ("act", "initial_carry")) is games.Contrary


def test_classes_of_installed_packages(install: Callable[..., None]) -> None:
    install("mir2bench.defenders", "contrary", "games:Contrary")
    assert known_names("defender", BUILTIN) == ["contrary", "maddpg"]
    assert known_names("attacker", {}) == []
    assert find_class("defender", "contrary", BUILTIN, ("act",)) is games.Contrary
    with pytest.raises(UnknownNameError, match="No attacker `contrary`"):
        find_class("attacker", "contrary", {}, ("act",))


def test_builtin_names_cannot_be_taken(install: Callable[..., None]) -> None:
    install("mir2bench.defenders", "maddpg", "games:Contrary", "other-maddpg")
    expected = (
        "the package other-maddpg offers the defender `maddpg`, but that name is built in, and the built-in one is "
        "used. Name the other as `games:Contrary`."
    )
    with pytest.warns(UserWarning, match=re.escape(expected)):
        assert get_defender("maddpg") is MADDPG
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    for name in ("learned", "flee", "idle"):
        install("mir2bench.attackers", name, "games:Contrary")
        with pytest.warns(UserWarning, match=f"an installed package offers the attacker `{name}`, but that name is "):
            assert make_attacker(name, variant)


def test_a_name_that_two_packages_offer(install: Callable[..., None]) -> None:
    install("mir2bench.defenders", "robust", "games:Contrary", "one")
    install("mir2bench.defenders", "robust", "games:Contrary", "one")  # found twice on the path: no matter
    assert find_class("defender", "robust", BUILTIN, ("act",)) is games.Contrary
    install("mir2bench.defenders", "robust", "games:Matching", "other")
    expected = (
        "The defender `robust` is offered twice: by the package one (`games:Contrary`) and the package other "
        "(`games:Matching`). Name one as `package.module:Class`."
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        find_class("defender", "robust", BUILTIN, ("act",))
    assert find_class("defender", "games:Matching", BUILTIN, ("act",)) is games.Matching


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("games", "Cannot import the defender `games` (`robust` of the package one): it must have the form `package"),
        (
            "no_such:X",
            "Cannot import the defender `no_such:X` (`robust` of the package one): No module named 'no_such'",
        ),
        ("games:Match", f"`games:Match` (`robust` of the package one) is no defender: it lacks `Config`, {LACKED}."),
    ],
)
def test_packages_that_offer_what_does_not_serve(install: Callable[..., None], value: str, message: str) -> None:
    install("mir2bench.defenders", "robust", value, "one")
    assert "robust" in list_defenders()
    with pytest.raises(ConfigError, match=re.escape(message)):
        get_defender("robust")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("madpg", "No defender `madpg`. Did you mean `maddpg`"),
        ("MIR2", "Did you mean `mir2`"),
        ("attention", r"No defender `attention`. There are: .*maddpg, mir2"),
        ("", "No defender ``"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        get_defender(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:X",
            "Cannot import the defender `no_such_module:X`: No module named 'no_such_module'. Is its package "
            "installed, or the file in the current directory, and named without `.py`?",
        ),
        (
            "games.inner:X",
            "Cannot import the defender `games.inner:X`: No module named 'games.inner'; 'games' is not a ",
        ),
        ("games.py:Match", "Cannot import the defender `games.py:Match`: No module named 'games.py'"),
        ("games:Mach", "Cannot import the defender `games:Mach`: No class `Mach`. Did you mean `Match` or `Matching`"),
        ("games:", "Cannot import the defender `games:`: it must have the form `package.module:Class`."),
        (":Match", "Cannot import the defender `:Match`: it must have the form `package.module:Class`."),
        (".games:Match", "Cannot import the defender `.games:Match`: it must have the form `package.module:Class`."),
        ("test_plugins:OnlyTrain", "`test_plugins:OnlyTrain` is no defender: it lacks `Config`."),
        ("games:Match", f"`games:Match` is no defender: it lacks `Config`, {LACKED}."),
        ("games:game", "`games:game` is no defender: it is no class, but <function game at"),
        (
            "test_plugins:ThinConfig",
            "`test_plugins:ThinConfig` is no defender: Config.layers has the default (64, 64) of type tuple, but "
            "settings are plain values: bool, int, float or str. Its constructor must take a Config, as in "
            "`def __init__(self, config=None)`",
        ),
        (
            "test_plugins:FixedConfig",
            "`test_plugins:FixedConfig` is no defender: its Config must be a dataclass, but it is {'lr': 0.001} of "
            "type dict. Write `@dataclass(frozen=True)` above it.",
        ),
    ],
)
def test_classes_that_do_not_serve(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        get_defender(name)


def test_attackers_that_do_not_serve() -> None:
    expected = (
        "`test_plugins:Impatient` is no attacker: it is called as `attack(variant, victim, phi, seed=..., budget=..., "
        "callback=...)`, but the signature of `attack` does not allow that: got an unexpected keyword argument "
        "'callback'. Its constructor must take no arguments, as it has no Config: missing a required argument: 'rate'."
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        make_attacker("test_plugins:Impatient", mir2bench.spec("Rendezvous5-adv1-v0"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import no_such_package.inner",
            "No module named 'no_such_package'. `broken_plugin` needs it: install it as well.",
        ),
        ("x = = 1", "the module raises SyntaxError: invalid syntax (broken_plugin.py, line 1)"),
        ("1 / 0", "the module raises ZeroDivisionError: division by zero"),
        ("raise RuntimeError", "the module raises RuntimeError"),
        ("from games import gone", "the module raises ImportError: cannot import name 'gone' from 'games'"),
    ],
)
def test_modules_that_cannot_be_imported(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"Cannot import the defender `broken_plugin:X`: {message}")):
        get_defender("broken_plugin:X")


# --- settings ---


@dataclass(frozen=True)
class Settings:
    count: int = 3
    rate: float = 0.5
    wide: bool = False
    mode: str = "histories"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count must be 1 or more, but it is {self.count}.")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Settings()),
        ({"count": 5, "rate": 0.1, "wide": True, "mode": "actions"}, Settings(5, 0.1, True, "actions")),
        ({"count": "5", "rate": "1e-3", "wide": "True", "mode": "x"}, Settings(5, 1e-3, True, "x")),
        ({"rate": 2, "wide": "0"}, Settings(rate=2.0)),
        ({"wide": "1"}, Settings(wide=True)),
        ({"wide": "false", "count": 4.0}, Settings(4)),
    ],
)
def test_settings_take_the_type_of_their_default(given: dict[str, Any], expected: Settings) -> None:
    made = make_config(Settings, given)
    assert made == expected
    assert [type(value) for value in vars(made).values()] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": "many"}, r"count must be of type int \(default 3\), but it is 'many'"),
        ({"count": 2.5}, "count must be of type int .* but it is 2.5"),
        ({"count": "2.5"}, "count must be of type int"),
        ({"count": None}, "count must be of type int"),
        ({"count": float("nan")}, "count must be of type int"),
        ({"count": float("inf")}, "count must be of type int"),
        ({"rate": "fast"}, r"rate must be of type float \(default 0.5\), but it is 'fast'"),
        ({"rate": [1]}, "rate must be of type float"),
        ({"wide": "perhaps"}, "wide must be of type bool .* but it is 'perhaps'"),
        ({"wide": 2}, "wide must be of type bool"),
        ({"count": 0}, "count must be 1 or more, but it is 0"),
    ],
)
def test_settings_of_the_wrong_kind(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(Settings, given)


def test_unknown_settings() -> None:
    with pytest.raises(UnknownNameError, match="No setting `cuont`. Did you mean `count`"):
        make_config(Settings, {"cuont": 1})
    with pytest.raises(UnknownNameError, match="Did you mean `logit_penalty`"):
        make_config(MADDPG.Config, {"logit_penality": 0.1})


def test_settings_of_attackers() -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    attacker: Any = make_attacker("learned", variant, {"starts": "3", "gamma": "0.9"})
    assert (attacker.config.starts, attacker.config.gamma) == (3, 0.9)
    with pytest.raises(UnknownNameError, match="No setting `start`. Did you mean `starts`"):
        make_attacker("learned", variant, {"start": 3})
    with pytest.raises(ConfigError, match="starts must be of type int"):
        make_attacker("learned", variant, {"starts": "few"})
    with pytest.raises(ConfigError, match="starts must be a finite number above 0, but it is 0"):
        make_attacker("learned", variant, {"starts": 0})
    for name in ("random", "flee"):
        with pytest.raises(UnknownNameError, match="No setting `starts`. There are: none"):
            make_attacker(name, variant, {"starts": 3})
