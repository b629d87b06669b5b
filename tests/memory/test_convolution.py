"""The short convolution against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from titans_mini.memory.layer import short_convolution


def drawn(J, T=7, B=2, C=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(J)
    shapes = (B, T, C), (B, C, J - 1), (C, 1, J)
    return [torch.randn(shape, dtype=torch.float64, generator=g).to(dtype).requires_grad_() for shape in shapes]


def by_pytorch(x, past, weight):
    return F.conv1d(torch.cat([past, x.mT], 2), weight, groups=len(weight)).mT


@pytest.mark.parametrize("J", [1, 2, 4])
def test_it_is_a_convolution_and_so_are_its_derivatives(J):
    x = drawn(J)
    (y, left), expected = short_convolution(*x), by_pytorch(*x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)
    assert torch.equal(left, torch.cat([x[1], x[0].mT], 2)[..., 7:])
    upstream = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(9))
    found, wanted = (torch.autograd.grad(z, x, upstream) for z in (y, expected))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    assert found[2].is_contiguous()  # optimizers are slow where a gradient lies otherwise than its weight
    assert gradcheck(short_convolution, x)
    assert gradgradcheck(short_convolution, x)


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_any_split_gives_the_same(first):
    x, past, weight = drawn(4)
    whole, end = short_convolution(x, past, weight)
    a, between = short_convolution(x[:, :first], past, weight)
    b, last = short_convolution(x[:, first:], between, weight)
    assert torch.equal(torch.cat([a, b], 1), whole)
    assert torch.equal(last, end)
    assert end.untyped_storage().nbytes() == end.nbytes  # a state must not keep the text alive


def test_the_future_changes_nothing_before_it():
    x, past, weight = (z.detach() for z in drawn(4))
    changed = x.clone()
    changed[:, 4] += 1
    before, after = (short_convolution(z, past, weight)[0] for z in (x, changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    x = drawn(4, dtype=dtype)
    exact, _ = short_convolution(*(z.detach().double() for z in x))
    found, _ = short_convolution(*x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_autocast_decides_as_it_does_for_any_convolution():
    x = drawn(4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = short_convolution(*x)
        assert found.dtype == by_pytorch(*x).dtype == torch.bfloat16
