"""Verifying again, and what a failing policy or an interruption leaves behind, on the world that adds up by hand."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_stubs import BUDGET, SUITE, ConstantPolicy, _network, tally

import mir2bench
from mir2bench.content import content_dir
from mir2bench.errors import PolicyError
from mir2bench.evaluation import protocol as protocol_module
from mir2bench.evaluation import statistics
from mir2bench.leaderboard import play as play_module
from mir2bench.leaderboard import write
from mir2bench.leaderboard.__main__ import main
from mir2bench.leaderboard.challenge import challenge_entry
from mir2bench.leaderboard.check import MAX_ANSWER, check_entry, read_episodes, try_policy
from mir2bench.leaderboard.entry import Entry, EntryError, read_entry
from mir2bench.leaderboard.failures import lowest_return, with_failures
from mir2bench.leaderboard.ledger import read_ledger
from mir2bench.leaderboard.new import About, new_sanity_row
from mir2bench.leaderboard.play import work_limits
from mir2bench.leaderboard.sandbox import Limits, TimeoutFailure, run_limited
from mir2bench.leaderboard.verify import Effort, _is_the_policys, verify_entries
from mir2bench.policies import save_policy
from mir2bench.registration import Anchor

BOARD = content_dir("leaderboards") / "Rendezvous10-adv1-v0"
SALT, OTHER = b"s" * 32, b"t" * 32
EFFORT = Effort("stub-suite", "stub", partitions=1)
SMALL = replace(
    BUDGET, name="stub-small", attack_steps=BUDGET.attack_steps // 2, episodes=BUDGET.episodes - 1, board=False
)


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "REPETITIONS", 50)
        patch.setitem(protocol_module.PROTOCOLS, "stub-suite", SUITE)
        patch.setitem(protocol_module.BUDGETS, "stub", BUDGET)
        patch.setitem(protocol_module.BUDGETS, "stub-small", SMALL)
        yield


@pytest.fixture(autouse=True)
def _tally(fresh_registry: None) -> None:
    mir2bench.register(tally())


def _row(board: Path, team: str = "half", name: str = "half") -> Path:
    """A scripted row, as nobody has to train it."""
    return new_sanity_row(team, About(name), tally().id, board / "Tally2-adv1-v0" / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _row(tmp_path / "board")


def _verify(*folders: Path, salt: bytes = SALT, effort: Effort = EFFORT) -> list[Entry]:
    work = folders[0].parent.parent.parent / f"work-{salt[:1].hex()}-{hash(effort)}"
    shutil.rmtree(work, ignore_errors=True)
    return verify_entries(folders, work, salt, effort, isolated=False, tell=lambda _: None)


def _without_spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else plays the worst there is."""
    from evaluation_stubs import SpoilTraitor

    act = SpoilTraitor.act
    monkeypatch.setattr(SpoilTraitor, "act", lambda self, *a, **k: (-act(self, *a, **k)[0], a[1]))


def _worst(where: Path, phi: str) -> Path:
    """A bundle whose adversary always pays -1."""
    policy = _network(tally(), 1, 0, 0.0)
    last = [p for p in policy.actor.parameters() if p.ndim == 1][-1]
    with torch.no_grad():
        last.fill_(-20.0)
    return save_policy(policy, where, variant=tally(), algorithm="x", config={}, seed=0, extra={"phi": phi})


@pytest.fixture
def challenged(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _without_spoil(monkeypatch)
    (entry,) = _verify(folder)
    assert entry.verified is not None
    phi = entry.verified.cells[0].phi
    challenge_entry(folder, [_worst(tmp_path / "bundle", phi)], About("mine"), SALT, isolated=False)
    return folder


class TestAgain:
    def test_accepted_challenges_stay_in_the_worst_case(self, challenged: Path) -> None:
        before = read_entry(challenged)
        full = Effort("stub-suite", "stub", partitions=None)
        (after,) = _verify(challenged, salt=OTHER, effort=full)
        assert before.verified is not None
        assert before.verified.worst is not None
        assert after.verified is not None
        phi = before.verified.cells[0].phi
        cells = {cell.phi: cell for cell in after.verified.cells}
        assert cells[phi].attacker == "challenge:mine"
        assert cells[phi].worst < min(cell.worst for p, cell in cells.items() if p != phi)
        rows = read_episodes(challenged / "verified" / "episodes.parquet")
        again = rows[rows["attacker"] == "challenge:mine"]
        assert len(again) == BUDGET.episodes
        # Half plays 1/2 and the traitor -1, for 3 to 5 steps: on the new starts, not copied from the old.
        assert np.allclose(again["return"], -0.25 * again["length"])
        assert after.challenges == before.challenges
        assert check_entry(challenged, isolated=False, board=challenged.parent.parent) == after

    def test_a_challenged_partition_cannot_be_left_out(self, challenged: Path) -> None:
        entry = read_entry(challenged)
        assert entry.verified is not None
        phi = entry.verified.cells[0].phi
        from mir2bench.leaderboard.salt import salted_draw

        salt = next(s for n in range(9) if phi not in salted_draw(s := bytes([n]) * 32, tally(), SUITE, 1).partitions)
        with pytest.raises(EntryError, match="without the challenge `mine`.*--weaker"):
            _verify(challenged, salt=salt)
        (after,) = _verify(challenged, salt=salt, effort=replace(EFFORT, weaker=True))
        assert "--weaker: without the challenge `mine`" in after.history[-1].reason

    @pytest.mark.parametrize(
        ("effort", "what"),
        [
            (replace(EFFORT, attack_steps=1), "1 attack steps instead of"),
            (EFFORT, "1 partitions instead of 2"),
            (
                replace(EFFORT, budget="stub-small", partitions=None),
                "stub-small budget instead of stub;.*episodes instead",
            ),
            (
                replace(EFFORT, protocol="paper-v1", partitions=None),
                "paper-v1 without .*transfer instead of stub-suite",
            ),
        ],
    )
    def test_a_weaker_one_replaces_nothing(self, folder: Path, effort: Effort, what: str) -> None:
        _verify(folder, effort=Effort("stub-suite", "stub", partitions=None))
        before = (folder / "entry.json").read_bytes()
        with pytest.raises(EntryError, match=what) as caught:
            _verify(folder, effort=effort)
        assert len(str(caught.value).splitlines()) == 1
        assert (folder / "entry.json").read_bytes() == before

    def test_the_history_tells_of_a_weaker_one(self, folder: Path) -> None:
        _verify(folder, effort=Effort("stub-suite", "stub", partitions=None))
        (entry,) = _verify(folder, effort=replace(EFFORT, weaker=True))
        assert "asked for with --weaker: 1 partitions instead of 2" in entry.history[-1].reason

    def test_attackers_of_others_cannot_be_left_out(self, folder: Path) -> None:
        other = _row(folder.parent.parent, "half", "other")
        both = _verify(folder, other)
        assert all(e.verified is not None and "transfer" in e.verified.attackers for e in both)
        with pytest.raises(EntryError, match="verified together"):
            _verify(folder)


class TestFailures:
    def test_failing_never_pays(self, folder: Path, tmp_path: Path) -> None:
        """Where the floor lies above what a strong attack leaves, an answer that cannot be played is no way out."""
        (entry,) = _verify(folder)
        assert entry.verified is not None
        kind = replace(tally(), floor=Anchor(2.0, "a lenient floor"))
        rows = read_episodes(folder / "verified" / "episodes.parquet")
        true = float(rows["return"].min())
        assert true < 2.0
        alone = tmp_path / "elsewhere" / "row"
        alone.mkdir(parents=True)
        assert lowest_return(kind, alone, [rows]) == true
        nothing: Any = rows[:0]
        # A sanity row of the board counts too, and the floor where it is the lowest.
        assert lowest_return(kind, folder.parent / "new", [nothing]) == true
        assert lowest_return(tally(), folder, [rows]) == -5.0
        assert lowest_return(kind, alone, [rows.assign(**{"return": np.inf})]) == 2.0

    def test_each_failed_evaluation_is_counted(self, folder: Path) -> None:
        _verify(folder)
        rows = read_episodes(folder / "verified" / "episodes.parquet")
        names = ["variant", "defender", "defender_seed", "attacker", "phi"]
        lost = rows.loc[rows["attacker"] != "none", names].drop_duplicates().head(1)
        lost = pd.concat([lost, lost], ignore_index=True)  # two restarts of one attack
        found = with_failures(rows, lost, -7.0, 4)
        added = found[found["length"] == 0]
        assert set(added["return"]) == {-7.0}
        assert added.groupby("attacker_seed", dropna=False).size().tolist() == [4, 4]

    def test_a_policy_that_fails_a_challenge_is_marked(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It cannot refuse a challenge by answering nothing."""
        (entry,) = _verify(folder)
        assert entry.verified is not None
        bundle = _worst(tmp_path / "bundle", entry.verified.cells[0].phi)

        def fail(*_: Any, **names: Any) -> None:
            raise PolicyError(f"{names[who]} returned nan")

        monkeypatch.setattr(play_module, "rollout", fail)
        who = "adversary_name"
        with pytest.raises(EntryError, match="the challenger returned nan"):
            challenge_entry(folder, [bundle], About("mine"), SALT, isolated=False)
        who = "team_name"
        found, lowered = challenge_entry(folder, [bundle], About("mine"), SALT, isolated=False)
        assert found.verified is not None
        assert (lowered, found.verified.failures) == (1, 1)
        assert found.verified.cells[0].worst == tally().floor.score
        assert check_entry(folder, isolated=False, board=folder.parent.parent) == found

    def test_a_count_of_failures_that_the_episodes_deny(self, folder: Path) -> None:
        _verify(folder)
        content = json.loads((folder / "entry.json").read_text())
        content["verified"]["failures"] = 1
        (folder / "entry.json").write_text(json.dumps(content))
        with pytest.raises(EntryError, match="`failures` is 0"):
            check_entry(folder, isolated=False)

    @pytest.mark.parametrize(
        ("trace", "message", "blame"),
        [
            ("mir2bench.errors.PolicyError: x", "the team `a` (seed 0) returned nan", True),
            ("mir2bench.errors.PolicyError: x", "the attacker `b` on phi 1 returned nan", False),
            ("", "its process died with exit code -24", True),
            ("", "its process died with exit code -9 (out of memory?)", False),
            ("ValueError: x", "x", False),
        ],
    )
    def test_who_is_to_blame(self, trace: str, message: str, blame: bool) -> None:
        assert _is_the_policys(trace, message) is blame

    def test_the_slowest_policy_that_is_let_in_has_the_time_it_needs(self) -> None:
        limits = work_limits(10**6)
        assert limits.cpu_s > 10**6 * MAX_ANSWER / 64
        assert limits.wall_s > 5 * limits.cpu_s


def test_a_very_slow_policy_is_refused_after_one_answer() -> None:
    asked = []

    class Slow(ConstantPolicy):
        def act(self, *args: Any, **names: Any) -> Any:
            asked.append(1)
            return super().act(*args, **names)

    with pytest.raises(EntryError, match="processor time to answer"):
        try_policy(Slow(0.5), tally(), max_answer=0.0)
    assert len(asked) == 1


class TestInterrupted:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_the_old_or_the_new_entry_lies_there_whole(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        """Killed just before or after the folders are exchanged."""
        (before,) = _verify(folder)
        exchange = write._exchange
        kept = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

        def stop(one: Path, other: Path) -> None:
            if when == "after":
                exchange(one, other)
            raise KeyboardInterrupt

        monkeypatch.setattr(write, "_exchange", stop)
        with pytest.raises(KeyboardInterrupt):
            _verify(folder, salt=OTHER)
        found = check_entry(folder, isolated=False, board=folder.parent.parent)
        now = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert (found == before) == (now == kept) == (when == "before")
        monkeypatch.setattr(write, "_exchange", exchange)
        (entry,) = _verify(folder, salt=b"u" * 32)
        assert check_entry(folder, isolated=False, board=folder.parent.parent) == entry
        assert len(read_ledger(folder.parent.parent)[str(entry.folder)]) == 64
        assert [p.name for p in folder.parent.iterdir()] == [folder.name]

    def test_without_the_kernels_exchange(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(write.ctypes, "CDLL", lambda *_, **__: object())
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        write._exchange(tmp_path / "one", tmp_path / "other")
        assert (tmp_path / "one" / "file").read_text() == "other"
        assert (tmp_path / "other" / "file").read_text() == "one"

    def test_no_salt_is_made_before_all_else_is_fine(self, folder: Path, tmp_path: Path, capsys: Any) -> None:
        salt = tmp_path / "salt"
        ask = ["--salt", str(salt), "--protocol", "stub-suite", "--budget", "stub"]
        content = (folder / "entry.json").read_text()
        (folder / "entry.json").write_text("{}")
        for args in (["verify", str(folder), *ask], ["challenge", str(folder), "x", "--name", "a", *ask[:2]]):
            assert main(args) == 2
            assert not salt.exists()
        (folder / "entry.json").write_text(content)
        for wrong in (["--protocol", "nothing"], ["--attack-steps", "0"], ["--workers", "0"]):
            assert main(["verify", str(folder), *ask, *wrong]) == 2
            assert not salt.exists()
        capsys.readouterr()


class TestSandbox:
    def test_the_clock_blames_nobody(self, folder: Path) -> None:
        for limits, blame in ((Limits(cpu_s=1), True), (Limits(wall_s=0), False)):
            with pytest.raises(TimeoutFailure) as caught:
                run_limited("inspect", {"folder": str(BOARD / "mir2")}, limits)
            assert caught.value.blame is blame

    def test_workers_have_no_network_either(self) -> None:
        """Where no namespace can be had: the hook that refuses sockets is in fresh Python processes too."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        code = (
            "import multiprocessing, socket\n"
            "from mir2bench.leaderboard import sandbox\n"
            "sandbox._leave_network = lambda: False\n"
            "print(sandbox.limit_this_process(sandbox.Limits()))\n"
            "workers = multiprocessing.get_context('spawn').Pool(1)\n"
            f"tried = workers.apply_async(socket.create_connection, (('127.0.0.1', {port}), 5))\n"
            "try:\n"
            "    tried.get(30)\n"
            "except OSError as error:\n"
            "    print(type(error).__name__)\n"
            "workers.terminate()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        listener.close()
        assert done.stdout.split() == ["sockets", "PermissionError"], done.stderr
