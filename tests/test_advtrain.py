"""Adversarial training: both sides' updates, who is taken over when, and a game whose best responses are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from games import Match, Recall, Trust, game
from learners import SMALL, gradients, make_batch, make_learner, same, teach_trust, training

from mir2bench.defenders.advtrain import AdversarialTraining, Config
from mir2bench.defenders.maddpg import MADDPG, MaddpgLearner
from mir2bench.errors import ConfigError
from mir2bench.learning.loop import Collector
from mir2bench.learning.networks import greedy_one_hot
from mir2bench.learning.replay import EpisodeReplay

WORLDS = [(Match, False), (Recall, False), (Recall, True)]

# --- without attacks ---


@pytest.mark.parametrize("engine", [Match, Recall])
def test_without_attacks_its_updates_are_maddpgs(engine: Any) -> None:
    """With the same weights, and those of phi, which is 0, left out."""
    learner, plain = make_learner(AdversarialTraining, engine, attacked=0.0), make_learner(MADDPG, engine)
    for one, other in ((learner.actor, plain.actor), (learner.target_actor, plain.target_actor)):
        other.load_state_dict(one.state_dict())
    known = plain.critic.agent_in.in_features
    for one, other in ((learner.critic, plain.critic), (learner.target_critic, plain.target_critic)):
        weights = one.state_dict()
        assert weights["agent_in.weight"].shape[1] == known + 3
        other.load_state_dict({**weights, "agent_in.weight": weights["agent_in.weight"][:, :known]})
    told = learner.critic.agent_in.weight[:, known:].detach().clone()
    for step in range(3):
        batch = make_batch(learner, 8, masked=engine.discrete, seed=step)
        for one in (learner, plain):
            one.generator.manual_seed(step)
        log, expected = learner.update(batch), plain.update(batch)
        for name in ("loss/critic", "loss/actor"):
            torch.testing.assert_close(log[name], expected[name])
    for name, weight in plain.actor.state_dict().items():
        torch.testing.assert_close(learner.actor.state_dict()[name], weight, atol=1e-5, rtol=1e-4)
    for name, weight in plain.critic.state_dict().items():
        mine = learner.critic.state_dict()[name]
        torch.testing.assert_close(mine[:, :known] if name == "agent_in.weight" else mine, weight, atol=1e-5, rtol=1e-4)
    assert torch.equal(learner.critic.agent_in.weight[:, known:], told)  # nothing was learned about phi


def test_without_attacks_the_team_plays_what_it_chose() -> None:
    learner = make_learner(AdversarialTraining, Recall, attacked=0.0)
    task = AdversarialTraining(learner.config).task(game(Recall, 3), 0)
    for _ in range(20):
        task.reset(seeds=list(range(task.batch)))
        assert not task.phi.any()
        actions = np.zeros((task.batch, 3), np.int64)
        assert learner.intervene(task, actions) is actions


# --- both sides' updates ---


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
def test_the_target_is_played_by_both_sides(engine: Any, masked: bool) -> None:
    learner = make_learner(AdversarialTraining, engine)
    batch = make_batch(learner, 6, masked=masked, phi=[0, 1, 0])
    with torch.no_grad():
        found = learner.next_action(batch)
        team, adversary = learner.target_actor, learner.target_adversary
        logits = [one.head(one.features(batch.next_obs)) for one in (team, adversary, team)]
        joint = torch.stack([logits[i][:, i] for i in range(3)], dim=1)
        expected = greedy_one_hot(joint, batch.next_mask) if engine.discrete else joint.tanh()
    torch.testing.assert_close(found, expected)
    value = learner.next_value(batch, found)
    told = learner.target_critic(batch.next_state, batch.next_obs, found, batch.phi)
    torch.testing.assert_close(value, told)
    assert not torch.equal(value, learner.target_critic(batch.next_state, batch.next_obs, found))


@pytest.mark.parametrize("engine", [Match, Recall])
def test_the_team_learns_against_the_adversary_and_from_its_own_actions_alone(engine: Any) -> None:
    learner = make_learner(AdversarialTraining, engine)
    batch = make_batch(learner, 6, phi=[0, 1, 0])
    logits = learner.actor.head(learner.actor.features_now(batch))
    action = learner.soft_action(logits, batch.mask)
    learner.generator.manual_seed(5)
    values = learner.actor_value(batch, action)
    learner.generator.manual_seed(5)
    attack = learner.soft_action(learner.adversary.head(learner.adversary.features(batch.obs)), batch.mask)
    joint = torch.stack([action[:, 0], attack[:, 1], action[:, 2]], dim=1)
    torch.testing.assert_close(values, learner.critic(batch.state, batch.obs, joint, batch.phi))
    (gradient,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
    assert not gradient[:, 1].any()
    assert gradient[:, [0, 2]].abs().max() > 1e-4
    assert not any(g.any() for g in gradients(values.sum(), learner.adversary))


@pytest.mark.parametrize(("engine", "masked"), WORLDS)
def test_the_adversary_descends_on_what_the_team_ascends(engine: Any, masked: bool) -> None:
    """Its step, made by hand on a twin after the team's."""
    learner, twin = (
        make_learner(AdversarialTraining, engine, adversary_lr=0.02, logit_penalty=0.1, max_grad_norm=100.0)
        for _ in range(2)
    )
    batch = make_batch(learner, 6, masked=masked)
    batch = replace(batch, phi=torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])] * torch.tensor([[1.0]] * 4 + [[0.0]] * 2))
    log = learner.update(batch)
    MaddpgLearner.update(twin, batch)
    with torch.no_grad():
        team = twin.soft_action(twin.actor.head(twin.actor.features(batch.obs)), batch.mask)
    logits = twin.adversary.head(twin.adversary.features(batch.obs))
    attack = twin.soft_action(logits, batch.mask)
    joint = team.clone()
    for k in range(4):
        joint[k, k % 3] = attack[k, k % 3]
    value = twin.critic(batch.state, batch.obs, joint, batch.phi)
    loss = value[:4].mean()  # the last two episodes were not attacked
    if not engine.discrete:
        loss = loss + 0.1 * logits.square().mean()
    torch.testing.assert_close(log["loss/adversary"], loss.detach())
    optimizer = torch.optim.Adam(twin.adversary.parameters(), lr=0.02)
    for parameter, gradient in zip(twin.adversary.parameters(), gradients(loss, twin.adversary), strict=True):
        parameter.grad = gradient
    optimizer.step()
    for one, other in zip(learner.adversary.parameters(), twin.adversary.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    for one, other in zip(learner.actor.parameters(), twin.actor.parameters(), strict=True):
        assert torch.equal(one, other)  # the adversary's step moves nothing else
    for one, other in zip(learner.critic.parameters(), twin.critic.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_batch_without_attacks_leaves_a_discrete_adversary_alone() -> None:
    learner = make_learner(AdversarialTraining, Recall)
    before = [p.detach().clone() for p in learner.adversary.parameters()]
    log = learner.update(make_batch(learner, 6))
    assert log["loss/adversary"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, learner.adversary.parameters(), strict=True))


def test_targets_follow_both_sides() -> None:
    learner = make_learner(AdversarialTraining, Match, tau=0.25)
    with torch.no_grad():
        learner.target_adversary.head.weight += 1.0
    online = [p.detach().clone() for p in learner.adversary.parameters()]
    held = [p.detach().clone() for p in learner.target_adversary.parameters()]
    learner.update(make_batch(learner, 6, phi=[1, 0, 0]))
    for after, slow, fast in zip(learner.target_adversary.parameters(), held, online, strict=True):
        torch.testing.assert_close(after, 0.75 * slow + 0.25 * fast)
    assert not any(p.requires_grad for p in learner.target_adversary.parameters())


# --- who plays ---


@pytest.mark.parametrize("engine", [Match, Trust])
def test_adversaries_play_in_their_own_places(engine: Any) -> None:
    learner = make_learner(AdversarialTraining, engine, 2, worlds=6)
    task = AdversarialTraining(learner.config).task(game(engine), 0)
    task.reset(seeds=list(range(6)))
    task.phi[:] = [[0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]]
    with torch.no_grad():
        learner.adversary.head.weight.zero_()
        learner.adversary.head.bias[-1] = 30.0 if engine.discrete else 0.4
    actions = np.zeros((6, 2), np.int64) if engine.discrete else np.full((6, 2, 1), -0.5, np.float32)
    executed = learner.intervene(task, actions)
    adversarial = task.phi > 0
    np.testing.assert_array_equal(executed[~adversarial], actions[~adversarial])
    assert (executed[adversarial] == 2).all() if engine.discrete else (executed[adversarial] != -0.5).all()
    assert executed.dtype == actions.dtype
    assert len(np.unique(executed[adversarial])) == (1 if engine.discrete else 6)  # it explores


def test_illegal_actions_are_never_executed() -> None:
    learner = make_learner(AdversarialTraining, Recall, attacked=1.0, worlds=8)
    task = AdversarialTraining(learner.config).task(game(Recall, 3), 0)
    task.reset(seeds=list(range(8)))
    collector = Collector(task, learner, EpisodeReplay(task, 100, n_steps=1, gamma=0.9), np.random.default_rng(0))
    assert sum(collector.step() for _ in range(12)) == 32  # the world would refuse them


# --- learning ---


def test_both_sides_find_their_best_responses() -> None:
    """In `Trust` sabotage is the worst case of every play, and who meets a saboteur does best to gather."""
    plays, learner = teach_trust(AdversarialTraining, phis=[(0, 1), (1, 0)], attacked=1.0, adversary_lr=1e-2)
    assert plays == [1, 1]
    obs = np.concatenate([np.zeros((2, 1)), np.eye(2)], axis=1)[None]
    attack, _ = learner.policy.training_adversary.act(obs, None, rng=np.random.default_rng(0))
    assert attack.tolist() == [[2, 2]]


@pytest.mark.parametrize("recurrent", [False, True])
def test_training_is_deterministic_and_ships_its_adversary(recurrent: bool) -> None:
    one, again, plain = (
        training(AdversarialTraining, Recall, recurrent, attacked=attacked) for attacked in (0.5, 0.5, 0.0)
    )
    assert same(one, again)
    assert not same(one, plain)
    adversaries = [list(policy.training_adversary.actor.parameters()) for policy in (one, again)]
    assert all(torch.equal(a, b) for a, b in zip(*adversaries, strict=True))
    assert one.training_adversary.initial_carry(3) is None  # feed-forward, whatever the team is
    assert one.critic.shape.knows_phi == 2
    config = replace(SMALL, recurrent=recurrent)
    assert MADDPG(config).train(game(Recall), seed=3, budget=8).training_adversary is None


# --- settings ---


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("attacked", 2.0, "attacked is a share from 0 to 1 and adversary_lr is above 0, but they are 2.0 and 0.0003"),
        ("adversary_lr", 0.0, "attacked is a share from 0 to 1 .* but they are 0.5 and 0.0"),
        ("attacked", -0.5, "attacked must be a finite number of 0 or more, but it is -0.5"),
        ("attacked", float("nan"), "attacked must be a finite number of 0 or more, but it is nan"),
        ("adversary_lr", float("inf"), "adversary_lr must be a finite number of 0 or more, but it is inf"),
    ],
)
def test_bad_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})  # type: ignore[arg-type]
