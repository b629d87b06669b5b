"""What PyTorch has for whole models works with these: torch.compile, DDP and FSDP, torch.func, the meta device."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from tests.models.test_titans import model, text
from titans_mini import MemoryNet, NeuralMemory, neural_memory
from titans_mini.models.config import VARIANTS

ROOT = Path(__file__).parent.parent.parent
MATRIX = {"depth": 1, "residual": False, "norm": False}
KINDS = [{}, {"chunk_size": 64}, MATRIX, MATRIX | {"anchor": "token"}]


def layer_and_input(**options):
    torch.manual_seed(0)
    return NeuralMemory(8, heads=2, **options).double(), torch.randn(2, 150, 8, dtype=torch.float64)


# -- torch.compile -----------------------------------------------------------------------------------------------------


def in_two_calls(m, run, tokens):
    """Logits of both calls, and the gradients of all parameters."""
    m.zero_grad()
    first, state = run(tokens[:, :20])
    second, _ = run(tokens[:, 20:], state)
    (first.square().mean() + second.square().mean()).backward()
    return [first.detach(), second.detach(), *(p.grad for p in m.parameters())]


@pytest.fixture
def compile_afresh():
    """Compile all but the last step, which needs a C++ compiler, and forget it afterwards."""
    torch.compiler.reset()
    yield functools.partial(torch.compile, backend="aot_eager")
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "backend"), [("lmm", "aot_eager"), ("mac", "eager"), ("mag", "eager"), ("delta", "eager")]
)
def test_a_compiled_model_is_the_same_model(variant, backend, compile_afresh):
    """ "eager" follows the code into graphs and runs them; "aot_eager" also follows the graph of their gradients."""
    m, tokens = model(variant, layers=1), text(T=24)
    expected = in_two_calls(m, m, tokens)
    for a, b in zip(in_two_calls(m, compile_afresh(m, backend=backend), tokens), expected, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_a_compiled_layer_under_autocast(compile_afresh):
    layer, x = NeuralMemory(8, heads=2), torch.randn(2, 40, 8)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, _), (y, _) = layer(x), compile_afresh(layer)(x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)


def test_the_compiler_is_told_to_go_around_the_memory_and_says_so_where_it_may_not(compile_afresh):
    layer, x = layer_and_input()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        compile_afresh(layer, fullgraph=True)(x)


def test_a_compiled_model_still_checks_its_input(compile_afresh):
    m = compile_afresh(model("lmm", layers=1))
    with pytest.raises(ValueError, match="tokens: got ids from 0 to 50, expected 0 to 49"):
        m(torch.tensor([[0, 50]]))


def test_whoever_compiles_nothing_does_not_load_the_compiler():
    """It takes as long as to load PyTorch."""
    code = (
        "import sys, torch, titans_mini; net = titans_mini.MemoryNet(4)\n"
        "x, gate = torch.randn(1, 1, 8, 4), torch.full((1, 1, 8), 0.1)\n"
        "titans_mini.neural_memory(x, x, x, gate, gate, gate, net=net)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# -- several processes -------------------------------------------------------------------------------------------------


def _sharded(m):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for block in m.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(m, mesh=mesh)


def _work(rank, folder):
    """One of two processes: gradients of its sequence, averaged over both, against those of both sequences here."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for variant in ("mac", "mag", "mal", "lmm"):
            for wrap in (torch.nn.parallel.DistributedDataParallel, _sharded):
                m, alone, tokens = model(variant), model(variant), text()
                alone(tokens)[0].logsumexp(-1).mean().backward()
                wrapped = wrap(m)
                logits, state = wrapped(tokens[rank : rank + 1])
                logits.logsumexp(-1).mean().backward()
                for p, q in zip(m.parameters(), alone.parameters(), strict=True):
                    grad = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
                    assert (grad - q.grad).abs().max() < 1e-12, (variant, wrap)
                with torch.no_grad():  # and on with the state
                    more, expected = wrapped(tokens[rank : rank + 1, :7], state), alone(tokens[:, :7], alone(tokens)[1])
                assert (more[0] - expected[0][rank : rank + 1]).abs().max() < 1e-12, (variant, wrap)
    finally:
        dist.destroy_process_group()


def test_in_two_processes_whole_and_in_pieces(tmp_path):
    """DDP, and FSDP's fully_shard: a block's weights are together while the block runs, and at no other time."""
    torch.multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)


# -- torch.func --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_grad_of_torch_func_is_that_of_autograd(options):
    layer, x = layer_and_input(**options)
    values = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(p):
        return torch.func.functional_call(layer, p, (x,))[0].square().mean()

    found = torch.func.grad(loss)(values)
    layer(x)[0].square().mean().backward()
    for name, p in layer.named_parameters():
        assert (found[name] - p.grad).abs().max() < 1e-12, name
    with pytest.raises(RuntimeError, match="second derivative through the chunked form"):
        torch.func.grad(lambda p: torch.func.grad(loss)(p)["to_qkv.weight"].square().sum())(values)


def test_vmap_is_told_of_the_batch_axis():
    layer, x = layer_and_input()
    with pytest.raises(RuntimeError, match="belong in the batch axis B"):
        torch.vmap(lambda z: layer(z[None])[0])(x)


# -- shapes without numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["chunked", "recurrence"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_on_the_meta_device_the_shapes_are_those_of_a_cpu(options, backend):
    layer, x = layer_and_input(**options | {"backend": backend})
    x = x[:, :70].requires_grad_()
    expected, state = layer(x)
    with torch.device("meta"):
        y, again = layer.to("meta")(x.detach().to("meta").requires_grad_())
    y.sum().backward()
    assert y.is_meta and y.shape == expected.shape
    assert {k: v.shape for k, v in again.to_dict().items()} == {k: v.shape for k, v in state.to_dict().items()}
    assert all(p.grad.shape == p.shape for p in layer.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operations_of_a_model_can_be_counted_without_running_it(variant):
    """Twice as many sequences take twice as many; and a weight takes two at least for each token."""
    m = model(variant).to("meta")

    def count(B):
        with FlopCounterMode(display=False) as counter:
            m(torch.zeros(B, 40, dtype=torch.long, device="meta"))
        return counter.get_total_flops()

    once = count(1)
    weights = sum(p.numel() for name, p in m.named_parameters() if p.dim() == 2 and "embedding" not in name)
    assert once >= 2 * 40 * weights and count(2) == pytest.approx(2 * once, rel=0.1)


def test_neural_memory_itself_on_the_meta_device():
    net = MemoryNet(4).to("meta")
    x, gate = (torch.empty(1, 2, 30, *d, device="meta") for d in ((4,), ()))
    y, state = neural_memory(x, x, x, gate, gate, gate, net=net)
    assert y.is_meta and y.shape == x.shape and all(w.is_meta for w in state.weights)
