"""The white-box attacker finds what a critic likes least, knows everything, and refuses what it cannot do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from games import Echo, Match, Matching, game
from torch import Tensor
from torch.nn import functional as F

import mir2bench
from mir2bench.attackers import is_trained, make_attacker
from mir2bench.attackers.greedy import Config, GreedyAttacker, GreedyPolicy
from mir2bench.errors import ConfigError, NotApplicableError, PartitionError, PolicyError
from mir2bench.learning.networks import Critic
from mir2bench.learning.rollout import Moment, rollout
from mir2bench.partition import Partition
from mir2bench.policies import IdlePolicy, RandomPolicy, save_policy
from mir2bench.registration import VariantSpec

WORLDS = 40


def critic_of(variant: VariantSpec, knows_phi: int = 0, seed: int = 0) -> Critic:
    """A critic with random weights, large enough that actions matter."""
    layout = variant.layout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = Critic(layout.obs_dim, layout.action_dim, layout.state_dim, 16, knows_phi)
        torch.nn.init.normal_(critic.agent_in.weight)
    return critic.requires_grad_(False)


class Judged(IdlePolicy):
    """A team that ships a critic."""

    def __init__(self, variant: VariantSpec, critic: Critic) -> None:
        super().__init__(variant.layout)
        self.critic = critic


def moment_of(variant: VariantSpec, phi: Partition, masked: bool = False) -> Moment:
    """Random worlds, and a random team about to act."""
    rng, layout, n = np.random.default_rng(1), variant.layout, variant.n_agents
    obs = rng.random((WORLDS, n, layout.obs_dim)).astype(np.float32)
    mask = (rng.random((WORLDS, n, layout.action_dim)) < 0.5).astype(np.int8)
    mask[..., 0] = 1
    given = mask if masked else None
    actions, _ = RandomPolicy(layout).act(obs, None, given, rng=rng)
    state = rng.random((WORLDS, layout.state_dim)).astype(np.float32)
    return Moment(layout, state, obs, given, actions, np.tile(phi.to_array(), (WORLDS, 1)))


def judge(critic: Critic, moment: Moment) -> Callable[[np.ndarray], Tensor]:
    """Return Q of joint actions (WORLDS, n) or (WORLDS, n, A), by the critic's plain forward pass."""

    def values(actions: np.ndarray) -> Tensor:
        joint = torch.from_numpy(actions)
        joint = F.one_hot(joint, moment.layout.action_dim).float() if moment.layout.discrete else joint.float()
        phi = torch.from_numpy(moment.phi.astype(np.float32))
        return critic(torch.from_numpy(moment.state), torch.from_numpy(moment.obs), joint, phi)

    return values


def play(critic: Critic, moment: Moment, phi: Partition, **settings: Any) -> np.ndarray:
    policy = GreedyPolicy(critic, phi, moment.layout.discrete, Config(**settings))
    return policy.act_knowing(moment, policy.initial_carry(WORLDS), rng=np.random.default_rng(0))[0]


def joined(moment: Moment, phi: Partition, chosen: np.ndarray) -> np.ndarray:
    joint = moment.actions.copy()
    joint[:, list(phi.adversaries)] = chosen
    return joint


# --- the minimum ---


@pytest.mark.parametrize("knows_phi", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_one_adversary_plays_the_worst_legal_action(masked: bool, knows_phi: int) -> None:
    variant, phi = game(Echo, 3), Partition((0, 1, 0))
    critic, moment = critic_of(variant, knows_phi), moment_of(variant, phi, masked)
    values = judge(critic, moment)
    table = torch.stack([values(joined(moment, phi, np.full((WORLDS, 1), a))) for a in range(6)], dim=-1)
    if moment.mask is not None:
        table[torch.from_numpy(moment.mask[:, 1] == 0)] = torch.inf
    worst = table.argmin(dim=-1).numpy()
    assert len(np.unique(worst)) > 2
    assert play(critic, moment, phi)[:, 0].tolist() == worst.tolist()


def test_several_adversaries_find_a_legal_play_that_no_single_change_makes_worse() -> None:
    variant, phi = game(Echo, 4, adversaries=2), Partition((0, 1, 0, 1))
    critic, moment = critic_of(variant), moment_of(variant, phi, masked=True)
    values, chosen = judge(critic, moment), play(critic, moment, phi)
    assert moment.mask is not None
    legal = moment.mask[:, list(phi.adversaries)] > 0
    assert np.take_along_axis(legal, chosen[..., None], axis=-1).all()
    found = values(joined(moment, phi, chosen))
    assert (found <= values(moment.actions) + 1e-5).all()
    best = torch.full((WORLDS,), torch.inf)
    for pair in itertools.product(range(6), repeat=2):
        both = np.tile(pair, (WORLDS, 1))
        allowed = torch.from_numpy(np.take_along_axis(legal, both[..., None], axis=-1).all(axis=(1, 2)))
        value = values(joined(moment, phi, both)).masked_fill(~allowed, torch.inf)
        best = torch.minimum(best, value)
        single = torch.from_numpy((both != chosen).sum(axis=1) == 1) & allowed
        assert (found[single] <= value[single] + 1e-5).all()
    assert (found - best < 1e-5).float().mean() > 0.9  # mostly the very worst of all pairs


def test_continuous_actions_come_close_to_the_worst() -> None:
    variant, phi = game(Match, 3), Partition((0, 0, 1))
    critic, moment = critic_of(variant, knows_phi=3), moment_of(variant, phi)
    values = judge(critic, moment)
    grid = torch.stack(
        [values(joined(moment, phi, np.full((WORLDS, 1, 1), a, np.float32))) for a in np.linspace(-1, 1, 201)]
    )
    lowest, highest = grid.min(dim=0).values, grid.max(dim=0).values

    def regret(**settings: Any) -> float:
        """The share of the range of values that is left, on average."""
        chosen = play(critic, moment, phi, **settings)
        assert chosen.dtype == np.float32
        assert np.abs(chosen).max() <= 1
        return float(((values(joined(moment, phi, chosen)) - lowest) / (highest - lowest)).mean())

    assert regret() < 0.02
    assert regret() < regret(starts=1)
    assert regret(starts=1, steps=1) < regret(starts=1, steps=1, size=1e-6)  # a step is downhill


def test_a_critic_that_knows_phi_is_told_it() -> None:
    variant = game(Echo, 3)
    critic = critic_of(variant, knows_phi=3)
    first, second = Partition((1, 0, 0)), Partition((0, 1, 0))
    moment = moment_of(variant, first)
    values, wrong = judge(critic, moment), judge(critic, moment_of(variant, second))
    table = [
        torch.stack([f(joined(moment, first, np.full((WORLDS, 1), a))) for a in range(6)]) for f in (values, wrong)
    ]
    right, otherwise = (t.argmin(dim=0) for t in table)
    assert not torch.equal(right, otherwise)
    assert play(critic, moment, first)[:, 0].tolist() == right.tolist()


# --- in roll-outs ---


class Watching(IdlePolicy):
    """Plays idle and notes what it was told, then spoils the arrays."""

    def __init__(self, variant: VariantSpec) -> None:
        super().__init__(variant.layout)
        self.told: list[dict[str, Any]] = []

    def act_knowing(self, moment: Moment, carry: Any, *, rng: Any) -> tuple[np.ndarray, Any]:
        arrays = {name: getattr(moment, name) for name in ("state", "obs", "mask", "actions", "phi")}
        self.told.append({name: None if array is None else array.copy() for name, array in arrays.items()})
        for array in arrays.values():
            if array is not None:
                array[:] = 0
        return self.act(moment.obs[:, :1], carry, rng=rng)


def test_a_knowing_adversary_is_told_everything_after_the_team_has_acted() -> None:
    variant, phi = mir2bench.spec("Rendezvous5-adv1-v0"), Partition.of(5, [2])
    team, seen = RandomPolicy(variant.layout), []
    watching = Watching(variant)
    plain = rollout(variant, team, phi, IdlePolicy(variant.layout), range(3))
    found = rollout(
        variant,
        team,
        phi,
        watching,
        range(3),
        watch=lambda w: seen.append((w.engine.obs.copy(), w.engine.state.copy())),
    )
    assert np.array_equal(found.returns, plain.returns)  # what it does to its copies has no effect
    rng = np.random.default_rng(1)  # the team's stream in roll-outs
    for told, (obs, state) in zip(watching.told, seen, strict=False):
        assert np.array_equal(told["obs"], obs)
        assert np.array_equal(told["state"], state)
        assert told["mask"] is None
        assert np.array_equal(told["actions"], team.act(obs, None, rng=rng)[0])
        assert told["phi"].tolist() == [[0, 0, 1, 0, 0]] * 3


@pytest.mark.parametrize("adversaries", [1, 2])
def test_only_legal_actions_and_the_same_each_time(toy: list[str], adversaries: int) -> None:
    variant = mir2bench.spec(toy[adversaries])
    phi = Partition.of(3, range(adversaries))
    victim = Judged(variant, critic_of(variant))
    attacker = make_attacker("greedy", variant)
    one, other = (
        rollout(variant, victim, phi, attacker.attack(variant, victim, phi, seed=s, budget=b), range(20)).returns
        for s, b in ((0, 1), (5, 1_000))
    )
    assert np.array_equal(one, other)
    assert len(np.unique(one)) == 20


def test_it_hurts_a_team_whose_critic_is_right() -> None:
    """For `Match`, embeddings that are linear in the action on either side of 0 make Q a good enough judge."""
    variant, phi = game(Match), Partition((0, 1))
    layout = variant.layout
    critic = Critic(layout.obs_dim, 1, layout.state_dim, 64)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        x, a = (
            1.6 * torch.rand(256, 2, 1, generator=generator) - 0.8,
            2 * torch.rand(256, 2, 1, generator=generator) - 1,
        )
        obs = torch.cat([x, torch.eye(2).expand(256, 2, 2)], dim=-1)
        loss = (critic(x.flatten(1), obs, a) + (a - x).square().mean(dim=(1, 2))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    class Team(Matching):
        """Plays x, and knows what that is worth."""

    team = Team()
    team.critic = critic.requires_grad_(False)  # type: ignore[attr-defined]
    found = make_attacker("greedy", variant).attack(variant, team, phi, seed=0, budget=1)
    attacked = rollout(variant, team, phi, found, range(200)).returns.mean()
    assert attacked < -0.97  # the worst there is costs 1.04: the far end, 1 + |x| away, halved over both agents


# --- refusals ---


def test_a_team_without_a_critic() -> None:
    variant, phi = game(Echo, 3), Partition((1, 0, 0))
    with pytest.raises(
        NotApplicableError, match=r"`greedy` minimizes the team's own critic, but this team \(IdlePolicy\)"
    ):
        GreedyAttacker().attack(variant, IdlePolicy(variant.layout), phi, seed=0, budget=1)
    with pytest.raises(PartitionError, match="no team to attack"):
        everybody = Partition((1, 1, 1))
        GreedyAttacker().attack(game(Echo, 3, adversaries=3), IdlePolicy(variant.layout), everybody, seed=0, budget=1)


def test_it_cannot_act_on_observations_alone_nor_be_saved(tmp_path: Path) -> None:
    variant, phi = game(Echo, 3), Partition((1, 0, 0))
    policy = GreedyAttacker().attack(variant, Judged(variant, critic_of(variant)), phi, seed=0, budget=1)
    with pytest.raises(NotApplicableError, match="`greedy` cannot act on observations alone"):
        policy.act(np.zeros((1, 1, 6), np.float32), None, rng=np.random.default_rng(0))
    with pytest.raises(PolicyError, match="only network policies can be saved, but this is a GreedyPolicy"):
        save_policy(policy, tmp_path / "x", variant=variant, algorithm="greedy", config={}, seed=0)


def test_names_and_settings() -> None:
    variant = mir2bench.spec("Rendezvous5-adv1-v0")
    attacker: Any = make_attacker("greedy", variant, {"starts": 2})
    assert attacker.config == Config(starts=2)
    assert not is_trained("greedy", variant)
    for name in ("starts", "steps", "size", "sweeps"):
        with pytest.raises(ConfigError, match=f"{name} must be a finite number above 0, but it is 0"):
            Config(**{name: 0})
