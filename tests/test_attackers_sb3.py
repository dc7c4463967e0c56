"""PPO of Stable-Baselines3 as an attacker: strength, the environment it sees, reproducibility, and its bundles."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from games import Brittle, Echo, Match, Matching, game
from safetensors.torch import load_file, save_file

import mir2bench
from mir2bench.attackers import is_trained, make_attacker
from mir2bench.attackers.sb3 import Config, Sb3PpoAttacker, _AdversaryVecEnv
from mir2bench.attackers.staggered import StaggeredTask
from mir2bench.errors import ConfigError, PartitionError, PolicyError
from mir2bench.learning.architectures import JointMlp
from mir2bench.learning.progress import Progress
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import IdlePolicy, Policy, load_policy, save_policy
from mir2bench.registration import VariantSpec
from mir2bench.testing.games import planted

SMALL = Config(hidden=16, worlds=32, rollout=12)


def attack(
    variant: VariantSpec, victim: Policy, phi: Partition, *, config: Config = SMALL, seed: int = 0, budget: int = 1_000
) -> tuple[Any, list[Progress]]:
    reports: list[Progress] = []
    found = Sb3PpoAttacker(config).attack(variant, victim, phi, seed=seed, budget=budget, callback=reports.append)
    return found, reports


def equal(one: Any, other: Any) -> bool:
    weights, others = one.actor.state_dict(), other.actor.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


# --- strength ---


@pytest.mark.parametrize(("discrete", "budget"), [(True, 10_000), (False, 15_000)])
def test_a_planted_weakness_is_found(discrete: bool, budget: int) -> None:
    weakness = planted(discrete)
    found, reports = attack(weakness.variant, weakness.victim, weakness.phi, budget=budget)
    left = rollout(weakness.variant, weakness.victim, weakness.phi, found, range(100)).returns.mean()
    assert left == pytest.approx(weakness.worst)
    assert reports[-1].metrics["attacked_return"] == pytest.approx(weakness.worst)


def test_two_adversaries_at_once() -> None:
    """Without the trigger the two adversaries cost their share, 4 of 6. Pulled at once, 2/3 is left."""
    variant, phi = game(Echo, 3, adversaries=2), Partition((1, 1, 0))
    found, _ = attack(variant, Brittle(), phi, budget=15_000)
    assert isinstance(found.actor, JointMlp)
    assert rollout(variant, Brittle(), phi, found, range(50)).returns.mean() == pytest.approx(2 / 3)


@pytest.mark.parametrize("adversaries", [1, 2])
def test_masks_are_obeyed(toy: list[str], adversaries: int) -> None:
    """Training replaces illegal actions; roll-outs are strict, where one raises. Episodes end at random here."""
    variant = mir2bench.spec(toy[adversaries])
    phi = Partition.of(3, range(adversaries))
    found, _ = attack(variant, IdlePolicy(variant.layout), phi, budget=4_000)
    idle = rollout(variant, IdlePolicy(variant.layout), phi, IdlePolicy(variant.layout), range(50)).returns.mean()
    assert rollout(variant, IdlePolicy(variant.layout), phi, found, range(50)).returns.mean() < idle


# --- what it sees ---


def env_of(variant: VariantSpec, victim: Policy, phi: Partition, worlds: int = 4) -> tuple[Any, StaggeredTask]:
    task = StaggeredTask(variant, worlds, victim, phi, 0)
    task._cuts[:] = -1  # no early cuts, so that ends can be told
    return _AdversaryVecEnv(task, unit=2.0), task


def test_time_limits_are_told_apart_from_ends() -> None:
    spec = mir2bench.spec("Rendezvous5-adv2-v0")
    variant = replace(spec, horizon=3)
    env, task = env_of(variant, IdlePolicy(spec.layout), Partition.of(5, [1, 3]))
    obs = env.reset()
    assert obs.shape == (4, 60)
    assert env.action_space.shape == (4,)
    for step in (1, 2, 3):
        before = task.obs.copy()
        actions = np.random.default_rng(step).uniform(-1, 1, (4, 4)).astype(np.float32)
        obs, rewards, dones, infos = env.step(actions)
        assert dones.tolist() == [step == 3] * 4
        scaled = -np.array(task.worlds.engine.channels["team"]) * 3 / (spec.ceiling.score - spec.floor.score)
        assert rewards == pytest.approx(scaled / 2, rel=1e-5)
        if step < 3:
            assert infos == [{}] * 4
            assert np.array_equal(obs, task.obs.reshape(4, -1))
    assert [info["TimeLimit.truncated"] for info in infos] == [True] * 4
    last = np.stack([info["terminal_observation"] for info in infos])
    assert np.abs(last - before.reshape(4, -1)).max() < 0.6  # one step on from the last but one
    assert np.abs(last - obs).max() > 0.6  # and not the next episode's first


def test_true_ends_are_no_time_limits() -> None:
    env, _ = env_of(game(Match), Matching(), Partition((0, 1)))
    _, _, dones, infos = env.step(np.zeros((4, 1), np.float32))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 4


def test_worlds_stand_at_all_phases() -> None:
    variant = replace(game(Echo, 3), horizon=100)
    task = StaggeredTask(variant, 64, Brittle(), Partition((1, 0, 0)), 3)
    ends = np.zeros(64, int)
    for step in range(1, 301):
        task.step(np.zeros((64, 1), np.int64))
        assert not (task.terminated & task.truncated).any()
        ends += task.ended
        task.restart()
        if step == 100:
            assert ends.tolist() == [1] * 64  # each was cut once, some after few steps
    assert set(ends.tolist()) == {3}
    assert len(np.unique(task.worlds.elapsed)) > 30


# --- what it promises ---


def test_the_seed_determines_the_attack_and_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    np_state, torch_state, py_state = np.random.get_state(), torch.get_rng_state(), random.getstate()
    variant, phi = game(Match), Partition((0, 1))
    one, _ = attack(variant, Matching(), phi, seed=1)
    np.random.seed(7)  # neither the generators' state before it
    torch.manual_seed(7)
    found = Sb3PpoAttacker(SMALL).attack(variant, Matching(), phi, seed=1, budget=1_000)  # nor a callback matters
    assert equal(one, found)
    assert np.array_equal(np.random.get_state()[1], np.random.RandomState(7).get_state()[1])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(7).get_state())
    assert random.getstate() == py_state
    assert not equal(one, attack(variant, Matching(), phi, seed=2)[0])
    np.random.set_state(np_state)
    torch.set_rng_state(torch_state)


@pytest.mark.parametrize("budget", [1, 50, 999, 5_000])
def test_reported_steps_grow_and_stay_within_the_budget(budget: int) -> None:
    found, reports = attack(game(Echo, 3), Brittle(), Partition((1, 0, 0)), budget=budget)
    steps = [report.steps for report in reports]
    assert steps == sorted(steps)
    assert 0 < steps[0] <= steps[-1] <= budget
    best = [report.metrics["attacked_return"] for report in reports]
    now = [report.metrics["attacked_return/now"] for report in reports]
    assert best[-1] == min(best)
    assert all(b <= n + 1e-6 for b, n in zip(best, now, strict=True))
    assert found.n_agents == 1


# --- bundles ---


def test_a_bundle_is_played_without_stable_baselines3(tmp_path: Path) -> None:
    variant, phi = mir2bench.spec("Rendezvous5-adv2-v0"), Partition.of(5, [0, 3])
    found, _ = attack(variant, IdlePolicy(variant.layout), phi, budget=500)
    folder = save_policy(found, tmp_path / "b", variant=variant, algorithm="sb3-ppo", config={}, seed=0)
    loaded: Any = load_policy(folder)
    assert equal(found, loaded)
    obs = np.random.default_rng(0).random((6, 2, 30)).astype(np.float32)
    actions, _ = found.act(obs, None, rng=np.random.default_rng(0))
    assert actions.shape == (6, 2, 2)
    assert np.array_equal(loaded.act(obs, None, rng=np.random.default_rng(0))[0], actions)
    code = f"import sys, mir2bench; mir2bench.load_policy({str(folder)!r}); print('stable_baselines3' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs_dim": 7}, "sizes do not fit"),
        ({"hidden": [16, 0]}, "sizes do not fit"),
        ({"hidden": [16, 5_000]}, "sizes do not fit"),
        ({"hidden": [16] * 9}, "sizes do not fit"),
        ({"hidden": [8, 16]}, "known architecture"),  # not those of the weights
        ({"hidden": ["16", 16]}, "known architecture"),
        ({"n_agents": 2}, "sizes do not fit"),
        ({"discrete": True}, "sizes do not fit"),
        ({"depth": 2}, "known architecture"),
    ],
)
def test_a_damaged_bundle(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = bundle(tmp_path)
    text = json.loads((folder / "policy.json").read_text())
    text["architecture"]["joint_mlp"] |= change
    (folder / "policy.json").write_text(json.dumps(text))
    with pytest.raises(PolicyError, match=message):
        load_policy(folder)


def bundle(tmp_path: Path) -> Path:
    variant, phi = mir2bench.spec("Rendezvous5-adv1-v0"), Partition.of(5, [0])
    found, _ = attack(variant, IdlePolicy(variant.layout), phi, budget=100)
    return save_policy(found, tmp_path / "b", variant=variant, algorithm="sb3-ppo", config={}, seed=0)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    import hashlib

    folder = bundle(tmp_path)
    weights = load_file(folder / "weights.safetensors")
    weights["layers.0.bias"][0] = float("nan")
    save_file(weights, folder / "weights.safetensors")
    text = json.loads((folder / "policy.json").read_text())
    text["weights_sha256"] = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "policy.json").write_text(json.dumps(text))
    with pytest.raises(PolicyError, match="not finite"):
        load_policy(folder)


def test_a_joint_network_is_no_team(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    text = json.loads((folder / "policy.json").read_text())
    text["n_agents"] = text["architecture"]["joint_mlp"]["n_agents"] = 5
    (folder / "policy.json").write_text(json.dumps(text))
    with pytest.raises(PolicyError, match="a team must act agent by agent"):
        load_policy(folder)


def test_the_wrong_number_of_agents() -> None:
    variant, phi = mir2bench.spec("Rendezvous5-adv2-v0"), Partition.of(5, [0, 3])
    found, _ = attack(variant, IdlePolicy(variant.layout), phi, budget=100)
    with pytest.raises(
        PolicyError, match=r"reads observations of shape \(worlds, 2, 30\), but they have shape \(1, 3, 30\)"
    ):
        found.act(np.zeros((1, 3, 30), np.float32), None, rng=np.random.default_rng(0))


# --- errors and names ---


def test_what_cannot_be_attacked() -> None:
    with pytest.raises(PartitionError, match="`sb3-ppo` needs a partition with at least one adversary"):
        attack(game(Echo, 3), Brittle(), Partition.of(3))
    with pytest.raises(ConfigError, match="the budget must be 1 step or more, but it is 0"):
        attack(game(Echo, 3), Brittle(), Partition((1, 0, 0)), budget=0)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("worlds", 0, "worlds must be a finite number above 0, but it is 0"),
        ("entropy", -0.1, "entropy must be a finite number of at least 0, but it is -0.1"),
        ("smooth", -1, "smooth must be a finite number of at least 0, but it is -1"),
        ("log_std", float("nan"), "log_std must be a finite number"),
        ("lr", float("inf"), "lr must be a finite number above 0"),
        ("gamma", 1.1, "gamma and gae must be at most 1, but they are 1.1 and"),
    ],
)
def test_bad_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})


def test_names() -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    attacker: Any = make_attacker("sb3-ppo", variant, {"worlds": "16"})
    assert attacker.config == Config(worlds=16)
    assert is_trained("sb3-ppo", variant)
