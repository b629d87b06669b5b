"""Configuration of a model: one frozen dataclass with a comment per field, and presets from the paper's table."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

VARIANTS = ("mac", "mag", "mal", "lmm", "transformer", "swa", "delta", "gated-delta")
WITH_MEMORY = ("mac", "mag", "mal", "lmm", "delta", "gated-delta")
GATES = ("sigmoid", "both", "literal", "add")
WRITES = ("y", "x+y", "x")
SEES = ("causal", "own")
# dim, layers, heads of the paper's table (NeurIPS, appendix E.1)
SIZES = {"170m": (768, 12, 16), "340m": (1024, 24, 16), "760m": (1536, 24, 16), "1.3b": (2048, 18, 8)}
# ⚠ fields that the paper leaves open, with the reason for each default
OPEN = {
    "attention_heads": "one number for attention and memory: no other is given, and equal widths need no projection",
    "attention_conv": "section 4.4 puts one after each of q, k and v, and does not say whether attention's are meant",
    "tie_embeddings": "not stated; models and vocabularies as small as ours gain from one table instead of two",
    "layer_gates": "the second version says that depth does not pay without a set per layer; the first has one for all",
    "forget": "the first version has one α, the second one per channel; a single α is cheaper and enough to learn from",
    "read": "eq. 15 has no index; recurrent networks read after the write, which lets a token retrieve its own value",
    "gate": "a gate should select among attention's outputs, and norms keep a small branch from vanishing in a product",
    "order": "the first version's figure and equation agree on it; only positions differ, the masks are causal in both",
    "long_term": "eq. 21 computes one h per token; the presets have half as many, as the second version does",
    "writes": "eq. 24 writes y; small models recall with x and their own h alone (lesson 12): set both for those",
    "sees": "eq. 22 joins all answers; a token may see those before it, and small models bind with their own alone",
    "literal": "the printed form leaks the future, and a language model must not",
    "mal_residual": "the second version names Samba, with residuals; without them all signals pass through the memory",
}


class Choice(NamedTuple):
    """Our choice where the paper leaves one open: the default as text, and the reason for it."""

    default: str
    reason: str


@dataclass(frozen=True)
class TitansConfig:
    """Configuration of a `TitansLM`. The paper leaves fields marked ⚠ open; `OPEN` gives our reasons.

    Raises:
        ValueError: if the sizes or options do not fit together.

    Built in: notebooks/10 · Paper: section 4, appendix E.1
    """

    variant: str = "mac"  # mac, mag, mal, lmm, or a baseline: transformer, swa, delta, gated-delta
    vocab_size: int = 256  # bytes; the paper's models have 32,000 subwords
    dim: int = 64  # width of the residual stream
    layers: int = 2
    heads: int = 2  # of the memory, and of attention unless `attention_heads` says otherwise
    attention_heads: int | None = None  # ⚠ heads of attention alone; None is `heads`
    attention_conv: int = 1  # ⚠ width of a causal convolution of attention's q, k, v, with SiLU; 1 is neither
    mlp_ratio: float = 8 / 3  # hidden width of the SwiGLU in units of dim: as many weights as an MLP of ratio 4
    window: int = 64  # mag, mal, swa: tokens a query sees; the paper has 2,048
    segment: int = 64  # mac: tokens attended to at once; the paper has 512
    persistent: int = 4  # learned tokens that every query sees; the paper has 128
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True  # ⚠ one table for input and output

    # the memory
    chunk_size: int = 16  # C, as in the paper
    memory_depth: int = 2  # L_M; 1 is a matrix
    memory_expansion: float = 4
    residual: bool = True  # M(x) = x + LN(…), the paper's second version
    norm: bool = True
    layer_gates: bool = True  # ⚠ one α, η, θ per layer of the memory
    conv_size: int = 4
    half_life: tuple[float, float] = (32.0, 4096.0)  # initial half-lives in tokens, first and last head
    max_theta: float | None = None  # cap of θ; default 1/C, see NeuralMemory
    min_half_life: float = 0.0  # floor under the half-life of every token, in tokens, as θ has a cap; 0 is none
    momentum: bool = True  # False: η = 0, for ablations
    forgetting: bool = True  # False: α = 0
    read_only: bool = False  # lmm, mag, mal: nothing is ever written, every token reads the learned M₀; to compare
    learn_gates: bool = True  # False: α and η keep their initial values for all tokens, and θ alone is learned
    forget: str = "scalar"  # ⚠ or "channel": one rate per channel, see `channelwise`; the delta rules use one per head
    group_size: int | None = None  # chunks read together, with one state kept for training; see `neural_memory`
    attention: str = "sdpa"  # or "flex": FlexAttention, the same result, for CUDA devices

    # choices that the paper leaves open
    read: str = "after"  # ⚠ "after" reads M_t, "before" M_{t−1}
    gate: str = "sigmoid"  # ⚠ ⊗ of eq. 25, 28: norm(y) σ(norm(m)); "both" σ·σ, "literal" y·m, "add" norm(y) + norm(m)
    order: str = "phs"  # ⚠ mac: positions of [P ‖ h ‖ S] (v1) or "psh" (second version); masks are causal in both
    long_term: int | None = None  # ⚠ mac: tokens h per segment, evenly spaced; None is one per token
    writes: str = "y"  # ⚠ mac: what the memory writes and is then asked, eq. 24–25: y, the block's normed x, or "x+y"
    sees: str = "causal"  # ⚠ mac: whose h a token attends to: those up to its own, or "own", the latest of them alone
    literal: bool = False  # ⚠ mac as printed: h and the final read see their whole segment. It leaks; for a lesson
    mal_residual: bool = True  # ⚠ mal: x + M(x) before attention; False is eq. 30–31 to the letter

    def __post_init__(self) -> None:
        """Raise at the first invalid field."""
        for name, allowed in (
            ("variant", VARIANTS),
            ("gate", GATES),
            ("read", ("after", "before")),
            ("order", ("phs", "psh")),
            ("forget", ("scalar", "channel")),
            ("attention", ("sdpa", "flex")),
            ("writes", WRITES),
            ("sees", SEES),
        ):
            if getattr(self, name) not in allowed:
                got = getattr(self, name)
                raise ValueError(f"{name}: got {got!r}, expected one of {list(allowed)}: a typing error?")
        for field in fields(self):
            self._check_kind(field.name, str(field.type))
        if self.max_theta is not None and not (_is_positive(self.max_theta) and self.max_theta <= 1):
            raise ValueError(
                f"max_theta: got {self.max_theta!r}, expected a number in (0, 1], or None for 1/C: a larger step "
                "overshoots"
            )
        pair = self.half_life
        if not (
            isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_positive, pair)) and pair[0] <= pair[1]
        ):
            raise ValueError(
                f"half_life: got {pair!r}, expected two numbers of tokens, 0 < first ≤ last: one for the first head, "
                "one for the last"
            )
        if self.min_half_life >= pair[0] and self.variant in WITH_MEMORY:
            raise ValueError(
                f"min_half_life: got {self.min_half_life!r}, expected less than the first of half_life {pair}, or 0 "
                "for none: gates start above their floor"
            )
        for name in ("heads", "attention_heads"):  # of the memory too: a head of one component has keys of ±1 only
            heads = getattr(self, name)
            if heads is not None and (self.dim % heads or self.dim // heads % 2):
                raise ValueError(
                    f"{name}: got {heads} for dim {self.dim}, expected dim = heads × an even head size: positions turn "
                    "pairs of components"
                )
        if self.forget == "channel" and self.memory_depth > 1 and self.memory_expansion % 1:
            raise ValueError(
                f"memory_expansion: got {self.memory_expansion} with forget='channel', expected a whole number: "
                "neighbouring hidden channels share a rate"
            )
        if self.variant == "mac" and self.segment % self.chunk_size:
            raise ValueError(
                f"segment: got {self.segment}, expected a multiple of chunk_size {self.chunk_size}: the memory that a "
                "segment reads is the one at the end of a chunk"
            )
        if self.long_term is not None and self.segment % self.long_term:
            raise ValueError(
                f"long_term: got {self.long_term}, expected a divisor of segment {self.segment}, or None: one per token"
            )
        if self.read_only and self.variant not in ("lmm", "mag", "mal"):
            raise ValueError(f"read_only: got True with variant {self.variant!r}, expected 'lmm', 'mag' or 'mal'")
        if self.literal and self.variant != "mac":
            raise ValueError(f"literal: got True with variant {self.variant!r}, expected 'mac': the others do not leak")
        for name, printed in (("writes", "y"), ("sees", "causal")):
            if self.literal and (got := getattr(self, name)) != printed:
                raise ValueError(f"{name}: got {got!r} with literal=True, expected {printed!r}, as it is printed")

    def _check_kind(self, name: str, kind: str) -> None:
        """Raise if a field's value is not of the annotated type, or is a number out of range."""
        value = getattr(self, name)
        if kind == "bool" and not isinstance(value, bool):
            raise ValueError(
                f"{name}: got {value!r}, expected True or False: a text such as 'False' would count as true"
            )
        if kind == "int" or (kind == "int | None" and value is not None):
            least = 0 if name == "persistent" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: got {value!r}, expected an integer ≥ {least}: a fraction, or a switch?")
        none = name == "min_half_life" and value == 0 and not isinstance(value, bool)
        if kind == "float" and not (_is_positive(value) or none):
            raise ValueError(f"{name}: got {value!r}, expected a finite number > 0: did a computation go wrong?")

    @classmethod
    def preset(cls, name: str, **changes: object) -> TitansConfig:
        """Return the configuration of a variant and size, such as "mac-340m" or "mag-tiny".

        Args:
            name: one of the variants, a hyphen, and tiny, 170m, 340m, 760m or 1.3b.
            changes: fields that differ from the preset.

        Returns:
            tiny: two layers of width 64 on bytes, with long chunks, because their number sets the time on a laptop.
            The others: width, depth and heads of the paper's table, chunk 16, segment 512, window 2,048, 128 persistent
            tokens, 32,000 subwords. All have one long-term token per two of a segment, as the paper has 256 for 512.

        Raises:
            ValueError: if there is no such preset.

        Built in: notebooks/10 · Paper: appendix E.1
        """
        variant, _, size = name.rpartition("-")
        if variant not in VARIANTS or size not in ("tiny", *SIZES):
            raise ValueError(
                f"preset: got {name!r}, expected variant-size with a variant of {list(VARIANTS)} and a size of "
                f"{['tiny', *SIZES]}, for example 'mac-340m'"
            )
        if size == "tiny":
            tiny = cls(variant=variant, segment=256, chunk_size=64, memory_expansion=2)
            return replace(tiny, **_with_long_term(tiny, changes))
        dim, layers, heads = SIZES[size]
        paper = cls(
            variant=variant,
            vocab_size=32_000,
            dim=dim,
            layers=layers,
            heads=heads,
            window=2048,
            segment=512,
            persistent=128,
        )
        return replace(paper, **_with_long_term(paper, changes))

    @classmethod
    def open_choices(cls) -> dict[str, Choice]:
        """List the fields that the paper leaves open (⚠).

        Returns:
            Name → default and reason.
        """
        return {f.name: Choice(repr(f.default), OPEN[f.name]) for f in fields(cls) if f.name in OPEN}


def _is_positive(x: object) -> bool:
    """Return whether x is a finite number > 0."""
    return isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < math.inf


def _with_long_term(c: TitansConfig, changes: dict[str, object]) -> dict[str, object]:
    """Add a preset's number of long-term tokens, half the segment, to the changes."""
    segment = changes.get("segment", c.segment)
    half = segment // 2 if isinstance(segment, int) and segment > 1 and segment % 2 == 0 else None
    return {"long_term": half} | changes
