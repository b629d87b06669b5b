"""Training: one readable loop, from the tiny models of the notebooks to full-size runs."""

from titans_mini.train.history import History
from titans_mini.train.loop import TrainConfig, Trainer, train
from titans_mini.train.sources import Batch, Curriculum, Examples, Recall, Source, Windows

__all__ = [
    "Batch",
    "Curriculum",
    "Examples",
    "History",
    "Recall",
    "Source",
    "TrainConfig",
    "Trainer",
    "Windows",
    "train",
]
