"""Worst cases inside a critic and certified bounds, against full forward passes, brute force and sampling."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from games import Match, Recall, game
from learners import KnownCritic
from torch import Tensor

from mir2bench.learning import bounds
from mir2bench.learning.bounds import lower_bounds
from mir2bench.learning.networks import Critic
from mir2bench.learning.tasks import TeamTask
from mir2bench.learning.worst_case import (
    Situation,
    as_actions,
    descend,
    embed,
    embed_with_gradient,
    pick,
    share,
    step_against,
    worst_replacement,
)

M, N, OBS, S = 12, 3, 4, 5


def make_critic(action_dim: int, knows_phi: int = 0, seed: int = 0) -> Critic:
    """Return a critic with weights twice as large as usual, so that its values bend."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = Critic(OBS, action_dim, S, 8, knows_phi)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(2.0)
        critic.agent_norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    return critic


def make_situation(action_dim: int, *, discrete: bool, masked: bool = False, size: int = M, seed: int = 1) -> Situation:
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    mask = None
    if masked:
        mask = (draw(size, N, action_dim) > 0).float()
        mask[..., 1] = 1.0
    action = draw(size, N, action_dim).tanh()
    if discrete:
        likes = action if mask is None else action - 9 * (1 - mask)
        action = torch.eye(action_dim)[likes.argmax(dim=-1)]
    phi = (torch.rand(size, N, generator=generator) < 0.3).float()
    return Situation(draw(size, S), draw(size, N, OBS), action, mask, phi)


def value(critic: Critic, at: Situation, action: Tensor | None = None) -> Tensor:
    return critic(at.state, at.obs, at.action if action is None else action, at.phi)


class Weighted(KnownCritic):
    """Q = sum_i o^i a^i: each observation is the weight of its agent's action, so that all minima are known."""

    def embed(self, read: Tensor, action: Tensor) -> Tensor:
        return (read * action).sum(dim=-1, keepdim=True)

    def judge(self, team: Tensor, world: Tensor) -> Tensor:
        return N * team[..., 0]


def weighted(weights: list[list[float]], actions: list[list[float]]) -> Situation:
    """Return one moment of three agents with the given weights and actions."""
    obs, action = torch.tensor([weights]), torch.tensor([actions])
    return Situation(torch.zeros(1, S), obs, action, None, torch.zeros(1, N))


# --- moments ---


def test_a_situation_is_where_the_worlds_stand() -> None:
    task = TeamTask(game(Recall, N), 4, attacked=1.0)
    task.reset(seeds=[1, 2, 3, 4])
    at = Situation.of(task, np.array([[0, 1, 2]] * 4))
    assert at.state.numpy().tobytes() == task.state.tobytes()
    assert at.obs.numpy().tobytes() == task.obs.tobytes()
    assert at.action.tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 4
    assert at.mask is not None
    assert at.mask.tolist() == [[[1, 0, 0]] * 3] * 4  # only "wait" is legal at first
    assert at.phi.tolist() == task.phi.tolist()
    assert at.phi.sum() == 4
    assert {x.dtype for x in (at.state, at.obs, at.action, at.mask, at.phi)} == {torch.float32}
    plain = TeamTask(game(Match), 2)
    plain.reset(seeds=[1, 2])
    assert Situation.of(plain, np.full((2, 2, 1), 0.5)).mask is None
    assert Situation.of(plain, np.full((2, 2, 1), 0.5)).action.tolist() == [[[0.5]] * 2] * 2


def test_rows_of_a_situation() -> None:
    at = make_situation(3, discrete=True, masked=True)
    rows = at.rows(torch.tensor([4, 7]))
    for name in ("state", "obs", "action", "mask", "phi"):
        assert torch.equal(getattr(rows, name), getattr(at, name)[[4, 7]])
    assert make_situation(3, discrete=True).rows(torch.tensor([1])).mask is None


def test_actions_go_back_as_worlds_take_them() -> None:
    one_hot = torch.eye(3)[torch.tensor([[2, 0]])]
    assert as_actions(one_hot, discrete=True).tolist() == [[2, 0]]
    assert as_actions(one_hot, discrete=True).dtype == np.int64
    free = torch.tensor([[[0.25], [-1.0]]], requires_grad=True)
    assert as_actions(free, discrete=False).tolist() == [[[0.25], [-1.0]]]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_share_of_a_batch_is_spread_evenly(fraction: float) -> None:
    rows = share(40, fraction).tolist()
    assert len(rows) == 40 * fraction
    gaps = {b - a for a, b in itertools.pairwise(rows)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert rows == sorted(set(rows))


def test_picking_row_by_row() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    assert pick(values, torch.tensor([2, 0])).tolist() == [[4, 5], [6, 7]]
    assert pick(values, torch.tensor([[2, 1], [0, 0]])).tolist() == [[[4, 5], [2, 3]], [[6, 7], [6, 7]]]


# --- one gradient for all agents ---


@pytest.mark.parametrize("knows_phi", [0, N])
def test_the_gradient_is_that_of_a_full_pass(knows_phi: int) -> None:
    critic, at = make_critic(2, knows_phi), make_situation(2, discrete=False)
    action = at.action.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(critic, at, action).sum(), action)
    now, gradient = embed_with_gradient(critic, at)
    torch.testing.assert_close(gradient, expected)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(critic.judge(now.agents.mean(dim=1), now.world), value(critic, at))
    assert not gradient.requires_grad
    assert not at.action.requires_grad
    assert all(p.grad is None for p in critic.parameters())

    # If the action has a graph, the embeddings keep it.
    now, gradient = embed_with_gradient(critic, replace(at, action=action * 1.0))
    assert not gradient.requires_grad
    (through,) = torch.autograd.grad(critic.judge(now.agents.mean(dim=1), now.world).sum(), action)
    torch.testing.assert_close(through, expected)


def test_steps_against_by_hand() -> None:
    action = torch.tensor([[[0.5, 0.5], [0.0, -0.95], [0.2, 0.3]]])
    gradient = torch.tensor([[[3.0, 4.0], [0.0, 7.0], [0.0, 0.0]]])
    moved = step_against(action, gradient, 0.1, None, discrete=False)
    torch.testing.assert_close(moved, torch.tensor([[[0.44, 0.42], [0.0, -1.0], [0.2, 0.3]]]))  # clipped; and no slope

    one_hot = torch.tensor([[[1.0, 0.0, 0.0]]])
    gradient = torch.tensor([[[3.0, -9.0, -4.0]]])
    mask = torch.tensor([[[1.0, 0.0, 1.0]]])
    torch.testing.assert_close(
        step_against(one_hot, gradient, 0.5, mask, discrete=True), torch.tensor([[[0.7, 0.0, 0.4]]])
    )
    half = 0.5 / (9 + 81 + 16) ** 0.5
    torch.testing.assert_close(
        step_against(one_hot, gradient, 0.5, None, discrete=True),
        torch.tensor([[[1 - 3 * half, 9 * half, 4 * half]]]),
    )


# --- one agent replaced ---


@pytest.mark.parametrize("masked", [False, True])
def test_discrete_replacements_against_brute_force(masked: bool) -> None:
    critic, at = make_critic(4, knows_phi=N), make_situation(4, discrete=True, masked=masked)
    soft = at.action.clone().requires_grad_()
    worst = worst_replacement(critic, replace(at, action=soft * 1.0), discrete=True)
    (gradient,) = torch.autograd.grad(worst.sum(), soft)
    lowest = torch.full((M,), torch.inf)
    joint, kept = at.action.clone(), torch.ones(M, N, dtype=torch.bool)
    for agent, move in itertools.product(range(N), range(4)):
        replaced = at.action.clone()
        replaced[:, agent] = torch.eye(4)[move]
        now = value(critic, at, replaced).detach()
        if at.mask is not None:
            now[at.mask[:, agent, move] == 0] = torch.inf
        joint = torch.where((now < lowest)[:, None, None], replaced, joint)
        kept = torch.where((now < lowest)[:, None], torch.arange(N) != agent, kept)
        lowest = torch.minimum(now, lowest)
    torch.testing.assert_close(worst.detach(), lowest)
    assert (lowest <= value(critic, at)).all()
    assert (lowest < value(critic, at) - 0.01).sum() > M / 2
    # The gradient is that of Q at the replaced joint action, and zero for the agent that was replaced.
    expected_at = joint.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(critic, at, expected_at).sum(), expected_at)
    torch.testing.assert_close(gradient[kept], expected[kept], atol=1e-6, rtol=1e-4)
    assert gradient[~kept].abs().max() < 1e-6


def corners_named_by_the_gradient(critic: Critic, at: Situation) -> tuple[Tensor, Tensor]:
    """Return the values (M, n) with agent i in the corner against its gradient, and how much that promises to hurt."""
    action = at.action.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(critic, at, action).sum(), action)
    values = torch.zeros(M, N)
    promise = torch.zeros(M, N)
    for i in range(N):
        replaced = at.action.clone()
        replaced[:, i] = -gradient[:, i].sign()
        values[:, i] = value(critic, at, replaced).detach()
        promise[:, i] = (gradient[:, i] * (at.action[:, i] - replaced[:, i])).sum(dim=-1)
    return values, promise


@pytest.mark.parametrize("candidates", [1, 2, 3, 99])
def test_continuous_replacements_compare_the_corners_that_promise_most(candidates: int) -> None:
    critic, at = make_critic(2, knows_phi=N), make_situation(2, discrete=False)
    values, promise = corners_named_by_the_gradient(critic, at)
    kept = promise.argsort(dim=-1, descending=True)[:, :candidates]
    torch.testing.assert_close(
        worst_replacement(critic, at, discrete=False, candidates=candidates).detach(),
        values.gather(1, kept).min(dim=-1).values,
    )


def test_continuous_replacements_leave_no_gradient_to_the_replaced_agent() -> None:
    critic, at = make_critic(2), make_situation(2, discrete=False)
    values, _ = corners_named_by_the_gradient(critic, at)
    free = at.action.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(worst_replacement(critic, replace(at, action=free), False).sum(), free)
    slopes = gradient.abs().sum(dim=-1)
    assert torch.equal(slopes.argmin(dim=-1), values.argmin(dim=-1))
    assert slopes.min(dim=-1).values.max() < 1e-6
    assert (slopes > 1e-3).sum() > M


def test_replacements_of_a_linear_value_by_hand() -> None:
    """Q = 2 a^1 - 3 a^2 + a^3 = 1.4: the first agent can take 2 * 1.5 from it, the second 3 * 0.8, the third 2."""
    at = weighted([[2.0], [-3.0], [1.0]], [[0.5], [0.2], [1.0]])
    critic: Critic = Weighted()  # type: ignore[assignment]
    assert value(critic, at).item() == pytest.approx(1.4)
    assert worst_replacement(critic, at, discrete=False).item() == pytest.approx(1.4 - 3.0)
    at = weighted([[2.0], [-3.0], [1.0]], [[-0.5], [0.2], [1.0]])
    assert worst_replacement(critic, at, discrete=False).item() == pytest.approx(-0.6 - 2.4)


@pytest.mark.parametrize("masked", [False, True])
def test_everybody_alone_against_a_discrete_critic(masked: bool) -> None:
    critic, at = make_critic(4, knows_phi=N), make_situation(4, discrete=True, masked=masked)
    chosen = descend(critic, at, steps=0, size=0.0, discrete=True)
    assert chosen.dtype == np.int64
    for m, i in itertools.product(range(M), range(N)):
        values = []
        for move in range(4):
            replaced = at.action.clone()
            replaced[m, i] = torch.eye(4)[move]
            legal = at.mask is None or at.mask[m, i, move] > 0
            values.append(value(critic, at, replaced)[m].item() if legal else np.inf)
        assert chosen[m, i] == np.argmin(values)


def test_everybody_alone_against_a_continuous_critic() -> None:
    critic, at = make_critic(2, knows_phi=N), make_situation(2, discrete=False)
    found = descend(critic, at, steps=4, size=0.3, discrete=False)
    assert found.dtype == np.float32
    for i in range(N):
        action = at.action.clone()
        for _ in range(4):
            action.requires_grad_()
            (gradient,) = torch.autograd.grad(value(critic, at, action).sum(), action)
            action = action.detach()
            action[:, i] = (action[:, i] - 0.3 * gradient[:, i].sign()).clamp(-1, 1)
        np.testing.assert_allclose(found[:, i], action[:, i].numpy(), atol=1e-6)
    assert np.array_equal(descend(critic, at, steps=0, size=0.3, discrete=False), at.action.numpy())


def test_descent_on_a_linear_value_by_hand() -> None:
    at = weighted([[2.0], [-3.0], [0.0]], [[0.5], [0.2], [0.4]])
    found = descend(Weighted(), at, steps=3, size=0.3, discrete=False)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0, :, 0], [-0.4, 1.0, 0.4], atol=1e-6)


# --- certified bounds ---


def box(at: Situation, epsilon: float, discrete: bool) -> tuple[Tensor, Tensor]:
    low, high = at.action - epsilon, at.action + epsilon
    if discrete:
        low, high = low.clamp(0.0, 1.0), high.clamp(0.0, 1.0)
    return low, high if at.mask is None else high * at.mask


@pytest.mark.parametrize(("discrete", "masked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("epsilon", [0.05, 0.3, 1.0])
def test_no_value_within_reach_is_below_its_bound(epsilon: float, discrete: bool, masked: bool) -> None:
    critic = make_critic(3, knows_phi=N)
    at = make_situation(3, discrete=discrete, masked=masked)
    bound = lower_bounds(critic, at, epsilon, discrete).detach()
    assert bound.shape == (M, N)
    low, high = box(at, epsilon, discrete)
    generator = torch.Generator().manual_seed(0)
    lowest = torch.full((M, N), torch.inf)
    for draw in range(150):
        inside = torch.rand(at.action.shape, generator=generator)
        inside = inside.round() if draw % 2 else inside  # corners, too
        for i in range(N):
            action = low + inside * (high - low)
            action[:, i] = at.action[:, i]
            lowest[:, i] = torch.minimum(lowest[:, i], value(critic, at, action).detach())
    assert (bound <= lowest + 1e-5).all()
    assert (lowest < value(critic, at)[:, None] - 1e-3).float().mean() > 0.8  # the draws were of some use


def test_bounds_hold_for_all_legal_play_of_the_others() -> None:
    """With epsilon = 1 every one-hot is within reach."""
    critic, at = make_critic(3), make_situation(3, discrete=True, masked=True)
    assert at.mask is not None
    bound = lower_bounds(critic, at, 1.0, discrete=True).detach()
    for moves in itertools.product(range(3), repeat=N):
        legal = torch.stack([at.mask[:, i, move] > 0 for i, move in enumerate(moves)], dim=1)
        for i in range(N):
            action = torch.eye(3)[torch.tensor(moves)].expand(M, N, 3).clone()
            action[:, i] = at.action[:, i]
            reachable = legal.clone()
            reachable[:, i] = True
            reachable = reachable.all(dim=1)
            assert (bound[reachable, i] <= value(critic, at, action)[reachable] + 1e-5).all()


@pytest.mark.parametrize("discrete", [False, True])
def test_bounds_fall_with_epsilon_from_the_value_itself(discrete: bool) -> None:
    critic, at = make_critic(3, knows_phi=N), make_situation(3, discrete=discrete, masked=discrete)
    known = value(critic, at).detach()
    previous = lower_bounds(critic, at, 0.0, discrete).detach()
    torch.testing.assert_close(previous, known[:, None].expand(M, N), atol=1e-5, rtol=1e-5)
    for epsilon in (0.01, 0.1, 0.5):
        now = lower_bounds(critic, at, epsilon, discrete).detach()
        assert (now < previous).all()
        previous = now


def test_ones_own_action_does_not_move() -> None:
    critic = make_critic(2)
    at = make_situation(2, discrete=False)
    alone = Situation(at.state, at.obs[:, :1], at.action[:, :1], None, at.phi[:, :1])
    torch.testing.assert_close(lower_bounds(critic, alone, 0.7, False), value(critic, alone)[:, None])


def test_illegal_actions_play_no_part_in_bounds() -> None:
    critic = make_critic(3)
    at = make_situation(3, discrete=True)
    mask = torch.ones(M, N, 3)
    mask[..., 2] = 0.0
    at = replace(at, action=torch.eye(3)[at.action.argmax(dim=-1) % 2], mask=mask)
    bound = lower_bounds(critic, at, 0.5, discrete=True)
    with torch.no_grad():
        critic.agent_in.weight[:, 2] += 5.0
    assert torch.equal(lower_bounds(critic, at, 0.5, discrete=True), bound)
    critic.agent_in.weight.requires_grad_(False)[:, 1] += 0.5
    assert not torch.equal(lower_bounds(critic, at, 0.5, discrete=True), bound)


def slow_bound(critic: Critic, at: Situation, epsilon: float, m: int, i: int) -> float:
    """Return agent i's bound in moment m, by intervals of plain numbers, one unit at a time."""
    weights = {name: value.detach().double().numpy() for name, value in critic.state_dict().items()}

    def affine(low: np.ndarray, high: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = np.stack([matrix * low, matrix * high])
        return ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)

    def normalize(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = len(low)
        bottom, top = np.zeros(size), np.zeros(size)
        for k in range(size):
            rest = [j for j in range(size) if j != k]
            bottom[k] = (1 - 1 / size) * low[k] - high[rest].sum() / size
            top[k] = (1 - 1 / size) * high[k] - low[rest].sum() / size
        near = [0.0 if b < 0 < t else min(b * b, t * t) for b, t in zip(bottom, top, strict=True)]
        far = [max(b * b, t * t) for b, t in zip(bottom, top, strict=True)]
        stds = np.sqrt(np.array([np.mean(near), np.mean(far)]) + 1e-5)
        quotients = np.stack([bottom / stds[0], bottom / stds[1], top / stds[0], top / stds[1]])
        ends = np.sort(np.stack([quotients.min(axis=0), quotients.max(axis=0)]) * weights["agent_norm.weight"], axis=0)
        return ends[0] + weights["agent_norm.bias"], ends[1] + weights["agent_norm.bias"]

    low_sum, high_sum = 0.0, 0.0
    lows, highs = box(at, epsilon, discrete=False)
    for j in range(N):
        low, high = (at.action[m, j], at.action[m, j]) if j == i else (lows[m, j], highs[m, j])
        low, high = affine(low.double().numpy(), high.double().numpy(), weights["agent_in.weight"][:, :2])
        seen = weights["agent_in.weight"][:, 2:] @ at.obs[m, j].double().numpy() + weights["agent_in.bias"]
        low, high = (np.maximum(x, 0) for x in normalize(low + seen, high + seen))
        low, high = affine(low, high, weights["agent_out.weight"])
        low, high = (np.maximum(x + weights["agent_out.bias"], 0) for x in (low, high))
        low_sum, high_sum = low_sum + low / N, high_sum + high / N
    world = critic.embed_state(at.state[m]).detach().double().numpy()
    low, high = affine(low_sum, high_sum, weights["joint.weight"][:, :8])  # type: ignore[arg-type]
    seen = weights["joint.weight"][:, 8:] @ world + weights["joint.bias"]
    low, high = np.maximum(low + seen, 0), np.maximum(high + seen, 0)
    return float(affine(low, high, weights["value.weight"])[0][0] + weights["value.bias"][0])


def test_bounds_are_those_of_plain_intervals() -> None:
    critic, at = make_critic(2), make_situation(2, discrete=False)
    bound = lower_bounds(critic, at, 0.2, discrete=False)
    for m, i in itertools.product(range(4), range(N)):
        assert bound[m, i].item() == pytest.approx(slow_bound(critic, at, 0.2, m, i), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("reach", [1e-3, 0.1, 1.0, 10.0])
def test_layer_normalization_stays_within_its_bounds(reach: float) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.LayerNorm(6)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(6, generator=generator))
        layer.bias.copy_(torch.randn(6, generator=generator))
    center = torch.randn(50, 6, generator=generator)
    radius = reach * torch.rand(50, 6, generator=generator)
    middle, around = (x.detach() for x in bounds._normalize(center, radius, layer))
    inside = 2 * torch.rand(2_000, 50, 6, generator=generator) - 1
    inside[::2] = inside[::2].sign()
    found = layer(center + inside * radius).detach()
    assert (found >= middle - around - 1e-4).all()
    assert (found <= middle + around + 1e-4).all()
    point, nothing = bounds._normalize(center, torch.zeros_like(radius), layer)
    torch.testing.assert_close(point, layer(center), atol=1e-4, rtol=1e-4)
    assert nothing.abs().max() < 1e-5
    if reach <= 0.1:  # what is reached comes near the bounds of a small box: within half of it on average
        spread = found.max(dim=0).values - found.min(dim=0).values
        assert (spread / (2 * around)).mean() > 0.5


def test_bounds_can_be_trained_on() -> None:
    critic, at = make_critic(2), make_situation(2, discrete=False)
    action = at.action.clone().requires_grad_()
    bound = lower_bounds(critic, replace(at, action=action), 0.1, discrete=False)
    (gradient,) = torch.autograd.grad(bound.mean(), action)
    for m, i in itertools.product(range(3), range(N)):
        step = torch.zeros_like(at.action)
        step[m, i, 0] = 1e-2
        ends = [lower_bounds(critic, replace(at, action=at.action + s * step), 0.1, False).mean() for s in (1, -1)]
        assert gradient[m, i, 0].item() == pytest.approx(((ends[0] - ends[1]) / 2e-2).item(), abs=5e-3)
    assert gradient.abs().max() > 1e-3


def test_nothing_here_changes_its_inputs() -> None:
    critic, at = make_critic(2), make_situation(2, discrete=False)
    weights, action = copy.deepcopy(critic.state_dict()), at.action.clone()
    embed(critic, at)
    embed_with_gradient(critic, at)
    worst_replacement(critic, at, discrete=False)
    descend(critic, at, 2, 0.1, discrete=False)
    lower_bounds(critic, at, 0.1, discrete=False)
    assert torch.equal(at.action, action)
    assert not at.action.requires_grad
    assert all(torch.equal(value, weights[name]) for name, value in critic.state_dict().items())
