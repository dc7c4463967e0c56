"""Made-up entries that keep every rule, for tests of the board and for seeing it with a thousand rows."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mir2bench.leaderboard.entry import ENTRY_FILE, EPISODES, Entry, dump_entry, parse_entry
from mir2bench.leaderboard.ledger import LEDGER, fingerprint

FLOOR, CEILING = -66.888, -9.333
ATTACKERS = ("circle", "dodge", "flee", "greedy", "idle", "learned", "random", "sb3-ppo")
VARIANT = "mir2bench/Rendezvous10-adv1-v0"


def make_entry(
    name: str = "example",
    *,
    variant: str = VARIANT,
    seed: int = 0,
    seeds: int = 3,
    partitions: int = 10,
    wins: bool = False,
    verified: bool = True,
) -> Entry:
    """Return a made-up entry; the same arguments give the same one."""
    rng = np.random.default_rng(seed)
    strength = float(rng.uniform(0.3, 0.9))
    content = {
        "format": 1,
        "variant": variant,
        "entry": name,
        "method": {
            "name": name.upper(),
            "description": f"A made-up defense of strength {strength:.2f}.",
            "authors": ["Ada Example", "Björn Exämple"],
            "links": {"paper": "https://example.org/paper", "code": "https://example.org/code"},
            "kind": "trained",
            "algorithm": name,
        },
        "training": {
            "config": {"gamma": 0.97, "hidden": 64, "recurrent": False, "sizes": [64, 64], "extra": None},
            "seeds": list(range(seeds)),
            "steps": 300_000,
            "adversaries_seen": ["flee"] if seed % 3 == 0 else [],
            "code": {"mir2bench": "0.1.0", "commit": "0" * 40, "repository": "https://example.org/code"},
            "hardware": {"processor": "Example CPU", "cores": 2, "memory_gib": 16.0},
        },
        "policies": [
            {
                "seed": k,
                "format": "safetensors",
                "files": [
                    make_file(f"policies/seed{k}/policy.json", b"{}"),
                    make_file(f"policies/seed{k}/weights.safetensors", f"{name}{k}".encode()),
                ],
            }
            for k in range(seeds)
        ],
        "reported": {
            **make_scores(rng, strength, range(seeds), partitions, wins),
            "episodes": make_file(f"reported/{EPISODES}", name.encode()),
        },
    }
    if verified:
        some = make_scores(rng, strength - 0.02, range(seeds), max(1, partitions // 5), wins)
        content["verified"] = {
            **some,
            "salt_sha256": hashlib.sha256(b"salt").hexdigest(),
            "cells_total": seeds * partitions,
            "provisional": "" if partitions == 1 else "only some cells were attacked",
            "episodes": make_file(f"verified/{EPISODES}", name.encode()),
        }
        content["history"] = [
            {
                "date": "2026-01-02",
                "kind": "challenge",
                "table": "verified",
                "reason": "a stronger attack by Ada Example",
                "clean": some["clean"],
                "worst": some["worst"],
                "iqm": some["iqm"],
            }
        ]
    return parse_entry(dump(content))


def dump(content: Any) -> str:
    """Return plain content as JSON text."""
    return json.dumps(content, default=str)


def make_file(path: str, content: bytes) -> dict[str, Any]:
    """Return what an entry says about a file."""
    return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def make_scores(rng: np.random.Generator, strength: float, seeds: range, partitions: int, wins: bool) -> dict[str, Any]:
    """Return scores of a team that keeps about the share `strength` of the range under attack."""
    phis = ["0" * i + "1" + "0" * (9 - i) for i in range(partitions)]
    span = CEILING - FLOOR
    clean = {s: CEILING - span * 0.05 + rng.normal(0, 0.5) for s in seeds}
    worst = {(s, p): FLOOR + span * strength + rng.normal(0, 1.0) for s in seeds for p in phis}
    cells = [
        {"seed": s, "phi": p, "clean": clean[s], "worst": w, "attacker": str(rng.choice(ATTACKERS))}
        for (s, p), w in worst.items()
    ]
    values = np.array(list(worst.values()))

    def score(values: np.ndarray, half: float = 0.4) -> dict[str, Any]:
        mean = float(np.mean(values))
        share = (mean - FLOOR) / span
        found = {
            "mean": mean,
            "ci": [mean - half, mean + half],
            "ci_over": "seeds",
            "normalized": share,
            "normalized_ci": [share - half / span, share + half / span],
            "cells": len(values),
        }
        won = float(np.clip(share, 0, 1))
        return {**found, "win_rate": won, "win_rate_ci": [max(0, won - 0.1), min(1, won + 0.1)]} if wins else found

    gap = float(values.mean() - np.mean(list(clean.values())))
    share = (values - FLOOR) / span
    aggregate = {"value": float(share.mean()), "ci": [float(share.mean()) - 0.01, float(share.mean()) + 0.01]}
    steps = [30_000 * k for k in range(1, 11)]
    falls = [float(values.mean()) + 8 * np.exp(-k / 3) for k in range(1, 11)]
    return {
        "protocol": "suite-v1",
        "attackers_sha256": hashlib.sha256(b"attackers").hexdigest(),
        "budget": {"name": "quick", "attack_steps": 300_000, "attack_restarts": 1, "episodes": 32},
        "mir2bench": "0.1.0",
        "commit": "0" * 40,
        "date": str(datetime.date(2026, 1, 1) + datetime.timedelta(days=int(rng.integers(300)))),
        "floor": FLOOR,
        "ceiling": CEILING,
        "clean": score(np.array(list(clean.values()))),
        "worst": score(values),
        "difference": {
            "mean": gap,
            "ci": [gap - 0.5, gap + 0.5],
            "ci_over": "seeds",
            "normalized": gap / span,
            "cells": len(values),
        },
        "iqm": aggregate,
        "median": aggregate,
        "optimality_gap": {"value": 1 - aggregate["value"], "ci": None},
        "attackers": {name: score(values + rng.uniform(0, 5)) for name in ATTACKERS},
        "partitions": {p: score(np.array([worst[s, p] for s in seeds])) for p in phis},
        "cells": cells,
        "curves": [
            {
                "attacker": name,
                "points": [
                    {"steps": s, "mean": m, "ci": [m - 0.3, m + 0.3]} for s, m in zip(steps, falls, strict=True)
                ],
                "falling": False,
            }
            for name in ("learned", "sb3-ppo")
        ],
    }


def write_board(root: Path, count: int, *, variant: str = VARIANT) -> list[Entry]:
    """Write `count` made-up entries below `root`, as `leaderboards/` holds them, with small stand-ins for files."""
    entries = []
    for number in range(count):
        entry = make_entry(f"method-{number:04d}", variant=variant, seed=number, verified=number % 4 != 3)
        folder = root / entry.folder
        for file in entry.files():
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            name = entry.entry.encode()
            parts = file.path.split("/")
            path.write_bytes(
                b"{}" if parts[-1] == "policy.json" else name if parts[-1] == EPISODES else name + parts[1][4:].encode()
            )
        (folder / ENTRY_FILE).write_text(dump_entry(entry), encoding="utf-8")
        entries.append(entry)
    ledger = {str(entry.folder): fingerprint(entry) for entry in entries}
    (root / LEDGER).write_text(json.dumps(ledger), encoding="utf-8")
    return entries


def episodes_table(entry: Entry) -> pd.DataFrame:
    """Return the table of an entry's verified cells, as scores.parquet has it, with made-up episodes."""
    rng = np.random.default_rng(0)
    assert entry.verified is not None
    rows = [
        (entry.variant, entry.entry, cell.seed, attacker, None, phi, episode, value + rng.normal(), 200, None)
        for cell in entry.verified.cells
        for attacker, phi, value in (("none", "0" * 10, cell.clean), (cell.attacker, cell.phi, cell.worst))
        for episode in range(4)
    ]
    names = [
        "variant",
        "defender",
        "defender_seed",
        "attacker",
        "attacker_seed",
        "phi",
        "episode",
        "return",
        "length",
        "won",
    ]
    return pd.DataFrame(rows, columns=names)
