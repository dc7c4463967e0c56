"""Algorithms by name, and their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

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


class OnlyTrain:
    """A class that lacks `Config`."""

    def train(self) -> None: ...


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Pretend that a package with an entry point is installed."""

    def pretend(group: str, name: str, value: str) -> None:
        entry = EntryPoint(name, value, group)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == entry.group else [])

    return pretend


# --- names ---


def test_builtin_defenders() -> None:
    assert list_defenders() == ["maddpg", "mir2"]
    assert get_defender("maddpg") is MADDPG
    assert get_defender("mir2") is MIR2


def test_classes_by_path() -> None:
    assert get_defender("mir2bench.defenders.mir2:MIR2") is MIR2
    assert find_class("toy", "games:Contrary", {}, ("act", "initial_carry")) is games.Contrary


def test_classes_of_installed_packages(install: Callable[[str, str, str], None]) -> None:
    install("mir2bench.defenders", "contrary", "games:Contrary")
    assert known_names("defender", BUILTIN) == ["contrary", "maddpg"]
    assert known_names("attacker", {}) == []
    assert find_class("defender", "contrary", BUILTIN, ("act",)) is games.Contrary
    with pytest.raises(UnknownNameError, match="No attacker `contrary`"):
        find_class("attacker", "contrary", {}, ("act",))


def test_builtin_names_cannot_be_taken(install: Callable[[str, str, str], None]) -> None:
    install("mir2bench.defenders", "maddpg", "games:Contrary")
    assert get_defender("maddpg") is MADDPG


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("madpg", "No defender `madpg`. Did you mean `maddpg`"),
        ("MIR2", "Did you mean `mir2`"),
        ("attention", "No defender `attention`. There are: maddpg, mir2."),
        ("", "No defender ``"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        get_defender(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "Cannot import the defender `no_such_module:X`: No module named 'no_such_module'"),
        ("games:Nothing", "Cannot import the defender `games:Nothing`: .*no attribute 'Nothing'"),
        ("games:", r"Cannot import the defender `games:`.*Expected `package.module:Class`"),
        (":Match", "Cannot import the defender `:Match`"),
        (".games:Match", "Cannot import the defender `.games:Match`"),
        ("test_plugins:OnlyTrain", "`test_plugins:OnlyTrain` is no defender: it lacks Config"),
        ("games:Match", "`games:Match` is no defender: it lacks Config, train"),
    ],
)
def test_classes_that_do_not_serve(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_defender(name)


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
