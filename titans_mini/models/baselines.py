"""Fair baselines: DeltaNet and Gated DeltaNet, which Titans generalise; and a memory that never writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from titans_mini.memory.layer import NeuralMemory
from titans_mini.memory.state import NeuralMemoryState


class DeltaMemory(NeuralMemory):
    """DeltaNet and Gated DeltaNet as settings of the exact online rule of a matrix memory.

    DeltaNet, M_t = M_{t−1} − β kᵀ(k M_{t−1} − v), is the memory without momentum and forgetting, with β = 2θ.
    Gated DeltaNet, M_t = α′ (M_{t−1} − β kᵀ k M_{t−1}) + β kᵀ v, decays before it corrects. With the same gates it is
    *not* the memory with η = 0, as the paper says; with 1 − α = α′, 2θ = α′β and the value v/α′ it is, by algebra.

    Args:
        dim: size of inputs and outputs.
        heads: H.
        gated: whether the memory forgets (Gated DeltaNet).
        chunk_size: C; the result does not depend on it.
        conv_size: width of the causal convolution in tokens.
        group_size: as in `NeuralMemory`.
        half_life: initial half-lives in tokens of the first and the last head.
        min_half_life: as in `NeuralMemory`.
        learn_gates: as in `NeuralMemory`: False freezes the forgetting of `gated`, and β still learns.

    Built in: notebooks/11 · Paper: eq. 34, appendix C
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        *,
        gated: bool = False,
        chunk_size: int = 16,
        conv_size: int = 4,
        group_size: int | None = None,
        half_life: tuple[float, float] = (32.0, 4096.0),
        min_half_life: float = 0.0,
        learn_gates: bool = True,
    ) -> None:
        """Build the layer; see the class for the arguments."""
        super().__init__(
            dim,
            heads,
            depth=1,
            residual=False,
            norm=False,
            anchor="token",
            chunk_size=chunk_size,
            conv_size=conv_size,
            group_size=group_size,
            half_life=half_life,
            min_half_life=min_half_life,
            learn_gates=learn_gates,
            max_theta=0.5,  # β up to 1: one write can replace the value at a unit key
            theta=0.25,
            momentum=False,
            forgetting=gated,
        )
        self.gated = gated

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute α, η = 0 and θ per token, in the convention of `neural_memory`.

        Args:
            x: (B, T, dim).

        Returns:
            Three tensors (B, H, T, 1).

        Built in: notebooks/11 · Paper: eq. 34
        """
        alpha, eta, half_beta = super().gates(x)
        if not self.gated:
            return alpha, eta, half_beta
        alpha = torch.clamp(alpha, max=0.999)  # v/α′ must stay finite
        return alpha, eta, (1 - alpha) * half_beta

    def targets(self, v: Tensor, alpha: Tensor) -> Tensor:
        """Divide the values by α′, because the operator decays their write as well."""
        return v / (1 - alpha).to(v.dtype) if self.gated else v


class ReadOnlyMemory(NeuralMemory):
    """The twin that never writes: every token reads the learned M₀; convolution, norm, gate and output are the same.

    What it gains, training has put into M₀; what a memory gains beyond it, the text has. It has queries alone, no keys,
    values and gates, so that all the weights that are counted are in use: give the model a wider MLP for the rest.

    Args:
        dim: size of inputs and outputs.
        heads: H.
        options: of `NeuralMemory`; those of writing change nothing.
    """

    def __init__(self, dim: int, heads: int = 4, **options: Any) -> None:
        """Build the layer; see the class for the arguments."""
        super().__init__(dim, heads, **options)
        inner = self.heads * self.head_dim
        self.to_qkv = nn.Linear(dim, inner, bias=False)  # queries alone
        self.conv = nn.Conv1d(inner, inner, self.conv_size, groups=inner, bias=False)
        del self.to_gates

    def write(self, x: Tensor, state: NeuralMemoryState) -> tuple[Tensor, NeuralMemoryState]:
        """Read M₀ at every token: from the weights and not from the state, so that it learns with every step.

        Args:
            x: (B, T, dim), T ≥ 1.
            state: its convolution goes on.

        Returns:
            The memory's outputs (B, H, T, D) and the next state, in which the memory is M₀ again.
        """
        q, conv = self.project_queries(x, state.conv)
        memory = self.init_state(len(x)).memory
        return self.read(q, memory.weights), NeuralMemoryState(memory=memory, conv=conv)
