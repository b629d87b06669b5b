"""Which route is taken, what is said where the kernels cannot run, and that nothing loads triton unasked."""

import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from tests.helpers import inputs, matrix, network
from tests.kernels.helpers import kernels, loaded, needs_triton
from titans_mini import neural_memory
from titans_mini.kernels import versions
from titans_mini.memory import backends
from titans_mini.memory.scan import chunked

ROOT = Path(backends.__file__).parents[2]
MATRIX = {"depth": 1, "residual": False, "norm": False}


def stand_in(dtype=torch.bfloat16):
    """What `choose` looks at in a tensor on a GPU."""
    return types.SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0), dtype=dtype)


@pytest.fixture
def gpu(monkeypatch):
    """Pretend to have a GPU of a compute capability, and no interpreter."""
    loaded()  # as the other tests of this process need them
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.version, "hip", None)
    backends._say_once.cache_clear()

    def has(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return has


@needs_triton
def test_auto_takes_the_kernels_on_a_gpu_that_supports_them(gpu):
    gpu(9, 0)
    run, takes_half = backends.choose_backend("auto", matrix(64), stand_in(), 64, "chunk")
    assert run is kernels().run and takes_half
    assert backends.choose_backend("chunked", matrix(64), stand_in(), 64, "chunk") == (chunked, False)


@needs_triton
def test_auto_says_once_why_it_leaves_them_out(gpu):
    gpu(7, 5)
    with pytest.warns(UserWarning, match=r"a GPU has compute capability \(7, 5\)"):
        assert backends.choose_backend("auto", matrix(64), stand_in(), 64, "chunk") == (chunked, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose_backend("auto", matrix(64), stand_in(), 64, "chunk")[0] is chunked


def test_auto_without_triton_runs_and_says_what_is_missing(gpu, monkeypatch):
    gpu(9, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="triton is not installed"):
        assert backends.choose_backend("auto", matrix(64), stand_in(), 64, "chunk")[0] is chunked
    with pytest.raises(RuntimeError, match="got 'triton', expected .*: triton is not installed"):
        backends.choose_backend("triton", matrix(64), stand_in(), 64, "chunk")


@needs_triton
def test_auto_leaves_them_out_where_triton_is_too_old(gpu, monkeypatch):
    """PyTorch 2.6 brings Triton 3.2."""
    gpu(9, 0)
    monkeypatch.setattr("titans_mini.kernels.versions.version", lambda: (3, 2))
    with pytest.warns(UserWarning, match=r"Triton 3\.2 is installed, and the kernels need 3\.3 or newer"):
        assert backends.choose_backend("auto", matrix(64), stand_in(), 64, "chunk")[0] is chunked
    for newer in ((3, 3), (4, 0), None):
        monkeypatch.setattr("titans_mini.kernels.versions.version", lambda newer=newer: newer)
        assert backends.choose_backend("auto", matrix(64), stand_in(), 64, "chunk")[0] is kernels().run


@pytest.mark.parametrize(
    ("version", "numpy", "reason"),
    [
        ((3, 1), "2.0.2", r"Triton 3\.1 is installed, and the kernels need 3\.2 or newer"),
        ((3, 2), "2.3.5", None),
        ((3, 6), "2.3.5", None),
        ((3, 6), "2.4.0rc1", r"the interpreter of Triton 3\.6 does not run with NumPy 2\.4\.0rc1, but with numpy<2\.4"),
        ((3, 7), "2.4.6", None),
        ((3, 10), "3.0", None),
        (None, "2.4.6", None),
    ],
)
def test_which_interpreters_run_the_kernels(monkeypatch, version, numpy, reason):
    """So it was with 3.1 to 3.7, each with tests of the kernels; newer and unknown ones are trusted."""
    monkeypatch.setattr(versions, "version", lambda: version)
    monkeypatch.setattr(versions.np, "__version__", numpy)
    said = versions.unsupported_reason(interpreted=True)
    assert said is None if reason is None else re.match(reason, said)


@needs_triton
def test_the_version_of_triton_is_found_without_loading_it():
    import triton

    assert versions.version() == versions.numbers(triton.__version__)


@needs_triton
@pytest.mark.parametrize(
    ("net", "C", "dtype", "reason"),
    [
        ({**MATRIX, "D": 256}, 64, torch.bfloat16, "D up to 128, and this memory has 256"),
        (MATRIX, 128, torch.bfloat16, "up to 64 tokens, and chunk_size is 128"),
        ({**MATRIX, "norm": True}, 64, torch.bfloat16, "a norm"),
        ({"depth": 3}, 64, torch.bfloat16, "depth 3"),
        (MATRIX, 64, torch.float64, "float64"),
    ],
)
def test_what_the_kernels_cannot_run(gpu, net, C, dtype, reason):
    gpu(9, 0)
    with pytest.raises(RuntimeError, match=reason):
        backends.choose_backend("triton", network(**net), stand_in(dtype), C, "chunk")


@needs_triton
def test_on_a_cpu_triton_is_an_error_that_says_what_helps(monkeypatch):
    loaded()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    net, x = matrix(4).float(), inputs(T=3, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="tensors are on cpu.*TRITON_INTERPRET=1"):
        neural_memory(*x, net=net, backend="triton")
    neural_memory(*x, net=net)  # auto: the chunked form, without a word


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_package_of_the_kernels_loads_no_triton():
    code = "import sys; from titans_mini.memory.backends import kernels; kernels(); print('triton' in sys.modules)"
    assert python(code).strip() == "False"


def test_a_checkout_that_was_not_installed_finds_them():
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
        "import titans_mini.kernels.interpret; from titans_mini.memory import backends\n"
        "print(backends.kernels().__name__); from titans_mini.kernels import launch; print(launch.tile(5))"
    )
    assert python(code).split() == ["titans_mini.kernels", "16"]
