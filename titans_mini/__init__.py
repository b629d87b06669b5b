"""titans_mini: a neural memory that learns to memorize at test time, from a five-line loop to the GPU."""

from titans_mini.memory.functional import neural_memory
from titans_mini.memory.layer import NeuralMemory
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState, NeuralMemoryState
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM, TitansState

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
