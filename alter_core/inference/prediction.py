"""Prediction: the answer to one row, as everybody sees it."""

from dataclasses import dataclass

from alter_core.inference.decoding import Choices


@dataclass(frozen=True)
class Prediction:
    """The answer to one row."""

    text: str
    score: float
    """Label task: the probability of the label among the task's labels, at the task's temperature. Free text:
    geometric mean of the probabilities of its tokens."""
    truncated: bool
    """The input was over the task's max_input_tokens, and its end was not read."""
    abstain: bool = False
    """The score is below the task's bound."""
    behind: Choices = ()
    """Of a label: what its score at any temperature is made of (`decoding.tempered`)."""

    def to_json(self) -> dict[str, object]:
        """As answers are given and logged."""
        told = {"prediction": self.text, "score": float(self.score)}
        return told | {"truncated": self.truncated, "abstain": self.abstain}
