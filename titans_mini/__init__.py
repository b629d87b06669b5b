"""titans_mini: a neural memory that learns to memorize at test time, from a five-line loop to the GPU."""

from pathlib import Path as _Path

from titans_mini.memory.functional import neural_memory
from titans_mini.memory.layer import NeuralMemory
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState, NeuralMemoryState
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM, TitansState

# Installed, the kernels lie in this folder. In a checkout they lie beside it, in kernels/, and are found there.
_beside = _Path(__file__).resolve().parent.parent
if not (_beside / "titans_mini" / "kernels").exists() and (_beside / "kernels" / "interpret.py").is_file():
    __path__.append(str(_beside))

__version__ = "0.1.0"
__all__ = [
    "MemoryNet",
    "MemoryState",
    "NeuralMemory",
    "NeuralMemoryState",
    "TitansConfig",
    "TitansLM",
    "TitansState",
    "__version__",
    "neural_memory",
]
