"""What a training leaves of each epoch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from glacier.model.metrics import Scores


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over its steps."""
    losses: list[float]
    """Of each step, over all ranks."""
    scores: Scores
    """On the validation fold."""
    tiles_per_s: float
    """Windows trained on per second, over all ranks."""
    wait: float
    """Share of the training time that rank 0 waited for data."""
    seconds: float
    """Training and validation together."""

    def to_json(self) -> dict[str, Any]:
        """A line of `history.jsonl`."""
        return {**asdict(self), "scores": self.scores.to_json()}


def best_of(history: Sequence[Epoch]) -> int:
    """The place of the epoch with the highest validation MCC; of equals, the last."""
    return max(range(len(history)), key=lambda i: (history[i].scores.mcc, i))
