"""Titans in one file: a neural memory that learns while it reads, and four models built on it.

    [1] Titans: Learning to Memorize at Test Time, arXiv 2501.00663 (Behrouz, Zhong, Mirrokni)

Read it once from top to bottom: the memory, the layer around it, attention, four ways to join the
two, the language model. It is slow on purpose. The memory is a loop over tokens, its gradients are
autograd's, and a text is read in one call. The numbers and the weights are those of the library:

    from titans_mini import TitansLM, minimal

    model = minimal.Titans(config)
    model.load_state_dict(TitansLM(config).state_dict())
    logits = model(tokens)  # (B, T) → (B, T, vocab_size)

Left out: speed, a state to carry from call to call, sampling, half precision, inference mode
(no_grad works), weights to start training from, and most options but the recommended ones. All of
these are in `titans_mini.TitansLM`.

Glossary, with the equations of [1], first version. A ⚠ marks our choice where [1] leaves one open.

    c           the model's TitansConfig
    B, T        sequences in a batch, tokens in a text
    H, D        heads, and the size of a head: dim = H·D
    L           layers of the memory's network; with L = 1 it is a matrix
    C           tokens in a chunk, whose gradients are all taken at the chunk's start (eq. 16)
    q, k, v     query, key and value of a token (eq. 11, 15)
    M, S        the memory's weights and their momentum: L tensors (B, H, in, out) each (eq. 13, 14)
    u           surprise, the gradient of the loss with respect to M (eq. 8, 12)
    α, η, θ     a token's gates alpha, eta and theta: forgetting, momentum, step size (eq. 13, 14)
    P           persistent tokens, learned, the same in front of every text (eq. 19)
    h           E tokens that the memory recalls for a segment of the text (eq. 21)
    m           the memory's answers, M(q) (eq. 15)
    y, o        answers of a mixer's first part and of its second (eq. 23–31)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The options of TitansConfig that have a single value here. All sizes are free. Three fields are
# ignored: `attention` and `group_size` change speed, `half_life` changes fresh weights.
RECOMMENDED = {
    "residual": True,  # M(x) = x + LN(…): the memory adds its input
    "norm": True,  # and has a norm
    "layer_gates": True,  # ⚠ each layer of the memory has its own α, η, θ
    "max_theta": None,  # θ is at most 1/C
    "momentum": True,  # η depends on the token; False would fix it at 0
    "forgetting": True,  # and so does α
    "forget": "scalar",  # ⚠ one α for all channels of a head
    "learn_gates": True,  # training moves all gates
    "read_only": False,  # the memory writes
    "attention_conv": 1,  # ⚠ attention has no convolution
    "read": "after",  # ⚠ token t asks M_t, which has just learned from it
    "gate": "sigmoid",  # ⚠ the ⊗ of eq. 25 and 28: norm(y) σ(norm(m))
    "order": "phs",  # ⚠ positions in MAC count through [P ‖ h ‖ segment]
    "literal": False,  # ⚠ MAC as printed sees the future; ours is causal
    "mal_residual": True,  # ⚠ attention in MAL sees x + M(x)
    "tie_embeddings": True,  # ⚠ one table for input and output
}


# --- The memory -----------------------------------------------------------------------------------
# A memory is a small network whose weights M change with every token that it reads. Each head of
# each sequence has a memory of its own. Training decides where they start and how they write.


class MemoryNet(nn.Module):
    """The function M(x) = x + LN(σ(… σ(x W_1) …) W_L), with the matrices W_1 … W_L handed in."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.norm_weight = nn.Parameter(torch.ones(D))  # trained, and not changed by reading
        self.norm_bias = nn.Parameter(torch.zeros(D))
        self.eps = 0.1 / D  # ⚠ large: forgetting shrinks M, and the norm would amplify noise

    def forward(self, M: list[Tensor], x: Tensor) -> Tensor:
        """Ask the memory: (B, H, T, D) → (B, H, T, D)."""
        z = x
        for W in M[:-1]:
            z = F.gelu(z @ W)  # (B, H, T, expansion·D)
        z = z @ M[-1]  # (B, H, T, D)
        return x + F.layer_norm(z, z.shape[-1:], self.norm_weight, self.norm_bias, self.eps)


def surprise(net: MemoryNet, M: list[Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Differentiate the loss ‖M(k) − v‖² of one token with respect to M (eq. 8, 12)."""
    with torch.enable_grad():  # reading needs this gradient, also under no_grad
        # In MAC, k and v were computed from M, and this gradient must not flow through them. So we
        # differentiate with respect to a view of M, a variable that only this loss depends on.
        M = [W.view_as(W).requires_grad_() for W in M]
        loss = (net(M, k) - v).square().sum()  # no two memories share an M: one sum serves all
        return torch.autograd.grad(loss, M, create_graph=True)  # training goes through writes


def memorize(net, q, k, v, alpha, eta, theta, M, S, chunk_size):
    """Read T tokens: compare each with the memory, write it, answer its query (eq. 13–16).

    Tokens and answers are (B, H, T, D), gates are (T, L, B, H, 1, 1): alpha[t, i] multiplies the
    matrix of layer i. Returned are the answers, and M and S after the last token.
    """
    q, k, v = (x.split(1, 2) for x in (q, k, v))  # T tokens (B, H, 1, D)
    layers = range(len(M))
    answers = []
    for t in range(len(q)):
        if t % chunk_size == 0:
            anchor = M  # a chunk begins, and all its gradients are taken here (eq. 16)
        u = surprise(net, anchor, k[t], v[t])
        S_next = [eta[t, i] * S[i] - theta[t, i] * u[i] for i in layers]  # eq. 14
        M_next = [(1 - alpha[t, i]) * M[i] + S_next[i] for i in layers]  # eq. 13
        answers.append(net(M_next, q[t]))  # eq. 15
        M, S = M_next, S_next
    return torch.cat(answers, 2), M, S


# --- The memory as a layer ------------------------------------------------------------------------


def split_heads(x: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Split (B, T, 3·dim) into queries, keys and values, each (B, H, T, D)."""
    D = x.shape[-1] // (3 * heads)
    return x.unflatten(-1, (3, heads, D)).permute(2, 0, 3, 1, 4).unbind(0)


class NeuralMemory(nn.Module):
    """The memory between its projections, a layer (B, T, dim) → (B, T, dim) (section 4.4)."""

    def __init__(self, c) -> None:
        super().__init__()
        self.heads, self.depth, self.chunk_size = c.heads, c.memory_depth, c.chunk_size
        self.max_alpha = 1 - 2 ** (-1 / c.min_half_life) if c.min_half_life else 1.0
        D = c.dim // c.heads
        self.to_qkv = nn.Linear(c.dim, 3 * c.dim, bias=False)
        self.conv = nn.Conv1d(3 * c.dim, 3 * c.dim, c.conv_size, groups=3 * c.dim, bias=False)
        self.to_gates = nn.Linear(c.dim, 3 * c.heads * c.memory_depth)
        self.to_output_gate = nn.Linear(c.dim, c.dim, bias=False)
        self.output_norm = nn.Parameter(torch.ones(c.heads, 1, D))
        self.to_output = nn.Linear(c.dim, c.dim, bias=False)
        self.net = MemoryNet(D)
        sizes = [D] + [round(c.memory_expansion * D)] * (c.memory_depth - 1) + [D]
        shapes = zip(sizes[:-1], sizes[1:], strict=True)
        self.initial_weights = nn.ParameterList(torch.randn(c.heads, *shape) for shape in shapes)

    def start(self, B: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Begin B texts: M as training left it, S = 0, and no past for the convolution."""
        M = [W.expand(B, -1, -1, -1) for W in self.initial_weights]  # (B, H, in, out)
        S = [torch.zeros_like(W) for W in M]
        channels, _, conv_size = self.conv.weight.shape
        return M, S, self.conv.weight.new_zeros(B, channels, conv_size - 1)

    def project(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Turn tokens (B, T, dim) into q, k, v (B, H, T, D), and the last inputs of the convolution."""
        z = torch.cat([past, self.to_qkv(x).mT], 2)  # (B, 3·dim, conv_size − 1 + T)
        mixed = F.silu(self.conv(z)).mT  # (B, T, 3·dim), causal and depthwise
        q, k, v = split_heads(mixed, self.heads)
        q, k = F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6)
        return q, k, v, z[:, :, x.shape[1] :]

    def write(self, x: Tensor, M: list[Tensor], S: list[Tensor], past: Tensor) -> tuple:
        """Memorize (B, T, dim): answers to the queries (B, H, T, D), and the next M, S and past."""
        q, k, v, past_next = self.project(x, past)
        gates = torch.sigmoid(self.to_gates(x)).unflatten(-1, (3, self.heads, self.depth))
        alpha, eta, theta = gates.permute(2, 1, 4, 0, 3)[..., None, None]  # (T, L, B, H, 1, 1)
        alpha = alpha * self.max_alpha  # at most half is lost within min_half_life tokens
        theta = theta / self.chunk_size  # C equal tokens in a chunk then move M by one full step
        m, M_next, S_next = memorize(self.net, q, k, v, alpha, eta, theta, M, S, self.chunk_size)
        return m, M_next, S_next, past_next

    def answer(self, m: Tensor, x: Tensor) -> Tensor:
        """Norm, gate and project the answers m (B, H, T, D) to the tokens x (B, T, dim)."""
        m = F.rms_norm(m, m.shape[-1:], eps=1e-6) * self.output_norm
        m = m.transpose(1, 2).flatten(2)  # (B, T, dim)
        return self.to_output(m * F.silu(self.to_output_gate(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Read a whole text."""
        m, _, _, _ = self.write(x, *self.start(len(x)))
        return self.answer(m, x)


# --- Attention ------------------------------------------------------------------------------------


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Turn x (B, H, N, D) by its positions, so that products depend on distances alone (RoPE)."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions[:, None] * frequencies  # (N, D/2), in float64 for positions of long texts
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """Softmax attention with rotary positions (eq. 1, 2)."""

    def __init__(self, c) -> None:
        super().__init__()
        self.heads, self.rope_base = c.attention_heads or c.heads, c.rope_base
        self.to_qkv = nn.Linear(c.dim, 3 * c.dim, bias=False)
        self.to_output = nn.Linear(c.dim, c.dim, bias=False)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Let the last T of N tokens attend to all N: x (B, N, dim) → (B, T, dim)."""
        P = x.shape[1] - len(positions)  # persistent tokens come first: at 0, and seen by all
        positions, mask = F.pad(positions, (P, 0), value=0), F.pad(mask, (P, 0), value=True)
        q, k, v = split_heads(self.to_qkv(x), self.heads)  # (B, H, N, D)
        q, k = rotate(q, positions, self.rope_base), rotate(k, positions, self.rope_base)
        q = q[:, :, -len(mask) :]  # (B, H, T, D)
        scores = q @ k.mT / q.shape[-1] ** 0.5  # (B, H, T, N)
        weights = scores.masked_fill(~mask.to(x.device), -torch.inf).softmax(-1)
        return self.to_output((weights @ v).transpose(1, 2).flatten(2))  # (B, T, dim)


def sliding_window(T: int, window: int) -> tuple[Tensor, Tensor]:
    """Let each of T tokens see the last `window` tokens: positions (T,) and mask (T, T)."""
    i, j = torch.arange(T)[:, None], torch.arange(T)  # token i looks at token j
    return 1 + j, (j <= i) & (i < j + window)  # position 0 is that of the persistent tokens


# --- Four ways to join memory and attention -------------------------------------------------------


class Mixer(nn.Module):
    """The parts that all four share: persistent tokens and a memory."""

    def __init__(self, c) -> None:
        super().__init__()
        P = torch.randn(1, c.persistent, c.dim)
        if c.persistent:
            self.persistent = nn.Parameter(P)
        else:  # an empty tensor that is no weight, so that state dicts do not name it
            self.register_buffer("persistent", P, persistent=False)
        self.memory = NeuralMemory(c)

    def with_persistent(self, x: Tensor) -> Tensor:
        """Put the persistent tokens in front: (B, T, dim) → [P ‖ x] (B, P + T, dim) (eq. 19)."""
        return torch.cat([self.persistent.expand(len(x), -1, -1), x], 1)


class LMM(Mixer):
    """The long-term memory alone (section 4.3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Read [P ‖ x], answer x: (B, T, dim) → (B, T, dim)."""
        m = self.memory(self.with_persistent(x))  # (B, P + T, dim)
        return m[:, -x.shape[1] :]


class Gate(nn.Module):
    """The ⊗ of eq. 25 and 28: the memory decides how much of the attention's answer passes."""

    def __init__(self, c) -> None:
        super().__init__()
        self.y_norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.m_norm = nn.RMSNorm(c.dim, c.norm_eps)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """Combine answers (B, T, dim) of the attention and of the memory."""
        return self.y_norm(y) * torch.sigmoid(self.m_norm(m))


class MAG(Mixer):
    """Memory as gate: attention over a window, beside a memory of everything (eq. 26–28)."""

    def __init__(self, c) -> None:
        super().__init__(c)
        self.window = c.window
        self.attention = Attention(c)
        self.gate = Gate(c)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and remember side by side: (B, T, dim) → (B, T, dim)."""
        T = x.shape[1]
        x = self.with_persistent(x)  # eq. 26: (B, P + T, dim)
        y = self.attention(x, *sliding_window(T, self.window))  # eq. 27: (B, T, dim)
        m = self.memory(x)[:, -T:]
        return self.gate(y, m)  # eq. 28


class MAL(Mixer):
    """Memory as layer: attention over a window of the memory's answers (eq. 29–31)."""

    def __init__(self, c) -> None:
        super().__init__(c)
        self.window = c.window
        self.attention = Attention(c)
        self.between = nn.RMSNorm(c.dim, c.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Remember, then attend: (B, T, dim) → (B, T, dim)."""
        T = x.shape[1]
        x = self.with_persistent(x)  # eq. 29: (B, P + T, dim)
        y = self.memory(x)  # eq. 30: (B, P + T, dim)
        o = self.attention(self.between(x + y), *sliding_window(T, self.window))  # eq. 31
        return y[:, -T:] + o  # ⚠ the block adds x: x + y + o, a residual around memory and attention


class MAC(Mixer):
    """Memory as context: a segment attends to P, to its recollections h, to itself (eq. 21–25).

    ⚠ As printed, it sees the future: the first token of a segment sees the h of the last one, and
    asks a memory that has read the last one. Here both stop at the token itself.
    """

    def __init__(self, c) -> None:
        super().__init__(c)
        self.segment = c.segment
        self.attention = Attention(c)
        self.gate = Gate(c)
        self.stride = c.segment // (c.long_term or c.segment)  # one h for every `stride` tokens
        self.writes, self.sees = c.writes, c.sees

    def forward(self, x: Tensor) -> Tensor:
        """Go from segment to segment: each asks the memory that the one before has written."""
        M, S, past = self.memory.start(len(x))
        queries, _, _, _ = self.memory.project(x, past)  # (B, H, T, D): x asks for h
        segments = zip(x.split(self.segment, 1), queries.split(self.segment, 2), strict=True)
        outputs = []
        for s, q in segments:  # from here on, T counts the tokens of one segment
            h = self.memory.answer(self.memory.net(M, q), s)  # eq. 21: (B, T, dim)
            y = self.attend(h[:, :: self.stride], s)  # eq. 22, 23: (B, T, dim)
            w = {"y": y, "x+y": s + y, "x": s}[self.writes]  # ⚠ [1] writes y, which may have lost s
            m, M, S, past = self.memory.write(w, M, S, past)  # eq. 24; segments are whole chunks
            outputs.append(self.gate(y, self.memory.answer(m, w)))  # eq. 25
        return torch.cat(outputs, 1)

    def attend(self, h: Tensor, s: Tensor) -> Tensor:
        """Let token i of s see P, the h (B, E, dim) of tokens up to i or its own, and tokens up to i."""
        E, T = h.shape[1], s.shape[1]
        i, j, e = torch.arange(T)[:, None], torch.arange(T), torch.arange(E)
        behind_h = 1 + self.segment // self.stride  # h keeps its room also in a short last segment
        positions = torch.cat([1 + e, behind_h + j])  # (E + T,)
        sees_h = i // self.stride == e if self.sees == "own" else i // self.stride >= e  # ⚠
        mask = torch.cat([sees_h, j <= i], 1)  # (T, E + T)
        return self.attention(self.with_persistent(torch.cat([h, s], 1)), positions, mask)


# --- The language model ---------------------------------------------------------------------------

MIXERS = {"lmm": LMM, "mag": MAG, "mal": MAL, "mac": MAC}


class SwiGLU(nn.Module):
    """The feed-forward part of a Llama: (SiLU(x W_gate) ∘ x W_up) W_output."""

    def __init__(self, c) -> None:
        super().__init__()
        hidden = max(8, round(c.dim * c.mlp_ratio / 8) * 8)
        self.gate_and_up = nn.Linear(c.dim, 2 * hidden, bias=False)
        self.to_output = nn.Linear(hidden, c.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Treat each token by itself: (B, T, dim) → (B, T, dim)."""
        gate, up = self.gate_and_up(x).chunk(2, -1)  # (B, T, hidden)
        return self.to_output(F.silu(gate) * up)


class Block(nn.Module):
    """A block of a Llama, with a mixer in place of its attention."""

    def __init__(self, c) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.mixer = MIXERS[c.variant](c)
        self.mlp_norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.mlp = SwiGLU(c)

    def forward(self, x: Tensor) -> Tensor:
        """Add the answer of the mixer, then that of the MLP: (B, T, dim) → (B, T, dim)."""
        x = x + self.mixer(self.norm(x))
        return x + self.mlp(self.mlp_norm(x))


def refuse_other_options(c) -> None:
    """Raise a ValueError that names the first option with a value that this file does not know."""
    library = "this file has the recommended options only, titans_mini.TitansLM has the others"
    if c.variant not in MIXERS:
        raise ValueError(f"variant: got {c.variant!r}, expected one of {list(MIXERS)}: {library}")
    for name, expected in RECOMMENDED.items():
        if getattr(c, name) != expected:
            raise ValueError(f"{name}: got {getattr(c, name)!r}, expected {expected!r}: {library}")


class Titans(nn.Module):
    """A language model, tokens (B, T) → logits (B, T, vocab_size), shaped by a TitansConfig.

    Load its weights from a `TitansLM(config).state_dict()`. Fresh weights are merely random: it is
    the library that knows how to start a training.
    """

    def __init__(self, config) -> None:
        super().__init__()
        refuse_other_options(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Read a text of at least one token, and predict, after each token, the next one."""
        x = self.embedding(tokens)  # (B, T, dim)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # (B, T, vocab_size)
