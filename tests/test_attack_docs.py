"""The code blocks of docs/attacks.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "attacks.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_blocks_run(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    scope: dict[str, object] = {}
    before = np.random.get_state()  # Stable-Baselines3 seeds the global generators
    try:
        exec(compile(block, "docs/attacks.md", "exec"), scope)
    finally:
        np.random.set_state(before)
    assert scope["env"].worlds.elapsed[0] > 0  # type: ignore[attr-defined]
