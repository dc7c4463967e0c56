"""Thin faces of one engine: Gymnasium, vectorised Gymnasium, PettingZoo, and the two one-sided games."""
