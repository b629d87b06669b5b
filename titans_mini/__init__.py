"""titans_mini: a neural memory that learns to memorize at test time, from a five-line loop to the GPU."""

from titans_mini.config import TitansConfig
from titans_mini.functional import neural_memory
from titans_mini.memory import NeuralMemory
from titans_mini.model import TitansLM, TitansState
from titans_mini.network import MemoryNet
from titans_mini.state import MemoryState, NeuralMemoryState

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
