"""One recorded episode of every registered variant, to notice any change of dynamics, observations or reward.

`python tests/golden_trajectories.py` adds the variants that `tests/golden/` lacks, if their packages are installed. It
never touches a recorded one: a variant whose numbers change is a new version of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import mir2bench
from mir2bench.engines.base import ready_variants
from mir2bench.registration import VariantSpec
from mir2bench.views.gym_env import GymEnv

FOLDER = Path(__file__).parent / "golden"
CHAOTIC = 100  # steps recorded of longer episodes; what processors round otherwise grows with every contact


def path_of(variant: VariantSpec) -> Path:
    """Return the file that holds the variants of one family."""
    return FOLDER / f"{variant.family.lower()}.json"


def record(variant: VariantSpec) -> dict[str, Any]:
    """Play one episode from seed 0 with actions that need no random numbers, and return numbers of all kinds."""
    env = GymEnv(variant, strict=True)
    layout, engine = env.worlds.layout, env.worlds.engine
    _, info = env.reset(seed=0)
    start, rewards, done = engine.snapshot(0), [], False
    while not done and not (variant.horizon >= 1000 and len(rewards) == CHAOTIC):
        t = len(rewards)
        if layout.discrete:
            wanted = (t + np.arange(layout.n_agents)) % layout.action_dim
            legal = np.take_along_axis(info["action_mask"], wanted[:, None], axis=1)[:, 0] > 0
            actions = np.where(legal, wanted, info["action_mask"].argmax(axis=1))
        else:
            actions = np.sin(0.37 * t + np.arange(layout.n_agents * layout.action_dim)).reshape(layout.n_agents, -1)
        obs, reward, terminated, truncated, info = env.step(actions)
        rewards.append(reward)
        done = terminated or truncated
    return {
        "phi": info["phi"].tolist(),
        "steps": len(rewards),
        "terminated": terminated,
        "return": round(sum(rewards), 6),
        "rewards": _some(np.array(rewards), 20),
        "start": {key: _some(value, 20) for key, value in start.items()},
        "end": {key: _some(value, 20) for key, value in engine.snapshot(0).items()},
        "obs": _some(obs, 120),
        "state": _some(info["state"], 60),
    }


def _some(values: np.ndarray, count: int) -> list[float]:
    """Return about `count` numbers, spread evenly over an array."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return np.round(flat[:: max(1, len(flat) // count)], 6).tolist()


def main() -> None:
    """Record what is not recorded yet."""
    for variant in map(mir2bench.spec, ready_variants()):
        path = path_of(variant)
        known = json.loads(path.read_text()) if path.exists() else {}
        if variant.id not in known:
            known[variant.id] = {
                "origin": f"mir2bench {mir2bench.__version__}, numpy {np.__version__}",
                **record(variant),
            }
            entries = (f"{json.dumps(id)}: {json.dumps(entry)}" for id, entry in known.items())
            path.write_text("{\n" + ",\n".join(entries) + "\n}\n")


if __name__ == "__main__":
    main()
