"""Check the files beside this one: `python check.py`."""

from __future__ import annotations

import mir2bench
from mir2bench.testing import check_attacker, check_defender, check_env

if __name__ == "__main__":
    mir2bench.register("my_world.toml")
    check_env("Raft4-adv1-v0")
    check_defender("my_defender:Thrifty", "Raft4-adv1-v0")
    check_attacker("my_attacker:RandomSearch", "Raft4-adv1-v0")
