"""The registry: what is registered, what third parties may add, and every mistake a TOML file can hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import mir2bench
from mir2bench import registration
from mir2bench.attackers import make_attacker
from mir2bench.defenders import list_defenders, maddpg, make_defender, mir2
from mir2bench.errors import MissingDependencyError, SpecError, UnknownNameError
from mir2bench.registration import Anchor, VariantSpec, load_family
from mir2bench.testing import check_env
from mir2bench.views.gym_env import GymEnv

BASE = """
family = "Mine"
engine = "mir2bench.engines.rendezvous:RendezvousEngine"
description = "Three robots."

[[world]]
name = "Mine3"
version = 1
adversaries = [0, 1]
agents = 3
horizon = 7
floor = { score = -5, origin = "idle team" }
ceiling = { score = -1.5, origin = "guess" }
history = ["v0: first.", "v1: shorter."]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write BASE with one text replaced by another, and return the file."""

    def write(old: str = "", new: str = "", text: str = BASE) -> Path:
        assert old in text
        path = tmp_path / "mine.toml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return path

    return write


def make_spec(**changes: Any) -> VariantSpec:
    """Return a good spec with some fields changed."""
    fields: dict[str, Any] = {
        "id": "mine/World-adv1-v0",
        "family": "Mine",
        "n_agents": 3,
        "n_adversaries": 1,
        "horizon": 5,
        "engine": "mir2bench.engines.rendezvous:RendezvousEngine",
        "floor": Anchor(-1.0, "guess"),
        "ceiling": Anchor(0.0, "guess"),
    }
    return VariantSpec(**fields | changes)


def test_every_promised_id_is_registered() -> None:
    expected = [f"mir2bench/Rendezvous{n}-adv{k}-v0" for n in (5, 10, 20, 40) for k in (0, 1, 2)]
    assert mir2bench.list_variants(family="rendezvous") == expected
    assert set(expected) <= set(gymnasium.registry)
    assert mir2bench.list_variants(family="Rendezvous", adversaries=2) == expected[2::3]
    assert mir2bench.list_variants(adversaries=99) == []


def test_spec_holds_the_variant() -> None:
    spec = mir2bench.spec("Rendezvous10-adv2-v0")
    assert spec is mir2bench.spec("mir2bench/Rendezvous10-adv2-v0")
    assert mir2bench.spec(spec) is spec
    assert (spec.n_agents, spec.n_adversaries, spec.horizon, spec.version) == (10, 2, 200, 0)
    assert len(spec.observation_fields) == 60
    assert spec.observation_fields[:2] == ("distance_0", "cos_bearing_0")
    assert spec.observation_fields[45:51] == (
        "wall_distance",
        "cos_wall",
        "sin_wall",
        "unused_0",
        "unused_1",
        "id_0",
    )
    assert len(spec.state_fields) == 145
    assert spec.state_fields[44:46] == ("distance_8_9", "angle_0_0")
    assert spec.normalize(spec.floor.score) == 0.0
    assert spec.normalize(np.array([spec.ceiling.score])).tolist() == [1.0]
    assert spec.to_dict()["ceiling"] == {"score": spec.ceiling.score, "origin": spec.ceiling.origin}


def test_anchors_have_an_origin_and_order() -> None:
    for spec in map(mir2bench.spec, mir2bench.list_variants()):
        assert spec.floor.score < spec.ceiling.score
        assert spec.floor.origin
        assert spec.ceiling.origin
        assert len(spec.history) == spec.version + 1


def test_unknown_names_suggest_close_ones() -> None:
    with pytest.raises(
        UnknownNameError, match=r"No variant `rendezvous10-adv1-v1`\. Did you mean .*Rendezvous10-adv1-v0"
    ):
        mir2bench.spec("rendezvous10-adv1-v1")
    with pytest.raises(UnknownNameError, match="No family `rendevous`. Did you mean `Rendezvous`"):
        mir2bench.list_variants(family="rendevous")
    with pytest.raises(gymnasium.error.NameNotFound, match="Did you mean: `Rendezvous10-adv1`"):
        gymnasium.make("mir2bench/Rendezvus10-adv1-v0")


def test_third_party_file_from_end_to_end(write: Write, fresh_registry: None) -> None:
    ids = mir2bench.register(write())
    assert ids == ["mir2bench/Mine3-adv0-v1", "mir2bench/Mine3-adv1-v1"]
    assert mir2bench.list_variants(family="mine") == ids
    env = gymnasium.make(ids[1])
    obs, info = env.reset(seed=0)
    assert obs.shape == (3, 5 * 2 + 5 + 3)
    assert info["phi"].sum() == 1
    ends = [env.step(np.zeros((3, 2)))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]
    assert gymnasium.make_vec(ids[0], num_envs=2).reset(seed=0)[0].shape == (2, 3, 18)
    check_env(ids[1])


def test_python_spec_registers_in_its_own_namespace(fresh_registry: None) -> None:
    assert mir2bench.register(make_spec()) == ["mine/World-adv1-v0"]
    assert gymnasium.make("mine/World-adv1-v0").reset(seed=0)[0].shape == (3, 18)
    assert mir2bench.spec("mine/World-adv1-v0").horizon == 5


@pytest.mark.filterwarnings("error")
def test_registering_the_same_again_is_harmless_and_changes_are_refused(write: Write, fresh_registry: None) -> None:
    mir2bench.register(write())
    assert mir2bench.register(write()) == ["mir2bench/Mine3-adv0-v1", "mir2bench/Mine3-adv1-v1"]
    with pytest.raises(SpecError, match="Mine3-adv0-v1 is registered already with other content. A change needs a new"):
        mir2bench.register(write("horizon = 7", "horizon = 8"))
    assert mir2bench.spec("Mine3-adv0-v1").horizon == 7


def test_a_bad_file_registers_nothing(write: Write, fresh_registry: None) -> None:
    second = BASE[BASE.index("[[world]]") :].replace("Mine3", "Mine4").replace("horizon = 7", "horizon = 0")
    with pytest.raises(SpecError, match="number 2: `horizon` must be an integer of 1 or more, but it is 0"):
        mir2bench.register(write(text=BASE + second))
    assert "mir2bench/Mine3-adv0-v1" not in gymnasium.registry


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("agents = 3", "agent = 3", "No key `agent`. Did you mean `agents`"),
        ("horizon = 7", "horizon = 7\nspeed = 2", "No key `speed`.*Allowed: adversaries, agents,"),
        ('family = "Mine"', 'famly = "Mine"', "No key `famly`. Did you mean `family`"),
        ("horizon = 7", "", "the key `horizon` is missing. Needed: adversaries, agents, ceiling"),
        ('engine = "mir2bench.engines.rendezvous:RendezvousEngine"', "", "the key `engine` is missing"),
        (BASE[BASE.index("[[world]]") :], "", "the key `world` is missing"),
        ("[[world]]", "[world]", r"`world` must be one or more \[\[world\]\] tables"),
        (BASE[BASE.index("[[world]]") :], "world = [1]", "must be a table of `key = value` lines, but it is 1"),
        ("agents = 3", 'agents = "3"', "`agents` must be an integer of 1 or more, but it is '3'"),
        ("agents = 3", "agents = true", "`agents` must be an integer of 1 or more, but it is True"),
        ("horizon = 7", "horizon = 7.0", "`horizon` must be an integer of 1 or more, but it is 7.0"),
        ("version = 1", "version = -1", "`version` must be an integer of 0 or more, but it is -1"),
        ('name = "Mine3"', "name = 3", "`name` must be a text, but it is 3"),
        ('name = "Mine3"', 'name = "Mine 3"', r"The id 'mir2bench/Mine 3-adv0-v1' must read"),
        ("adversaries = [0, 1]", "adversaries = [3]", r"`adversaries` must list numbers from 0 to 2, but it is \[3\]"),
        ("adversaries = [0, 1]", "adversaries = 1", "`adversaries` must list numbers from 0 to 2, but it is 1"),
        ("adversaries = [0, 1]", "adversaries = []", "`adversaries` must list"),
        ("adversaries = [0, 1]", "adversaries = [1, 1]", "the id mir2bench/Mine3-adv1-v1 is described twice"),
        ("score = -5,", "score = -1.5,", "the floor -1.5 must lie below the ceiling -1.5"),
        ("score = -5,", "score = nan,", "`floor.score` must be a finite number, but it is nan"),
        ("score = -5,", "score = -inf,", "`floor.score` must be a finite number, but it is -inf"),
        ("score = -5,", 'score = "low",', "`floor.score` must be a finite number, but it is 'low'"),
        ('floor = { score = -5, origin = "idle team" }', "floor = -5", "`floor` must be a table"),
        (', origin = "idle team"', "", "`floor`: the key `origin` is missing"),
        ('origin = "idle team"', "origin = 1", "`origin` must be a text, but it is 1"),
        ('engine = "mir2bench.engines.rendezvous:RendezvousEngine"', 'engine = "x"', "`engine` must be 'module:Class'"),
        ("horizon = 7", "horizon = 7\nengine_args = 1", "`engine_args` must be a table, but it is 1"),
        (
            'history = ["v0: first.", "v1: shorter."]',
            'history = ["v0: first."]',
            "one line for each of the versions 0 to 1",
        ),
        ("horizon = 7", "horizon = 7\nsettings = 1", "`settings` must be a table of plain values"),
        ("horizon = 7", "horizon = 7\nsettings = { gamma = [1] }", "`settings` must be a table of plain values"),
        ("horizon = 7", "horizon = 7\nsettings = { mir2 = { a = {} } }", "`settings` must be a table of plain values"),
        ("agents = 3", "agents = ", "is not valid TOML: .*line 10"),
    ],
)
def test_mistakes_in_a_file(write: Write, old: str, new: str, message: str) -> None:
    path = write(old, new)
    with pytest.raises(SpecError, match=message) as caught:
        load_family(path)
    assert str(path) in str(caught.value)


SETTINGS = """
[settings]
gamma = 0.9
unheard_of = 1
[settings.mir2]
lam = 0.5
[settings.learned]
gamma = 0.8
"""


def test_settings_that_a_variant_recommends(write: Write, fresh_registry: None) -> None:
    own = 'settings = { gamma = 0.95, mir2 = { club_lr = 0.25 } }\nhistory = ["v0'
    path = write('history = ["v0', own)
    path.write_text(path.read_text(encoding="utf-8") + SETTINGS, encoding="utf-8")
    mir2bench.register(path)
    variant = mir2bench.spec("Mine3-adv1-v1")
    assert make_defender("maddpg", variant).config == maddpg.Config(gamma=0.95)  # the world's before the family's
    assert make_defender("mir2", variant).config == mir2.Config(gamma=0.95, lam=0.5, club_lr=0.25)
    assert make_defender("mir2", variant, {"gamma": 0.5}).config == mir2.Config(gamma=0.5, lam=0.5, club_lr=0.25)
    attacker: Any = make_attacker("learned", variant)
    assert attacker.config.gamma == 0.8
    assert "settings" not in variant.to_dict()


def test_every_recommended_setting_exists() -> None:
    shared = {field.name for field in fields(maddpg.Config)}
    for name in mir2bench.list_variants():
        variant = mir2bench.spec(name)
        for key, value in variant.settings.items():
            if not isinstance(value, dict):
                assert key in shared, f"{name}: {key}"
            elif key in list_defenders():
                make_defender(key, variant)
            else:
                make_attacker(key, variant)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Cannot read the registry file .*none\.toml: No such file"):
        mir2bench.register(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="Cannot read the registry file .*: Is a directory"):
        mir2bench.register(str(tmp_path))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not valid TOML"):
        mir2bench.register(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "World-adv1-v0"}, "'World-adv1-v0' must read `namespace/World-adv<K>-v<version>`"),
        ({"id": "mine/World-v0"}, "must read"),
        ({"id": "mine/World-adv2-v0"}, "the id must end in `-adv1`"),
        ({"n_agents": 0}, "1 adversaries among 0 agents; give 0 to N"),
        ({"horizon": 0}, "the horizon must be 1 step or more, but it is 0"),
        ({"engine": "module.Class"}, "`engine` must be 'module:Class', but it is 'module.Class'"),
        ({"ceiling": Anchor(-2.0, "")}, "the floor -1.0 must lie below the ceiling -2.0"),
        ({"ceiling": Anchor(float("nan"), "")}, "must lie below"),
    ],
)
def test_mistakes_in_a_spec(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_spec(**changes)


def test_engine_arguments_are_checked_when_made(fresh_registry: None) -> None:
    with pytest.raises(SpecError, match=r"`engine_args` does not fit .*RendezvousEngine.*unexpected keyword.*'arena'"):
        GymEnv(make_spec(engine_args={"arena": 100}))
    with pytest.raises(SpecError, match="Rendezvous needs 2 or more agents, but it got 1"):
        GymEnv(make_spec(id="mine/W-adv0-v0", n_agents=1, n_adversaries=0))


def test_missing_package_gives_the_pip_line() -> None:
    spec = make_spec(engine="no_such_package.engine:Engine", requires="mujoco")
    expected = re.escape(
        'needs the package `no_such_package`, which is not installed. Run: pip install "mir2bench[mujoco]"'
    )
    with pytest.raises(MissingDependencyError, match=expected):
        spec.engine_class  # noqa: B018
    with pytest.raises(MissingDependencyError, match="`no_such_package`, which is not installed. Install it.$"):
        replace(spec, requires="").engine_class  # noqa: B018
    broken = replace(spec, engine="mir2bench.engines.nothing:Engine")
    with pytest.raises(ModuleNotFoundError, match="mir2bench.engines.nothing"):
        broken.engine_class  # noqa: B018


def test_plugins_register_and_a_broken_one_only_warns(
    write: Write, fresh_registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plugin:
        name, value = "mine", "mine:variants"

        def load(self) -> Callable[[], Path]:
            return lambda: write()

    class Broken(Plugin):
        def load(self) -> Callable[[], Path]:
            raise RuntimeError("not today")

    def entries(group: str) -> list[Any]:
        assert group == "mir2bench.variants"
        return [EntryPoint(name="gone", value="no_such_package:variants", group=group), Broken(), Plugin()]

    monkeypatch.setattr(registration, "entry_points", entries)
    with (
        pytest.warns(
            UserWarning, match="variants of entry point `gone = no_such_package:variants` are missing: No mod"
        ),
        pytest.warns(UserWarning, match="variants of entry point `mine = mine:variants` are missing: not today"),
    ):
        registration.register_builtin()
    assert mir2bench.spec("Mine3-adv1-v1").n_agents == 3
