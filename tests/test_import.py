"""`import mir2bench` is light, and the command that lists variants works without the heavy parts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import mir2bench
from mir2bench.cli import run
from mir2bench.list import main

HEAVY = ("torch", "numba", "mujoco", "jax", "pettingzoo", "stable_baselines3", "pandas", "matplotlib", "PIL", "tyro")


def loaded_after(code: str) -> tuple[list[str], str]:
    """Run code in a new process; return which heavy packages it loaded, and what it printed."""
    code += f"\nimport sys; print('|'.join(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return [m for m in done.stderr.strip().split("|") if m], done.stdout


def test_import_loads_nothing_heavy_and_prints_nothing() -> None:
    assert loaded_after("import mir2bench") == ([], "")


def test_reading_the_registry_loads_nothing_heavy() -> None:
    code = "import mir2bench; [mir2bench.spec(i).layout for i in mir2bench.list_variants(family='Rendezvous')]"
    assert loaded_after(code) == ([], "")


def test_making_an_environment_loads_its_engine_only() -> None:
    code = "import gymnasium, mir2bench; gymnasium.make('mir2bench/Rendezvous5-adv1-v0').reset(seed=0)"
    assert loaded_after(code) == (["numba"], "")


def test_everything_public_can_be_reached() -> None:
    for name in mir2bench.__all__:
        assert getattr(mir2bench, name) is not None
    with pytest.raises(AttributeError, match="module 'mir2bench' has no attribute 'nothing'"):
        mir2bench.nothing  # noqa: B018


# --- python -m mir2bench.list ---


def test_list_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(family="rendezvous", adversaries=1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "N", "K", "steps", "|Phi|", "obs", "state", "actions", "floor", "ceiling"]
    spec = mir2bench.spec("Rendezvous10-adv1-v0")
    scores = [f"{spec.floor.score:.1f}", f"{spec.ceiling.score:.1f}"]
    assert lines[2].split() == [spec.id, "10", "1", "200", "10", "60", "145", "2", *scores]
    assert len(lines) == 5


def test_list_prints_json(capsys: pytest.CaptureFixture[str], toy: list[str]) -> None:
    assert main(family="Toy", as_json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == toy
    assert [row["partitions"] for row in rows] == [1, 3, 3]
    sizes = {"agents": 3, "horizon": 20, "obs": 4, "state": 3, "actions": 3, "discrete": True}
    assert all(row[key] == value for row in rows for key, value in sizes.items())
    assert (rows[0]["floor"], rows[0]["ceiling"]) == (-20.0, 0.0)


def test_list_says_what_is_not_installed(
    capsys: pytest.CaptureFixture[str], toy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = mir2bench.spec(toy[0])
    object.__setattr__(spec, "engine", "no_such_package.engine:Engine")
    object.__setattr__(spec, "requires", "mujoco")
    assert main(family="toy") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[5:8] == ["?", "?", "?"]
    assert out.splitlines()[2].split()[5:9] == ["4", "3", "1", "of"]
    assert 'Sizes shown as ? need: pip install "mir2bench[mujoco]"' in out


def test_list_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    def call(*args: str) -> int:
        return run(main, prog="python -m mir2bench.list", args=args)

    assert call("--adversaries", "2", "--json") == 0
    assert all(row["adversaries"] == 2 for row in json.loads(capsys.readouterr().out))
    assert call("--family", "skirmsh") == 2
    assert capsys.readouterr().err == "error: No family `skirmsh`. Did you mean `Skirmish`?\n"
    assert call("--adversaries", "9") == 0
    assert capsys.readouterr().err == "No variant matches.\n"
    for wrong in (["--famly", "x"], ["--adversaries", "many"], ["stray"]):
        with pytest.raises(SystemExit) as caught:
            call(*wrong)
        assert caught.value.code == 2
        assert wrong[0] in capsys.readouterr().err


def test_list_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mir2bench.list", "--family", "Rendezvous"], capture_output=True, text=True, check=True
    )
    assert "mir2bench/Rendezvous40-adv2-v0 40 2   200   780 240  2380       2" in done.stdout
