"""From a row to token ids and back: the one place that says how a task's input and answer are written for the backbone.

    prompt   instruction, blank line, input, blank line, `Answer:`      one text, and its ids those of that text
    answer   a space and the target                                     its ids as they follow `Answer:`, then the end

Training, validation and answering all encode here. `PROMPT_FORMAT` stands in a bundle's metadata, and a bundle keeps
the one that it was taught by: 1 (none is named) put instruction, input and `Answer:` together out of ids of their own.
"""

from alter_core.prompts.encode import (
    PROMPT_FORMAT,
    answer_lengths,
    decode_answers,
    encode_prefix,
    encode_prompts,
    encode_targets,
    format_of,
    measure_prompts,
)
from alter_core.prompts.room import check_answer, check_room, longest_answer, room
from alter_core.prompts.text import answer_text, prompt_text

__all__ = [
    "PROMPT_FORMAT",
    "answer_lengths",
    "answer_text",
    "check_answer",
    "check_room",
    "decode_answers",
    "encode_prefix",
    "encode_prompts",
    "encode_targets",
    "format_of",
    "longest_answer",
    "measure_prompts",
    "prompt_text",
    "room",
]
