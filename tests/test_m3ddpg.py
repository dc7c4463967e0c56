"""M3DDPG: its target and its actor's gradient by n separate passes, and a game in which epsilon moves the best play."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from games import Match, Recall
from learners import gradients, in_tandem, make_batch, make_learner, plain_training, same, training
from torch import Tensor

from mir2bench.defenders.m3ddpg import M3DDPG, Config
from mir2bench.errors import ConfigError

WORLDS = [(Match, False), (Recall, False), (Recall, True)]


def slope(critic: Any, state: Tensor, obs: Tensor, action: Tensor) -> Tensor:
    """Return the gradient (M, n, A) of the critic in the joint action."""
    free = action.detach().requires_grad_()
    return torch.autograd.grad(critic(state, obs, free).sum(), free)[0]


def moved_against(
    action: Tensor, gradient: Tensor, mask: Tensor | None, epsilon: float, agent: int, discrete: bool
) -> Tensor:
    """Return the joint action in which everybody but one agent is moved, row by row."""
    moved = action.detach().clone()
    for m in range(len(action)):
        for j in range(action.shape[1]):
            g = gradient[m, j] if mask is None else gradient[m, j] * mask[m, j]
            if j != agent and g.norm() > 0:
                moved[m, j] = action[m, j].detach() - epsilon * g / g.norm()
    return moved if discrete else moved.clamp(-1, 1)


# --- epsilon = 0 ---


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(
    ("engine", "recurrent"), [(Match, False), (Recall, False), (Recall, True)], ids=["continuous", "discrete", "gru"]
)
def test_epsilon_zero_is_maddpg_bit_for_bit(engine: Any, recurrent: bool, official: bool) -> None:
    expected = plain_training(engine, recurrent)
    assert same(training(M3DDPG, engine, recurrent, epsilon=0.0, official=official), expected)
    assert official or not same(training(M3DDPG, engine, recurrent, epsilon=0.3), expected)


# --- the formulas ---


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
def test_the_target_by_separate_passes(engine: Any, masked: bool) -> None:
    learner = make_learner(M3DDPG, engine, epsilon=0.4)
    batch, critic = make_batch(learner, 7, masked=masked), learner.target_critic
    state, obs = batch.next_state, batch.next_obs
    with torch.no_grad():
        action = learner.next_action(batch)
        found = learner.next_value(batch, action)
    gradient = slope(critic, state, obs, action)
    joint = [moved_against(action, gradient, batch.next_mask, 0.4, i, engine.discrete) for i in range(3)]
    expected = torch.stack([critic(state, obs, one) for one in joint], dim=1)
    turns = torch.tensor([0, 1, 2, 0, 1, 2, 0])  # transition k is agent k mod n's
    torch.testing.assert_close(found, expected[torch.arange(7), turns].detach())
    assert (found < critic(state, obs, action)).all()
    assert not found.requires_grad


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
def test_the_actors_gradient_by_separate_passes(engine: Any, masked: bool) -> None:
    learner = make_learner(M3DDPG, engine, epsilon=0.4)
    batch = make_batch(learner, 7, masked=masked)
    logits = learner.actor.head(learner.actor.features_now(batch))
    action = learner.soft_action(logits, batch.mask)
    values = learner.actor_value(batch, action)
    found = gradients(values.mean(), learner.actor)

    logits = learner.actor.head(learner.actor.features_now(batch))
    learner.generator.manual_seed(0)  # the first sample again
    action = learner.soft_action(logits, batch.mask)
    gradient = slope(learner.critic, batch.state, batch.obs, action)
    expected_values: Tensor = torch.zeros(7)
    for i in range(3):
        joint = moved_against(action, gradient, batch.mask, 0.4, i, engine.discrete)
        joint[:, i] = action[:, i]  # the one action that gradients flow through
        expected_values = expected_values + learner.critic(batch.state, batch.obs, joint)
    torch.testing.assert_close(values, expected_values)
    expected = gradients(expected_values.mean(), learner.actor)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)
    assert max(g.abs().max() for g in expected) > 1e-4


def test_as_epsilon_vanishes_the_actors_gradient_is_maddpgs() -> None:
    """The sum over agents of their own slopes is the slope of all actions at once."""
    learner, plain = make_learner(M3DDPG, Match, epsilon=1e-6), make_learner(M3DDPG, Match, epsilon=0.0)
    batch = make_batch(learner, 7)
    found, expected = (
        gradients(one.actor_value(batch, torch.tanh(one.actor.head(one.actor.features_now(batch)))).mean(), one.actor)
        for one in (learner, plain)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
def test_the_official_target_moves_ones_own_action_alone(engine: Any, masked: bool) -> None:
    learner = make_learner(M3DDPG, engine, epsilon=0.4, official=True)
    batch, critic = make_batch(learner, 7, masked=masked), learner.target_critic
    with torch.no_grad():
        action = learner.next_action(batch)
        found = learner.next_value(batch, action)
    gradient = slope(critic, batch.next_state, batch.next_obs, action)
    for k in range(7):
        joint = action.detach().clone()
        joint[k, k % 3] -= 0.4 * gradient[k, k % 3]  # neither normalized nor clipped, nor masked
        assert found[k].item() == pytest.approx(critic(batch.next_state, batch.next_obs, joint)[k].item(), abs=1e-6)


@pytest.mark.parametrize("engine", [Match, Recall])
def test_the_official_actor_is_set_against_moved_stored_actions(engine: Any) -> None:
    learner = make_learner(M3DDPG, engine, epsilon=0.4, official=True)
    batch = make_batch(learner, 7)
    action = learner.soft_action(learner.actor.head(learner.actor.features_now(batch)), None)
    values = learner.actor_value(batch, action)
    gradient = slope(learner.critic, batch.state, batch.obs, action)
    expected_values: Tensor = torch.zeros(7)
    for i in range(3):
        joint = batch.action - 0.4 * gradient
        joint[:, i] = action[:, i]
        expected_values = expected_values + learner.critic(batch.state, batch.obs, joint)
    torch.testing.assert_close(values, expected_values)
    (found,) = torch.autograd.grad(values.sum(), action, retain_graph=True)
    (expected,) = torch.autograd.grad(expected_values.sum(), action)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_one_update_moves_each_network_once() -> None:
    learner = make_learner(M3DDPG, Match, epsilon=0.4)
    batch = make_batch(learner, 7)
    before = [p.detach().clone() for p in (*learner.actor.parameters(), *learner.critic.parameters())]
    log = learner.update(batch)
    assert all(torch.isfinite(value) for value in log.values())
    for optimizer in (learner.actor_optimizer, learner.critic_optimizer):
        assert {int(state["step"]) for state in optimizer.state.values()} == {1}
    after = [*learner.actor.parameters(), *learner.critic.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == len(before)
    assert all(p.grad is None for p in (*learner.target_actor.parameters(), *learner.target_critic.parameters()))


# --- a game whose best play is known ---


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_the_team_comes_to_rest_epsilon_away_from_the_best(epsilon: float) -> None:
    one, other = in_tandem(M3DDPG, epsilon=epsilon)
    assert one == pytest.approx(other, abs=0.02)
    assert abs(one - 0.6) == pytest.approx(epsilon, abs=0.02)


# --- settings ---


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_bad_settings(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=f"epsilon must be a finite number of 0 or more, but it is {epsilon}"):
        Config(epsilon=epsilon)
