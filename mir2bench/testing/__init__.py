"""Conformance checks for what third parties add."""

from mir2bench.testing.environments import check_env

__all__ = ["check_env"]
