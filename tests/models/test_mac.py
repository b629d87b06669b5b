"""Memory as context, token by token and by hand, with what it may write and whose h a token may see."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from titans_mini import TitansConfig
from titans_mini.models.attention import rotate
from titans_mini.models.mac import MemoryAsContext

SMALL = TitansConfig("mac", dim=8, heads=2, segment=8, chunk_size=4, persistent=2, memory_expansion=1, long_term=4)


def mixer(**changes):
    torch.manual_seed(0)
    m = MemoryAsContext(dataclasses.replace(SMALL, **changes)).double()
    with torch.no_grad():  # gates that differ from token to token
        m.memory.to_gates.weight.normal_()
    return m


def inputs(T=21):
    return torch.randn(1, T, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def latest(rows, conv):
    """The convolution at the last of the rows (1, C), then SiLU; without a convolution the row itself."""
    if conv is None:
        return rows[-1]
    taps = conv.weight[:, 0]  # (C, J), the last for the token itself
    return F.silu(sum(taps[:, -1 - j] * rows[-1 - j] for j in range(min(len(rows), taps.shape[1]))))


def in_heads(row, parts, H):
    """(1, parts·H·D) → parts tensors (1, H, 1, D)."""
    return row.unflatten(-1, (parts, H, -1)).unsqueeze(3).unbind(1)


def ask(memory, M, q):
    """The memory's answer before its norm, gate and projection: (1, H, 1, D)."""
    return memory.net(M, F.normalize(q, dim=-1))


def finish(memory, m, x):
    """Norm, gate and projection of an answer m to a token x (1, dim)."""
    return memory.project_output(m, memory.output_gate(x[:, None]))[:, 0]


def one_by_one(mac, x):
    """Equations 21–25 as a loop over tokens, with nothing kept that a person would not write down."""
    c, memory, attention = mac.c, mac.memory, mac.attention
    H, A, stride = c.heads, attention.heads, c.segment // c.long_term
    M = [w[None] for w in memory.initial_weights]
    S = [torch.zeros_like(w) for w in M]
    questions, written, projected, out = [], [], [], []
    silu = F.silu if attention.conv is not None else lambda z: z
    fixed = [in_heads(silu(attention.to_qkv(p[None])), 3, A)[1:] for p in mac.persistent[0]]
    for t, x_t in enumerate(x.unbind(1)):
        i = t % c.segment
        if i == 0:
            context, hs, tokens = M, [], []  # the memory at the end of the segment before
        questions.append(memory.to_qkv(x_t))
        if i % stride == 0:  # eq. 21
            q = in_heads(latest(questions, memory.conv), 3, H)[0]
            h = finish(memory, ask(memory, context, q), x_t)
            _, k, v = in_heads(silu(attention.to_qkv(h)), 3, A)
            hs.append((rotate(k, torch.tensor([1 + len(hs)])), v))
        projected.append(attention.to_qkv(x_t))
        q, k, v = in_heads(latest(projected, attention.conv), 3, A)
        q, k = (rotate(z, torch.tensor([1 + c.long_term + i])) for z in (q, k))
        tokens.append((k, v))
        seen = fixed + (hs[-1:] if c.sees == "own" else hs) + tokens  # eq. 22
        k, v = (torch.cat(z, 2) for z in zip(*seen, strict=True))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        y = attention.to_output((weights @ v).flatten(1))  # eq. 23
        w = {"y": y, "x": x_t, "x+y": x_t + y}[c.writes]
        written.append(memory.to_qkv(w))
        q, k, v = in_heads(latest(written, memory.conv), 3, H)
        if t % c.chunk_size == 0:
            anchor = [z.detach().requires_grad_() for z in M]
        u = torch.autograd.grad((ask(memory, anchor, k) - v).square().sum(), anchor)
        alpha, eta, theta = (g[:, :, 0, :, None, None].unbind(2) for g in memory.gates(w[:, None]))
        S = [eta[n] * S[n] - theta[n] * u[n] for n in range(len(M))]
        M = [(1 - alpha[n]) * M[n] + S[n] for n in range(len(M))]  # eq. 24
        o = finish(memory, ask(memory, M, q), w)
        out.append(mac.gate(y, o))  # eq. 25
    return torch.stack(out, 1), M


@pytest.mark.parametrize("conv", [1, 3])
@pytest.mark.parametrize("sees", ["causal", "own"])
@pytest.mark.parametrize("writes", ["y", "x+y", "x"])
def test_equal_to_a_loop_over_tokens(writes, sees, conv):
    mac, x = mixer(writes=writes, sees=sees, attention_conv=conv, attention_heads=4), inputs()
    y, state = mac(x)
    expected, M = one_by_one(mac, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for mine, its in zip(state.memory.memory.weights, M, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)


def test_what_is_written_is_what_the_memory_alone_would_write():
    """x written: attention changes nothing in the memory, which is then that of the memory alone."""
    mac, x = mixer(writes="x"), inputs()
    _, state = mac(x)
    _, alone = mac.memory(x)
    for name, z in alone.to_dict().items():
        torch.testing.assert_close(state.memory.to_dict()[name], z, rtol=0, atol=1e-12)


@torch.no_grad()
def test_only_the_latest_h_is_kept_and_only_it_is_seen():
    mac, x = mixer(sees="own"), inputs()
    state = None
    for part in x.split([3, 1, 1, 4, 12], 1):
        _, state = mac(part, state)
        assert state.h_keys.shape[2] == state.h_values.shape[2] == 1
    mac, every = mixer(sees="own", long_term=None), mixer(long_term=None)
    _, state = every(x[:, :13])
    assert state.h_keys.shape[2] == 5  # those of the begun segment
    _, state = mac(x[:, :13])
    moved = dataclasses.replace(state, h_values=state.h_values + 1)
    assert torch.equal(mac(x[:, 13:], moved)[0], mac(x[:, 13:], state)[0])  # the next token has an h of its own
    mac = mixer(sees="own")  # two tokens share one
    _, state = mac(x[:, :13])
    moved = dataclasses.replace(state, h_values=state.h_values + 1)
    a, b = mac(x[:, 13:14], moved)[0], mac(x[:, 13:14], state)[0]
    assert not torch.allclose(a, b, atol=1e-3)
