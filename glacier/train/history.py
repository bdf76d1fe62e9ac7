"""What a training leaves of each epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from glacier.model.metrics import ClassScores, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch came to."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over its steps."""
    losses: list[float]
    """Of each optimiser step, over all ranks."""
    terms: dict[str, float]
    """Mean of each of the loss's terms, unweighted."""
    skipped: int
    """Steps left out since their loss was no number."""
    lr: float
    """Of its steps."""
    val_loss: float
    """The loss over the validation fold's labelled pixels."""
    scores: Scores
    """On the validation fold."""
    tiles_per_s: float
    """Windows trained on per second, over all ranks."""
    wait: float
    """Share of the training time that rank 0 waited for data."""
    seconds: float
    """Training and validation together."""

    def to_json(self) -> dict[str, Any]:
        """A line of `history.jsonl`; what is no number becomes null."""
        record = {**asdict(self), "scores": self.scores.to_json()}
        record["losses"] = [_number(v) for v in self.losses]
        record["terms"] = {name: _number(v) for name, v in self.terms.items()}
        return {k: _number(v) if isinstance(v, float) else v for k, v in record.items()}

    def to_record(self) -> dict[str, Any]:
        """As kept in checkpoints."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_record`."""
        rated = record["scores"]
        classes = {name: ClassScores(**row) for name, row in rated["classes"].items()}
        return cls(**{**record, "scores": Scores(**{**rated, "classes": classes})})


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def best_of(history: Sequence[Epoch]) -> int:
    """The place of the epoch with the highest validation MCC; of equals, the last."""
    return max(range(len(history)), key=lambda i: (history[i].scores.mcc, i))
