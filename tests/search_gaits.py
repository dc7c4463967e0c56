"""Search the open-loop gaits of mir2bench/engines/mamujoco_scripted.py: `python tests/search_gaits.py HalfCheetah 2x3 2`.

The cross-entropy method on a sine per joint and one common frequency; prints what belongs into FORWARD and BACKWARD.
"""

from __future__ import annotations

import sys

import numpy as np

from mir2bench.engines.mamujoco import MamujocoEngine

STEPS, POPULATION, ELITE, ROUNDS = 250, 64, 8, 60


def waves(genes: np.ndarray, joints: int) -> tuple[np.ndarray, ...]:
    """Split genes (P, 1 + 3 J) into the frequency (P, 1) and offsets, amplitudes and phases (P, J)."""
    frequency = 0.02 + 0.23 / (1 + np.exp(-genes[:, :1]))
    offset, amplitude, phase = genes[:, 1:].reshape(len(genes), 3, joints).swapaxes(0, 1)
    return frequency, np.tanh(0.5 * offset), 1.5 * np.tanh(amplitude), phase


def play(engine: MamujocoEngine, genes: np.ndarray, seed: int) -> np.ndarray:
    """Return the return (P,) of one episode each, without what comes after its end."""
    n, a = engine.obs.shape[1], len(engine.layout(engine.obs.shape[1], *ARGS[:2]).action_fields)
    frequency, offset, amplitude, phase = waves(genes, n * a)
    engine.reset(range(len(genes)), [np.random.default_rng(seed) for _ in genes], None)
    total, alive = np.zeros(len(genes)), np.ones(len(genes), bool)
    for step in range(STEPS):
        torque = np.clip(offset + amplitude * np.sin(2 * np.pi * frequency * step + phase), -1, 1)
        engine.step(torque.reshape(len(genes), n, a))
        total += engine.reward * alive
        alive &= ~(engine.terminated | engine.interrupted)
    return total


def search(sign: float) -> None:
    """Maximize the return times `sign` and print the best gait."""
    rng = np.random.default_rng(0)
    engine = MamujocoEngine(POPULATION, int(ARGS[2]), scenario=ARGS[0], partition=ARGS[1])
    layout = engine.layout(int(ARGS[2]), ARGS[0], ARGS[1])
    genes_dim = 1 + 3 * layout.n_agents * layout.action_dim
    mean, spread = np.zeros(genes_dim), np.full(genes_dim, 1.5)
    for _ in range(ROUNDS):
        genes = mean + spread * rng.standard_normal((POPULATION, genes_dim))
        score = sign * play(engine, genes, 1)
        elite = genes[np.argsort(score)[-ELITE:]]
        mean, spread = elite.mean(axis=0), np.maximum(elite.std(axis=0), 0.05)
    final = play(engine, np.tile(mean, (POPULATION, 1)), 3)[0]
    frequency, *parts = waves(mean[None], genes_dim // 3)
    joints = [joint for own in layout.actuators for joint in own]
    table = {j: tuple(round(float(p[0, k]), 2) for p in parts) for k, j in enumerate(joints)}
    print(f"# {ARGS[0]}, sign {sign:+}: return {final:.0f} in {STEPS} steps")
    print((round(float(frequency[0, 0]), 4), table))


ARGS = sys.argv[1:]
if __name__ == "__main__":
    search(1.0)
    search(-1.0)
