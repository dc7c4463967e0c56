"""A defender, an attacker and a variant for mir2bench.

`import mir2bench` imports this file for the sake of `VARIANTS`, so it stays light: no torch, and no mir2bench.
"""

from pathlib import Path

VARIANTS = Path(__file__).with_name("variants.toml")
