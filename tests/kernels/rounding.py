"""Bfloat16 where Triton's interpreter cannot do it: every operand rounded to it, everything summed in float32.

The interpreter computes bfloat16 products wrongly, so the kernels run in float32 there, and these stand-ins round what
the kernels would hold in bfloat16: both sides of every product, and every row that is stored. What is left out are the
order of summation on a GPU and the copies of states, which products round anyway.
"""

import triton
import triton.language as tl


@triton.jit
def rounded(x):
    """Round float32 to the nearest bfloat16, ties to even, by its bits."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def mul(a, b, PRECISION: tl.constexpr):
    """Stand in for `tiles.mul`."""
    return tl.dot(rounded(a), rounded(b))


@triton.jit
def store_rows(x, value, rows, there, cols, stride, D: tl.constexpr):
    """Stand in for `tiles.store_rows`."""
    place = x + rows[:, None] * stride + cols[None, :]
    tl.store(place, rounded(value), mask=there[:, None] & (cols < D)[None, :])
