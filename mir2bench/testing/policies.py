"""Does a policy keep the protocol of `mir2bench.policies.Policy`?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mir2bench.engines.base import Worlds
from mir2bench.errors import Mir2BenchError
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.plugins import call_problems
from mir2bench.policies import Policy, RandomPolicy, load_policy, read_bundle, save_policy
from mir2bench.registration import VariantSpec
from mir2bench.testing.common import told

BATCH = 4
STEPS = 8
_TOLERANCE = 1e-4  # sums in another order, as in a batch of another size, round otherwise
Step = tuple[np.ndarray, np.ndarray | None]
"""Observations (B, n, O) and masks (B, n, A) or None."""


@dataclass(frozen=True)
class Recording:
    """What a policy is shown, again and again: observations and masks of random play.

    Attributes:
        variant: the world.
        steps: one entry per step.
        team: whether they are the whole team's rather than those of a partition's adversaries.
    """

    variant: VariantSpec
    steps: Sequence[Step]
    team: bool

    @property
    def n_agents(self) -> int:
        """n, the agents that the policy plays."""
        return self.steps[0][0].shape[1]

    def worlds(self, index: Any) -> list[Step]:
        """Return the steps of some of the worlds, in the order of `index`."""
        return [(obs[index].copy(), None if mask is None else mask[index].copy()) for obs, mask in self.steps]


def record(variant: VariantSpec, adversaries: Sequence[int] | None = None) -> Recording:
    """Play at random and record what the whole team sees, or what `adversaries` see."""
    worlds, policy, rng = Worlds(variant, BATCH), RandomPolicy(variant.layout), np.random.default_rng(0)
    agents = list(range(variant.n_agents) if adversaries is None else adversaries)
    worlds.reset(seeds=list(range(BATCH)))
    steps: list[Step] = []
    for _ in range(STEPS):
        obs, mask = worlds.engine.obs, worlds.engine.mask
        steps.append((obs[:, agents], None if mask is None else mask[:, agents]))
        worlds.step(policy.act(obs, None, mask, rng=rng)[0])
        if worlds.done.any():
            worlds.reset(np.flatnonzero(worlds.done))
    return Recording(variant, steps, adversaries is None)


def replay(policy: Policy, steps: Sequence[Step], *, seed: int = 0, deterministic: bool = True) -> list[np.ndarray]:
    """Return a policy's actions on recorded steps, its memory carried from one to the next."""
    rng, carry = np.random.default_rng(seed), policy.initial_carry(len(steps[0][0]))
    actions: list[np.ndarray] = []
    for obs, mask in steps:
        chosen, carry = policy.act(obs.copy(), carry, _copy(mask), rng=rng, deterministic=deterministic)
        actions.append(np.array(chosen))
    return actions


def alike(one: Policy, other: Policy, recording: Recording) -> bool:
    """Whether two policies are the same to the last bit: their weights, and their actions, greedy and sampled."""
    numbers = [
        [
            *(map(np.asarray, policy.actor.state_dict().values()) if isinstance(policy, NetworkPolicy) else ()),
            *replay(policy, recording.steps),
            *replay(policy, recording.steps, deterministic=False),
        ]
        for policy in (one, other)
    ]
    pairs = list(zip(*numbers, strict=False))
    return len(numbers[0]) == len(numbers[1]) and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def policy_problems(policy: Any, recording: Recording) -> Iterator[str]:
    """Say in whole sentences what is wrong with a policy."""
    missing = [name for name in ("initial_carry", "act") if not hasattr(policy, name)]
    if missing:
        yield f"it must return a policy, but {type(policy).__name__} lacks {' and '.join(f'`{m}`' for m in missing)}."
        return
    problems = [*call_problems(policy, "initial_carry"), *call_problems(policy, "act")]
    try:
        problems = problems or list(_call_problems(policy, recording))
        problems = problems or list(_habit_problems(policy, recording))
    except Exception as error:
        problems = [f"it raises {told(error)}."]
    yield from (f"its policy: {problem}" for problem in problems)


def _call_problems(policy: Policy, recording: Recording) -> Iterator[str]:
    """Look at each call alone: shapes, types, ranges, masks, and that nothing given is changed."""
    layout, n = recording.variant.layout, recording.n_agents
    carry = policy.initial_carry(BATCH)
    first = carry
    if carry is not None and not (isinstance(carry, np.ndarray) and carry.shape[:1] == (BATCH,)):
        yield (
            f"`initial_carry({BATCH})` must return None or an array with {BATCH} rows, one per episode, but it "
            f"returns {_shape(carry)}."
        )
        return
    expected = layout.action_shape(BATCH, n)
    dtype = np.dtype(np.int64 if layout.discrete else np.float32)
    for deterministic in (True, False):
        rng, carry = np.random.default_rng(0), first
        for obs, mask in recording.steps:
            given = (obs.copy(), _copy(mask), _copy(carry))
            answer = policy.act(given[0], given[2], given[1], rng=rng, deterministic=deterministic)
            if not isinstance(answer, tuple) or len(answer) != 2:
                yield f"`act` must return the pair (actions, carry), but it returns {_shape(answer)}."
                return
            if not all(_equal(a, b) for a, b in zip(given, (obs, mask, carry), strict=True)):
                yield "`act` must not write into the observations, masks or memory it is given: work on copies."
                return
            actions, carry = answer
            if not isinstance(actions, np.ndarray) or actions.shape != expected or actions.dtype != dtype:
                yield f"`act` must return actions {expected} {dtype}, but it returns {_shape(actions)}."
                return
            if _shape(carry) != _shape(first):
                yield f"`act` must return a carry like the first one, {_shape(first)}, but it returns {_shape(carry)}."
                return
            wrong = _illegal(actions, mask, layout.action_dim, layout.discrete)
            if wrong:
                yield f"`act` chooses {wrong}, with deterministic={deterministic}."
                return


def _habit_problems(policy: Policy, recording: Recording) -> Iterator[str]:
    """Look at what actions may depend on: the agent's own observations, memory in `carry`, and `rng` for samples."""
    steps = recording.steps
    actions = replay(policy, steps)
    if not _close(replay(policy, steps), actions):
        yield "`act` gives other actions for the same observations and `rng`: `rng` must be its only randomness."
        return
    if not _close(replay(policy, steps, seed=1), actions):
        if recording.team:
            yield "greedy actions (deterministic=True) depend on `rng`."
        return  # what follows compares runs that draw differently
    other = recording.worlds(np.arange(BATCH)[::-1])
    if not _close(_interleaved(policy, steps, other), actions):
        yield (
            "it remembers something itself: two runs that take turns disturb each other. All memory belongs into "
            "`carry`, since one policy plays many episodes at once."
        )
        return
    for world in range(BATCH):
        alone = replay(policy, recording.worlds([world]))
        if not _close(alone, [a[world : world + 1] for a in actions]):
            yield "an episode's actions depend on the other episodes of the batch: row b must be computed from row b."
            return
    if recording.team:
        for agent in sorted({0, recording.n_agents // 2, recording.n_agents - 1}):
            swapped = replay(policy, _with_others_swapped(steps, agent))
            if not _close([a[:, agent] for a in swapped], [a[:, agent] for a in actions]):
                yield (
                    f"the action of agent {agent} depends on what other agents observe, but execution is "
                    "decentralized: each agent acts on its own observations."
                )
                return


def saving_problems(
    policy: Policy, recording: Recording, algorithm: str, config: dict[str, Any], seed: int
) -> Iterator[str]:
    """Say whether a policy comes back from a bundle as it was."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "bundle"
        try:
            save_policy(
                policy, folder, variant=recording.variant, algorithm=algorithm, config=config, seed=seed, extra={}
            )
        except Mir2BenchError as error:
            yield (
                f"its policy cannot be saved: {str(error).rstrip('.')}. Trained policies are kept as numbers, never as "
                "code: return a `mir2bench.learning.policy.NetworkPolicy` around a `mir2bench.learning.networks.Actor`."
            )
            return
        except Exception as error:
            yield f"saving its policy raises {told(error)}."
            return
        count = read_bundle(folder)["n_agents"]
        if count != recording.n_agents:
            yield f"its policy says that it plays n_agents = {count}, but there are {recording.n_agents} to play."
            return
        try:
            loaded = load_policy(folder, recording.variant)
        except Mir2BenchError as error:
            yield f"its policy can be saved, but not loaded again: {str(error).rstrip('.')}."
            return
    if not alike(policy, loaded, recording):
        yield (
            "its policy acts otherwise when it is saved and loaded again. A bundle holds the actor's weights and "
            "`noise` only: what else the policy uses is lost."
        )


def _illegal(actions: np.ndarray, mask: np.ndarray | None, action_dim: int, discrete: bool) -> str:
    """Name the first action that cannot be played, or return ""."""
    if not discrete:
        bad = actions[~(np.abs(actions) <= 1.0)]  # true for NaN as well
        return f"{bad[0]} for a component, but actions must be finite and in [-1, 1]" if bad.size else ""
    bad = actions[(actions < 0) | (actions >= action_dim)]
    if bad.size:
        return f"action {bad[0]}, but actions run from 0 to {action_dim - 1}"
    if mask is not None:
        bad = actions[np.take_along_axis(mask, actions[..., None], axis=-1)[..., 0] <= 0]
        return f"action {bad[0]} where the mask forbids it" if bad.size else ""
    return ""


def _interleaved(policy: Policy, steps: Sequence[Step], other: Sequence[Step]) -> list[np.ndarray]:
    """Replay `steps` while a second run on `other` takes turns with it."""
    rng = np.random.default_rng(0)
    carry, other_carry = policy.initial_carry(BATCH), policy.initial_carry(BATCH)
    actions: list[np.ndarray] = []
    for (obs, mask), (other_obs, other_mask) in zip(steps, other, strict=True):
        chosen, carry = policy.act(obs.copy(), carry, _copy(mask), rng=rng)
        actions.append(np.array(chosen))
        _, other_carry = policy.act(other_obs, other_carry, other_mask, rng=rng)
    return actions


def _with_others_swapped(steps: Sequence[Step], agent: int) -> list[Step]:
    """Let all agents but one see what they see in another world."""
    swapped: list[Step] = []
    for arrays in steps:
        new = [None if array is None else np.roll(array, 1, axis=0) for array in arrays]
        for array, old in zip(new, arrays, strict=True):
            if array is not None and old is not None:
                array[:, agent] = old[:, agent]
        swapped.append((new[0], new[1]))  # type: ignore[arg-type]
    return swapped


def _close(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=0.0, atol=_TOLERANCE) for a, b in zip(one, other, strict=True)
    )


def _equal(one: Any, other: Any) -> bool:
    return one is other or np.array_equal(one, other)


def _copy(array: Any) -> Any:
    return None if array is None else np.array(array)


def _shape(value: Any) -> str:
    """Describe what was returned."""
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r}"
