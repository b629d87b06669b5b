"""What a run costs: memory that does not hold weights per token, and work that is linear in T."""

import subprocess
import sys

import pytest
import torch

from tests.helpers import inputs, network, start
from titans_mini import neural_memory
from titans_mini.memory.scan import default_group
from tools import notebooks

PEAK = """
import resource, sys
import torch
from benchmarks.measure import forget_peak
from titans_mini import MemoryNet, neural_memory

chunk_size, grad, backend = int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
torch.manual_seed(0)
B, H, T, D = 1, 4, int(sys.argv[4]), 64
net = MemoryNet(D, depth=2, expansion=4)
q, k, v = (torch.nn.functional.normalize(torch.randn(B, H, T, D), dim=-1).requires_grad_(grad) for _ in range(3))
gates = [(torch.rand(B, H, T) * top).requires_grad_(grad) for top in (0.02, 0.9, 0.5 / chunk_size)]

def peak():
    try:  # not ru_maxrss on Linux: a child starts with the peak of the process that started it
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

with torch.set_grad_enabled(grad):
    neural_memory(*(x[:, :, :2] for x in (q, k, v, *gates)), net=net, backend=backend)  # what torch loads on first use
    forget_peak()
    before = peak()
    y, state = neural_memory(q, k, v, *gates, net=net, chunk_size=chunk_size, backend=backend)
print(peak() - before)
"""


def peak_above_inputs(chunk_size, grad, backend="chunked", T=4096):
    """Megabytes, measured in a process of its own."""
    pytest.importorskip("resource", reason="Windows has no getrusage")
    command = [sys.executable, "-c", PEAK, str(chunk_size), str(grad), backend, str(T)]
    done = subprocess.run(command, cwd=notebooks.ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("chunk_size", [16, 64])
def test_peak_memory_of_the_forward_pass(chunk_size, grad):
    """B1 H4 T4096 D64, depth 2, expansion 4. Weights per token would be 2.1 GB. Measured: 12 to 124 MB."""
    assert 0.5 < peak_above_inputs(chunk_size, grad) < 150


def test_the_measure_sees_weights_per_token():
    """The definition with a graph keeps every weight of every token: 128 tokens cost more than 4,096 in chunks."""
    assert peak_above_inputs(16, True, backend="recurrence", T=128) > 150


def kept_for_backward(T, chunk_size=4):
    """Bytes that autograd holds after the forward pass, each storage once."""
    net, held = network(D=8), {}
    x = [z.requires_grad_() for z in inputs(T=T, D=8)]

    def pack(z):
        held[z.untyped_storage().data_ptr()] = z.untyped_storage().nbytes()
        return z

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda z: z):
        y, _ = neural_memory(*x, start(net), net=net, chunk_size=chunk_size)
    assert y.requires_grad
    return sum(held.values()), sum(z.untyped_storage().nbytes() for z in x)


def test_what_is_kept_for_the_backward_pass():
    """Inputs, one state per group of chunks, layers' outputs: linear in T; nothing per token and weight, no C × C."""
    (one, x1), (four, x4) = kept_for_backward(256), kept_for_backward(1024)
    assert x4 == 4 * x1
    assert four < 4.2 * one
    state = 2 * 2 * 2 * (8 * 16) * 8 * 2  # two layers, B·H, in·out, float64; weights and momentum
    groups = 1024 // (4 * default_group(4))
    outputs = 2 * 2 * 1024 * 2 * (16 + 8) * 8  # B·H·T, keys and queries, both layers
    assert four < 1.05 * (x4 + groups * state + outputs)


def test_the_state_does_not_grow():
    net = network()
    sizes = {neural_memory(*inputs(T=T), start(net), net=net, chunk_size=4)[1].nbytes for T in (1, 4, 30, 200)}
    assert len(sizes) == 1


def test_an_answer_keeps_no_graph_of_earlier_calls_alive():
    """A stream under no_grad, or without anything to train, may run for ever."""
    net = network().requires_grad_(False)
    state = start(net)
    for _ in range(3):
        _, state = neural_memory(*inputs(T=5), state, net=net, chunk_size=4, backend="recurrence")
        assert all(w.grad_fn is None for w in (*state.weights, *state.momentum, *state.anchor))
