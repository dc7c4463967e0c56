"""Nobody ever chooses an illegal action: every kind of policy plays ten thousand states of a battle in strict mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mir2bench
from mir2bench.attackers import list_attackers, make_attacker
from mir2bench.engines.base import Worlds
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.learning.architectures import JointMlp, JointShape, SeparateActors, SeparateShape
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.partition import Partition
from mir2bench.policies import Policy

BATTLE = mir2bench.spec("Skirmish-5m_vs_3m-adv2-v0")
STATES = 10_000
WORLDS = 250


def network(kind: str, n_agents: int) -> Policy:
    """Return a policy with random weights, large enough that its logits differ by tens."""
    layout = BATTLE.layout
    sizes = {"obs_dim": layout.obs_dim, "action_dim": layout.action_dim, "discrete": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        actor: Any = {
            "actor": lambda: Actor(ActorShape(**sizes, hidden=16, recurrent=False)),
            "recurrent": lambda: Actor(ActorShape(**sizes, hidden=16, recurrent=True)),
            "separate": lambda: SeparateActors(SeparateShape(**sizes, hidden=16, n_agents=n_agents)),
            "joint": lambda: JointMlp(JointShape(**sizes, hidden=(16,), n_agents=n_agents)),
        }[kind]()
        with torch.no_grad():
            for weights in actor.parameters():
                weights.mul_(5.0)
    return NetworkPolicy(actor, n_agents, noise=0.0)


def play(policy: Policy, agents: list[int], *, deterministic: bool, seed: int = 0) -> int:
    """Let `policy` play some agents and chance the others until enough states were seen; return how many."""
    worlds = Worlds(BATTLE, WORLDS, strict=True)
    worlds.reset(seeds=list(range(WORLDS)))
    rng = np.random.default_rng(seed)
    carry = policy.initial_carry(WORLDS)
    seen = 0
    while seen < STATES:
        engine = worlds.engine
        assert engine.mask is not None
        actions = (engine.mask * rng.random(engine.mask.shape)).argmax(axis=-1)
        chosen, carry = policy.act(
            engine.obs[:, agents], carry, engine.mask[:, agents], rng=rng, deterministic=deterministic
        )
        actions[:, agents] = chosen
        worlds.step(actions)  # raises if any action is illegal
        seen += WORLDS
        ended = np.flatnonzero(worlds.done)
        if ended.size:
            worlds.reset(ended)
            if carry is not None:
                carry = np.array(carry)
                carry[ended] = policy.initial_carry(WORLDS)[ended]
    return seen


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", ["actor", "recurrent"])
def test_teams(kind: str, deterministic: bool) -> None:
    assert play(network(kind, 5), [0, 1, 2, 3, 4], deterministic=deterministic) >= STATES


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", ["separate", "joint"])
def test_adversaries(kind: str, deterministic: bool) -> None:
    assert play(network(kind, 2), [1, 4], deterministic=deterministic) >= STATES


@pytest.mark.parametrize("team", sorted(BATTLE.engine_class.scripted_teams))
def test_scripted_teams(team: str) -> None:
    assert play(make_scripted(BATTLE, team), [0, 1, 2, 3, 4], deterministic=True) >= STATES


@pytest.mark.parametrize("name", [n for n in list_attackers(BATTLE) if n not in ("learned", "greedy", "sb3-ppo")])
def test_scripted_adversaries(name: str) -> None:
    phi = Partition.of(5, [1, 4])
    adversary = make_attacker(name, BATTLE).attack(BATTLE, make_scripted(BATTLE, "random"), phi, seed=0, budget=1)
    assert play(adversary, [1, 4], deterministic=True) >= STATES
