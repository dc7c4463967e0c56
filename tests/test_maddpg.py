"""MADDPG: its update by hand, determinism, and learning on games whose best play is known."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import learners
import numpy as np
import pytest
import torch
from games import Match, Recall, game
from torch import Tensor

import mir2bench
from mir2bench.defenders.advtrain import AdversarialTraining
from mir2bench.defenders.maddpg import MADDPG, Config, MaddpgLearner
from mir2bench.errors import ConfigError
from mir2bench.learning import loop
from mir2bench.learning.networks import greedy_one_hot, straight_through_sample
from mir2bench.learning.progress import Progress
from mir2bench.learning.replay import Batch, EpisodeReplay
from mir2bench.learning.rollout import rollout
from mir2bench.learning.tasks import TeamTask
from mir2bench.partition import Partition
from mir2bench.policies import RandomPolicy
from mir2bench.registration import VariantSpec

SMALL = Config(hidden=4, worlds=4, batch_size=8, warmup=20)


def make_learner(variant: VariantSpec, config: Config) -> MaddpgLearner:
    return MaddpgLearner(TeamTask(variant, config.worlds), config, seed=0)


def make_batch(learner: MaddpgLearner, size: int = 2, masked: bool = False, seed: int = 1) -> Batch:
    """Return random transitions of a two-agent game; the first ends its episode."""
    generator = torch.Generator().manual_seed(seed)
    shape = learner.actor.shape
    state_dim = learner.critic.state_in.in_features

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    action = draw(size, 2, shape.action_dim).tanh()
    if shape.discrete:
        action = greedy_one_hot(action, None)
    discount = torch.full((size,), 0.9)
    discount[0] = 0.0
    masks = [torch.ones(size, 2, shape.action_dim) for _ in range(2)]
    if masked:
        masks[0][0, 0, 0] = masks[1][::2, 1, 1] = masks[1][1::2, 0, 2] = 0.0
    return Batch(
        obs=draw(size, 2, shape.obs_dim),
        next_obs=draw(size, 2, shape.obs_dim),
        state=draw(size, state_dim),
        next_state=draw(size, state_dim),
        action=action,
        reward=draw(size),
        discount=discount,
        weight=torch.ones(size),
        phi=torch.zeros(size, 2),
        mask=masks[0] if masked else None,
        next_mask=masks[1] if masked else None,
    )


def train(variant: VariantSpec, config: Config, seed: int, budget: int, defender: Any = MADDPG) -> tuple[Any, list]:
    reports: list[Progress] = []
    policy = defender(config).train(variant, seed=seed, budget=budget, callback=reports.append)
    return policy, reports


def weights(policy: Any) -> dict[str, Tensor]:
    return policy.actor.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- one update ---


def test_both_losses_and_all_steps_by_hand() -> None:
    """Networks whose outputs are constants: Q = q0, Q' = s' + a'^1 + a'^2, pi = tanh(b), pi' = tanh(b')."""
    config = replace(SMALL, logit_penalty=0.01, tau=0.25, actor_lr=1e-2, critic_lr=1e-3)
    learner = make_learner(game(Match), config)
    with torch.no_grad():
        learner.critic.joint.weight.zero_()
        learner.critic.joint.bias.fill_(-1.0)  # relu closed: Q is the last bias alone
        learner.critic.value.bias.fill_(0.5)
        learner.actor.head.weight.zero_()
        learner.actor.head.bias.fill_(3.0)
        learner.target_actor.head.weight.zero_()
        learner.target_actor.head.bias.fill_(0.4)
        learner.target_critic.value.bias.fill_(7.0)
    learner.target_critic = lambda state, obs, action, phi: state[:, 0] + action.sum(dim=(-2, -1))  # type: ignore
    held = learner._target[-1]  # the target critic's last bias, which the update still moves
    batch = replace(
        make_batch(learner),
        reward=torch.tensor([1.0, -2.0]),
        discount=torch.tensor([0.0, 0.9]),
        next_state=torch.tensor([[5.0, 0.0], [2.0, 0.0]]),
    )
    log = learner.update(batch)

    target = [1.0, -2.0 + 0.9 * (2.0 + 2 * math.tanh(0.4))]  # a termination is not bootstrapped
    assert log["loss/critic"].item() == pytest.approx(((0.5 - target[0]) ** 2 + (0.5 - target[1]) ** 2) / 4)
    # Adam's first step is the learning rate against the gradient's sign; the mean of Q - y is below 0 here.
    assert 0.5 - sum(target) / 2 < 0
    assert learner.critic.value.bias.item() == pytest.approx(0.501)
    # The actor meets the critic after its step, and all its logits are 3.
    assert log["loss/actor"].item() == pytest.approx(-0.501 + 0.01 * 3.0**2)
    assert learner.actor.head.bias.item() == pytest.approx(2.99)
    # A quarter of the way to the online networks.
    assert held.item() == pytest.approx(7.0 + 0.25 * (0.501 - 7.0))
    assert learner.target_actor.head.bias.item() == pytest.approx(0.4 + 0.25 * (2.99 - 0.4))


@pytest.mark.parametrize(("engine", "masked"), [(Match, False), (Recall, False), (Recall, True)])
def test_updates_are_those_of_the_formulas(engine: Any, masked: bool) -> None:
    config = replace(SMALL, max_grad_norm=1e-4, logit_penalty=0.1, tau=0.1, actor_lr=3e-3, critic_lr=2e-3)
    learner = make_learner(game(engine), config)
    with torch.no_grad():
        for parameter in learner._target:  # targets that are not copies of the online networks
            parameter.mul_(0.8)
    actor, critic = copy.deepcopy(learner.actor), copy.deepcopy(learner.critic)
    target_actor, target_critic = copy.deepcopy(learner.target_actor), copy.deepcopy(learner.target_critic)
    optimizers = {
        actor: torch.optim.Adam(actor.parameters(), lr=config.actor_lr),
        critic: torch.optim.Adam(critic.parameters(), lr=config.critic_lr),
    }
    generator = torch.Generator().manual_seed(0)

    def descend(loss: Tensor, network: torch.nn.Module) -> None:
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        assert norm > config.max_grad_norm
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * config.max_grad_norm / (norm + 1e-6)
        optimizers[network].step()

    for step in range(3):  # Adam's first step does not depend on the gradient's size, later ones do
        batch = make_batch(learner, 16, masked, seed=step)
        log = learner.update(batch)

        logits = target_actor.head(target_actor.features(batch.next_obs))
        next_action = greedy_one_hot(logits, batch.next_mask) if engine.discrete else logits.tanh()
        target = batch.reward + batch.discount * target_critic(batch.next_state, batch.next_obs, next_action)
        critic_loss = 0.5 * (critic(batch.state, batch.obs, batch.action) - target.detach()).square().mean()
        torch.testing.assert_close(log["loss/critic"], critic_loss.detach())
        descend(critic_loss, critic)

        logits = actor.head(actor.features(batch.obs))
        if engine.discrete:
            action = straight_through_sample(logits, batch.mask, generator)
            actor_loss = -critic(batch.state, batch.obs, action).mean()
        else:
            actor_loss = -critic(batch.state, batch.obs, logits.tanh()).mean() + 0.1 * logits.square().mean()
        torch.testing.assert_close(log["loss/actor"], actor_loss.detach())
        descend(actor_loss, actor)

        for network, expected, slow, got_slow in (
            (learner.actor, actor, target_actor, learner.target_actor),
            (learner.critic, critic, target_critic, learner.target_critic),
        ):
            for got, online, target_value, got_target in zip(
                network.parameters(), expected.parameters(), slow.parameters(), got_slow.parameters(), strict=True
            ):
                target_value.data = 0.9 * target_value.data + 0.1 * online.data
                torch.testing.assert_close(got, online, atol=2e-5, rtol=1e-4)
                torch.testing.assert_close(got_target, target_value, atol=2e-5, rtol=1e-4)
                assert got.requires_grad
                assert not got_target.requires_grad


def test_diagnosis_reports_means_and_changes_nothing() -> None:
    learner = make_learner(game(Match), SMALL)
    batch, before = make_batch(learner, 8), copy.deepcopy(learner.critic.state_dict())
    figures = learner.diagnose(batch)
    expected = learner.critic(batch.state, batch.obs, batch.action).mean().item()
    assert {name: value.item() for name, value in figures.items()} == {
        "value/mean": pytest.approx(expected),
        "value/reward": pytest.approx(batch.reward.mean().item()),
    }
    assert equal(before, learner.critic.state_dict())


def test_recurrent_updates_read_whole_episodes() -> None:
    """A loss on the last step's action moves the layer that reads the first observation, through the memory."""
    config = replace(SMALL, recurrent=True, worlds=8)
    task = TeamTask(game(Recall), 8)
    task.reset(seeds=list(range(8)))
    learner = MaddpgLearner(task, config, seed=0)
    replay = EpisodeReplay(task, 100, n_steps=1, gamma=0.9)
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions, _ = RandomPolicy(task.layout).act(task.obs, None, task.mask, rng=rng)
        task.step(actions)
        replay.add(task, actions)
    batch = replay.sample_episodes(8, rng)
    assert batch.sequences is not None
    features = learner.actor.features_now(batch)
    last = batch.obs[:, 0, 1] == 1
    assert 0 < last.sum() < len(last)
    learner.actor.head(features[last]).square().sum().backward()
    gradient = learner.actor.inner.weight.grad
    assert gradient is not None
    assert gradient[:, 0].abs().max() > 0  # the bit is shown at the first step alone
    assert all(math.isfinite(value) for value in learner.update(batch).values())


# --- the loop ---


class Aging:
    """A learner whose policy plays "keep" and counts its own calls in its memory; updates are only recorded."""

    recurrent = False

    def __init__(self, task: TeamTask) -> None:
        self.policy: Any = self
        self.task = task
        self.ages: list[tuple[list[float], list[int]]] = []
        self.batches: list[Batch] = []
        self.done: list[float] = []

    def initial_carry(self, batch: int) -> np.ndarray:
        return np.zeros((batch, self.task.n_agents, 1), np.float32)

    def act(
        self,
        obs: np.ndarray,
        carry: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        assert not deterministic
        self.ages.append((carry[:, 0, 0].tolist(), self.task.worlds.elapsed.tolist()))
        return np.ones(obs.shape[:2], np.int64), carry + 1

    def intervene(self, task: Any, actions: np.ndarray) -> np.ndarray:
        return actions

    def update(self, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {"loss": torch.tensor(2.0)}

    def anneal(self, done: float) -> None:
        self.done.append(done)

    def diagnose(self, batch: Batch) -> dict[str, Tensor]:
        return {"size": torch.tensor(float(len(batch.reward)))}


def test_the_loop_acts_stores_and_updates(toy: list[str]) -> None:
    task = TeamTask(mir2bench.spec(toy[0]), 4)
    task.reset()
    learner = Aging(task)
    reports: list[Progress] = []
    config = Config(worlds=4, batch_size=64, updates_per_step=2, warmup=60)
    loop.train(
        task,
        learner,
        config,
        budget=400,
        seed=0,
        measure=lambda policy: {"greedy_return": 3.0 if policy is learner else 0.0},
        callback=reports.append,
    )
    assert len(learner.ages) == 100
    assert all(age == elapsed for age, elapsed in learner.ages)  # memories start anew with their episodes
    assert len({tuple(elapsed) for _, elapsed in learner.ages}) > 50  # which end at different times
    assert len(learner.batches) == 2 * (100 - 15)  # 60 steps of random play fill 15 rounds
    assert learner.done == [k / 100 for k in range(16, 101)]
    kept = [float(batch.action[..., 1].mean()) for batch in learner.batches]
    assert kept[0] < 0.6  # hardly anything but random play so far
    assert kept[-1] > 0.8
    assert reports[0].metrics == {"greedy_return": 3.0, "size": 64.0}
    assert reports[-1].metrics == {"greedy_return": 3.0, "size": 64.0, "loss": 2.0}


def test_step_sizes_shrink_linearly_to_their_share() -> None:
    learner = learners.make_learner(
        AdversarialTraining, Recall, actor_lr=0.5, critic_lr=0.25, adversary_lr=1.0, final_lr=0.2
    )
    for done, expected in ((0.5, 0.6), (1.0, 0.2)):
        learner.anneal(done)
        found = [
            optimizer.param_groups[0]["lr"]
            for optimizer in (learner.actor_optimizer, learner.critic_optimizer, learner.adversary_optimizer)
        ]
        assert found == pytest.approx([0.5 * expected, 0.25 * expected, expected])


def test_random_play_takes_a_quarter_of_a_small_budget(toy: list[str]) -> None:
    task = TeamTask(mir2bench.spec(toy[0]), 4)
    task.reset()
    learner = Aging(task)
    loop.train(task, learner, Config(worlds=4, warmup=5_000), budget=80, seed=0, measure=lambda policy: {})
    assert len(learner.batches) == 15


# --- determinism ---


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_seed_determines_all_weights(recurrent: bool) -> None:
    config = replace(SMALL, recurrent=recurrent)
    one, same, other = (train(game(Recall), config, seed, 200)[0] for seed in (1, 1, 2))
    assert equal(weights(one), weights(same))
    assert not equal(weights(one), weights(other))


def test_continuous_worlds_are_deterministic_too() -> None:
    variant = mir2bench.spec("Rendezvous5-adv0-v0")
    one, same, other = (train(variant, SMALL, seed, 100)[0] for seed in (1, 1, 2))
    assert equal(weights(one), weights(same))
    assert not equal(weights(one), weights(other))


def test_reports_change_nothing() -> None:
    silent = MADDPG(SMALL).train(game(Recall), seed=1, budget=200)
    assert equal(weights(silent), weights(train(game(Recall), SMALL, 1, 200)[0]))


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[union-attr]
    train(game(Recall), SMALL, 1, 200)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], np_state)  # type: ignore[arg-type]


def test_reports_are_spread_over_the_budget() -> None:
    _, reports = train(game(Match), SMALL, 0, 403)
    steps = [report.steps for report in reports]
    assert len(steps) == 24
    assert steps == sorted(set(steps))
    assert steps[-1] == 403
    assert max(np.diff(steps)) <= 23  # 100 rounds of 4: 4 or 5 rounds each, and the 3 steps that make no round
    assert {report.budget for report in reports} == {403}
    assert all(math.isfinite(report.metrics["greedy_return"]) for report in reports)
    assert set(reports[-1].metrics) == {"greedy_return", "loss/critic", "loss/actor", "value/mean", "value/reward"}


# --- learning ---


def test_learns_a_one_step_game() -> None:
    config = Config(hidden=16, worlds=16, batch_size=128, warmup=500, actor_lr=3e-3, critic_lr=3e-3)
    policy, reports = train(game(Match), config, seed=1, budget=6_400)
    fresh = rollout(game(Match), policy, Partition.of(2), None, range(200)).returns.mean()
    assert fresh > -0.05  # 0 is perfect, and -0.213 the best that ignores the observation
    assert reports[-1].metrics["greedy_return"] == pytest.approx(fresh, abs=0.02)


@pytest.mark.parametrize("recurrent", [True, False])
def test_recall_needs_a_memory(recurrent: bool) -> None:
    """Illegal actions would raise: training and measuring run in strict mode."""
    config = Config(
        hidden=32, recurrent=recurrent, worlds=16, batch_size=32, warmup=500, tau=0.05, actor_lr=5e-4, critic_lr=1e-2
    )
    policy, _ = train(game(Recall), config, seed=3, budget=8_000)
    fresh = rollout(game(Recall), policy, Partition.of(2), None, range(500)).returns.mean()
    if recurrent:
        assert fresh > 0.7
    else:
        assert fresh == pytest.approx(0.5, abs=0.07)


# --- settings ---


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("hidden", 0, "hidden must be above 0, but it is 0"),
        ("actor_lr", 0.0, "actor_lr must be above 0"),
        ("critic_lr", -1e-3, "critic_lr must be above 0, but it is -0.001"),
        ("critic_lr", float("nan"), "critic_lr must be above 0, but it is nan"),
        ("actor_lr", float("inf"), "actor_lr must be a finite number of 0 or more, but it is inf"),
        ("noise", -0.1, "noise must be a finite number of 0 or more, but it is -0.1"),
        ("noise", float("nan"), "noise must be a finite number"),
        ("logit_penalty", float("inf"), "logit_penalty must be a finite number"),
        ("warmup", -1, "warmup must be a finite number of 0 or more, but it is -1"),
        ("gamma", 1.01, "gamma must be at most 1, but it is 1.01"),
        ("tau", 2.0, "tau must be at most 1, but it is 2.0"),
        ("final_lr", 1.5, "final_lr must be at most 1, but it is 1.5"),
        ("n_steps", 0, "n_steps must be above 0"),
        ("worlds", -3, "worlds must be above 0"),
        ("batch_size", 0, "batch_size must be above 0"),
    ],
)
def test_bad_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_must_be_positive(budget: int) -> None:
    with pytest.raises(ConfigError, match=f"budget must be 1 step or more, but it is {budget}"):
        MADDPG(SMALL).train(game(Match), seed=0, budget=budget)
