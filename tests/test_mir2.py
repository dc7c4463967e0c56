"""MIR2: what it charges, that lambda = 0 is MADDPG, and that a growing lambda lowers the information."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from games import Match, Recall, game
from test_maddpg import SMALL, equal, make_batch, train, weights
from test_mutual_information import all_pairs_gaussian, by_definition

import mir2bench
from mir2bench.defenders import maddpg
from mir2bench.defenders.mir2 import MIR2, Config, Mir2Learner
from mir2bench.errors import ConfigError
from mir2bench.learning.mutual_information import Negatives
from mir2bench.learning.tasks import TeamTask

TINY = Config(hidden=4, worlds=4, batch_size=8, warmup=20)


def make_learner(engine: Any, config: Config) -> Mir2Learner:
    return Mir2Learner(TeamTask(game(engine), config.worlds), config, seed=0)


# --- the charged reward ---


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("negatives", ["actions", "histories"])
def test_the_charge_on_continuous_actions(negatives: Negatives, joint: bool) -> None:
    learner = make_learner(Match, replace(TINY, lam=0.3, negatives=negatives, joint=joint, club_interval=1_000))
    learner._updates = 1  # q's first step is over
    batch = replace(make_batch(learner, 12), weight=torch.linspace(0.5, 2.0, 12))
    features = learner.actor.features_now(batch).detach()
    with torch.no_grad():
        reward = learner.reward(batch, features)
        log_q = all_pairs_gaussian(learner.q(features), learner.q.log_var, batch.action)
    shares = by_definition(log_q, negatives).sum(dim=-1)  # over agents
    torch.testing.assert_close(reward, batch.reward - 0.3 * batch.weight * shares)
    assert (reward - batch.reward).abs().max() > 0.05
    assert learner._logged["mi/club"].item() == pytest.approx(shares.mean().item(), rel=1e-4)


@pytest.mark.parametrize("negatives", ["actions", "histories"])
def test_the_charge_on_discrete_actions(negatives: Negatives) -> None:
    learner = make_learner(Recall, replace(TINY, lam=0.3, negatives=negatives, club_interval=1_000))
    learner._updates = 1
    batch = make_batch(learner, 12, masked=True)
    features = learner.actor.features_now(batch).detach()
    with torch.no_grad():
        reward = learner.reward(batch, features)
        log_q = torch.stack([(row * batch.action).sum(dim=-1) for row in learner.q(features)])  # all (k, j, agent)
    torch.testing.assert_close(reward, batch.reward - 0.3 * by_definition(log_q, negatives).sum(dim=-1))


def test_q_learns_at_its_interval_and_leaves_the_actor_alone() -> None:
    learner = make_learner(Match, replace(TINY, club_interval=3))
    batch = make_batch(learner, 64)
    features = learner.actor.features_now(batch).detach()
    actor = copy.deepcopy(learner.actor.state_dict())
    moved, likelihoods = [], []
    for _ in range(300):
        before = copy.deepcopy(learner.q.state_dict())
        with torch.no_grad():
            learner.reward(batch, features)
        moved.append(not equal(before, learner.q.state_dict()))
        likelihoods.append(learner._logged["mi/log_likelihood"].item())
    assert moved == [True, False, False] * 100
    assert likelihoods[0] == likelihoods[2] < likelihoods[-1] - 0.5
    assert equal(actor, learner.actor.state_dict())


@pytest.mark.parametrize("engine", [Match, Recall])
def test_what_the_policy_draws_has_the_probabilities_it_tells(engine: Any) -> None:
    learner = make_learner(engine, TINY)
    batch = make_batch(learner, 2, masked=engine.discrete)
    features = learner.actor.features_now(batch).detach()[:1].expand(20_000, 2, -1)
    mask = None if batch.mask is None else batch.mask[:1].expand(20_000, 2, -1)
    action, log_prob = learner.act(features, mask, torch.Generator().manual_seed(0))
    logits = learner.actor.head(features[0]).detach()
    if engine.discrete:
        assert batch.mask is not None
        probs = logits.masked_fill(batch.mask[0] == 0, -torch.inf).softmax(dim=-1)
        assert probs[0, 0] == 0
        torch.testing.assert_close(action.mean(dim=0), probs, atol=0.015, rtol=0)
        torch.testing.assert_close(log_prob, (action * probs.clamp_min(1e-30).log()).sum(dim=-1))
    else:
        normal = torch.distributions.Normal(logits.tanh(), learner.config.noise)
        torch.testing.assert_close(log_prob, normal.log_prob(action).sum(dim=-1))
        torch.testing.assert_close(action.mean(dim=0), logits.tanh(), atol=0.01, rtol=0)
        assert action.std(dim=0)[..., 0].tolist() == pytest.approx([0.2, 0.2], abs=0.01)


# --- lambda ---


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(
    ("engine", "recurrent"), [(Match, False), (Recall, False), (Recall, True)], ids=["continuous", "discrete", "gru"]
)
def test_lambda_zero_is_maddpg_bit_for_bit(engine: Any, recurrent: bool, joint: bool) -> None:
    plain = replace(SMALL, recurrent=recurrent, n_steps=2)
    settings = {"recurrent": recurrent, "n_steps": 2, "joint": joint}
    expected, _ = train(game(engine), plain, 3, 300)
    zero, reports = train(game(engine), replace(TINY, lam=0.0, **settings), 3, 300, MIR2)
    some, _ = train(game(engine), replace(TINY, lam=0.5, **settings), 3, 300, MIR2)
    assert equal(weights(zero), weights(expected))
    assert not equal(weights(some), weights(expected))
    assert math.isfinite(reports[-1].metrics["mi/club"])


def test_lambda_zero_is_maddpg_on_rendezvous() -> None:
    variant = mir2bench.spec("Rendezvous5-adv0-v0")
    expected, _ = train(variant, SMALL, 3, 80)
    zero, _ = train(variant, replace(TINY, lam=0.0), 3, 80, MIR2)
    some, _ = train(variant, replace(TINY, lam=0.5), 3, 80, MIR2)
    assert equal(weights(zero), weights(expected))
    assert not equal(weights(some), weights(expected))


def test_information_falls_as_lambda_grows() -> None:
    """The best action is what is seen, so the team pays in reward for telling less of it."""
    config = Config(hidden=16, worlds=16, batch_size=128, warmup=500, actor_lr=3e-3, critic_lr=3e-3)
    config = replace(config, club_interval=2)
    exact, returns = [], []
    for lam in (0.0, 0.02, 0.2):
        _, reports = train(game(Match), replace(config, lam=lam), 1, 6_400, MIR2)
        exact.append(reports[-1].metrics["mi/exact"])
        returns.append(reports[-1].metrics["greedy_return"])
    assert exact[0] > 1.2  # two agents; matching exactly with noise of 0.2 tells about 0.75 nats each
    assert exact[0] > exact[1] + 0.1
    assert exact[1] > exact[2] + 0.2
    assert exact[2] < 0.5
    assert returns[0] > returns[1] > returns[2] > -0.3


# --- diagnosis ---


@pytest.mark.parametrize("engine", [Match, Recall])
def test_diagnosis(engine: Any) -> None:
    learner = make_learner(engine, replace(TINY, club_lr=0.05, club_interval=1))
    batch = make_batch(learner, 256, masked=engine.discrete)
    for _ in range(300):
        learner.reward(batch, learner.actor.features_now(batch).detach())
    before = copy.deepcopy(learner.q.state_dict())
    training = learner.generator.get_state(), learner.generator_q.get_state()
    figures = {name: value.item() for name, value in learner.diagnose(batch).items()}
    assert set(figures) == {"value/mean", "value/reward", "mi/exact", "mi/club_now", "mi/held_out", "mi/policy"}
    assert all(math.isfinite(value) for value in figures.values())
    assert 0 < figures["mi/exact"] < 2 * math.log(256)
    assert figures["mi/held_out"] == pytest.approx(figures["mi/policy"], abs=0.15)  # a policy that q can express
    assert equal(before, learner.q.state_dict())
    after = learner.generator.get_state(), learner.generator_q.get_state()
    assert all(torch.equal(a, b) for a, b in zip(training, after, strict=True))


def test_the_exact_information_of_a_known_policy() -> None:
    learner = make_learner(Recall, TINY)
    batch = make_batch(learner, 100)
    with torch.no_grad():
        learner.actor.head.weight.zero_()
        learner.actor.head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert learner.diagnose(batch)["mi/exact"].item() == pytest.approx(0.0, abs=1e-5)
    probs = torch.tensor([0.0, 1.0, 2.0]).softmax(dim=0)
    entropy = -(probs * probs.log()).sum().item()
    assert learner.diagnose(batch)["mi/policy"].item() == pytest.approx(-2 * entropy, abs=0.2)


def test_reports_hold_both_estimates() -> None:
    for engine in (Match, Recall):
        _, reports = train(game(engine), TINY, 0, 300, MIR2)
        assert set(reports[-1].metrics) == {
            *("greedy_return", "loss/critic", "loss/actor", "value/mean", "value/reward"),
            *("mi/club", "mi/log_likelihood", "mi/exact", "mi/club_now", "mi/held_out", "mi/policy"),
        }


# --- settings ---


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lam", -0.1, "lam must be a finite number of 0 or more, but it is -0.1"),
        ("lam", float("nan"), "lam must be a finite number"),
        ("lam", float("inf"), "lam must be a finite number"),
        ("club_lr", 0.0, "club_lr above 0"),
        ("club_lr", float("nan"), "club_lr must be a finite number"),
        ("club_interval", 0, "club_interval must be 1 or more .* but they are 0"),
        (
            "negatives",
            "both",
            'negatives must be "actions" or "histories"|"histories" or "actions", but it is \'both\'',
        ),
        ("gamma", 1.5, "gamma must be at most 1"),
    ],
)
def test_bad_settings(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{setting: value})


def test_mir2_has_all_settings_of_maddpg_with_the_same_defaults() -> None:
    ours, theirs = Config(), maddpg.Config()
    assert {name: getattr(ours, name) for name in vars(theirs)} == vars(theirs)
