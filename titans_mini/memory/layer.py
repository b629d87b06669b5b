"""NeuralMemory: the memory as a layer, with the projections and gates that the outer loop trains."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.memory.checks import check_options, check_sequence, check_switches
from titans_mini.memory.functional import neural_memory
from titans_mini.memory.gates import half_life_bias, log_spaced_half_lives
from titans_mini.memory.network import MemoryNet, is_count, is_number
from titans_mini.memory.state import NeuralMemoryState
from titans_mini.memory.torch_modes import no_autocast


def short_convolution(x: Tensor, past: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Convolve each channel causally: y_t = Σ_j w_j x_{t−J+1+j}, as `nn.Conv1d` with one group per channel.

    On a CPU it is that sum of shifted tensors; elsewhere, in half precision and under autocast PyTorch's convolution.

    Args:
        x: (B, T, C).
        past: (B, C, J − 1), the cache: the inputs before x.
        weight: (C, 1, J); the last tap multiplies the token itself.

    Returns:
        (B, T, C), and the cache for the next call.

    Built in: notebooks/06 · Paper: section 4.4
    """
    padded = torch.cat([past.mT.to(x.dtype), x], 1)  # padded on the left only: causal
    next_past = padded[:, x.shape[1] :].mT.clone(memory_format=torch.contiguous_format)  # a view would keep all alive
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return F.conv1d(padded.mT, weight, groups=len(weight)).mT, next_past
    return _ShiftAndAdd.apply(padded, weight.squeeze(1)), next_past


class _ShiftAndAdd(torch.autograd.Function):
    """Sum of J shifted tensors: (B, J − 1 + T, C) and (C, J) to (B, T, C)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        taps, T = weight.mT.contiguous(), x.shape[1] - weight.shape[1] + 1
        y = x[:, :T] * taps[0]
        for j in range(1, len(taps)):
            y.addcmul_(x[:, j : j + T], taps[j])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # calls itself, so that it is twice differentiable
        x, weight = ctx.saved_tensors
        J, T = weight.shape[1], dy.shape[1]
        dx = _ShiftAndAdd.apply(F.pad(dy, (0, 0, J - 1, J - 1)), weight.flip(1))
        return dx, torch.stack([(dy * x[:, j : j + T]).sum((0, 1)) for j in range(J)], 1)


class NeuralMemory(nn.Module):
    """A layer that learns to memorize at test time: (B, T, dim) → (B, T, dim), called like `nn.GRU`.

    x → q, k, v: linear, causal depthwise convolution, SiLU, ℓ2-norm of q and k. x → α, η, θ: linear and sigmoid, one
    per token, head and layer. Then the memory, a norm per head, a gate and the output projection.

    The forget gates start at half-lives spread over the heads on a log scale: one rate for all either forgets within
    a paragraph or learns slowly. θ is capped: all gradients of a chunk are taken at its start, so C equal keys move the
    memory C times. The cap 1/C and the start (1−η)/(2C) keep that stable for the squared loss (notebook 04).

    Args:
        dim: size of inputs and outputs.
        heads: H, memories per layer.
        head_dim: D of each memory; default dim / heads.
        depth: layers of the memory's network (1 = a matrix).
        expansion: width of its hidden layers in units of D.
        activation: its σ.
        residual: whether the network adds its input.
        norm: whether the network normalises its output.
        chunk_size: C.
        anchor: "chunk" or "token", see `neural_memory`.
        read: "after" or "before", see `neural_memory`.
        backend: see `neural_memory`.
        group_size: see `neural_memory`; larger groups take less memory in training.
        conv_size: width of the causal convolution in tokens (1 = none).
        layer_gates: one α, η, θ per layer of the memory's network; the paper's second version needs it for depth.
        half_life: initial half-lives in tokens of the first and the last head, in the memory's last layer.
        feature_half_life: the same for its other layers, with `layer_gates`. ⚠ Long on purpose: a zero MLP is a fixed
            point, and a head whose layers all forget within tens of tokens ends there. Lasting features can relearn.
        min_half_life: floor under the half-life of every token, head and layer, in tokens: α = σ(…) · cap with the cap
            1 − 2^(−1/min_half_life), as θ has one; 0 is none. Training can learn to forget within a few dozen tokens,
            which pays at once, and then nothing far away is left whose gradient would ask for more.
        eta: initial momentum gate.
        theta: initial step size; default (1−eta)·max_theta/2.
        max_theta: cap of θ; default 1/C (1 with anchor="token").
        momentum: False fixes η = 0: no past surprise is kept.
        forgetting: False fixes α = 0: nothing decays.
        learn_gates: False freezes α and η; θ still learns. Their rows of `to_gates` get no gradient and keep what they
            have: in a new layer one half-life and one η for all tokens. The weights are named and shaped as with True.
        forget: "scalar", one α per head and layer, or "channel", one per channel, see `channelwise`.
        eps: inside the memory's norm; default 0.1/D. ⚠ Much larger than usual: forgetting shrinks the weights, a norm
            with a tiny eps scales them up again, and heads with short half-lives then amplify rounding a million
            times within 4,096 tokens (measured in tests/memory/test_layer.py).

    Raises:
        ValueError: if sizes do not fit or an initial gate lies outside its range.

    Built in: notebooks/06 · Paper: eq. 11–15, section 4.4
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        head_dim: int | None = None,
        *,
        depth: int = 2,
        expansion: float = 4,
        activation: str = "gelu",
        residual: bool = True,
        norm: bool = True,
        chunk_size: int = 16,
        anchor: str = "chunk",
        read: str = "after",
        backend: str = "auto",
        group_size: int | None = None,
        conv_size: int = 4,
        layer_gates: bool = True,
        half_life: tuple[float, float] = (32.0, 4096.0),
        feature_half_life: float = 2.0**20,
        min_half_life: float = 0.0,
        eta: float = 0.5,
        theta: float | None = None,
        max_theta: float | None = None,
        momentum: bool = True,
        forgetting: bool = True,
        learn_gates: bool = True,
        forget: str = "scalar",
        eps: float | None = None,
    ) -> None:
        """Build the layer; see the class for the arguments."""
        super().__init__()
        sizes = (dim, heads, conv_size) if head_dim is None else (dim, heads, conv_size, head_dim)
        if not all(map(is_count, sizes)) or (head_dim is None and dim % heads):
            raise ValueError(
                f"NeuralMemory: got dim={dim!r}, heads={heads!r}, conv_size={conv_size!r}, head_dim={head_dim!r}, "
                "expected all ≥ 1 and whole, and dim a multiple of heads (or head_dim given)"
            )
        check_switches({"layer_gates": layer_gates, "momentum": momentum, "forgetting": forgetting})
        check_switches({"learn_gates": learn_gates})
        if not (isinstance(half_life, tuple | list) and len(half_life) == 2 and all(map(is_number, half_life))):
            raise ValueError(f"half_life: got {half_life!r}, expected two numbers of tokens: first and last head")
        if not (is_number(eta) and all(x is None or is_number(x) for x in (theta, max_theta))):
            raise ValueError(
                f"NeuralMemory: got eta={eta!r}, theta={theta!r}, max_theta={max_theta!r}, expected numbers: a text?"
            )
        self.dim, self.heads, self.head_dim = dim, heads, dim // heads if head_dim is None else head_dim
        if forget not in ("scalar", "channel"):
            raise ValueError(f"forget: got {forget!r}, expected 'scalar' or 'channel' (one α for each channel)")
        eps = 0.1 / self.head_dim if eps is None else eps
        self.net = MemoryNet(self.head_dim, depth, expansion, activation, residual, norm, eps)
        self.options = {"chunk_size": chunk_size, "anchor": anchor, "read": read}
        self.options |= {"backend": backend, "group_size": group_size}
        check_options(self.net, **self.options)
        self.conv_size, self.half_life, self.eta = conv_size, half_life, eta if momentum else 0.0
        self.learned_gates = [name for name, on in (("alpha", forgetting), ("eta", momentum), ("theta", True)) if on]
        self.learn_gates, self.feature_half_life = learn_gates, feature_half_life
        starts = min(*half_life, feature_half_life)
        if not (is_number(min_half_life) and (min_half_life == 0 or 0 < min_half_life < starts)):
            raise ValueError(
                f"min_half_life: got {min_half_life!r}, expected 0 for none, or tokens below the shortest half-life at "
                f"the start, {starts:g}: a sigmoid does not reach its cap"
            )
        self.min_half_life = min_half_life
        # a number of Python: also where a model is built without numbers, on the meta device or to be counted
        self.max_alpha = -math.expm1(-math.log(2) / min_half_life) if min_half_life else 1.0
        self.max_theta = max_theta if max_theta is not None else 1.0 if anchor == "token" else 1.0 / chunk_size
        self.theta = theta if theta is not None else (1 - self.eta) * self.max_theta / 2
        if not (0 < eta < 1 and 0 < self.max_theta <= 1 and 0 < self.theta < self.max_theta):
            raise ValueError(
                f"NeuralMemory: got eta={eta}, theta={self.theta}, max_theta={self.max_theta}, "
                "expected 0 < eta < 1 and 0 < theta < max_theta ≤ 1: a sigmoid reaches neither end"
            )
        self.gate_layers = depth if layer_gates else 1
        inner = self.heads * self.head_dim
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.conv = nn.Conv1d(3 * inner, 3 * inner, conv_size, groups=3 * inner, bias=False)
        self.gate_sizes = {name: heads * self.gate_layers for name in self.learned_gates}
        if forget == "channel" and forgetting:
            self.gate_sizes["alpha"] *= self.head_dim
        self.to_gates = nn.Linear(dim, sum(self.gate_sizes.values()))
        self.to_output_gate = nn.Linear(dim, inner, bias=False)
        self.output_norm = nn.Parameter(torch.ones(self.heads, 1, self.head_dim))
        self.to_output = nn.Linear(inner, dim, bias=False)
        if norm:  # outputs of unit length, like the keys; a gain of 1 would make them √D long
            nn.init.constant_(self.net.norm_weight, self.head_dim**-0.5)
        # M₀ is learned; the default generator makes it follow torch.manual_seed like any other layer
        self.initial_weights = nn.ParameterList(self.net.init_weights(heads, generator=torch.default_generator))
        self.reset_gates()

    @torch.no_grad()
    def reset_gates(self) -> None:
        """Initialise the gates: half-lives, momentum and step size, the same for every token."""
        alpha = half_life_bias(log_spaced_half_lives(self.heads, *self.half_life), self.min_half_life)  # (H,)
        start_alpha = alpha.unsqueeze(-1).repeat(1, self.gate_layers)  # (H, L)
        start = {
            "alpha": start_alpha,
            "eta": torch.full_like(start_alpha, self.eta).logit(),
            "theta": torch.full_like(start_alpha, self.theta / self.max_theta).logit(),
        }
        start_alpha[:, :-1] = half_life_bias(self.feature_half_life, self.min_half_life)
        parts = [(start[name].flatten(), size) for name, size in self.gate_sizes.items()]
        self.to_gates.bias.copy_(torch.cat([x.repeat_interleave(size // len(x)) for x, size in parts]))
        self.to_gates.weight.zero_()

    def extra_repr(self) -> str:
        """Show the configuration in `print(layer)`."""
        return f"dim={self.dim}, heads={self.heads}, half_life={self.half_life}, " + ", ".join(
            f"{key}={value!r}" for key, value in self.options.items() if value is not None
        )

    def init_state(self, batch: int) -> NeuralMemoryState:
        """Return the initial state: the learned memory M₀ and a convolution cache of zeros.

        Args:
            batch: number of sequences B.

        Returns:
            The state that `forward` starts from by default.

        Built in: notebooks/06 · Paper: section 3.1
        """
        weight = self.to_qkv.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        memory = self.net.init_state(batch, self.heads, weights=tuple(w.to(dtype) for w in self.initial_weights))
        conv = weight.new_zeros(batch, weight.shape[0], self.conv_size - 1)
        return NeuralMemoryState(memory=memory, conv=conv)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute α, η, θ of every token.

        Args:
            x: (B, T, dim).

        Returns:
            Three tensors (B, H, T, L), L = 1 without `layer_gates`: α in [0, max_alpha], η in [0, 1], θ in
            [0, max_theta]. With forget="channel" α is (B, H, T, L, D).

        Built in: notebooks/06 · Paper: section 3.1
        """
        raw = self.to_gates(x)
        if not self.learn_gates:  # θ's rows are the last
            frozen = raw.shape[-1] - self.gate_sizes["theta"]
            weight, bias = (p[:frozen].detach() for p in (self.to_gates.weight, self.to_gates.bias))
            raw = torch.cat([F.linear(x, weight, bias), raw[..., frozen:]], -1)
        raw = torch.sigmoid(raw if raw.dtype == torch.float64 else raw.float())  # in half precision 1 − 0.0002 is 1
        parts = raw.split(list(self.gate_sizes.values()), -1)  # (B, T, H·L or H·L·D)
        parts = [x.unflatten(-1, (self.heads, self.gate_layers, -1)).transpose(1, 2) for x in parts]
        learned = {name: x.squeeze(-1) for name, x in zip(self.gate_sizes, parts, strict=True)}
        if "alpha" in learned and self.max_alpha < 1:
            learned["alpha"] = learned["alpha"] * self.max_alpha
        none = torch.zeros_like(learned["theta"])
        return learned.get("alpha", none), learned.get("eta", none), learned["theta"] * self.max_theta

    def targets(self, v: Tensor, alpha: Tensor) -> Tensor:
        """Return the targets of the keys, (B, H, T, D): the values, unless a subclass rescales them."""
        return v

    def project(self, x: Tensor, conv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Project to queries, keys and values.

        Args:
            x: (B, T, dim).
            conv: (B, 3·H·D, conv_size − 1), the convolution's cache.

        Returns:
            q, k (unit length) and v, each (B, H, T, D), and the next cache.

        Built in: notebooks/06 · Paper: eq. 11, 15, section 4.4
        """
        mixed, conv = short_convolution(self.to_qkv(x), conv, self.conv.weight)  # (B, T, 3·H·D)
        qk, v = F.silu(mixed).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).split((2, 1))
        q, k = F.normalize(qk, dim=-1, eps=1e-6).to(v.dtype)  # autocast norms in float32
        return q, k, v[0], conv

    def forward(self, x: Tensor, state: NeuralMemoryState | None = None) -> tuple[Tensor, NeuralMemoryState]:
        """Run the memory over a sequence, writing and reading at every token.

        Args:
            x: (B, T, dim).
            state: the state to continue from; default the learned initial memory. It is not modified.

        Returns:
            y (B, T, dim) and the state after the last token.

        Raises:
            ValueError: if x has another shape, or the state does not fit.
            TypeError: if x is not floating point, or not of the layer's dtype and device.

        Built in: notebooks/06 · Paper: eq. 11–15, section 4.4
        """
        check_sequence(self, x, state)
        if state is None:
            state = self.init_state(x.shape[0])
        if x.shape[1] == 0:  # the convolution refuses an empty sequence
            return torch.zeros_like(x), state
        y, state = self.write(x, state)
        return self.project_output(y, self.output_gate(x)), state

    def write(self, x: Tensor, state: NeuralMemoryState) -> tuple[Tensor, NeuralMemoryState]:
        """Write a sequence to the memory and read at every token, before the output projection.

        Args:
            x: (B, T, dim), T ≥ 1.
            state: the state to continue from.

        Returns:
            The memory's outputs (B, H, T, D) and the state after the last token.

        Built in: notebooks/10 · Paper: eq. 13–15, 24
        """
        q, k, v, conv = self.project(x, state.conv)
        gates = self.gates(x)
        v = self.targets(v, gates[0])
        y, memory = neural_memory(q, k, v, *gates, state.memory, net=self.net, **self.options)
        return y, NeuralMemoryState(memory=memory, conv=conv)

    def retrieve(self, x: Tensor, weights: tuple[Tensor, ...], conv: Tensor) -> tuple[Tensor, Tensor]:
        """Read without writing, M*(q): every token reads the same memory.

        Args:
            x: (B, T, dim).
            weights: L tensors (B, H, in, out), the memory to read.
            conv: (B, H·D, conv_size − 1), the queries' convolution cache.

        Returns:
            The layer's output (B, T, dim) and the next cache.

        Built in: notebooks/10 · Paper: eq. 15, 21
        """
        q, conv = self.project_queries(x, conv)
        return self.project_output(self.read(q, weights), self.output_gate(x)), conv

    def project_queries(self, x: Tensor, conv: Tensor) -> tuple[Tensor, Tensor]:
        """Project to queries alone: (B, T, dim) to (B, H, T, D), and the next cache; see `retrieve`."""
        inner = self.heads * self.head_dim
        wide = F.linear(x, self.to_qkv.weight[:inner])  # (B, T, H·D)
        mixed, conv = short_convolution(wide, conv, self.conv.weight[:inner])
        q = F.silu(mixed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return F.normalize(q, dim=-1, eps=1e-6), conv

    def read(self, q: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """Evaluate one memory at queries (B, H, T, D), in the memory's precision: (B, H, T, D)."""
        with no_autocast(q.device):
            return self.net(weights, q.to(weights[0].dtype))

    def output_gate(self, x: Tensor) -> Tensor:
        """Gate each component of the memory's answer: SiLU of a linear map of x.

        Args:
            x: (B, T, dim) the layer's input.

        Returns:
            (B, T, H·D) factors for the answers before the output projection.
        """
        return F.silu(self.to_output_gate(x))

    def project_output(self, y: Tensor, gate: Tensor) -> Tensor:
        """Apply the norm per head, the gate and the output projection.

        Args:
            y: (B, H, T, D) the memory's outputs.
            gate: (B, T, H·D), see `output_gate`.

        Returns:
            (B, T, dim).

        Built in: notebooks/10 · Paper: section 4.4
        """
        y = F.rms_norm(y, (self.head_dim,), eps=1e-6) * self.output_norm
        return self.to_output(y.transpose(1, 2).flatten(2).to(gate.dtype) * gate)
