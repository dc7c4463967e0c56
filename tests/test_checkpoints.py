"""Trainings that were killed end as if they had not been."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learners import team_weights

from mir2bench.defenders import maddpg, make_defender
from mir2bench.errors import CheckpointError, ConfigError, StudyError
from mir2bench.evaluation import checkpoints, files, work
from mir2bench.evaluation.checkpoints import Checkpoint, pack, unpack
from mir2bench.evaluation.single import reclaim_folder
from mir2bench.evaluation.work import Recorder
from mir2bench.learning import loop
from mir2bench.learning.tasks import TeamTask
from mir2bench.registration import spec

RENDEZVOUS, SKIRMISH = "mir2bench/Rendezvous5-adv1-v0", "mir2bench/Skirmish-4m_vs_3m-adv1-v0"
SMALL: dict[str, Any] = {"hidden": 8, "worlds": 4, "batch_size": 16, "warmup": 40}
WHOLE: dict[str, Any] = {**SMALL, "recurrent": True, "batch_size": 2}
STEPS = 480  # 120 rounds


class Crash(Exception):
    """Instead of a kill."""


class Eager(Checkpoint):
    """Saves in every 25th round, and in the one after which the training dies."""

    rounds = 0
    die = -1

    def due(self, size: int) -> bool:
        Eager.rounds += 1
        return Eager.rounds % 25 == 0 or Eager.rounds == Eager.die

    def save(self, state: Any) -> None:
        super().save(state)
        if Eager.rounds == Eager.die:
            raise Crash


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> None:
    monkeypatch.setattr(work, "Checkpoint", Eager)
    monkeypatch.setattr(files, "_sync", lambda path: None)
    monkeypatch.setattr(loop, "REPORTS", 3)
    monkeypatch.setattr(maddpg, "CURVE_EPISODES", 1)


def _train(
    folder: Path, algorithm: str, variant: str, *, die: int = -1, steps: int = STEPS, seed: int = 5, **settings: Any
) -> tuple[Any, list[dict[str, float]], list[str]]:
    """Return the policy, the curve without its clock, and what was said."""
    world, said = spec(variant), []
    config = dataclasses.asdict(make_defender(algorithm, world, settings).config)
    Eager.rounds, Eager.die = 0, die
    with Recorder(
        folder / "curve.json", folder / "logs", lambda p: said.append(p.note) if p.note else None
    ) as recorder:
        policy = work.train(
            algorithm,
            config,
            world,
            seed=seed,
            steps=steps,
            recorder=recorder,
            checkpoint=folder / "checkpoint",
            anew="anew" in folder.name,
        )
    rows = json.loads((folder / "curve.json").read_text())
    return policy, [{name: row[name] for name in row if name != "seconds"} for row in rows], said


def _weights(policy: Any) -> list[torch.Tensor]:
    adversary = policy.training_adversary
    return team_weights(policy) + ([] if adversary is None else list(adversary.actor.parameters()))


def _assert_same(one: tuple[Any, Any, Any], other: tuple[Any, Any, Any]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(_weights(one[0]), _weights(other[0]), strict=True))
    assert one[1] == other[1]


class TestContinuing:
    @pytest.mark.parametrize(
        ("algorithm", "variant", "settings"),
        [
            ("maddpg", RENDEZVOUS, {**SMALL, "final_lr": 0.1, "n_steps": 3, "capacity": 400}),
            ("mir2", RENDEZVOUS, {**SMALL, "club_interval": 3}),
            ("mir2", SKIRMISH, WHOLE),
            ("maddpg", "mir2bench/Toy3-adv1-v0", SMALL),
            ("ernie", "mir2bench/Toy3-adv1-v0", SMALL),
            ("m3ddpg", "mir2bench/Toy3-adv1-v0", SMALL),
            ("romq", "mir2bench/Toy3-adv1-v0", {**SMALL, "official": True}),
            ("romax", "mir2bench/Toy3-adv1-v0", SMALL),
            ("advtrain", "mir2bench/Toy3-adv1-v0", SMALL),
        ],
    )
    def test_weights_and_curves_are_those_of_a_training_that_was_left_alone(
        self,
        algorithm: str,
        variant: str,
        settings: dict[str, Any],
        toy: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Eager, "due", lambda self, size: False)
            alone = _train(tmp_path / "alone", algorithm, variant, **settings)
        assert not (tmp_path / "alone" / "checkpoint").exists()
        for die in (5, 70):  # in the warm-up, and 70 rounds later
            with pytest.raises(Crash):
                _train(tmp_path / "killed", algorithm, variant, die=die, **settings)
        again = _train(tmp_path / "killed", algorithm, variant, **settings)
        _assert_same(alone, again)
        assert again[2] == ["continued from its checkpoint at step 300 of 480"]
        assert len(again[1]) == 3

    def test_a_real_kill(self, tmp_path: Path) -> None:
        here = Path(__file__).parent
        code = (
            "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_checkpoints as t\n"
            "t.work.Checkpoint, t.loop.REPORTS, t.maddpg.CURVE_EPISODES, saves = t.Eager, 3, 1, []\n"
            "write = t.checkpoints._write\n"
            "def die(path, *rest):\n"
            "    saves.append(write(path, *rest))\n"
            "    if len(saves) == 3: os.kill(os.getpid(), 9)\n"
            "t.checkpoints._write = die\n"
            "t._train(Path(sys.argv[2]), 'mir2', t.RENDEZVOUS, **t.SMALL)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, str(here), str(tmp_path / "killed")]
        assert subprocess.run(command, env=environment, check=False).returncode == -9
        assert len(list((tmp_path / "killed").glob(".checkpoint.*"))) == 1  # died while it wrote
        again = _train(tmp_path / "killed", "mir2", RENDEZVOUS, **SMALL)
        assert again[2] == ["continued from its checkpoint at step 200 of 480"]
        _assert_same(_train(tmp_path / "alone", "mir2", RENDEZVOUS, **SMALL), again)

    def test_an_engine_that_does_not_repeat_itself_is_found_out(
        self, toy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(Crash):
            _train(tmp_path / "killed-anew", "maddpg", toy[0], die=70, **SMALL)
        engine: Any = spec(toy[0]).engine_class
        step = engine.step
        monkeypatch.setattr(engine, "step", lambda self, actions: (step(self, actions), self.obs.__iadd__(1.0)))
        said = _train(tmp_path / "killed-anew", "maddpg", toy[0], **SMALL)[2]
        assert len(said) == 1
        assert said[0].startswith("begun anew: mir2bench/Toy3-adv0-v0 does not come back to where the checkpoint left")


class TestRefusing:
    @pytest.fixture
    def killed(self, toy: list[str], tmp_path: Path) -> Path:
        with pytest.raises(Crash):
            _train(tmp_path / "killed", "maddpg", toy[0], die=90, **SMALL)
        return tmp_path / "killed" / "checkpoint"

    @pytest.mark.parametrize(
        ("options", "differing"),
        [
            ({"seed": 6}, "seed: 5 there, 6 here"),
            ({"steps": 900}, "steps: 480 there, 900 here"),
            ({"hidden": 9}, "config.hidden: 8 there, 9 here"),
            ({"variant": "mir2bench/Toy3-adv1-v0"}, "variant.id"),
            ({"algorithm": "mir2"}, 'algorithm: "maddpg" there, "mir2" here'),
        ],
    )
    def test_another_training(self, options: dict[str, Any], differing: str, killed: Path, toy: list[str]) -> None:
        call = {"algorithm": "maddpg", "variant": toy[0], **SMALL, **options}
        with pytest.raises(CheckpointError, match=f"is of another training; they differ in {differing}"):
            _train(killed.parent, **call)

    def test_other_code(self, killed: Path, toy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoints, "_own_code", lambda: "edited")
        with pytest.raises(CheckpointError, match=r'code.mir2bench: "\w+" there, "edited" here'):
            _train(killed.parent, "maddpg", toy[0], **SMALL)

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
    def test_damage_is_told_and_the_training_begins_anew(self, damage: str, killed: Path, toy: list[str]) -> None:
        content = bytearray(killed.read_bytes())
        content[-100] ^= 1
        spoiled = {
            "flip": bytes(content),
            "cut": bytes(content[:-50]),
            "empty": b"",
            "foreign": b"\x02" + b"\0" * 7 + b"{}",
        }
        folder = killed.parent.with_name("anew")
        folder.mkdir()
        (folder / "checkpoint").write_bytes(spoiled[damage])
        again = _train(folder, "maddpg", toy[0], **SMALL)
        assert again[2][0].startswith(f"begun anew: {folder / 'checkpoint'} is ")
        if damage == "flip":
            _assert_same(_train(killed.parent, "maddpg", toy[0], **SMALL), again)


class TestKeeping:
    def _checkpoint(self, path: Path, said: list[str] | None = None) -> Checkpoint:
        class Nothing:
            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: Any) -> None:
                assert state == {}

        return Checkpoint(path, {"seed": 0}, Nothing(), [].append if said is None else said.append)

    def test_no_room_is_told_and_the_one_before_stays(self, tmp_path: Path) -> None:
        said: list[str] = []
        kept = self._checkpoint(tmp_path / "c", said)
        kept.save({"x": np.arange(3)})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            kept.save({"x": np.arange(10_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(said) == 1
        assert said[0].startswith(f"no checkpoint was kept: cannot write {tmp_path / 'c'}: the file would exceed the")
        assert [p.name for p in tmp_path.iterdir()] == ["c"]
        assert self._checkpoint(tmp_path / "c").load()["x"].tolist() == [0, 1, 2]  # type: ignore[index]

    def test_they_take_no_more_than_their_share_of_the_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0
        monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)

        def write(*_: Any) -> None:
            nonlocal now
            now += 2.0

        monkeypatch.setattr(checkpoints, "replace_file", write)
        kept = self._checkpoint(tmp_path / "c")
        saved = []
        while now < 2_000:
            if kept.due(10**8):
                saved.append(now)
                kept.save({})
            now += 1.0
        assert saved[:3] == [60.0, 400.0, 600.0]
        assert 2.0 * len(saved) <= 0.01 * now

    def test_states_come_back_as_they_were(self) -> None:
        state = {
            "whole": [1, 2.5, None, True, "x", 2**100],
            "by number": {0: {"step": torch.tensor(3.0)}, 1: np.zeros((0, 2), np.int8)},
            "scalar": np.float64(0.1),
            "transposed": np.arange(6).reshape(2, 3).T,
            "shared": torch.ones(2, requires_grad=True),
        }
        tree, arrays = pack(state)
        back = unpack(json.loads(json.dumps(tree)), arrays)
        assert back["whole"] == state["whole"]
        assert back["by number"][0]["step"].shape == ()
        assert back["by number"][1].shape == (0, 2)
        assert back["scalar"] == 0.1
        assert (back["transposed"] == state["transposed"]).all()

    def test_a_learner_with_state_of_its_own_kind_trains_without(self, toy: list[str], tmp_path: Path) -> None:
        class Odd(maddpg.MaddpgLearner):
            def __init__(self, task: TeamTask, config: maddpg.Config, seed: int) -> None:
                super().__init__(task, config, seed)
                self.memory = iter(range(10))

        class Defender(maddpg.MADDPG):
            Learner = Odd

        class Never:
            def load(self) -> None:
                raise AssertionError

        made = Defender(maddpg.Config(**SMALL))
        made.train(spec(toy[0]), seed=0, budget=80, checkpoint=Never())  # type: ignore[arg-type]


class TestFolders:
    def test_what_is_continued_must_be_there_and_unfinished(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="--resume needs --out"):
            reclaim_folder(None)
        with pytest.raises(StudyError, match="holds no training that could be continued"):
            reclaim_folder(tmp_path / "none")
        assert reclaim_folder(tmp_path) == tmp_path
        (tmp_path / "bundle").mkdir()
        with pytest.raises(StudyError, match="is finished: its policy is in"):
            reclaim_folder(tmp_path)
