"""How prompt and answer are written as text."""

from alter_core.spec import TaskSpec

TAIL = "\n\nAnswer:"


def head_of(task: TaskSpec) -> str:
    """What stands before the input."""
    return f"{task.effective_instruction}\n\n" if task.effective_instruction else ""


def prompt_text(task: TaskSpec, text: str) -> str:
    """The whole prompt of an input."""
    return head_of(task) + text + TAIL


def answer_text(target: str) -> str:
    """What follows the prompt."""
    return f" {target}"
