"""Training: one readable loop, from the tiny models of the notebooks to full-size runs."""

from titans_mini.train.config import DataConfig, MachineConfig, TrainConfig
from titans_mini.train.history import History
from titans_mini.train.loop import Trainer, train
from titans_mini.train.sources import (
    Batch,
    Curriculum,
    Examples,
    Recall,
    ShuffledWindows,
    Source,
    StreamBatch,
    TextStreams,
    Windows,
)

__all__ = [
    "Batch",
    "Curriculum",
    "DataConfig",
    "Examples",
    "History",
    "MachineConfig",
    "Recall",
    "ShuffledWindows",
    "Source",
    "StreamBatch",
    "TextStreams",
    "TrainConfig",
    "Trainer",
    "Windows",
    "train",
]
