"""What only a GPU can show of the models: the logits, gradients and tokens of a CPU, with kernels inside."""

import copy

import pytest
import torch

from tests.helpers import relative_rms
from titans_mini import TitansConfig, TitansLM
from titans_mini.models.config import VARIANTS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(DEVICE == "cpu", reason="no GPU here: on a CPU both sides would be the same")


def both(variant, **options):
    """A model in float64 on the CPU, and the same one in float32 on the GPU."""
    torch.manual_seed(0)
    sizes = {"window": 32, "segment": 32, "chunk_size": 16, "vocab_size": 50}
    right = TitansLM(TitansConfig.preset(f"{variant}-tiny", **(sizes | options))).double()
    return right, copy.deepcopy(right).float().to(DEVICE)


def text(T=70):
    return torch.randint(0, 50, (2, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"memory_depth": 1, "residual": False, "norm": False}], ids=["deep", "matrix"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_a_cpu(variant, options):
    right, model = both(variant, **options)
    (expected, _), (got, _) = right(text()), model(text().to(DEVICE))
    assert relative_rms(got.cpu(), expected) < 1e-4
    right.loss(text())[0].backward()
    model.loss(text().to(DEVICE))[0].backward()
    for (name, p), q in zip(right.named_parameters(), model.parameters(), strict=True):
        assert relative_rms(q.grad.cpu(), p.grad) < 1e-3, name


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_any_split_of_a_text_gives_the_same_logits(variant):
    _, model = both(variant)
    tokens, state, parts = text().to(DEVICE), None, []
    for part in tokens.split([40, 1, 1, 28], 1):
        logits, state = model(part, state)
        parts.append(logits)
    assert relative_rms(torch.cat(parts, 1), model(tokens)[0]) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_moves_and_greedy_tokens_are_those_of_a_cpu(variant):
    right, model = both(variant)
    expected, _ = right.generate(text(40), 20, temperature=0)
    _, state = model(text(40)[:, :-1].to(DEVICE))
    state = state.to("cpu").to(DEVICE)
    got, _ = model.generate(text(40)[:, -1:].to(DEVICE), 20, temperature=0, state=state)
    assert (got.cpu() == expected[:, -got.shape[1] :]).float().mean() > 0.9  # one near tie would change what follows


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_autocast_learns(variant):
    right, model = both(variant)
    with torch.autocast(DEVICE, torch.bfloat16):
        loss, _ = model.loss(text().to(DEVICE))
    loss.backward()
    assert abs(loss.item() / right.loss(text())[0].item() - 1) < 0.02
    assert all(p.grad.isfinite().all() for p in model.parameters())
