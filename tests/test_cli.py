"""The command lines of evaluation: help, bad input in one line, and studies that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mir2bench
from mir2bench import attack, evaluate, train
from mir2bench.cli import run
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition

TOOLS = {"evaluate": evaluate, "train": train, "attack": attack}
SMALL = "Rendezvous5-adv1-v0"


def _call(tool: str, *arguments: object) -> int:
    module = TOOLS[tool]
    return run(
        module.main,
        prog=f"python -m mir2bench.{tool}",
        description=module.DESCRIPTION,
        args=[str(a) for a in arguments],
    )


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mir2bench.evaluate", *map(str, arguments)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one very short training, made once."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert _call("train", "--algo", "maddpg", "--env", SMALL, "--budget", 400, "--set", "hidden=16", "--out", out) == 0
    return out


class TestHelp:
    @pytest.mark.parametrize("tool", TOOLS)
    def test_help_has_examples_and_explains_every_option(self, tool: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            _call(tool, "--help")
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert text.count(f"\n  python -m mir2bench.{tool}") >= 3
        # Once each: a line of the explanations may begin with another option.
        options = list(dict.fromkeys(re.findall(r"^\W*--([a-z][a-z-]*)", text, re.MULTILINE)))
        fields = {"settings": "set"}
        assert options == [fields.get(f, f.replace("_", "-")) for f in TOOLS[tool].Options.__dataclass_fields__]

    @pytest.mark.parametrize("tool", TOOLS)
    def test_the_examples_parse(self, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        module = TOOLS[tool]

        def record(options: Any) -> None:
            seen.append(options)

        record.__annotations__["options"] = module.main.__globals__["Annotated"][module.Options, _unprefixed()]
        examples = re.findall(rf"^  python -m mir2bench\.{tool}(.*)$", module.DESCRIPTION, re.MULTILINE)
        for example in examples:
            assert run(record, prog=tool, args=example.split()) == 0
        assert len(seen) == len(examples) >= 3

    def test_unknown_options_are_refused_with_a_hint(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            _call("evaluate", "--bugdet", "quick")
        assert caught.value.code == 2
        assert re.search(r"Perhaps you meant:\W+--budget", capsys.readouterr().err)


def _unprefixed() -> Any:
    import tyro

    return tyro.conf.arg(name="")


class TestBadInput:
    """Each is one line on standard error and status 2."""

    @pytest.mark.parametrize(
        ("tool", "arguments", "message"),
        [
            ("evaluate", "--env Rendevous10-adv1-v0", "No variant `Rendevous10-adv1-v0`. Did you mean"),
            ("evaluate", "--algo mir3", "No defender `mir3`. Did you mean `mir2`"),
            (
                "evaluate",
                "--algo scripted:centrod",
                "No scripted team of Rendezvous `centrod`. Did you mean `centroid`",
            ),
            ("evaluate", "--algo nowhere.at_all:Thing", "Cannot import the defender `nowhere.at_all:Thing`"),
            ("evaluate", "--budget quik", "No budget `quik`. Did you mean `quick`"),
            ("evaluate", "--protocol suite-v2", "No protocol `suite-v2`. Did you mean `suite-v1`"),
            ("evaluate", "--seeds 0", "defender_seeds must be 1 or more, but it is 0"),
            ("evaluate", "--workers 0 --algo scripted:idle", "workers must be 1 or more, but it is 0"),
            ("evaluate", "--set lamb=1", "No setting `lamb`. Did you mean `lam`"),
            ("evaluate", "--policy nowhere", "nowhere is not a policy bundle"),
            ("evaluate", "--resume", "--resume needs --out"),
            ("train", "--algo mir3", "No defender `mir3`"),
            ("train", "--algo scripted:centroid", "Cannot import the defender"),
            ("train", "--budget -5", "No budget `-5`"),
            ("train", "--budget 0", "the budget must be 1 step or more, but it is 0"),
            ("train", "--set gamma=2", "gamma"),
            ("attack", f"--policy scripted:centroid --env {SMALL} --phi 5", "phi must be 5 zeros and ones"),
            ("attack", f"--policy scripted:centroid --env {SMALL} --phi 1,2", "phi names 2 adversaries"),
            ("attack", f"--policy scripted:centroid --env {SMALL} --phi 11111", "there is no team left"),
            ("attack", f"--policy scripted:centroid --env {SMALL} --phi none", "at least one adversary"),
            ("attack", "--policy scripted:centroid --phi 1", "plays many variants: name one with --env"),
            (
                "attack",
                f"--policy scripted:idle --env {SMALL} --phi 1 --attacker fle",
                "No attacker `fle`. Did you mean `flee`",
            ),
        ],
    )
    def test_one_line(
        self,
        tool: str,
        arguments: str,
        message: str,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: Any,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert _call(tool, *arguments.split()) == 2
        output = capsys.readouterr()
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        assert message in output.err
        assert list(tmp_path.iterdir()) == []  # nothing was begun

    @pytest.mark.parametrize("tool", TOOLS)
    def test_folders_with_other_content(self, tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "thesis.tex").touch()
        arguments = {
            "evaluate": ["--algo", "scripted:idle"],
            "train": ["--algo", "maddpg", "--budget", "smoke"],
            "attack": ["--policy", "scripted:idle", "--env", SMALL, "--phi", "1"],
        }[tool]
        assert _call(tool, *arguments, "--out", tmp_path) == 2
        assert "not empty" in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("damage", ["truncated", "altered", "card"])
    def test_damaged_bundles(
        self, damage: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        for path in (trained / "bundle").iterdir():
            content = path.read_bytes()
            if damage == "truncated" and path.suffix == ".safetensors":
                content = content[:-10]
            if damage == "altered" and path.suffix == ".safetensors":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if damage == "card" and path.suffix == ".json":
                content = content[: len(content) // 2]
            (bundle / path.name).write_bytes(content)
        assert _call("evaluate", "--policy", bundle, "--out", tmp_path / "study") == 2
        expected = "policy.json is damaged" if damage == "card" else "was truncated or altered"
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "study").exists()

    def test_bundles_of_another_variant(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert _call("evaluate", "--policy", trained / "bundle", "--env", "Rendezvous10-adv1-v0") == 2
        assert "cannot play mir2bench/Rendezvous10-adv1-v0" in capsys.readouterr().err


class TestTrain:
    def test_a_negative_seed_is_refused_before_anything_is_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert _call("train", "--algo", "maddpg", "--env", SMALL, "--seed", -1, "--out", tmp_path / "run") == 2
        assert "--seed must be 0 or more, but it is -1" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_what_it_writes(self, trained: Path) -> None:
        assert sorted(p.name for p in trained.iterdir()) == ["bundle", "curve.json", "logs"]
        card = json.loads((trained / "bundle" / "policy.json").read_text())
        assert (card["variant"], card["algorithm"], card["seed"]) == (f"mir2bench/{SMALL}", "maddpg", 0)
        assert card["config"]["hidden"] == 16
        rows = json.loads((trained / "curve.json").read_text())
        assert rows[-1]["steps"] == 400
        assert all(row["greedy_return"] < 0 for row in rows)
        assert list((trained / "logs").glob("events.out.tfevents.*"))

    def test_what_it_prints(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ("--algo", "mir2", "--env", SMALL, "--budget", "1_000", "--set", "hidden=16", "--seed", 3)
        assert _call("train", *options, "--out", tmp_path / "run") == 0
        text = capsys.readouterr().out
        assert re.search(r"1,000 environment steps in [\d.]+ s: [\d,]+ steps/s", text)
        printed = float(re.findall(r"greedy team return over 32 validation episodes: (-[\d.]+)", text)[0])
        spec = mir2bench.spec(SMALL)
        policy = mir2bench.load_policy(tmp_path / "run" / "bundle")
        seeds = [1_000_000_000_000 + i for i in range(32)]
        assert printed == pytest.approx(rollout(spec, policy, Partition.of(5), None, seeds).returns.mean(), abs=0.006)


class TestAttack:
    @staticmethod
    def _returns(text: str) -> tuple[float, float]:
        found = re.findall(r"(?:clean|attacked) team return .*: +(-[\d.]+)\n", text)
        return float(found[0]), float(found[1])

    def test_scripted(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ("--policy", "scripted:centroid", "--env", SMALL, "--attacker", "flee")
        assert _call("attack", *options, "--phi", "3", "--out", tmp_path / "a") == 0
        clean, attacked = self._returns(capsys.readouterr().out)
        assert attacked < clean - 5
        assert _call("attack", *options, "--phi", "00010", "--out", tmp_path / "b") == 0
        assert self._returns(capsys.readouterr().out) == (clean, attacked)

    def test_learned(self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "attack"
        assert _call("attack", "--policy", trained / "bundle", "--phi", 2, "--budget", 400, "--out", out) == 0
        assert self._returns(capsys.readouterr().out)
        card = json.loads((out / "bundle" / "policy.json").read_text())
        assert (card["algorithm"], card["phi"], card["n_agents"]) == ("learned", "00100", 1)


class TestEvaluate:
    def test_default_folder_and_command_in_the_report(self, trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        assert _call("evaluate", "--policy", trained / "bundle", "--budget", "smoke", "--workers", 1) == 0
        (out,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(r"\d{8}-\d{6}-policies", out.name)
        summary = json.loads((out / "summary.json").read_text())
        expected = f"python -m mir2bench.evaluate --policy {trained / 'bundle'} --budget smoke --protocol paper-v1"
        assert summary["command"] == expected
        assert summary["board_reason"] == "the smoke budget is for a first look"

    def test_killed_studies_end_like_one_that_was_not(self, tmp_path: Path) -> None:
        """Kill coordinators with SIGKILL at several moments; each time the study resumes, and its workers are gone."""
        options = ("--algo", "maddpg", "--env", SMALL, "--budget", "smoke", "--set", "hidden=16")
        whole = subprocess.run(
            _command(*options, "--workers", 1, "--out", tmp_path / "whole"), capture_output=True, text=True, check=False
        )
        assert whole.returncode == 0, whole.stderr
        out = tmp_path / "killed"
        jobs = out / "jobs"

        def finished() -> int:
            # A job's folder has a dot before its name until it is done, and `*` matches that too.
            return sum(not path.parent.name.startswith(".") for path in jobs.glob("*/job.json"))

        moments: list[Callable[[], bool]] = [
            lambda: any(jobs.glob(".*")),  # in the middle of the first job
            lambda: finished() >= 2,
        ]
        seen = []
        for moment in moments:
            resume = ["--resume"] if out.exists() else []
            process = subprocess.Popen(
                _command(*options, "--workers", 2, "--out", out, *resume), stdout=subprocess.DEVNULL
            )
            deadline = time.monotonic() + 60
            while not moment() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert process.poll() is None, "the study ended before it could be killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
            seen.append(finished())
            assert not (out / "summary.json").exists()
        assert seen[0] < seen[1] < 16
        deadline = time.monotonic() + 10
        while _workers_of(out) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _workers_of(out) == []
        resumed = subprocess.run(
            _command(*options, "--workers", 2, "--out", out, "--resume"), capture_output=True, text=True, check=False
        )
        assert resumed.returncode == 0, resumed.stderr
        before = re.search(r"(\d+) finished before", resumed.stdout.replace("\n", " "))
        assert before
        assert int(before[1]) >= seen[1]  # another may have finished between the look and the kill
        pd.testing.assert_frame_equal(
            pd.read_parquet(out / "scores.parquet"), pd.read_parquet(tmp_path / "whole" / "scores.parquet")
        )
        results = [json.loads((f / "summary.json").read_text())["results"] for f in (out, tmp_path / "whole")]
        assert results[0] == results[1]
        assert np.isfinite(results[0][0]["defenders"]["maddpg"]["arms"]["worst"]["mean"])

    def test_ctrl_c_stops_at_once_and_keeps_what_is_finished(self, tmp_path: Path) -> None:
        out = tmp_path / "study"
        process = subprocess.Popen(
            _command("--algo", "maddpg", "--env", SMALL, "--workers", 2, "--budget", "standard", "--out", out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A background job of a shell starts with the signal ignored, and so would all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 60
            while not list((out / "logs").glob("*/*/*/events*")) and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == 130
        assert "--resume continues" in stdout
        assert stderr == "interrupted\n"
        assert _workers_of(out) == []


def _workers_of(out: Path) -> list[int]:
    """Return processes that have a file under `out` open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(out) in os.readlink(fd) for fd in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_reader_who_has_enough_sees_no_traceback() -> None:
    code = "import sys; from mir2bench.cli import tell_errors; sys.exit(tell_errors(lambda: print('word ' * 100_000)))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(4)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
