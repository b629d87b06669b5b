"""Training history: the loss of every step and the evaluation scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class History:
    """The training curve of a run; plain numbers, so that it can be written as JSON.

    Attributes:
        losses: mean cross-entropy per step, in nats.
        scores: results of the evaluation hook, each with the number of completed steps under "step".
        seconds: training time so far, over all parts of an interrupted run, without evaluations.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def smooth(self, over: int = 20) -> list[float]:
        """Return the running mean of the last `over` losses, of fewer at the start.

        Raises:
            ValueError: if `over` is not positive.
        """
        if over < 1:
            raise ValueError(f"over: got {over}, expected a number of steps ≥ 1")
        out, total = [], 0.0
        for i, loss in enumerate(self.losses):
            total += loss - (self.losses[i - over] if i >= over else 0.0)
            out.append(total / min(i + 1, over))
        return out

    def thin(self, points: int = 50) -> list[list[float]]:
        """Return at most `points` pairs [step, mean loss since the previous pair], for a small file.

        Raises:
            ValueError: if `points` is not positive.
        """
        if points < 1:
            raise ValueError(f"points: got {points}, expected a number ≥ 1")
        width = -(-len(self.losses) // points) or 1
        ends = range(width, len(self.losses) + width, width) if self.losses else ()
        pieces = [(min(end, len(self.losses)), self.losses[end - width : end]) for end in ends]
        return [[end, sum(piece) / len(piece)] for end, piece in pieces]

    def to_dict(self) -> dict:
        """Return the history as plain lists and numbers."""
        return asdict(self)
