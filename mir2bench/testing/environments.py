"""Does an environment keep every promise that mir2bench makes about environments?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from mir2bench.errors import ActionError, ConfigError, ConformanceError
from mir2bench.partition import Partition, count_partitions, enumerate_partitions
from mir2bench.policies import RandomPolicy
from mir2bench.registration import VariantSpec, spec
from mir2bench.views.gym_env import GymEnv
from mir2bench.views.vector_env import VectorEnv

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]
"""What `step` returns; a reset is recorded as a step with reward 0 that ends nothing."""


def check_env(env: str | VariantSpec | gymnasium.Env, *, episodes: int = 2, seeded: bool = True) -> None:
    """Check a variant through several episodes, alone and in a batch, and tell all that is wrong in one error.

    It complements `gymnasium.utils.env_checker.check_env`, which looks at a few steps only. Checked are layout and
    spaces, types and freshness of all that is returned, phi, seeds over whole episodes, the time limit, action masks,
    settable starts, batches, drawing, and that numpy's global generator is left alone.

    Args:
        env: id, spec, or a made environment of mir2bench, whose variant is then checked.
        episodes: episodes per trajectory.
        seeded: whether seeds must make a difference; False for a world without any randomness.

    Raises:
        ConformanceError: something is wrong; the message lists everything that was found.
        ConfigError: `env` is something else.
    """
    if isinstance(env, str | VariantSpec):
        variant = spec(env)
    elif isinstance(env, gymnasium.Env) and isinstance(env.unwrapped, GymEnv):
        variant = env.unwrapped.variant
    else:
        raise ConfigError(f"check_env needs an id, a spec or an environment of mir2bench, but it got {env!r}.")
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    problems = [
        *_layout_problems(variant),
        *_episode_problems(variant, episodes),
        *_phi_problems(variant),
        *_seed_problems(variant, episodes, seeded),
        *_mask_problems(variant),
        *_start_problems(variant),
        *_batch_problems(variant),
        *_drawing_problems(variant),
    ]
    if not np.array_equal(before, np.random.get_state()[1]):  # type: ignore[index, arg-type]
        problems.append("numpy's global random state was changed; draw from the generators given to `reset` only.")
    if problems:
        listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
        raise ConformanceError(f"{variant.id} breaks its contract:\n{listed}")


def play(env: GymEnv, *, seed: int, episodes: int, action_seed: int = 0) -> list[Step]:
    """Play whole episodes with random legal actions, seeding the first reset only.

    Args:
        env: what to play.
        seed: seed of the first reset.
        episodes: how many.
        action_seed: seed of the actions.
    """
    policy, rng = RandomPolicy(env.worlds.layout), np.random.default_rng(action_seed)
    steps: list[Step] = []
    for episode in range(episodes):
        obs, info = env.reset(seed=seed if episode == 0 else None)
        steps.append((obs, 0.0, False, False, info))
        # One step past the horizon is enough to see that the time limit does not work.
        for _ in range(env.variant.horizon + 1):
            steps.append(env.step(_choose(policy, rng, steps[-1][0], steps[-1][4])))
            if steps[-1][2] or steps[-1][3]:
                break
    return steps


def equal(first: Any, second: Any) -> bool:
    """Return whether two results are the same to the last bit, types and shapes included."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, np.ndarray):
        if first.dtype == object:
            return second.dtype == object and equal(first.tolist(), second.tolist())
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    return first == second


def _choose(policy: RandomPolicy, rng: np.random.Generator, obs: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    mask = info.get("action_mask")
    return policy.act(obs[None], None, None if mask is None else mask[None], rng=rng)[0][0]


def _layout_problems(variant: VariantSpec) -> Iterator[str]:
    layout = variant.layout
    env = GymEnv(variant)
    obs, _ = env.reset(seed=0)
    if layout.n_agents != variant.n_agents:
        yield f"the layout has {layout.n_agents} agents, but the variant {variant.n_agents}."
    for kind in ("observation", "state", "action"):
        names = getattr(layout, f"{kind}_fields")
        if len(set(names)) < len(names):
            yield f"{kind}_fields holds a name twice."
    if len(layout.action_fields) != layout.action_dim:
        yield f"action_fields has {len(layout.action_fields)} names for {layout.action_dim} actions."
    if {len(layout.obs_low), len(layout.obs_high)} not in ({0}, {layout.obs_dim}):
        yield f"obs_low and obs_high must both be empty or hold {layout.obs_dim} bounds."
    if not np.array_equal(obs[:, -variant.n_agents :], np.eye(variant.n_agents)):
        yield "the last N numbers of each observation must be the one-hot agent id."
    channels = env.worlds.engine.channels
    for name in {"team", variant.attack_reward} - set(channels):
        yield f"the engine reports no reward channel {name!r}, only {sorted(channels)}."


def _episode_problems(variant: VariantSpec, episodes: int) -> Iterator[str]:
    env = GymEnv(variant)
    layout, engine, n = env.worlds.layout, env.worlds.engine, variant.n_agents
    expected = {"phi": ((n,), np.int8), "state": ((layout.state_dim,), np.float32)}
    if layout.discrete:
        expected["action_mask"] = ((n, layout.action_dim), np.int8)
    length, ended = 0, True
    previous: list[np.ndarray] = []
    for obs, reward, terminated, truncated, info in play(env, seed=1, episodes=episodes):
        length = 0 if ended else length + 1
        ended = terminated or truncated
        if obs.shape != (n, layout.obs_dim) or obs.dtype != np.float32:
            yield f"observations must be {(n, layout.obs_dim)} float32, but one is {obs.shape} {obs.dtype}."
        elif obs not in env.observation_space:
            yield "an observation lies outside the observation space (bounds obs_low and obs_high, or not finite)."
        for key, (shape, dtype) in expected.items():
            value = info.get(key)
            if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
                yield f"info[{key!r}] must be an array {shape} {np.dtype(dtype)}, but it is {value!r}."
            elif not np.isfinite(value).all():
                yield f"info[{key!r}] is not finite."
        if not isinstance(reward, float) or not np.isfinite(reward):
            yield f"a reward must be a finite float, but one is {reward!r}."
        if not isinstance(terminated, bool) or not isinstance(truncated, bool) or (terminated and truncated):
            yield "terminated and truncated must be Python bools of which at most one is True."
        if truncated and length != variant.horizon:
            yield f"an episode was truncated after {length} steps, but the horizon is {variant.horizon}."
        if length > variant.horizon:
            yield f"an episode went on after the horizon of {variant.horizon} steps: truncated must become True."
        arrays = [obs, *(v for v in info.values() if isinstance(v, np.ndarray))]
        internal = [engine.obs, engine.state, env.worlds.phi]
        if any(np.shares_memory(a, b) for a in arrays for b in (*previous, *internal)):
            yield "a returned array shares memory with an earlier one or with the engine."
        previous = arrays
    if not np.array_equal(engine.channels.get("team", engine.reward), engine.reward):
        yield "the channel 'team' differs from the reward."


def _phi_problems(variant: VariantSpec) -> Iterator[str]:
    env, n, k = GymEnv(variant), variant.n_agents, variant.n_adversaries
    drawn = {tuple(env.reset(seed=seed)[1]["phi"].tolist()) for seed in range(10)}
    if any(sum(phi) != k for phi in drawn):
        yield f"a drawn phi has not exactly {k} adversaries."
    if count_partitions(n, k) > 1 and len(drawn) == 1:
        yield "ten seeds drew one and the same phi."
    obs, _ = env.reset(seed=0)
    for partition in (Partition.of(n), next(enumerate_partitions(n, k))):
        given, info = env.reset(seed=0, options={"phi": partition.phi})
        if tuple(info["phi"].tolist()) != partition.phi:
            yield 'options["phi"] was given, but info["phi"] says otherwise.'
        if not equal(given, obs):
            yield "the start of a seed depends on phi."


def _seed_problems(variant: VariantSpec, episodes: int, seeded: bool) -> Iterator[str]:
    env = GymEnv(variant)
    first = play(env, seed=3, episodes=episodes)
    for other, where in ((env, "the same environment"), (GymEnv(variant), "a new environment")):
        again = play(other, seed=3, episodes=episodes)
        if not equal(first, again):
            step = next((i for i, (a, b) in enumerate(zip(first, again, strict=False)) if not equal(a, b)), "the end")
            yield f"one seed and the same actions gave another trajectory in {where}, from record {step} on."
    # Without `info`, where phi differs whatever the engine does.
    seen = [[step[:2] for step in play(env, seed=seed, episodes=1)] for seed in range(3, 8)]
    if seeded and all(equal(seen[0], other) for other in seen[1:]):
        yield "seeds 3 to 7 give one and the same episode: the engine ignores its generators."


def _mask_problems(variant: VariantSpec) -> Iterator[str]:
    strict, lenient = GymEnv(variant, strict=True), GymEnv(variant, strict=False)
    strict.reset(seed=5)
    mask = strict.worlds.engine.mask
    if not strict.worlds.layout.discrete:
        if mask is not None:
            yield "a world with continuous actions has an action mask."
        return
    if mask is None:
        yield "a discrete world must declare a mask; all ones if nothing is ever forbidden."
        return
    for *_, info in play(lenient, seed=5, episodes=1):
        mask = info["action_mask"]
        if not np.isin(mask, (0, 1)).all() or not mask.any(axis=-1).all():
            yield "an action mask must hold 0 and 1 only, and at least one 1 for each agent."
            return
    _, info = strict.reset(seed=5)
    illegal = np.where((info["action_mask"] == 0).any(axis=-1), info["action_mask"].argmin(axis=-1), -1)
    if (illegal < 0).all():
        return
    joint = np.where(illegal >= 0, illegal, info["action_mask"].argmax(axis=-1))
    try:
        strict.step(joint)
        yield "a masked action was accepted in strict mode."
    except ActionError:
        pass
    lenient.reset(seed=5)
    if lenient.step(joint)[4]["illegal_actions"] != (illegal >= 0).sum():
        yield 'info["illegal_actions"] does not count the masked actions.'


def _start_problems(variant: VariantSpec) -> Iterator[str]:
    env = GymEnv(variant)
    obs, _ = env.reset(seed=6)
    start = env.worlds.engine.snapshot(0)
    env.reset(seed=7)
    if not equal(env.reset(options={"initial_state": start})[0], obs):
        yield "a start that was read by `snapshot` and set as `initial_state` gives another observation."
    if any(
        np.shares_memory(value, other) for value in start.values() for other in env.worlds.engine.snapshot(0).values()
    ):
        yield "`snapshot` must return copies."


def _batch_problems(variant: VariantSpec) -> Iterator[str]:
    batch = 3
    vector = VectorEnv(batch, variant, autoreset_mode="SameStep")
    single = [GymEnv(variant) for _ in range(batch)]
    policy, rng = RandomPolicy(vector.worlds.layout), np.random.default_rng(0)
    vector_obs, infos = vector.reset(seed=8)
    starts = [env.reset(seed=8 + i) for i, env in enumerate(single)]
    if not equal(vector_obs, np.stack([obs for obs, _ in starts])):
        yield "a batch starts otherwise than single environments of the same seeds."
    for _ in range(variant.horizon + 5):
        mask = infos.get("action_mask")
        actions = policy.act(vector_obs, None, mask, rng=rng)[0]
        vector_obs, rewards, _, _, infos = vector.step(actions)
        steps = [env.step(action) for env, action in zip(single, actions, strict=True)]
        obs = [env.reset()[0] if s[2] or s[3] else s[0] for env, s in zip(single, steps, strict=True)]
        if not equal(vector_obs, np.stack(obs)) or not equal(rewards, np.array([s[1] for s in steps])):
            yield "a batch plays otherwise than single environments of the same seeds and actions."
            return


def _drawing_problems(variant: VariantSpec) -> Iterator[str]:
    env = GymEnv(variant, render_mode="rgb_array")
    env.reset(seed=9)
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        yield "`drawing` must return (H, W, 3) uint8."
