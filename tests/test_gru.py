"""The packed GRU against torch's own cell, episode by episode, and its gradient against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mir2bench.learning.gru import packed_gru

LENGTHS = [4, 3, 3, 1]
SIZES = [4, 3, 3, 1]  # rows at times 0, 1, 2, 3


@pytest.fixture
def cell() -> nn.GRUCell:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.GRUCell(3, 5).double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(sum(SIZES), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_cell(cell: nn.GRUCell, x: Tensor) -> Tensor:
    """Play each episode alone and put the memories where the packed ones lie."""
    first = [sum(SIZES[:t]) for t in range(len(SIZES))]
    out: dict[int, Tensor] = {}
    for episode, length in enumerate(LENGTHS):
        memory = x.new_zeros(1, 5)
        for t in range(length):
            row = first[t] + episode
            memory = cell(x[row : row + 1], memory)
            out[row] = memory[0]
    return torch.stack([out[row] for row in range(len(x))])


@pytest.mark.parametrize("twice", [False, True])
def test_memories_are_those_of_the_cell(twice: bool, cell: nn.GRUCell, inputs: Tensor) -> None:
    torch.testing.assert_close(packed_gru(cell, inputs, SIZES, twice=twice), by_cell(cell, inputs))


def test_gradients_are_those_of_the_cell(cell: nn.GRUCell, inputs: Tensor) -> None:
    x = inputs.requires_grad_()
    slopes = torch.randn(len(x), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [x, *cell.parameters()]
    found = torch.autograd.grad((packed_gru(cell, x, SIZES) * slopes).sum(), wanted)
    expected = torch.autograd.grad((by_cell(cell, x) * slopes).sum(), wanted)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert theirs.abs().max() > 0.1


def test_gradients_of_gradients_need_the_slower_way(cell: nn.GRUCell, inputs: Tensor) -> None:
    x = inputs.requires_grad_()
    (slope,) = torch.autograd.grad(packed_gru(cell, x, SIZES, twice=True).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert cell.weight_hh.grad is not None
    assert cell.weight_hh.grad.abs().max() > 0
    (slope,) = torch.autograd.grad(packed_gru(cell, x, SIZES).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
