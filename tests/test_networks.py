"""Actor, critic, and discrete actions that are legal whatever the network says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mir2bench.learning.networks import (
    Actor,
    ActorShape,
    Critic,
    greedy_one_hot,
    legal_logits,
    straight_through_sample,
)
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.replay import Batch, Sequences


def make_actor(*, discrete: bool = False, recurrent: bool = False) -> Actor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Actor(ActorShape(obs_dim=5, action_dim=3, discrete=discrete, hidden=8, recurrent=recurrent))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- actor ---


def test_feed_forward_actor_by_its_formula(generator: torch.Generator) -> None:
    actor = make_actor()
    obs = torch.randn(4, 2, 5, generator=generator)
    x = obs @ actor.inner.weight.T + actor.inner.bias
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + actor.norm.eps).sqrt()
    x = x.clamp_min(0.0) @ actor.outer.weight.T + actor.outer.bias
    logits = x.clamp_min(0.0) @ actor.head.weight.T + actor.head.bias
    action, carry = actor(obs)
    torch.testing.assert_close(action, logits.tanh())
    assert carry is None
    discrete = make_actor(discrete=True)
    torch.testing.assert_close(discrete(obs)[0], logits)  # the same weights, no tanh


def together(obs: Tensor, index: Tensor | None = None, after: Tensor | None = None) -> Sequences:
    """Return (T, E, n, O) observations of episodes of the same length, packed."""
    now, later = (torch.arange(0) if x is None else x for x in (index, after))
    return Sequences(obs.flatten(0, 1), (obs.shape[1],) * len(obs), now, later)


def test_unrolling_equals_acting_step_by_step(generator: torch.Generator) -> None:
    actor = make_actor(recurrent=True)
    obs = torch.randn(6, 4, 2, 5, generator=generator)  # (T, E, n, O)
    features = actor.unroll(together(obs)).unflatten(0, (6, 4))
    policy = NetworkPolicy(actor, n_agents=2)
    carry = policy.initial_carry(4)
    assert carry.shape == (4, 2, 8)
    assert not carry.any()
    rng = np.random.default_rng(0)
    for t in range(6):
        action, carry = policy.act(obs[t].numpy(), carry, rng=rng)
        np.testing.assert_allclose(carry, features[t].detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(action, torch.tanh(actor.head(features[t])).detach().numpy(), atol=1e-6)
    again, _ = policy.act(obs[5].numpy(), policy.initial_carry(4), rng=rng)
    assert np.abs(again - action).max() > 1e-3  # the memory mattered


def test_memories_of_agents_and_episodes_stay_apart(generator: torch.Generator) -> None:
    actor = make_actor(recurrent=True)
    obs = torch.randn(3, 2, 2, 5, generator=generator)
    changed = obs.clone()
    changed[0, 1, 0] += 1.0
    one, other = (actor.unroll(together(o)).unflatten(0, (3, 2)) for o in (obs, changed))
    differs = (one != other).any(dim=-1)
    assert differs[:, 1, 0].all()
    differs[:, 1, 0] = False
    assert not differs.any()


def test_recurrent_features_of_a_batch_are_looked_up_in_its_episodes(generator: torch.Generator) -> None:
    actor = make_actor(recurrent=True)
    obs = torch.randn(4, 3, 2, 5, generator=generator)
    index, after = torch.tensor([0, 4, 8]), torch.tensor([3, 7, 11])  # column 0, 1, 2 at t = 0, 1, 2 and one later
    nothing = torch.empty(0)
    batch = Batch(*[nothing] * 9, mask=None, next_mask=None, sequences=together(obs, index, after))
    unrolled = actor.unroll(batch.sequences)  # type: ignore[arg-type]
    assert actor.features_now(batch).equal(unrolled[index])
    assert actor.features_next(batch).equal(unrolled[after])
    first = actor.features(obs[0])
    torch.testing.assert_close(actor.features_now(batch)[0], first[0])
    torch.testing.assert_close(actor.features_next(batch)[0], actor.features(obs[1], first)[0])


def test_noise_is_added_to_samples_only_and_clipped(generator: torch.Generator) -> None:
    actor = make_actor()
    with torch.no_grad():
        actor.head.weight.mul_(0.01)
        actor.head.bias.copy_(torch.tensor([0.0, 0.5, -3.0]))
    policy = NetworkPolicy(actor, n_agents=2, noise=0.2)
    obs = torch.randn(5_000, 2, 5, generator=generator).numpy()
    greedy, _ = policy.act(obs, None, rng=np.random.default_rng(0))
    noisy, _ = policy.act(obs, None, rng=np.random.default_rng(0), deterministic=False)
    again, _ = policy.act(obs, None, rng=np.random.default_rng(0), deterministic=False)
    assert noisy.dtype == greedy.dtype == np.float32
    assert np.array_equal(noisy, again)
    assert noisy.min() == -1.0
    assert (noisy[..., 2] == -1.0).mean() == pytest.approx(0.5, abs=0.05)  # half of the noise would go beyond it
    noise = (noisy - greedy)[..., :2]
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.std() == pytest.approx(0.2, abs=0.01)


# --- discrete actions ---


def fuzz(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw extreme logits, with ties, and masks with at least one legal action."""
    scale = 10.0 ** torch.randint(-2, 7, (count, 1), generator=generator)
    logits = torch.randn(count, 9, generator=generator) * scale
    logits[::5] = logits[::5].sign() * scale[::5]
    mask = (torch.rand(count, 9, generator=generator) < torch.rand(count, 1, generator=generator)).float()
    mask[torch.arange(count), torch.randint(9, (count,), generator=generator)] = 1.0
    return logits, mask


def test_no_action_is_ever_illegal(generator: torch.Generator) -> None:
    logits, mask = fuzz(10_000, generator)
    assert 500 < (mask.sum(dim=-1) == 1).sum() < 9_000
    for one_hot in (greedy_one_hot(logits, mask), straight_through_sample(logits, mask, generator)):
        assert one_hot.sum(dim=-1).eq(1).all()
        assert one_hot.max(dim=-1).values.eq(1).all()
        assert (one_hot * mask).sum(dim=-1).eq(1).all()
    best = torch.where(mask > 0, logits, -torch.inf).max(dim=-1).values
    assert (greedy_one_hot(logits, mask) * logits).sum(dim=-1).equal(best)


@pytest.mark.parametrize("deterministic", [True, False])
def test_no_policy_ever_acts_illegally(deterministic: bool, generator: torch.Generator) -> None:
    logits, mask = fuzz(10_000, generator)

    class Extreme(Actor):
        def forward(self, obs: Tensor, carry: Tensor | None = None) -> tuple[Tensor, None]:
            return logits.view(-1, 2, 9), None

    policy = NetworkPolicy(Extreme(ActorShape(5, 9, True, 8, False)), n_agents=2)
    legal = mask.view(-1, 2, 9).to(torch.int8).numpy()
    rng = np.random.default_rng(0)
    action, _ = policy.act(np.zeros((5_000, 2, 5), np.float32), None, legal, rng=rng, deterministic=deterministic)
    assert action.dtype == np.int64
    assert (np.take_along_axis(legal, action[..., None], axis=-1) == 1).all()
    if deterministic:
        assert np.array_equal(action, greedy_one_hot(logits, mask).argmax(dim=-1).view(-1, 2).numpy())


def test_samples_follow_softmax_over_legal_actions(generator: torch.Generator) -> None:
    count = 40_000
    logits, mask = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    weights = np.exp([0.0, 1.0, 2.0])
    expected = np.append(weights / weights.sum(), 0.0)
    drawn = straight_through_sample(logits.expand(count, 4), mask.expand(count, 4), generator).mean(dim=0)
    allowed = 4 * np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(drawn.numpy() - expected) <= allowed + 1e-6).all()

    actor = make_actor(discrete=True)
    policy = NetworkPolicy(actor, n_agents=1)
    with torch.no_grad():
        actor.head.weight.zero_()
        actor.head.bias.copy_(logits[:3])
    legal = np.tile(np.array([1, 0, 1], np.int8), (count, 1, 1))
    rng = np.random.default_rng(0)
    action, _ = policy.act(np.zeros((count, 1, 5), np.float32), None, legal, rng=rng, deterministic=False)
    share = np.bincount(action[:, 0], minlength=3) / count
    odds = np.exp(2.0) / (1 + np.exp(2.0))
    assert share[1] == 0
    assert share[2] == pytest.approx(odds, abs=4 * np.sqrt(odds * (1 - odds) / count))


def test_gradients_are_those_of_the_soft_sample() -> None:
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    value = torch.tensor([1.0, -2.0, 5.0, 0.5], dtype=torch.float64)
    (straight_through_sample(logits, mask, torch.Generator().manual_seed(3)) * value).sum().backward()

    uniform = torch.rand(1, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    soft_logits = logits.detach().clone().requires_grad_()
    keep = [0, 1, 3]
    soft = (soft_logits - torch.log(-torch.log(uniform)))[:, keep].softmax(dim=-1)
    (soft * value[keep]).sum().backward()
    torch.testing.assert_close(logits.grad, soft_logits.grad)
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert logits.grad[0, keep].abs().min() > 1e-3


def test_without_a_mask_everything_is_legal() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert legal_logits(logits, None) is logits
    assert greedy_one_hot(logits, None).tolist() == [[0.0, 1.0, 0.0]]


# --- critic ---


def test_critic_does_not_care_for_the_order_of_agents(generator: torch.Generator) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = Critic(obs_dim=7, action_dim=2, state_dim=6, hidden=16)
    state, obs = torch.randn(5, 6, generator=generator), torch.randn(5, 4, 7, generator=generator)
    obs[..., 3:] = torch.eye(4)  # ids go along with their agents
    action = torch.randn(5, 4, 2, generator=generator)
    value = critic(state, obs, action)
    order = torch.tensor([2, 0, 3, 1])
    assert value.shape == (5,)
    torch.testing.assert_close(critic(state, obs[:, order], action[:, order]), value)
    for changed in (
        critic(state, obs[:, order], action),  # other agents' actions
        critic(state + 1, obs, action),
        critic(state, obs.roll(1, 0), action),
    ):
        assert (changed - value).abs().min() > 1e-5


def make_critic(knows_phi: int = 0) -> Critic:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Critic(obs_dim=7, action_dim=2, state_dim=6, hidden=16, knows_phi=knows_phi)


def test_critic_by_its_formula(generator: torch.Generator) -> None:
    critic = make_critic(knows_phi=4)
    state, obs = torch.randn(5, 6, generator=generator), torch.randn(5, 4, 7, generator=generator)
    action = torch.randn(5, 4, 2, generator=generator)
    phi = (torch.rand(5, 4, generator=generator) < 0.5).float()

    def layer(module: torch.nn.Module, x: Tensor) -> Tensor:
        return x @ module.weight.T + module.bias  # type: ignore[union-attr, operator]

    def normalize(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    team = torch.zeros(5, 16)
    for i in range(4):
        x = torch.cat([action[:, i], obs[:, i], phi], dim=-1)  # all of phi at every agent
        team += layer(critic.agent_out, normalize(layer(critic.agent_in, x)).clamp_min(0)).clamp_min(0) / 4
    world = normalize(layer(critic.state_in, state)).clamp_min(0)
    expected = layer(critic.value, layer(critic.joint, torch.cat([team, world], dim=-1)).clamp_min(0))[:, 0]
    torch.testing.assert_close(critic(state, obs, action, phi), expected)
    assert (critic(state, obs, action) - expected).abs().max() > 1e-3  # nobody adversarial
    torch.testing.assert_close(critic(state, obs, action), critic(state, obs, action, torch.zeros(5, 4)))


def test_critics_that_are_not_told_do_not_care_for_phi(generator: torch.Generator) -> None:
    critic = make_critic()
    state, obs = torch.randn(5, 6, generator=generator), torch.randn(5, 4, 7, generator=generator)
    action = torch.randn(5, 4, 2, generator=generator)
    assert torch.equal(critic(state, obs, action, torch.ones(5, 4)), critic(state, obs, action))


def test_values_of_replacements_are_those_of_full_passes(generator: torch.Generator) -> None:
    critic = make_critic(knows_phi=4)
    state, obs = torch.randn(5, 6, generator=generator), torch.randn(5, 4, 7, generator=generator)
    action = torch.randn(5, 4, 2, generator=generator)
    phi = (torch.rand(5, 4, generator=generator) < 0.5).float()
    read, world = critic.read(obs, phi), critic.embed_state(state)
    agents = critic.embed(read, action)
    torch.testing.assert_close(critic.judge(agents.mean(dim=1), world), critic(state, obs, action, phi))

    def full(agent: int, play: Tensor) -> Tensor:
        joint = action.clone()
        joint[:, agent] = play
        return critic(state, obs, joint, phi)

    # One other action for each of all agents.
    other = torch.randn(5, 4, 2, generator=generator)
    found = critic.judge_replacements(agents, critic.embed(read, other), world)
    torch.testing.assert_close(found, torch.stack([full(i, other[:, i]) for i in range(4)], dim=1))
    # Three for each.
    several = torch.randn(5, 4, 3, 2, generator=generator)
    found = critic.judge_replacements(agents, critic.embed(read.unsqueeze(2), several), world)
    expected = [torch.stack([full(i, several[:, i, k]) for k in range(3)], dim=1) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))
    # For chosen agents, others in each row.
    who = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2], [0, 1]])
    rows = torch.arange(5)[:, None]
    found = critic.judge_replacements(agents, critic.embed(read[rows, who], other[rows, who]), world, who)
    for m in range(5):
        for k in range(2):
            assert found[m, k].item() == pytest.approx(full(int(who[m, k]), other[:, who[m, k]])[m].item(), abs=1e-5)


def test_gradient_by_hand_is_that_of_autograd(generator: torch.Generator) -> None:
    critic = make_critic()
    with torch.no_grad():
        for weights in critic.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    state, obs = torch.randn(5, 6, generator=generator), torch.randn(5, 4, 7, generator=generator)
    action = torch.randn(5, 4, 2, generator=generator).requires_grad_()
    (expected,) = torch.autograd.grad(critic(state, obs, action).sum(), action)
    read, world = critic.read(obs), critic.embed_state(state)
    agents, gradient = critic.embed_with_gradient(read, action, world)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(agents, critic.embed(read, action))
    assert expected.abs().max() > 1e-3
    assert not gradient.requires_grad
    assert not agents.requires_grad
