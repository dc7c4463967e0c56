"""The wheel that an sdist gives holds everything: installed elsewhere, it makes and steps every variant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mir2bench
from mir2bench.engines.base import ready_variants
from mir2bench.registration import load_family

ROOT = Path(__file__).parent.parent
CONTENT = ("registry", "baselines", "leaderboards")

STEP_EVERY_VARIANT = """
import json, sys
import gymnasium, numpy as np, mir2bench
from mir2bench.content import content_dir
for name in sys.argv[1:]:
    env = gymnasium.make(name)
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
folders = [str(content_dir(c)) for c in ("registry", "baselines", "leaderboards")]
print(json.dumps({"file": mir2bench.__file__, "listed": mir2bench.list_variants(), "folders": folders}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def test_wheel_holds_the_content_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert {name.split("/")[0] for name in names} == {"mir2bench", f"mir2bench-{mir2bench.__version__}.dist-info"}
    assert "mir2bench/py.typed" in names
    for folder in CONTENT:
        wanted = {
            f"mir2bench/_content/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / folder).rglob("*") if p.is_file()
        }
        assert wanted
        assert {name for name in names if name.startswith(f"mir2bench/_content/{folder}/")} == wanted
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mir2bench").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    board = ROOT / "mir2bench" / "leaderboard"
    site = {p.relative_to(ROOT).as_posix() for part in ("assets", "templates") for p in (board / part).iterdir()}
    assert len(site) > 8
    assert site <= names


def test_sdist_holds_what_a_contributor_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    needed = {"pyproject.toml", "Makefile", "requirements.lock", "README.md", "LICENSE", "tests/test_wheel.py"}
    assert needed <= names
    assert not {name for name in names if name.split("/")[0] in (".git", ".venv", "runs")}


def test_installed_wheel_makes_and_steps_every_variant(built: tuple[Path, Path], tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(built[1])], check=True)
    promised = [s.id for path in sorted((ROOT / "registry").glob("*.toml")) for s in load_family(path)]
    made = [name for name in ready_variants() if name in promised]  # other tests register variants of their own
    assert len(made) > 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STEP_EVERY_VARIANT, *made],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},  # comes before the checkout
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert Path(seen["file"]) == site / "mir2bench" / "__init__.py"
    assert seen["listed"] == promised
    assert [Path(f) for f in seen["folders"]] == [site / "mir2bench" / "_content" / c for c in CONTENT]
