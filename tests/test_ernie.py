"""ERNIE: both regularizers one sample at a time, the leader's gradient by finite differences, and what they do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from games import Match, Recall, game
from learners import gradients, make_batch, make_learner, plain_training, same, teach_match, training
from torch import Tensor

from mir2bench.defenders.ernie import ERNIE, Config
from mir2bench.errors import ConfigError
from mir2bench.learning.replay import Batch, EpisodeReplay
from mir2bench.learning.tasks import TeamTask
from mir2bench.policies import RandomPolicy

OFF = {"lam_policy": 0.0, "lam_critic": 0.0}
WORLDS = [(Match, False), (Recall, False), (Recall, True)]


@pytest.mark.parametrize(
    ("engine", "recurrent"), [(Match, False), (Recall, False), (Recall, True)], ids=["continuous", "discrete", "gru"]
)
def test_without_both_terms_it_is_maddpg_bit_for_bit(engine: Any, recurrent: bool) -> None:
    expected = plain_training(engine, recurrent)
    assert same(training(ERNIE, engine, recurrent, **OFF), expected)
    assert not same(training(ERNIE, engine, recurrent, lam_policy=1.0, lam_critic=0.0), expected)
    assert not same(training(ERNIE, engine, recurrent, lam_policy=0.0, lam_critic=1.0), expected)


# --- the policy's regularizer ---


def penalty(learner: Any, batch: Batch) -> Tensor:
    """Return lambda_pi R_pi, always with the same start of the inner maximization."""
    learner.generator_delta.manual_seed(0)
    return learner.actor_penalty(batch, learner.actor.head(learner.actor.features_now(batch)))


def distance(actor: Any, one: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    """Return D between what the actor makes of two observations (O,)."""
    moved, clean = actor.head(actor.features(one)), actor.head(actor.features(other))
    if not actor.shape.discrete:
        return (moved.tanh() - clean.tanh()).square().sum()
    legal = slice(None) if mask is None else mask > 0
    p, q = clean[legal].softmax(dim=-1), moved[legal].softmax(dim=-1)
    return (p * (p / q).log()).sum()


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
@pytest.mark.parametrize("inner_steps", [1, 2])
def test_the_policys_regularizer_one_sample_at_a_time(engine: Any, masked: bool, inner_steps: int) -> None:
    settings = {"inner_steps": inner_steps, "epsilon_obs": 0.3, "lam_policy": 0.5, "logit_penalty": 0.0}
    learner = make_learner(ERNIE, engine, stackelberg=False, **settings)
    batch, actor = make_batch(learner, 5, masked=masked), learner.actor
    start = torch.randn(batch.obs.shape, generator=torch.Generator().manual_seed(0))
    total, at_start = torch.zeros(()), torch.zeros(())
    for m, i in itertools.product(range(5), range(3)):
        mask = None if batch.mask is None else batch.mask[m, i]
        obs = batch.obs[m, i]
        delta = 0.3 * start[m, i] / start[m, i].norm()
        at_start += distance(actor, obs + delta, obs, mask) / 15
        for _ in range(inner_steps):
            delta.requires_grad_()
            (slope,) = torch.autograd.grad(distance(actor, obs + delta, obs, mask), delta)
            if slope.norm() > 0:
                slope = slope / slope.norm()
            delta = (delta + slope).detach()
            delta = 0.3 * delta / delta.norm()
        total = total + distance(actor, obs + delta, obs, mask) / 15
    found = penalty(learner, batch)
    torch.testing.assert_close(found, 0.5 * total, atol=1e-6, rtol=1e-3)
    assert total > 1.2 * at_start  # the inner steps find larger changes than chance
    for one, other in zip(gradients(found, actor), gradients(0.5 * total, actor), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("engine", [Match, Recall])
def test_the_leaders_gradient_runs_through_the_followers_steps(engine: Any) -> None:
    """Against finite differences of R_pi, in which delta follows the policy."""
    errors = {}
    for stackelberg in (True, False):
        settings = {"inner_steps": 1, "epsilon_obs": 0.5, "lam_policy": 1.0, "logit_penalty": 0.0}
        learner = make_learner(ERNIE, engine, stackelberg=stackelberg, **settings)
        learner.actor.double()
        batch = make_batch(learner, 6)
        batch = replace(batch, obs=batch.obs.double())
        error, largest = 0.0, 0.0
        for parameter, gradient in zip(
            learner.actor.parameters(), gradients(penalty(learner, batch), learner.actor), strict=True
        ):
            numbers = parameter.data.view(-1)
            for k in range(0, len(numbers), 5):
                before, ends = numbers[k].item(), []
                for step in (1e-5, -1e-5):
                    numbers[k] = before + step
                    ends.append(penalty(learner, batch).item())
                numbers[k] = before
                slope = (ends[0] - ends[1]) / 2e-5
                error = max(error, abs(slope - gradient.view(-1)[k].item()))
                largest = max(largest, abs(slope))
        errors[stackelberg] = error / largest
    assert errors[True] < 0.005
    assert errors[False] > 0.02


def test_the_logit_penalty_of_the_backbone_stays() -> None:
    learner = make_learner(ERNIE, Match, lam_policy=0.0, logit_penalty=0.3)
    batch = make_batch(learner, 5)
    logits = learner.actor.head(learner.actor.features_now(batch))
    torch.testing.assert_close(learner.actor_penalty(batch, logits), 0.3 * logits.square().mean())
    both = make_learner(ERNIE, Match, lam_policy=1.0, logit_penalty=0.3)
    alone = make_learner(ERNIE, Match, lam_policy=1.0, logit_penalty=0.0)
    torch.testing.assert_close(penalty(both, batch), penalty(alone, batch) + 0.3 * logits.square().mean())


@pytest.mark.parametrize("stackelberg", [True, False])
def test_a_saturated_policy_keeps_finite_gradients(stackelberg: bool) -> None:
    """Its actions do not depend on the observation any more, so that there is no direction to go."""
    learner = make_learner(ERNIE, Match, lam_policy=1.0, stackelberg=stackelberg)
    with torch.no_grad():
        learner.actor.head.bias.fill_(100.0)
    found = penalty(learner, make_batch(learner, 5))
    assert all(torch.isfinite(g).all() for g in gradients(found, learner.actor))


@pytest.mark.parametrize("stackelberg", [True, False])
def test_recurrent_policies_are_kept_smooth_over_whole_episodes(stackelberg: bool) -> None:
    learner = make_learner(ERNIE, Recall, recurrent=True, stackelberg=stackelberg, lam_policy=1.0, epsilon_obs=0.3)
    task = TeamTask(game(Recall, 3), 4)
    task.reset(seeds=[1, 2, 3, 4])
    replay, rng = EpisodeReplay(task, 100, n_steps=1, gamma=0.9), np.random.default_rng(0)
    for _ in range(3):
        actions, _ = RandomPolicy(task.layout).act(task.obs, None, task.mask, rng=rng)
        task.step(actions)
        replay.add(task, actions)
    batch = replay.sample_episodes(4, rng)
    assert batch.sequences is not None
    found = penalty(learner, batch)

    # By hand: the perturbation reaches a step's action through the memory, too.
    actor, sequences = learner.actor, batch.sequences
    start = torch.randn(sequences.obs.shape, generator=torch.Generator().manual_seed(0))
    delta = (0.3 * start / start.norm(dim=-1, keepdim=True)).requires_grad_()

    def change(delta: Tensor) -> Tensor:
        logits = [
            actor.head(actor.unroll(replace(sequences, obs=obs))[sequences.index])
            for obs in (sequences.obs + delta, sequences.obs)
        ]
        moved, clean = (x.masked_fill(batch.mask == 0, -1e9).log_softmax(dim=-1) for x in logits)  # type: ignore[operator]
        return (clean.exp() * (clean - moved)).sum()

    (slope,) = torch.autograd.grad(change(delta), delta)
    assert slope[0].norm() > 0  # what is shown at first matters at the last step alone
    steps = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    moved = delta + steps
    moved = 0.3 * moved / moved.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found, change(moved) / (len(batch.reward) * 3), atol=1e-6, rtol=1e-3)
    assert any(g.abs().max() > 0 for g in gradients(found, actor))


# --- the critic's regularizer ---


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
def test_the_critics_regularizer_one_sample_at_a_time(engine: Any, masked: bool) -> None:
    learner = make_learner(ERNIE, engine, lam_critic=0.5, epsilon_action=0.3)
    batch, critic = make_batch(learner, 6, masked=masked), learner.critic
    free = batch.action.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(batch.state, batch.obs, free).sum(), free)
    moved = batch.action.clone()
    for m in range(6):
        gains = {}
        for i in range(3):
            if not engine.discrete:
                moved[m, i] = (batch.action[m, i] + 0.3 * slope[m, i] / slope[m, i].norm()).clamp(-1, 1)
                continue
            for move in range(3):
                if batch.mask is None or batch.mask[m, i, move] > 0:
                    gains[i, move] = abs(slope[m, i] @ (torch.eye(3)[move] - batch.action[m, i]))
        if engine.discrete:
            i, move = max(gains, key=lambda pair: gains[pair].item())
            moved[m, i] = torch.eye(3)[move]
    value = critic(batch.state, batch.obs, batch.action)
    expected = 0.5 * (critic(batch.state, batch.obs, moved) - value).square().mean()
    assert expected > 1e-6
    found = learner.critic_penalty(batch, value)
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, critic), gradients(expected, critic), strict=True):
        torch.testing.assert_close(one, other)


# --- what they do ---


def test_both_regularizers_smooth_what_they_are_about() -> None:
    """How far small changes of observations move the policy, and small changes of actions the value."""
    sensitivity = {}
    teams: dict[str, dict[str, Any]] = {
        "plain": OFF,
        "policy": {"lam_policy": 30.0, "lam_critic": 0.0},
        "critic": {"lam_policy": 0.0, "lam_critic": 30.0},
    }
    for name, settings in teams.items():
        learner = make_learner(ERNIE, Match, 2, hidden=16, actor_lr=3e-3, critic_lr=3e-3, **settings)
        batch = teach_match(learner, 200)
        generator = torch.Generator().manual_seed(7)
        nearby = batch.obs + 0.1 * torch.randn(batch.obs.shape, generator=generator)
        close = (batch.action + 0.1 * torch.randn(batch.action.shape, generator=generator)).clamp(-1, 1)
        with torch.no_grad():
            policy = (learner.actor(nearby)[0] - learner.actor(batch.obs)[0]).abs().mean().item()
            values = [learner.critic(batch.state, batch.obs, action) for action in (close, batch.action)]
        sensitivity[name] = policy, (values[0] - values[1]).abs().mean().item()
    assert sensitivity["policy"][0] < 0.6 * sensitivity["plain"][0]
    assert sensitivity["critic"][1] < 0.6 * sensitivity["plain"][1]


# --- settings ---


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lam_policy", -1.0, "lam_policy must be a finite number of 0 or more, but it is -1.0"),
        ("lam_critic", float("nan"), "lam_critic must be a finite number of 0 or more, but it is nan"),
        ("epsilon_obs", -0.1, "epsilon_obs must be a finite number of 0 or more, but it is -0.1"),
        ("epsilon_action", float("inf"), "epsilon_action must be a finite number of 0 or more, but it is inf"),
        ("inner_steps", 0, "inner_steps must be 1 or more, but it is 0"),
    ],
)
def test_bad_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})  # type: ignore[arg-type]
