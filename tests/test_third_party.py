"""What is added from outside is found, checked and evaluated: the example package, and the code of the document."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

import mir2bench
import mir2bench.list as list_command
from mir2bench import attack, registration
from mir2bench.anchors import measure_world
from mir2bench.attackers import list_attackers, make_attacker
from mir2bench.defenders import get_defender, list_defenders
from mir2bench.defenders.maddpg import MADDPG
from mir2bench.errors import ConfigError, PartitionError
from mir2bench.testing import check_attacker, check_defender, check_env
from mir2bench.testing.games import planted

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "mir2bench-example"
PAGES = (ROOT / "docs" / "third-party.md", *sorted((ROOT / "docs" / "extend").iterdir()))
DOCUMENTS = {page: page.read_text() for page in PAGES}
FILES = ("check.py", "my_attacker.py", "my_defender.py", "my_world.py", "my_world.toml")
TRIO = "mir2bench/Trio-adv1-v0"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example package is installed."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(folder), str(EXAMPLE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def installed(site: Path, fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as if this process had been started with the package installed."""
    monkeypatch.syspath_prepend(site)
    registration.register_builtin()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the documents, which is the current one."""
    for name in FILES:
        shutil.copy(EXAMPLE.parent / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


# --- the example package ---


def test_everything_is_known_by_name(installed: None) -> None:
    assert "slip-maddpg" in list_defenders()
    assert "cross-entropy" in list_attackers(mir2bench.spec(TRIO))
    assert {entry.name for entry in entry_points(group="mir2bench.variants")} == {"trio"}
    assert mir2bench.list_variants(family="Trio") == ["mir2bench/Trio-adv0-v0", TRIO]
    assert get_defender("slip-maddpg").__module__ == "mir2bench_example.slip"


def test_everything_passes_the_checks(installed: None, toy: list[str]) -> None:
    check_env(TRIO)
    for variant in (TRIO, toy[2]):
        check_defender("slip-maddpg", variant, budget=200)
        check_attacker("cross-entropy", variant, planted_budget=30_000)


def test_the_example_without_slips_is_maddpg(installed: None, toy: list[str]) -> None:
    settings = {"hidden": 8, "worlds": 8, "batch_size": 16, "warmup": 20}
    for variant in map(mir2bench.spec, (TRIO, toy[0])):
        teams = []
        for name, own in (("maddpg", {}), ("slip-maddpg", {"epsilon": 0.0}), ("slip-maddpg", {"epsilon": 0.5})):
            found = get_defender(name)
            team = found(found.Config(**settings, **own)).train(variant, seed=0, budget=200)
            teams.append(torch.cat([value.flatten() for value in team.actor.state_dict().values()]))
        assert torch.equal(teams[0], teams[1])
        assert not torch.equal(teams[0], teams[2])


def test_slips_are_as_frequent_as_they_should_be_and_legal(installed: None, toy: list[str]) -> None:
    found = get_defender("slip-maddpg")
    maddpg, slip = (
        kind.Learner(kind().task(mir2bench.spec(toy[0]), 0), kind.Config(**own), 0)
        for kind, own in ((MADDPG, {}), (found, {"epsilon": 0.3}))
    )
    mask = torch.tensor([1.0, 1.0, 0.0]).expand(4000, 3, 3)
    batch = type("Batch", (), {"next_obs": torch.rand(4000, 3, 4), "next_mask": mask, "sequences": None})()
    steady, slipped = maddpg.next_action(batch), slip.next_action(batch)
    assert (slipped.sum(dim=-1) == 1).all()
    assert not (slipped * (1 - mask)).any()
    # Of two legal actions chance hits the one that was chosen anyway every second time.
    assert (steady != slipped).any(dim=-1).float().mean() == pytest.approx(0.15, abs=0.01)


def test_settings_of_the_example(installed: None) -> None:
    with pytest.raises(ConfigError, match=r"epsilon must be at most 1, but it is 1\.5"):
        get_defender("slip-maddpg").Config(epsilon=1.5)
    for settings, message in (({"elites": 2}, "elites must be at most 1"), ({"hidden": 0}, "hidden must be a finite")):
        with pytest.raises(ConfigError, match=message):
            make_attacker("cross-entropy", mir2bench.spec(TRIO), settings)
    weakness, nobody = planted(True), mir2bench.Partition((0, 0, 0))
    attacker = make_attacker("cross-entropy", weakness.variant)
    with pytest.raises(PartitionError, match="the attacker `cross-entropy` needs a partition with at least one adv"):
        attacker.attack(weakness.variant, weakness.victim, nobody, seed=0, budget=100)


def test_the_package_is_imported_lightly(site: Path) -> None:
    code = "import sys, mir2bench; print('mir2bench_example' in sys.modules, 'torch' in sys.modules)"
    path = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("True False\n", "")


# --- command lines ---


def test_a_study_of_outsiders(site: Path, written: Path) -> None:
    """One defender is installed, as the variant is; the other is a file in the current directory."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mir2bench.evaluate", "--algo", "slip-maddpg", "my_defender:Thrifty"),
            *("--env", "Trio-adv0-v0", "--budget", "smoke", "--workers", "1", "--out", "study"),
            *("--set", "my_defender:Thrifty.cost=0.5", "epsilon=0.2"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "slip-maddpg" in done.stdout
    assert "my_defender:Thrifty" in done.stdout
    cards = [json.loads(path.read_text()) for path in (written / "study").rglob("policy.json")]
    chosen = {card["algorithm"]: (card["config"].get("cost"), card["config"].get("epsilon")) for card in cards}
    assert chosen == {"slip-maddpg": (None, 0.2), "my_defender:Thrifty": (0.5, None)}


def test_an_attack_by_an_outsider(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"policy": "scripted:centroid", "env": TRIO, "phi": "0", "attacker": "cross-entropy", "budget": "2_000"}
    attack.main(attack.Options(**options, out=Path("out")))
    assert "attacked team return over the same episodes" in capsys.readouterr().out
    card = json.loads(Path("out/bundle/policy.json").read_text())
    assert (card["algorithm"], card["variant"], card["config"]["population"]) == ("cross-entropy", TRIO, 64)
    assert list_command.main(family="trio") == 0
    assert TRIO in capsys.readouterr().out


# --- the documents ---


def test_the_files_of_the_documents_pass_their_own_checks(written: Path, fresh_registry: None, toy: list[str]) -> None:
    exec(compile((written / "check.py").read_text(), "check.py", "exec"), {"__name__": "__main__"})
    check_defender("my_defender:Thrifty", toy[1], budget=200)
    check_attacker("my_attacker:RandomSearch", toy[2], planted_budget=30_000)
    assert importlib.import_module("my_defender").__file__ == str(written / "my_defender.py")
    floor, ceiling, _ = measure_world(mir2bench.spec("Raft4-adv0-v0"), 1024)
    assert (written / "my_world.toml").read_text().count(floor.toml("floor")) == 1
    assert (written / "my_world.toml").read_text().count(ceiling.toml("ceiling")) == 1


def test_the_documents_show_every_file() -> None:
    shown = re.findall(r"<!-- generated: example (\S+) -->", "".join(DOCUMENTS.values()))
    assert sorted(shown) == list(FILES)


def test_the_documents_name_what_exists() -> None:
    defender = DOCUMENTS[ROOT / "docs/extend/defender.md"]
    hooks = re.findall(r"`(\w+)`", defender.split("has a method for each")[1].split("[symbols")[0])
    assert len(hooks) == 7
    assert [hook for hook in hooks if not hasattr(MADDPG.Learner, hook)] == []
    for name in set(re.findall(r"`(mir2bench(?:\.\w+)+)[`(]", "".join(DOCUMENTS.values()))):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute)
