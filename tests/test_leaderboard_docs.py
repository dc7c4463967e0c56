"""The code blocks of docs/leaderboard.md, run as they stand and in their order."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mir2bench import attack, evaluate
from mir2bench.cli import run
from mir2bench.content import content_dir
from mir2bench.evaluation import statistics
from mir2bench.evaluation import study as study_module
from mir2bench.leaderboard import __main__ as board_command
from mir2bench.leaderboard import challenge as challenge_module
from mir2bench.leaderboard import check as check_module
from mir2bench.leaderboard import new as new_module
from mir2bench.leaderboard import play as play_module
from mir2bench.leaderboard import verify as verify_module
from mir2bench.leaderboard.check import inspect_entry
from mir2bench.leaderboard.entry import read_entry

TEXT = (Path(__file__).parents[1] / "docs" / "leaderboard.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "mir2bench.evaluate": lambda args: run(evaluate.main, prog="evaluate", args=[*args, "--workers", "1"]),
    "mir2bench.attack": lambda args: run(attack.main, prog="attack", args=args),
    "mir2bench.leaderboard": board_command.main,
}
BOARD = "leaderboards/Rendezvous5-adv1-v0"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an empty board, which is the current one; nothing is worked on in other processes."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "leaderboards").mkdir()
    inside = lambda path, **_: inspect_entry(Path(path))  # noqa: E731
    real = {name: getattr(check_module, name) for name in ("check_entry",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(statistics, "REPETITIONS", 50)
        patch.setattr(study_module, "write_report", lambda *_: None)
        patch.setattr(new_module, "content_dir", lambda _: folder / "leaderboards")
        for module in (check_module, new_module, verify_module, challenge_module, play_module):
            patch.setattr(module, "check_entry", inside)
        patch.setattr(verify_module, "_work", lambda study, jobs, work, *_: verify_module._execute(study, work, 1))
        patch.setattr(play_module, "run_limited", lambda _, order, __: play_module.play_task(**order))
        yield folder
    assert real["check_entry"] is check_module.check_entry


def _shell(block: str, **variables: str) -> list[int]:
    for name, value in variables.items():
        block = block.replace(f"${name}", value)
    codes = []
    for line in block.replace("\\\n", " ").splitlines():
        python, flag, module, *rest = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        codes.append(COMMANDS[module](rest))
    return codes


def _python(block: str) -> dict[str, object]:
    scope: dict[str, object] = {}
    exec(compile(block, "docs/leaderboard.md", "exec"), scope)
    return scope


def test_every_block_is_run() -> None:
    assert len(re.findall(r"^```(?:sh|python)$", TEXT, re.MULTILINE)) == len(BLOCKS)
    assert set(BLOCKS) == {"enter", "steps", "torch", "arrays", "onnx", "reproduce", "verify", "challenge"}


def test_from_training_to_a_challenge(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = np.random.get_state()  # Stable-Baselines3 seeds the global generators
    try:
        assert _shell(BLOCKS["enter"]) == [0]
    finally:
        np.random.set_state(state)
    assert _shell(BLOCKS["steps"]) == [0, 0, 0]
    entry = read_entry(checkout / BOARD / "my-method")
    assert entry.method.authors == ["Ada Example"]
    assert read_entry(checkout / BOARD / "my-maddpg").training == entry.training.model_copy(
        update={"code": entry.training.code.model_copy(update={"repository": None})}
    )
    assert _shell(BLOCKS["verify"]) == [0]
    found = read_entry(checkout / BOARD / "my-method").verified
    assert found is not None
    (phi,) = {cell.phi for cell in found.cells}
    codes = _shell(BLOCKS["challenge"], PHI=phi)
    lowered = bool(read_entry(checkout / BOARD / "my-method").challenges)
    assert codes == [0, 0 if lowered else 2]
    assert ("cells lowered" in capsys.readouterr().out) == lowered


def test_from_other_frameworks(checkout: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this exporter will go
        _python(BLOCKS["torch"])
    _python(BLOCKS["arrays"])
    assert _shell(BLOCKS["onnx"]) == [0, 0, 0]
    entry = read_entry(checkout / BOARD / "mine")
    assert {policy.format for policy in entry.policies} == {"onnx"}
    assert entry.training.seeds == [0, 1]


def test_reproduce(capsys: pytest.CaptureFixture[str]) -> None:
    assert os.path.isdir(content_dir("leaderboards"))
    _python(BLOCKS["reproduce"])
    mine, theirs = capsys.readouterr().out.split()
    assert mine == theirs
    assert json.loads(mine) < -20
