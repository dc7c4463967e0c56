"""Batched worlds: arrays of shape (B, N, ...), no Gymnasium in here. B = 1 is the scalar case."""
