"""A GRU over whole episodes of different lengths, with its gradient by hand.

Episodes are packed: rows stand in order of time, and at each time those of the longest episodes stand first, so that
the layer works on ever fewer rows and never on what lies behind an episode's end. The recursion's gradient is taken
step by step, that of the weights once for all steps; autograd would do both for every step, which takes three times as
long.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)              z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))             h' = (1 - z) n + z h
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def packed_gru(cell: nn.GRUCell, x: Tensor, sizes: Sequence[int], *, twice: bool = False) -> Tensor:
    """Return the memories (P, H) of episodes that start from an empty one.

    Args:
        cell: its weights.
        x: (P, D), packed inputs.
        sizes: how many rows belong to each time, never growing, with the sum P.
        twice: whether gradients of gradients will be needed, at the price of autograd's own, slower way.
    """
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    if twice:
        start = x.new_zeros(1, sizes[0], cell.hidden_size)
        out, _ = torch.gru(x, torch.tensor(sizes), start, weights, True, 1, 0.0, False, False)
        return out
    return _PackedGru.apply(x, *weights, sizes)  # type: ignore[no-any-return]


class _PackedGru(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, sizes: Sequence[int]
    ) -> Tensor:
        size = w_hh.shape[1]
        of_x = torch.addmm(b_ih, x, w_ih.t())
        rz, n = x.new_empty(len(x), 2 * size), x.new_empty(len(x), size)
        of_h, out = x.new_empty(len(x), size), x.new_empty(len(x), size)  # of_h: W_hn h + b_hn
        before = x.new_zeros(sizes[0], size)
        turned = w_hh.t()
        for now in _times(sizes):
            before = before[: now.stop - now.start]
            from_h = torch.addmm(b_hh, before, turned)
            gates = torch.add(of_x[now, : 2 * size], from_h[:, : 2 * size], out=rz[now]).sigmoid_()
            of_h[now] = from_h[:, 2 * size :]
            new = torch.addcmul(of_x[now, 2 * size :], gates[:, :size], of_h[now], out=n[now]).tanh_()
            before = torch.lerp(new, before, gates[:, size:], out=out[now])
        ctx.save_for_backward(x, w_ih, w_hh, rz, n, of_h, out)
        ctx.sizes = sizes
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, rz, n, of_h, out = ctx.saved_tensors
        size = w_hh.shape[1]
        times = list(_times(ctx.sizes))
        # The memory before each row: nothing at the start, else the row of the same episode one step earlier.
        earlier = [out[past.start : past.start + k] for past, k in zip(times, ctx.sizes[1:], strict=False)]
        before = torch.cat([out.new_zeros(ctx.sizes[0], size), *earlier])
        r, z = rz[:, :size], rz[:, size:]
        # Derivatives of h' in what enters r, z and n through h; in n through x it is `to_n` itself.
        to_n = (1 - z) * (1 - n * n)
        slopes = torch.stack([to_n * of_h * r * (1 - r), (before - n) * z * (1 - z), to_n * r], dim=1)
        total, gates = torch.empty_like(grad), torch.empty_like(slopes)
        later: Tensor | None = None
        for now in reversed(times):
            here = total[now].copy_(grad[now])
            if later is not None:
                here[: len(later)] += later
            torch.mul(slopes[now], here.unsqueeze(1), out=gates[now])
            later = torch.addmm(here * z[now], gates[now].flatten(1), w_hh)
        from_h = gates.flatten(1)
        from_x = torch.cat([from_h[:, : 2 * size], total * to_n], dim=1)
        of_input = from_x @ w_ih if ctx.needs_input_grad[0] else None
        return of_input, from_x.t() @ x, from_h.t() @ before, from_x.sum(dim=0), from_h.sum(dim=0), None


def _times(sizes: Sequence[int]) -> Iterator[slice]:
    """Give the rows of each time."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size
