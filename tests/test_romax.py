"""ROMAX: what its target and its actor make of the certified bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from games import Match, Recall
from learners import gradients, make_batch, make_learner, moment, plain_training, same, training

from mir2bench.defenders.romax import ROMAX, Config
from mir2bench.errors import ConfigError
from mir2bench.learning.bounds import lower_bounds
from mir2bench.learning.worst_case import Situation


@pytest.mark.parametrize(
    ("engine", "recurrent"), [(Match, False), (Recall, False), (Recall, True)], ids=["continuous", "discrete", "gru"]
)
def test_kappa_zero_is_maddpg_bit_for_bit(engine: Any, recurrent: bool) -> None:
    expected = plain_training(engine, recurrent)
    assert same(training(ROMAX, engine, recurrent, kappa=0.0, epsilon=0.3), expected)
    assert not same(training(ROMAX, engine, recurrent, kappa=0.5, epsilon=0.3), expected)


@pytest.mark.parametrize(("engine", "masked"), [(Match, False), (Recall, False), (Recall, True)])
@pytest.mark.parametrize("kappa", [0.25, 1.0])
def test_a_share_kappa_of_the_batch_takes_the_mean_bound(engine: Any, masked: bool, kappa: float) -> None:
    learner = make_learner(ROMAX, engine, kappa=kappa, epsilon=0.2)
    batch = make_batch(learner, 8, masked=masked)
    bounded = torch.zeros(8, dtype=torch.bool)
    bounded[[1, 5] if kappa < 1 else slice(None)] = True
    with torch.no_grad():
        action = learner.next_action(batch)
        found = learner.next_value(batch, action)
    at = Situation(batch.next_state, batch.next_obs, action, batch.next_mask, batch.phi)
    bounds = lower_bounds(learner.target_critic, at, 0.2, engine.discrete)
    assert bounds.shape == (8, 3)
    value = learner.target_critic(batch.next_state, batch.next_obs, action)
    torch.testing.assert_close(found, torch.where(bounded, bounds.mean(dim=1), value).detach())
    assert (found[bounded] < value[bounded]).all()

    action = learner.soft_action(learner.actor.head(learner.actor.features_now(batch)), batch.mask)
    values = learner.actor_value(batch, action)
    at = Situation(batch.state, batch.obs, action, batch.mask, batch.phi)
    bounds = lower_bounds(learner.critic, at, 0.2, engine.discrete)
    expected = torch.where(bounded, bounds.mean(dim=1), learner.critic(batch.state, batch.obs, action))
    torch.testing.assert_close(values, expected)
    slopes = gradients(expected.mean(), learner.actor), gradients(values.mean(), learner.actor)
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_the_team_ascends_the_bound_rather_than_the_value() -> None:
    """On the same fixed critic, the robust team ends with the higher bound and the plain one with the higher value."""
    ends = {}
    for kappa in (0.0, 1.0):
        learner = make_learner(ROMAX, Match, kappa=kappa, epsilon=0.2, actor_lr=1e-2)
        with torch.no_grad():
            learner.critic.agent_in.weight[:, 0] *= 5.0  # actions matter
        batch = make_batch(learner, 12)
        for _ in range(120):
            action = torch.tanh(learner.actor.head(learner.actor.features_now(batch)))
            learner._descend(-learner.actor_value(batch, action).mean(), learner.actor_optimizer)
        at = moment(batch)
        at = Situation(at.state, at.obs, learner.actor(batch.obs)[0].detach(), None, at.phi)
        bound = lower_bounds(learner.critic, at, 0.2, discrete=False).mean().item()
        ends[kappa] = learner.critic(at.state, at.obs, at.action).mean().item(), bound
    assert ends[0.0][0] > ends[1.0][0] + 1e-3
    assert ends[1.0][1] > ends[0.0][1] + 1e-3


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("kappa", 1.5, "kappa is a weight from 0 to 1, but it is 1.5"),
        ("kappa", -1.0, "kappa must be a finite number of 0 or more, but it is -1.0"),
        ("kappa", float("nan"), "kappa must be a finite number of 0 or more, but it is nan"),
        ("epsilon", -0.1, "epsilon must be a finite number of 0 or more, but it is -0.1"),
    ],
)
def test_bad_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})  # type: ignore[arg-type]
