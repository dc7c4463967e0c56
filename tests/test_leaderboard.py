"""A full round on a world whose returns can be added up by hand: run, new, check, submit, verify, challenge."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_stubs import BUDGET, DEFENDER, SUITE, _network, tally
from rich.console import Console

import mir2bench
from mir2bench import evaluate
from mir2bench.cli import run as run_command
from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation import protocol as protocol_module
from mir2bench.evaluation import statistics
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.jobs import phi_text
from mir2bench.evaluation.protocol import evaluation_seeds, validation_seeds
from mir2bench.evaluation.study import Study
from mir2bench.leaderboard import new as new_module
from mir2bench.leaderboard import verify as verify_module
from mir2bench.leaderboard.__main__ import main
from mir2bench.leaderboard.board import all_entries, read_board
from mir2bench.leaderboard.challenge import challenge_entry
from mir2bench.leaderboard.check import check_entry
from mir2bench.leaderboard.entry import Entry, EntryError, read_entry
from mir2bench.leaderboard.ledger import record
from mir2bench.leaderboard.new import About, new_entry, new_sanity_row, submit_entry
from mir2bench.leaderboard.salt import read_salt, salt_hash, salted_draw
from mir2bench.leaderboard.verify import Effort, verify_entries
from mir2bench.partition import Partition
from mir2bench.policies import save_policy

SALT = b"s" * 32
EFFORT = Effort("stub-suite", "stub", partitions=1)


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "REPETITIONS", 50)
        patch.setattr(study_module, "write_report", lambda *_: None)
        patch.setitem(protocol_module.PROTOCOLS, "stub-suite", SUITE)
        patch.setitem(protocol_module.BUDGETS, "stub", BUDGET)
        patch.setattr(new_module, "check_entry", lambda folder, **_: check_entry(folder, isolated=False))
        yield


@pytest.fixture(autouse=True)
def _tally(fresh_registry: None) -> None:
    mir2bench.register(tally())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two teams, one of which is scripted."""
    folder = tmp_path_factory.mktemp("run") / "study"
    mir2bench.register(tally())
    study = Study.resolve((DEFENDER, "scripted:half"), variants=[tally().id], budget=BUDGET, protocol=SUITE)
    study.run(folder, workers=1, console=Console(file=io.StringIO()), command="python -m mir2bench.evaluate")
    return folder


@pytest.fixture
def draft(finished: Path, tmp_path: Path) -> Path:
    about = About("stub", "Stub", authors=["Ada"], description="Random weights.", code="https://example.org/code")
    return new_entry(finished, about, defender=DEFENDER, out=tmp_path / "draft")


@pytest.fixture
def board(draft: Path, tmp_path: Path) -> Path:
    submit_entry(draft, tmp_path / "board", isolated=False)
    return tmp_path / "board"


def _verify(*folders: Path, work: Path, salt: bytes = SALT, effort: Effort = EFFORT) -> list[Entry]:
    return verify_entries(folders, work, salt, effort, isolated=False, tell=lambda _: None)


class TestNew:
    def test_it_says_what_the_run_says(self, draft: Path, finished: Path) -> None:
        entry = read_entry(draft)
        summary = json.loads((finished / "summary.json").read_text())
        (result,) = summary["results"]
        arms = result["defenders"][DEFENDER]["arms"]
        found = entry.reported
        assert found is not None
        assert found.worst is not None
        assert found.worst.mean == pytest.approx(arms["worst"]["mean"])
        assert found.clean.mean == pytest.approx(arms["none"]["mean"])
        assert found.iqm.value == pytest.approx(arms["worst"]["normalized"]["iqm"]["value"])
        assert found.difference is not None
        assert found.difference.mean == pytest.approx(arms["worst"]["difference"]["mean"])
        assert set(found.attackers) == set(arms) - {"none", "robust", "worst"}
        assert {curve.attacker for curve in found.curves} == {*SUITE.trained}
        assert entry.training.seeds == [0, 1]
        assert entry.training.steps == BUDGET.train_steps
        assert entry.training.config == {"gain": 1.0, "trouble": ""}
        assert check_entry(draft, isolated=False) == entry

    def test_a_cells_worst_is_the_lowest_mean_over_its_attackers(self, draft: Path, finished: Path) -> None:
        table = pd.read_parquet(finished / "scores.parquet")
        table = table[(table["defender"] == DEFENDER) & (table["attacker"] != "none")]
        means = table.groupby(["defender_seed", "phi", "attacker", table["attacker_seed"].fillna(-1)])["return"].mean()
        lowest = means.groupby(level=[0, 1]).min()
        found = read_entry(draft).reported
        assert found is not None
        assert {(c.seed, c.phi): c.worst for c in found.cells} == pytest.approx(lowest.to_dict())

    def test_a_run_with_several_teams_needs_a_choice(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(EntryError, match="--defender"):
            new_entry(finished, About("stub"), out=tmp_path / "x")
        with pytest.raises(EntryError, match="--env"):
            new_entry(finished, About("stub"), variant="Tally2-adv0-v0", out=tmp_path / "x")

    def test_a_scripted_team_has_no_policies(self, finished: Path, tmp_path: Path) -> None:
        folder = new_entry(finished, About("half"), defender="scripted:half", out=tmp_path / "x")
        entry = check_entry(folder, isolated=False)
        assert entry.method.kind == "scripted"
        assert not entry.policies
        assert not entry.training.seeds
        assert entry.reported is not None
        assert entry.reported.clean.mean > 0

    def test_names_and_folders_are_plain(self, finished: Path, draft: Path) -> None:
        with pytest.raises(EntryError, match="short name"):
            About("../stub")
        with pytest.raises(EntryError, match="exists already"):
            new_entry(finished, About("stub"), defender=DEFENDER, out=draft)

    def test_an_unfinished_run_is_refused(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(EntryError, match="no finished study"):
            new_entry(tmp_path, About("stub"))
        summary = json.loads((finished / "summary.json").read_text())
        (tmp_path / "summary.json").write_text(json.dumps({**summary, "missing": [{}]}))
        with pytest.raises(EntryError, match="--resume"):
            new_entry(tmp_path, About("stub"))


class TestSubmit:
    def test_it_is_copied_whole(self, draft: Path, board: Path) -> None:
        (folder,) = all_entries(board)
        assert folder == board / "Tally2-adv1-v0" / "stub"
        there = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert there == {p.relative_to(draft): p.read_bytes() for p in draft.rglob("*") if p.is_file()}
        assert list(read_board(board)) == [tally().id]

    def test_it_never_overwrites(self, draft: Path, board: Path) -> None:
        with pytest.raises(EntryError, match="never overwritten"):
            submit_entry(draft, board, isolated=False)

    def test_only_the_board_verifies(self, draft: Path, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        _verify(folder, work=tmp_path / "work")
        with pytest.raises(EntryError, match="leave them out"):
            submit_entry(folder, tmp_path / "other", isolated=False)

    def test_evaluate_submits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        (tmp_path / "board").mkdir()
        monkeypatch.setattr(new_module, "content_dir", lambda _: tmp_path / "board")
        order = [
            "--algo",
            DEFENDER,
            "--env",
            tally().id,
            "--budget",
            "stub",
            "--protocol",
            "stub-suite",
            "--workers",
            "1",
        ]

        def call(*more: str) -> int:
            return run_command(evaluate.main, prog="evaluate", args=[*order, "--out", str(tmp_path / "run"), *more])

        assert call("--submit", "Bad Name") == 2
        assert call("--submit", "stub", "--env", "Rendezvous5-adv1-v0", tally().id) == 2
        assert not (tmp_path / "run").exists()
        assert call("--submit", "stub") == 0
        (entry,) = read_board(tmp_path / "board")[tally().id]
        assert entry.entry == "stub"
        assert entry.reported is not None
        assert "--submit" not in str(entry.reported.command)
        assert call("--submit", "stub", "--resume") == 2
        assert "never overwritten" in capsys.readouterr().err


class TestVerify:
    def test_it_attacks_anew(self, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        (entry,) = _verify(folder, work=tmp_path / "work")
        found, reported = entry.verified, entry.reported
        assert found is not None
        assert reported is not None
        assert len(found.cells) == 2
        assert found.cells_total == 4
        assert len({c.phi for c in found.cells}) == 1
        assert found.salt_sha256 == salt_hash(SALT)
        assert found.attackers_sha256 == reported.attackers_sha256
        assert "1 of the protocol's partitions" in found.provisional
        assert found.clean.mean != reported.clean.mean  # other episodes
        assert check_entry(folder, isolated=False) == entry
        assert entry.history == []

    def test_the_salt_decides_all_that_is_drawn(self, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        (first,) = _verify(folder, work=tmp_path / "1")
        (again,) = _verify(folder, work=tmp_path / "2")
        (other,) = _verify(folder, work=tmp_path / "3", salt=b"t" * 32)
        assert first.verified is not None
        assert again.verified is not None
        assert other.verified is not None
        assert again.verified.cells == first.verified.cells
        assert again.verified.clean == first.verified.clean != other.verified.clean

    def test_what_it_replaces_is_kept(self, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        (first,) = _verify(folder, work=tmp_path / "1")
        (full,) = _verify(folder, work=tmp_path / "2", effort=Effort("stub-suite", "stub", partitions=None))
        assert full.verified is not None
        assert first.verified is not None
        assert len(full.verified.cells) == full.verified.cells_total == 4
        assert full.verified.provisional == ""
        (old,) = full.history
        assert (old.kind, old.table, old.worst) == ("verify", "verified", first.verified.worst)

    def test_seeds_of_attackers_are_not_published(self, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        _verify(folder, work=tmp_path / "work")
        table = pd.read_parquet(folder / "verified" / "episodes.parquet")
        assert set(table["attacker_seed"].dropna()) == {1}
        played = pd.read_json(next((tmp_path / "work" / "jobs").glob("*/job.json")), typ="series")
        assert played["params"]["seed"] >= 2**31 if played["kind"] == "attack" else True

    def test_entries_meet_each_others_attackers(self, board: Path, finished: Path, tmp_path: Path) -> None:
        half = new_entry(finished, About("half"), defender="scripted:half", out=tmp_path / "half")
        submit_entry(half, board, isolated=False)
        both = _verify(*all_entries(board), work=tmp_path / "work")
        assert [e.entry for e in both] == ["half", "stub"]
        assert all(e.verified is not None and "transfer" in e.verified.attackers for e in both)

    def test_a_bad_answer_is_the_policys_failure(
        self, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder,) = all_entries(board)
        from mir2bench.evaluation import work

        load = work.load_policy

        class Flaw:
            """Returns NaN to seed 1's team whenever some agent is adversarial and the first episode is long."""

            def __init__(self, policy):
                self.policy = policy

            def __getattr__(self, name):
                return getattr(self.policy, name)

            def act(self, obs, carry, mask=None, *, rng, deterministic=True):
                actions, carry = self.policy.act(obs, carry, mask, rng=rng, deterministic=deterministic)
                return actions * np.nan, carry

        def load_flawed(path, variant):
            return Flaw(load(path, variant)) if str(path).endswith("seed1") else load(path, variant)

        monkeypatch.setattr(work, "load_policy", load_flawed)
        (entry,) = _verify(folder, work=tmp_path / "work")
        found = entry.verified
        assert found is not None
        assert found.failures > 0
        floor = tally().floor.score
        assert {c.seed: (c.clean, c.worst) for c in found.cells}[1] == (floor, floor)
        assert {c.seed: c.clean for c in found.cells}[0] > floor
        assert check_entry(folder, isolated=False) == entry

    def test_a_fault_of_the_board_is_not_the_policys(
        self, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder,) = all_entries(board)
        from mir2bench.evaluation import work

        monkeypatch.setitem(work._WORK, "attack", lambda *_: 1 / 0)
        with pytest.raises(StudyError, match="for a reason of ours, and nothing was written: ZeroDivisionError"):
            _verify(folder, work=tmp_path / "work")
        assert read_entry(folder).verified is None

    @pytest.mark.parametrize("blame", [True, False])
    def test_running_out_of_processor_time_is_the_policys_failure(
        self, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blame: bool
    ) -> None:
        (folder,) = all_entries(board)

        def stop(task, order, limits, meanwhile=None):
            from mir2bench.leaderboard.sandbox import TimeoutFailure

            if task == "inspect":
                return
            if task == "attack":
                Path(order["root"], "study.json").write_text("{}")
            raise TimeoutFailure("it took too long and was stopped.", blame=blame)

        monkeypatch.setattr(verify_module, "run_limited", stop)
        monkeypatch.setattr(verify_module, "check_entry", lambda f, **_: check_entry(f, isolated=False))
        if not blame:
            before = (folder / "entry.json").read_bytes()
            with pytest.raises(StudyError, match="not verified: it took too long.* no verdict on the entry"):
                verify_entries([folder], tmp_path / "work", SALT, EFFORT, tell=lambda _: None)
            assert (folder / "entry.json").read_bytes() == before
            return
        (entry,) = verify_entries([folder], tmp_path / "work", SALT, EFFORT, tell=lambda _: None)
        assert entry.verified is not None
        assert entry.verified.worst is not None
        assert entry.verified.worst.normalized == 0.0
        assert entry.verified.clean.normalized == 0.0


class TestChallenge:
    def _adversaries(self, folder: Path, entry: Entry, value: float, where: Path) -> list[Path]:
        """A bundle whose adversary always pays `value`, for the verified partition."""
        assert entry.verified is not None
        phi = entry.verified.cells[0].phi
        policy = _network(tally(), 1, 0, 0.0)
        last = [p for p in policy.actor.parameters() if p.ndim == 1][-1]
        with torch.no_grad():
            last.fill_(float(np.arctanh(np.clip(value, -0.9999999, 0.9999999))))
        facts = {"variant": tally(), "algorithm": "mine", "config": {}, "seed": 0, "extra": {"phi": phi}}
        return [save_policy(policy, where, **facts)]

    def test_a_stronger_attack_lowers_the_row(self, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        (before,) = _verify(folder, work=tmp_path / "work")
        assert before.verified is not None
        assert before.verified.worst is not None
        content = json.loads((folder / "entry.json").read_text())
        mine = self._adversaries(folder, before, -1.0, tmp_path / "mine")
        weak = self._adversaries(folder, before, 1.0, tmp_path / "weak")
        with pytest.raises(EntryError, match="not stronger"):
            challenge_entry(folder, weak, About("weak"), SALT, isolated=False)
        with pytest.raises(EntryError, match="another salt"):
            challenge_entry(folder, mine, About("mine"), b"t" * 32, isolated=False)
        assert json.loads((folder / "entry.json").read_text()) == content
        # The traitor `spoil` already plays -1, so nothing can be stronger: as if it had done no harm.
        self._tame_spoil(folder)
        for wrong, message in (
            (About("mine", paper="http://example.org"), "links.paper: must be a link that begins with https"),
            (About("mine", authors=["x" * 100]), "authors.0"),
        ):
            with pytest.raises(EntryError, match=message):
                challenge_entry(folder, mine, wrong, SALT, isolated=False)
            assert not (folder / "challenges").exists()
        after, lowered = challenge_entry(folder, mine, About("mine", authors=["Eve"]), SALT, isolated=False)
        assert lowered >= 1
        assert after.verified is not None
        assert after.verified.worst is not None
        assert after.verified.worst.mean < before.verified.worst.mean + 1e-6
        assert "challenge:mine" in after.verified.attackers
        (old,) = after.history
        assert old.kind == "challenge"
        assert old.worst is not None
        assert old.worst.mean > after.verified.worst.mean
        assert check_entry(folder, isolated=False) == after
        with pytest.raises(EntryError, match="already"):
            challenge_entry(folder, mine, About("mine"), SALT, isolated=False)

    def _tame_spoil(self, folder: Path) -> None:
        from mir2bench.leaderboard.check import read_episodes
        from mir2bench.leaderboard.scoring import scores_of
        from mir2bench.leaderboard.write import write_verified

        entry = read_entry(folder)
        assert entry.verified is not None
        rows = read_episodes(folder / "verified" / "episodes.parquet")
        rows.loc[rows["attacker"] == "spoil", "return"] = float(rows["return"].max())
        kept = json.loads(entry.verified.model_dump_json())
        study = {"protocol": {"name": "stub-suite"}, "attackers": {}, "budget": kept["budget"], "mir2bench": "0.1.0"}
        found = scores_of(rows, None, tally(), study, commit=None)
        names = ("salt_sha256", "cells_total", "failures")
        write_verified(entry, folder, {**found, **{n: kept[n] for n in names}}, rows, "correction", "a test")
        content = json.loads((folder / "entry.json").read_text())
        (folder / "entry.json").write_text(json.dumps({**content, "history": []}))
        record(read_entry(folder), folder.parent.parent)

    def test_only_verified_rows_can_be_challenged(self, board: Path, tmp_path: Path) -> None:
        (folder,) = all_entries(board)
        with pytest.raises(EntryError, match="not verified yet"):
            challenge_entry(folder, [tmp_path], About("mine"), SALT, isolated=False)


class TestSalt:
    def test_it_is_made_once_and_kept_private(self, tmp_path: Path) -> None:
        salt = read_salt(tmp_path / "a" / "salt")
        assert len(salt) == 32
        assert read_salt(tmp_path / "a" / "salt") == salt
        assert (tmp_path / "a" / "salt").stat().st_mode & 0o077 == 0
        (tmp_path / "short").write_bytes(b"1234")
        with pytest.raises(ConfigError, match="32 or more"):
            read_salt(tmp_path / "short")

    def test_its_seeds_meet_no_others(self) -> None:
        known = {*evaluation_seeds(5000), *validation_seeds(5000)}
        for number in range(200):
            draw = salted_draw(bytes([number]) * 32, tally(), SUITE, 1)
            assert draw.first_episode > max(known)
            assert draw.first_attack >= 2**31
            assert draw.first_attack + 10**9 + 100_000 < 2**32
        assert len({salted_draw(bytes([n]) * 32, tally(), SUITE, 1).partitions for n in range(50)}) == 2
        assert salted_draw(SALT, tally(), SUITE, None).partitions == tuple(
            phi_text(Partition.of(2, [i])) for i in range(2)
        )


def test_the_command_line(board: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "row"
    assert main(["new", "scripted:half", "--name", "half", "--env", tally().id, "--out", str(folder)]) == 0
    assert new_sanity_row("half", About("half"), tally().id, tmp_path / "again").exists()
    assert main(["new", str(tmp_path), "--name", "x"]) == 2
    assert main(["submit", str(tmp_path / "none")]) == 2
    assert main(["verify"]) == 2
    assert main(["verfy"]) == 2
    said = capsys.readouterr()
    assert "Did you mean `verify`?" in said.err
    assert len(said.err.splitlines()) == 4
    assert main([]) == 0
    assert main(["new", str(folder), "--name", "../x"]) == 2
    shutil.rmtree(folder)
