"""CLUB against its definition and against known channels; the exact values; the variational model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mir2bench.learning.mutual_information import (
    ActionModel,
    Negatives,
    choosing,
    club_categorical,
    club_gaussian,
    exact_categorical,
    exact_gaussian,
)

GROUPINGS: tuple[Negatives, ...] = ("actions", "histories")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def by_definition(log_q: Tensor, negatives: Negatives) -> Tensor:
    """Return (M, n) shares of CLUB from log q(y_j | x_k), given as an array (k, j, n) of all n^2 pairs."""
    own = torch.stack([log_q[k, k] for k in range(len(log_q))])
    others = [log_q[k, :] if negatives == "actions" else log_q[:, k] for k in range(len(log_q))]
    return own - torch.stack([pairs.mean(dim=0) for pairs in others])


def all_pairs_gaussian(mean: Tensor, log_var: Tensor, action: Tensor) -> Tensor:
    normal = torch.distributions.Normal(mean[:, None], torch.exp(0.5 * log_var))
    return normal.log_prob(action[None]).sum(dim=-1)


@pytest.mark.parametrize("negatives", GROUPINGS)
def test_gaussian_is_the_mean_over_all_pairs(negatives: Negatives, generator: torch.Generator) -> None:
    mean, action = torch.randn(2, 7, 3, 4, dtype=torch.float64, generator=generator)
    log_var = torch.tensor([-2.0, -0.5, 0.0, 1.0], dtype=torch.float64)
    expected = by_definition(all_pairs_gaussian(mean, log_var, action), negatives)
    torch.testing.assert_close(club_gaussian(mean, log_var, action, negatives), expected)


@pytest.mark.parametrize("negatives", GROUPINGS)
def test_categorical_is_the_mean_over_all_pairs(negatives: Negatives, generator: torch.Generator) -> None:
    log_probs = torch.randn(9, 2, 5, dtype=torch.float64, generator=generator).log_softmax(dim=-1)
    chosen = torch.randint(5, (9, 2), generator=generator)
    pairs = torch.stack([log_probs[k].expand(9, 2, 5).gather(-1, chosen[..., None])[..., 0] for k in range(9)])
    one_hot = torch.nn.functional.one_hot(chosen, 5).double()
    torch.testing.assert_close(club_categorical(log_probs, one_hot, negatives), by_definition(pairs, negatives))


def test_both_groupings_have_the_same_mean_and_other_shares(generator: torch.Generator) -> None:
    mean, action = torch.randn(2, 50, 2, 3, dtype=torch.float64, generator=generator)
    log_var = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)
    actions, histories = (club_gaussian(mean, log_var, action, g) for g in GROUPINGS)
    torch.testing.assert_close(actions.mean(dim=0), histories.mean(dim=0), rtol=1e-12, atol=1e-12)
    assert (actions - histories).abs().max() > 0.1

    log_probs = torch.randn(50, 2, 4, dtype=torch.float64, generator=generator).log_softmax(dim=-1)
    one_hot = torch.nn.functional.one_hot(torch.randint(4, (50, 2), generator=generator), 4).double()
    actions, histories = (club_categorical(log_probs, one_hot, g) for g in GROUPINGS)
    torch.testing.assert_close(actions.mean(dim=0), histories.mean(dim=0), rtol=1e-12, atol=1e-12)
    assert (actions - histories).abs().max() > 0.1


# --- known channels ---


def correlated(rho: float, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs of standard normal numbers with correlation rho, each (count, 1, 1) float64."""
    x, e = torch.randn(2, count, 1, 1, dtype=torch.float64, generator=generator)
    return x, rho * x + math.sqrt(1 - rho**2) * e


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.6, 0.9])
def test_correlated_gaussians_with_the_exact_q(rho: float, generator: torch.Generator) -> None:
    x, y = correlated(rho, 200_000, generator)
    club = club_gaussian(rho * x, torch.tensor([1 - rho**2], dtype=torch.float64).log(), y).mean().item()
    information = -0.5 * math.log(1 - rho**2)
    # E_indep (y - rho x)^2 - E_joint (y - rho x)^2 = (1 + rho^2) - (1 - rho^2), over twice the variance.
    assert club == pytest.approx(rho**2 / (1 - rho**2), rel=0.02, abs=1e-12)
    assert club >= information - 1e-12


def test_estimates_add_up_over_components_and_keep_agents_apart(generator: torch.Generator) -> None:
    (x0, y0), (x1, y1) = correlated(0.5, 1000, generator), correlated(0.8, 1000, generator)
    mean = torch.cat([torch.cat([0.5 * x0, 0.8 * x1], -1), torch.zeros(1000, 1, 2)], 1)  # the second agent has no x
    action = torch.cat([torch.cat([y0, y1], -1)] * 2, 1)
    log_var = torch.tensor([0.75, 0.36], dtype=torch.float64).log()
    parts = [club_gaussian(mean[..., [c]], log_var[[c]], action[..., [c]]) for c in (0, 1)]
    total = club_gaussian(mean, log_var, action)
    torch.testing.assert_close(total, parts[0] + parts[1])
    assert total[:, 0].mean() == pytest.approx(1 / 3 + 16 / 9, rel=0.15)
    assert total[:, 1].mean().abs() < 1e-12


def test_independent_actions_carry_nothing(generator: torch.Generator) -> None:
    x, y = torch.randn(2, 200_000, 1, 1, dtype=torch.float64, generator=generator)
    assert club_gaussian(0.7 * x, torch.zeros(1, dtype=torch.float64), y).mean().abs() < 0.01


@pytest.mark.parametrize("negatives", GROUPINGS)
def test_binary_symmetric_channel(negatives: Negatives) -> None:
    # 20 pairs with exactly the frequencies of a fair bit that is flipped once in ten times.
    sent = torch.tensor([0] * 10 + [1] * 10)
    received = torch.tensor([0] * 9 + [1] + [1] * 9 + [0])
    channel = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(received, 2).double()[:, None]
    club = club_categorical(channel.log()[sent][:, None], one_hot, negatives).mean().item()
    by_sums = sum(
        (0.5 * channel[x, y] - 0.25) * channel[x, y].log() for x in (0, 1) for y in (0, 1)
    )  # sum over x, y of (p(x, y) - p(x) p(y)) log q(y | x)
    assert club == pytest.approx(float(by_sums)) == pytest.approx(0.4 * math.log(9))
    information = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert exact_categorical(channel.log()[:, None]).item() == pytest.approx(information)
    assert club > information


@pytest.mark.parametrize("count", [2, 5, 14])
def test_exact_categorical_of_clear_and_constant_channels(count: int) -> None:
    clear = torch.eye(count).log()  # -inf where an action is impossible
    assert exact_categorical(clear[:, None]).item() == pytest.approx(math.log(count))
    constant = torch.full((6, 1, count), -math.log(count))
    assert exact_categorical(constant).item() == pytest.approx(0.0, abs=1e-6)
    always = torch.zeros(6, 1, count).log()
    always[..., 0] = 0.0
    assert exact_categorical(always).item() == pytest.approx(0.0, abs=1e-6)


def test_exact_values_are_given_for_each_agent() -> None:
    log_probs = torch.stack([torch.eye(4).log(), torch.full((4, 4), 0.25).log()], dim=1)
    torch.testing.assert_close(exact_categorical(log_probs), torch.tensor([math.log(4), 0.0]), atol=1e-6, rtol=0)
    mean = torch.stack([torch.linspace(-3, 3, 16), torch.zeros(16)], dim=1)[..., None]
    exact = exact_gaussian(mean, 0.01, torch.Generator().manual_seed(0))
    torch.testing.assert_close(exact, torch.tensor([math.log(16), 0.0]), atol=5e-3, rtol=0)


def test_exact_gaussian_of_clear_and_constant_channels(generator: torch.Generator) -> None:
    two = torch.tensor([-1.0, 1.0]).repeat(200)[:, None, None].expand(-1, 1, 3)
    assert exact_gaussian(two, 0.1, generator).item() == pytest.approx(math.log(2), abs=1e-3)
    assert exact_gaussian(torch.full((400, 1, 3), 0.3), 0.1, generator).item() == pytest.approx(0.0, abs=1e-3)


def test_exact_gaussian_against_numerical_integration(generator: torch.Generator) -> None:
    means, std = np.array([-0.5, 0.1, 0.6]), 0.3
    a = np.linspace(-4, 4, 80_001)
    density = np.exp(-0.5 * ((a - means[:, None]) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    integrand = (density * np.log(np.maximum(density, 1e-300) / np.maximum(density.mean(axis=0), 1e-300))).mean(axis=0)
    expected = integrand.sum() * (a[1] - a[0])
    mean = torch.from_numpy(np.tile(means, 1_000))[:, None, None]
    assert 0.5 < expected < 0.8
    assert exact_gaussian(mean, std, generator).item() == pytest.approx(expected, abs=0.03)


# --- what the penalty does to an agent's own action ---


def test_gradients_with_respect_to_the_own_action(generator: torch.Generator) -> None:
    mean = torch.randn(20, 1, 2, dtype=torch.float64, generator=generator)
    log_var = torch.tensor([-1.0, 0.4], dtype=torch.float64)
    gradient = {}
    for negatives in GROUPINGS:
        action = mean.clone().requires_grad_()
        club_gaussian(mean, log_var, action, negatives)[7].sum().backward()
        assert action.grad is not None
        gradient[negatives] = action.grad[7]
    assert gradient["actions"].abs().max() < 1e-15
    expected = torch.exp(-log_var) * (mean[7] - mean.mean(dim=0))  # away from the common action: a charge pulls to it
    torch.testing.assert_close(gradient["histories"], expected)


# --- the variational model ---


def fit(model: ActionModel, x: Tensor, action: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.95))  # quick to forget its first steps
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.log_likelihood(model(x), action).sum(dim=-1).mean()).backward()
        optimizer.step()


def gaussian_model(input_dim: int = 1, action_dim: int = 1, min_std: float = 0.01, joint: int = 0) -> ActionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ActionModel(input_dim, action_dim, discrete=False, min_std=min_std, joint=joint)


def test_likelihoods_are_those_of_the_distributions(generator: torch.Generator) -> None:
    x, action = torch.randn(6, 2, 3, generator=generator), torch.randn(6, 2, 4, generator=generator)
    model = gaussian_model(3, 4)
    normal = torch.distributions.Normal(torch.tanh(model.linear(x)), torch.exp(0.5 * model.log_var))
    torch.testing.assert_close(model.log_likelihood(model(x), action), normal.log_prob(action).sum(dim=-1))
    discrete = ActionModel(3, 4, discrete=True, min_std=0.0)
    chosen = torch.randint(4, (6, 2), generator=generator)
    one_hot = torch.nn.functional.one_hot(chosen, 4).float()
    categorical = torch.distributions.Categorical(logits=discrete.linear(x))
    torch.testing.assert_close(discrete.log_likelihood(discrete(x), one_hot), categorical.log_prob(chosen))
    for negatives in GROUPINGS:
        expected = club_gaussian(model(x), model.log_var, action, negatives)
        assert torch.equal(model.club(model(x), action, negatives), expected)
        assert torch.equal(
            discrete.club(discrete(x), one_hot, negatives), club_categorical(discrete(x), one_hot, negatives)
        )


@pytest.mark.parametrize("rho", [0.4, 0.8])
def test_a_fitted_model_recovers_the_estimate(rho: float, generator: torch.Generator) -> None:
    x, y = (0.1 * v.float() for v in correlated(rho, 20_000, generator))  # where tanh is nearly straight
    drawn = torch.corrcoef(torch.cat([x, y], dim=-1)[:, 0].T)[0, 1].item()  # near rho
    model = gaussian_model(min_std=0.04)
    fit(model, x * 10, y, steps=400, lr=0.03)
    assert model.log_var.item() == pytest.approx(math.log(0.01 * (1 - rho**2)), abs=0.03)
    assert model.club(model(x * 10), y).mean().item() == pytest.approx(drawn**2 / (1 - drawn**2), rel=0.05)


def test_a_fitted_categorical_model_recovers_the_estimate(generator: torch.Generator) -> None:
    sent = torch.randint(3, (20_000, 1), generator=generator)
    flipped = torch.rand(sent.shape, generator=generator) < 0.3
    received = torch.where(flipped, torch.randint(3, sent.shape, generator=generator), sent)
    x, one_hot = (torch.nn.functional.one_hot(v, 3).float() for v in (sent, received))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ActionModel(3, 3, discrete=True, min_std=0.0)
    fit(model, x, one_hot, steps=150, lr=0.1)
    # p(y = x) = 0.8, p(other) = 0.1 each: CLUB = (0.8 - 1/3) log 0.8 + 2 (0.1 - 1/3) log 0.1.
    expected = (0.8 - 1 / 3) * math.log(0.8) + 2 * (0.1 - 1 / 3) * math.log(0.1)
    assert model.club(model(x), one_hot).mean().item() == pytest.approx(expected, rel=0.05)


def test_the_variance_never_falls_below_the_floor_and_comes_back_from_it(generator: torch.Generator) -> None:
    x = torch.randn(500, 1, 1, generator=generator)
    model = gaussian_model(min_std=0.2)
    certain = torch.full_like(x, 0.3)
    fit(model, x, certain, steps=500, lr=0.05)
    assert model.log_var.item() == pytest.approx(2 * math.log(0.2))
    assert model(x).sub(0.3).abs().max() < 0.02
    noisy = certain + 0.6 * torch.randn(x.shape, generator=generator)
    fit(model, x, noisy, steps=500, lr=0.05)
    assert model.log_var.item() == pytest.approx(2 * math.log(0.6), abs=0.15)


def test_a_model_without_noise_has_a_floor_too() -> None:
    model = gaussian_model(min_std=0.0)
    with torch.no_grad():
        model.free_log_var.fill_(-100.0)
    assert model.log_var.item() == pytest.approx(2 * math.log(1e-3))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_joint_model_sees_all_agents(discrete: bool, generator: torch.Generator) -> None:
    x = torch.randn(5, 3, 4, generator=generator)
    changed = x.clone()
    changed[:, 2] += 1.0
    single = ActionModel(4, 2, discrete=discrete, min_std=0.1)
    joint = ActionModel(4, 2, discrete=discrete, min_std=0.1, joint=3)
    assert single(x).shape == joint(x).shape == (5, 3, 2)
    differs = (single(x) != single(changed)).any(dim=-1).any(dim=0)
    assert differs.tolist() == [False, False, True]
    differs = (joint(x) != joint(changed)).any(dim=-1).any(dim=0)
    assert differs.tolist() == [True, True, True]
    assert joint.log_likelihood(joint(x), torch.zeros(5, 3, 2)).shape == (5, 3)
    assert joint.club(joint(x), torch.zeros(5, 3, 2)).shape == (5, 3)


# --- agents without a choice ---


def test_a_choice_is_two_legal_actions() -> None:
    mask = torch.tensor([[[1, 0, 0], [1, 1, 0]], [[0, 1, 1], [1, 1, 1]]])
    weight = choosing(mask)
    assert weight is not None
    assert weight.tolist() == [[0, 1], [1, 1]]
    assert choosing(None) is None


@pytest.mark.parametrize("negatives", GROUPINGS)
def test_samples_without_a_choice_are_as_if_they_were_not_there(
    negatives: Negatives, generator: torch.Generator
) -> None:
    log_probs = torch.randn(9, 1, 4, generator=generator).log_softmax(dim=-1)
    one_hot = torch.eye(4)[torch.randint(4, (9, 1), generator=generator)]
    weight = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 1, 1])[:, None]
    kept = weight[:, 0] > 0
    found = club_categorical(log_probs, one_hot, negatives, weight)
    torch.testing.assert_close(found[kept], club_categorical(log_probs[kept], one_hot[kept], negatives))
    assert not found[~kept].any()
    exact = exact_categorical(log_probs, weight)
    torch.testing.assert_close(exact * 9 / 6, exact_categorical(log_probs[kept]))
    assert not exact_categorical(log_probs, torch.zeros(9, 1)).any()
