"""RoM-Q: backup and actor by brute force, games that it plays differently, and the official variant."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from games import Match, Recall, Trust, game
from learners import gradients, in_tandem, make_batch, make_learner, moment, plain_training, same, teach_trust, training
from torch import Tensor

from mir2bench.defenders.maddpg import MADDPG
from mir2bench.defenders.romq import ROMQ, Config
from mir2bench.errors import ConfigError
from mir2bench.learning.worst_case import descend

# --- delta = 0 ---


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(
    ("engine", "recurrent"), [(Match, False), (Recall, False), (Recall, True)], ids=["continuous", "discrete", "gru"]
)
def test_delta_zero_is_maddpg_bit_for_bit(engine: Any, recurrent: bool, official: bool) -> None:
    expected = plain_training(engine, recurrent)
    assert same(training(ROMQ, engine, recurrent, delta=0.0, official=official), expected)
    assert not same(training(ROMQ, engine, recurrent, delta=0.5, official=official), expected)


# --- the formulas ---


def replacements(action: Tensor, mask: Tensor | None, gradient: Tensor, discrete: bool) -> list[tuple[int, Tensor]]:
    """Return (agent, what it plays (M, A), infinite where that is illegal) for all that are compared."""
    n, size = action.shape[1:]
    if not discrete:
        return [(i, -gradient[:, i].sign()) for i in range(n)]
    rows = []
    for i, move in itertools.product(range(n), range(size)):
        play = torch.eye(size)[move].expand(len(action), size)
        rows.append((i, play if mask is None else play.masked_fill(mask[:, i, move, None] == 0, torch.inf)))
    return rows


def mixed(
    critic: Any, state: Tensor, obs: Tensor, action: Tensor, mask: Tensor | None, attacked: list[int], discrete: bool
) -> Tensor:
    """Return V (M,), one transition and one full pass of the critic after the other."""
    free = action.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(state, obs, free).sum(), free)
    values = critic(state, obs, action)
    result = []
    for k in range(len(action)):
        candidates = []
        for i, play in replacements(action.detach(), mask, gradient, discrete):
            if k in attacked and torch.isfinite(play[k]).all():
                joint = action.clone()
                joint[k, i] = play[k]
                candidates.append(critic(state, obs, joint)[k])
        result.append(min(candidates, key=Tensor.item) if candidates else values[k])
    return torch.stack(result)


@pytest.mark.parametrize(("engine", "masked"), [(Match, False), (Recall, False), (Recall, True)])
@pytest.mark.parametrize("delta", [0.5, 1.0])
def test_backup_and_actor_by_brute_force(engine: Any, masked: bool, delta: float) -> None:
    learner = make_learner(ROMQ, engine, delta=delta)
    batch = make_batch(learner, 6, masked=masked)
    attacked = [0, 2, 4] if delta == 0.5 else list(range(6))
    with torch.no_grad():
        action = learner.next_action(batch)
        found = learner.next_value(batch, action)
    at = (batch.next_state, batch.next_obs, action, batch.next_mask)
    torch.testing.assert_close(found, mixed(learner.target_critic, *at, attacked, engine.discrete).detach())

    logits = learner.actor.head(learner.actor.features_now(batch))
    action = learner.soft_action(logits, batch.mask)
    values = learner.actor_value(batch, action)
    expected = mixed(learner.critic, batch.state, batch.obs, action, batch.mask, attacked, engine.discrete)
    torch.testing.assert_close(values, expected)
    slopes = gradients(expected.mean(), learner.actor), gradients(values.mean(), learner.actor)
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)
    assert max(g.abs().max() for g in slopes[0]) > 1e-4
    if delta == 1.0:
        assert (values < learner.critic(batch.state, batch.obs, action) - 1e-4).float().mean() > 0.5


# --- games whose best play is known ---


def test_a_team_that_must_not_lose_a_member_gathers() -> None:
    """The greedy joint action of `Trust` is to hunt, its minimax one to gather."""
    assert teach_trust(MADDPG)[0] == [0, 0]
    assert teach_trust(ROMQ, delta=1.0)[0] == [1, 1]


def test_a_team_that_must_not_lose_a_member_goes_the_other_way() -> None:
    """In `Tandem`: 0.6 without the worst case, and -0.2 as the best answer to a partner at -1."""
    assert in_tandem(ROMQ, delta=0.0) == pytest.approx([0.6, 0.6], abs=0.02)
    assert in_tandem(ROMQ, steps=250, delta=1.0) == pytest.approx([-0.2, -0.2], abs=0.05)


# --- the official variant ---


def test_official_episodes_have_one_adversary_with_probability_delta() -> None:
    task = ROMQ(Config(delta=0.3, official=True, worlds=500)).task(game(Match, 4, adversaries=2), 0)
    phis = []
    for _ in range(4):
        task.reset(seeds=list(range(500)))
        phis.append(task.phi.copy())
    phi = np.concatenate(phis)
    assert set(phi.sum(axis=1)) == {0, 1}
    assert phi.sum(axis=1).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 2_000))
    assert phi.mean(axis=0) == pytest.approx([0.075] * 4, abs=4 * np.sqrt(0.07 / 2_000))
    plain = ROMQ(Config(delta=0.3, worlds=500)).task(game(Match, 4), 0)
    plain.reset(seeds=list(range(500)))
    assert not plain.phi.any()


@pytest.mark.parametrize("engine", [Match, Trust])
def test_official_adversaries_descend_on_the_critic(engine: Any) -> None:
    learner = make_learner(ROMQ, engine, 2, delta=0.5, official=True, descent_steps=3, descent_size=0.2, worlds=6)
    task = ROMQ(learner.config).task(game(engine), 0)
    task.reset(seeds=list(range(6)))
    task.phi[:] = [[0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]
    actions = np.full((6, 2), 1) if engine.discrete else np.full((6, 2, 1), 0.25, np.float32)
    executed = learner.intervene(task, actions)
    batch = make_batch(learner, 6, 2)
    at = moment(batch)
    chosen = torch.from_numpy(actions)
    at = type(at)(
        torch.from_numpy(task.state.copy()),
        torch.from_numpy(task.obs.copy()),
        torch.nn.functional.one_hot(chosen, 3).float() if engine.discrete else chosen,
        None,
        at.phi,
    )
    worst = descend(learner.critic, at, 3, 0.2, engine.discrete)
    adversarial = task.phi > 0
    np.testing.assert_array_equal(executed[adversarial], worst[adversarial])
    np.testing.assert_array_equal(executed[~adversarial], actions[~adversarial])
    assert executed.dtype == actions.dtype
    assert (executed != actions).any()
    task.phi[:] = 0
    assert learner.intervene(task, actions) is actions


@pytest.mark.parametrize("engine", [Match, Recall])
def test_official_backup_is_maddpgs_and_the_adversarys_steps_teach_the_actor_nothing(engine: Any) -> None:
    learner = make_learner(ROMQ, engine, delta=0.5, official=True)
    batch = make_batch(learner, 6, phi=[0, 1, 0])
    with torch.no_grad():
        action = learner.next_action(batch)
        torch.testing.assert_close(
            learner.next_value(batch, action), learner.target_critic(batch.next_state, batch.next_obs, action)
        )
    logits = learner.actor.head(learner.actor.features_now(batch))
    action = learner.soft_action(logits, batch.mask)
    values = learner.actor_value(batch, action)
    joint = torch.stack([action[:, 0], batch.action[:, 1], action[:, 2]], dim=1)
    torch.testing.assert_close(values, learner.critic(batch.state, batch.obs, joint))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert not gradient[:, 1].any()
    assert gradient[:, [0, 2]].abs().max() > 1e-4


# --- settings ---


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (1.5, "delta is a share from 0 to 1, but it is 1.5"),
        (-0.1, "delta must be a finite number of 0 or more, but it is -0.1"),
        (float("nan"), "delta must be a finite number of 0 or more, but it is nan"),
    ],
)
def test_bad_settings(delta: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(delta=delta)
