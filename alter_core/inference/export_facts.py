"""What alter_export.json says, before and after its parts are known."""

from collections.abc import Sequence
from typing import TypedDict


class Example(TypedDict):
    """A row with its answer."""

    input: str
    prompt: str
    prompt_ids: Sequence[int]
    as_one_text: bool
    """Whether the tokenizer gives `prompt_ids` for `prompt` as one text."""
    cut: bool
    answer: str
    probability: float


class TaskFacts(TypedDict, total=False):
    """What whoever asks for a task has to know."""

    adapter: str | None
    """Its place in the folder; None where the model is of this task alone."""
    rank: int
    type: str
    before_input: str
    after_input: str
    before_answer: str
    layout: str
    max_input_tokens: int
    max_prompt_tokens: int | None
    max_new_tokens: int
    context: int
    """Tokens that a prompt and its answer may take together."""
    labels: Sequence[str]
    label_ids: dict[str, Sequence[int]]
    temperature: float
    """What the logits of every choice on the way to a label are divided by for its probability."""
    abstain_below: float | None
    example: Example


class ExportFacts(TypedDict, total=False):
    """The whole file."""

    format: str
    name: str
    bundle: str
    """Digest of what was exported."""
    encoder_decoder: bool
    prompt_format: int
    end: str
    """The token that ends an answer."""
    model: str
    vllm_max_lora_rank: int | None
    tasks: dict[str, TaskFacts]
    parity: object
