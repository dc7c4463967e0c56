"""The study folder: whole or absent, one study, one coordinator, and a disk that fails."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_stubs import BUDGET, DEFENDER, PROTOCOL, tally

import mir2bench
from mir2bench.errors import StudyError
from mir2bench.evaluation import files, work
from mir2bench.evaluation.contenders import Contender
from mir2bench.evaluation.executor import Failure, execute
from mir2bench.evaluation.files import StorageError, plain, replace_file, write_json
from mir2bench.evaluation.jobs import Job, plan
from mir2bench.evaluation.store import Store
from mir2bench.evaluation.study import Study
from mir2bench.learning.progress import Progress

CONFIG = {"budget": {"name": "quick", "episodes": 32}, "contenders": [{"name": "mir2", "seeds": [0]}]}
JOB = Job("rollout", "d", 0, "a job", tally(), {"x": 1})


class Silent:
    """A listener that only counts."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def started(self, job: Job) -> None: ...

    def progress(self, job: Job, progress: Progress) -> None: ...

    def finished(self, job: Job) -> None:
        self.ended.append(job.kind)

    def failed(self, job: Job, failure: Failure) -> None:
        self.ended.append(failure.message)


def _open(root: Path, config: Any = CONFIG, **options: Any) -> Store:
    store = Store(root)
    store.open(config, **options)
    return store


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestFolder:
    def test_a_finished_job_is_found_again(self, tmp_path: Path) -> None:
        with _open(tmp_path / "s") as store:
            assert not store.is_finished(JOB.key)
            folder = store.begin(JOB.key)
            write_json(folder / "result.json", [1.5])
            assert not store.is_finished(JOB.key)
            store.commit(JOB, folder, wall_s=1.0, cpu_s=0.5)
        with _open(tmp_path / "s", resume=True) as store:
            assert store.is_finished(JOB.key)
            assert store.read(JOB.key, "result.json") == [1.5]
            assert store.read(JOB.key, "nothing.json") is None
            card = store.read(JOB.key, "job.json")
        assert (card["key"], card["label"], card["cpu_s"]) == (JOB.key, "a job", 0.5)

    def test_there_must_be_a_study_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match=r"/s holds no study that could be resumed. Check --out, or leave"):
            _open(tmp_path / "s", resume=True)
        assert not (tmp_path / "s").exists()

    def test_what_a_killed_job_left_is_swept(self, tmp_path: Path) -> None:
        with _open(tmp_path / "s") as store:
            (store.begin(JOB.key) / "half").write_text("x")
        with _open(tmp_path / "s", resume=True) as store:
            assert not store.is_finished(JOB.key)
            assert list(store.jobs.iterdir()) == []

    def test_the_same_study_needs_resume(self, tmp_path: Path) -> None:
        _open(tmp_path / "s").close()
        with pytest.raises(StudyError, match="holds this study already. Add --resume"):
            _open(tmp_path / "s")

    def test_another_study_is_named(self, tmp_path: Path) -> None:
        _open(tmp_path / "s", command="python -m mir2bench.evaluate").close()
        other = {
            "budget": {"name": "standard", "episodes": 32},
            "contenders": [{"name": "maddpg"}, {"name": "mir2", "seeds": [0]}],
        }
        with pytest.raises(StudyError) as caught:
            _open(tmp_path / "s", other, resume=True)
        text = str(caught.value)
        assert 'differ in budget.name: "quick" there, "standard" here; contenders.maddpg: absent there, present' in text
        assert text.endswith("It was started with: python -m mir2bench.evaluate.")

    def test_other_peoples_files(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(StudyError, match=r"is not empty and holds no study: thesis.tex. Choose a new folder"):
            _open(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
        with pytest.raises(StudyError, match="is a file, not a folder"):
            _open(tmp_path / "thesis.tex")

    def test_killed_before_the_study_was_written(self, tmp_path: Path) -> None:
        (tmp_path / ".lock").touch()
        (tmp_path / ".study.json.1.tmp").touch()
        _open(tmp_path).close()
        assert json.loads((tmp_path / "study.json").read_text())["config"] == CONFIG

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        _open(tmp_path / "s").close()
        (tmp_path / "s" / "study.json").write_text("{")
        with pytest.raises(StudyError, match=r"study.json cannot be read"):
            _open(tmp_path / "s", resume=True)


TRAINING = Job("train", "d", 0, "a training", tally(), {"x": 2})
ATTACK = Job("attack", "d", 0, "an attack", tally(), {"x": 3}, {"victim": TRAINING.key})
PLAY = Job("rollout", "d", 0, "a play", tally(), {"x": 4}, {"victim": TRAINING.key, "adversary": ATTACK.key})


class TestChangedResults:
    """A training, an attack on its result, a roll-out of both, and another roll-out that needs nothing."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        store = _open(tmp_path / "s")
        for job in (TRAINING, ATTACK, PLAY, JOB):
            folder = store.begin(job.key)
            (folder / "policy").mkdir()
            (folder / "policy" / "weights").write_text(job.label)
            store.commit(job, folder, wall_s=1.0, cpu_s=1.0)
        return store

    @staticmethod
    def _labels(store: Store) -> list[list[str]]:
        with store:
            return [[job.label for job in part] for part in store.drop_changed((TRAINING, ATTACK, PLAY, JOB))]

    def _drop(self, store: Store) -> list[list[str]]:
        dropped = self._labels(store)
        gone = [j.label for j in (TRAINING, ATTACK, PLAY, JOB) if not store.is_finished(j.key)]
        assert gone == [label for part in dropped for label in part]
        return dropped

    def test_nothing_was_changed(self, store: Store) -> None:
        (store.folder(JOB.key) / "note-of-mine.txt").touch()
        assert self._drop(store) == [[], []]

    def test_whatever_rests_on_an_edited_file_goes_too(self, store: Store) -> None:
        (store.folder(TRAINING.key) / "policy" / "weights").write_text("better")
        assert self._drop(store) == [["a training"], ["an attack", "a play"]]

    def test_a_lost_file(self, store: Store) -> None:
        (store.folder(ATTACK.key) / "policy" / "weights").unlink()
        assert self._drop(store) == [["an attack"], ["a play"]]

    def test_something_else_in_its_place(self, store: Store, tmp_path: Path) -> None:
        (store.folder(TRAINING.key) / "job.json").unlink()
        for job in (PLAY, JOB):
            shutil.rmtree(store.folder(job.key))
        store.folder(PLAY.key).write_text("a file")
        store.folder(JOB.key).symlink_to(tmp_path)
        assert self._labels(store) == [["a training", "a play", "a job"], ["an attack"]]
        assert tmp_path.is_dir()
        assert list(store.jobs.iterdir()) == []

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}'])
    def test_a_damaged_card(self, store: Store, text: str) -> None:
        (store.folder(JOB.key) / "job.json").write_text(text)
        assert self._drop(store) == [["a job"], []]

    def test_only_what_is_dear_waits_for_the_disk(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[Path] = []
        monkeypatch.setattr(files, "_sync", synced.append)
        with store:
            for job in (PLAY, ATTACK):
                store.commit(dataclasses.replace(job, params={"x": 5}), store.begin("new"), wall_s=1.0, cpu_s=1.0)
                assert bool(synced) == (job is ATTACK)


class TestLock:
    def test_one_coordinator(self, tmp_path: Path) -> None:
        with _open(tmp_path / "s"), pytest.raises(StudyError, match=f"process {os.getpid()} works on .*s right now"):
            _open(tmp_path / "s", resume=True)
        _open(tmp_path / "s", resume=True).close()

    def test_a_dead_coordinator_holds_no_lock(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from pathlib import Path; from mir2bench.evaluation.store import Store\n"
            "Store(Path(sys.argv[1])).open({}); os.kill(os.getpid(), 9)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False)
        assert done.returncode == -9
        _open(tmp_path / "s", {}, resume=True).close()


class TestWriting:
    def test_nan_and_numpy_become_plain(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", {"x": (np.float32(0.5), float("nan"), np.arange(2)), 3: None})
        assert json.loads((tmp_path / "a.json").read_text()) == {"x": [0.5, None, [0, 1]], "3": None}
        assert plain(np.inf) is None

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_json(tmp_path / "a.json", 1)
        monkeypatch.setattr(files.os, "fsync", _full)
        with pytest.raises(StorageError, match=r"cannot write .*a.json: the disk is full. Free some space"):
            write_json(tmp_path / "a.json", 2)
        assert json.loads((tmp_path / "a.json").read_text()) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

    def test_interrupted_in_the_middle(self, tmp_path: Path) -> None:
        def stop(path: Path) -> None:
            path.write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            replace_file(tmp_path / "a", stop)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("number", "advice"),
        [
            (errno.EROFS, "read-only. Choose another folder with --out"),
            (errno.EACCES, "no permission to write"),
            (errno.EDQUOT, "quota is used up"),
            (errno.EMFILE, "Too many open files. Check the folder"),
        ],
    )
    def test_reasons(self, number: int, advice: str) -> None:
        error = files.storage_error(OSError(number, os.strerror(number), "/a/b"), "/else")
        assert "cannot write /a/b: " in str(error)
        assert advice in str(error)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="a part of the path is a file"):
            _open(tmp_path / "file" / "s")

        def read_only(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system", "/there")

        monkeypatch.setattr(Path, "mkdir", read_only)
        with pytest.raises(StorageError, match="cannot write /there: the file system is read-only"):
            _open(tmp_path / "s")


class TestFullDisk:
    """Whatever cannot be written counts as not done, and stops the study."""

    def _jobs(self) -> list[Job]:
        contender = Contender("stub", "trained", DEFENDER, {"gain": 1.0, "trouble": ""}, (0,))
        return plan(PROTOCOL, BUDGET, [tally()], [contender])

    @pytest.mark.parametrize("where", ["fsync", "rename"])
    def test_while_a_job_is_put_into_place(
        self, where: str, fresh_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = self._jobs()
        listener = Silent()
        with _open(tmp_path / "s") as store:
            monkeypatch.setattr(files.os, where, _full)
            with pytest.raises(StorageError, match="the disk is full"):
                execute(jobs, store, workers=1, listener=listener)
            monkeypatch.undo()
            assert listener.ended == []
            assert list(store.jobs.iterdir()) == []
            assert execute(jobs, store, workers=1, listener=listener) == {}
        assert len(listener.ended) == len(jobs)

    def test_while_a_policy_is_saved(
        self, fresh_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(work, "save_policy", _full)
        with _open(tmp_path / "s") as store, pytest.raises(StorageError, match="policy: the disk is full"):
            execute(self._jobs(), store, workers=1, listener=Silent())

    def test_in_a_worker_process(self, tmp_path: Path) -> None:
        """A process whose files may not grow beyond a few bytes: every write of a worker really fails."""
        code = (
            "import resource, sys; from pathlib import Path\n"
            "import test_store, mir2bench\n"
            "from mir2bench.evaluation.executor import execute\n"
            "if __name__ == '__main__':\n"
            "    store = test_store._open(Path(sys.argv[1]))\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
            "    try:\n"
            "        execute(test_store.TestFullDisk()._jobs(), store, workers=2, listener=test_store.Silent())\n"
            "    except mir2bench.errors.StudyError as error:\n"
            "        print(error)\n"
        )
        script = tmp_path / "limited.py"
        script.write_text(code)
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "s")],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert "the file would exceed the size limit of this process" in done.stdout, done.stderr
        assert list((tmp_path / "s" / "jobs").glob("*/job.json")) == []

    def test_results_are_written_last(
        self, fresh_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the report failing, no summary says that the study is complete."""
        mir2bench.register(tally())
        study = Study.resolve(["scripted:half"], variants=[tally().id], budget=BUDGET, protocol=PROTOCOL)
        monkeypatch.setattr("mir2bench.evaluation.report.draw_all", _full)
        with pytest.raises(StorageError, match=r"report: the disk is full"):
            study.run(tmp_path / "s", workers=1)
        assert not (tmp_path / "s" / "summary.json").exists()
        assert not (tmp_path / "s" / "report").exists()
        assert not list((tmp_path / "s").glob(".report*"))
