import pytest
import torch

from alter_core.errors import SpecError
from alter_core.inference.labels import LabelTries

END = 0


def test_a_label_that_begins_another_can_end_or_go_on() -> None:
    tries = LabelTries({"t": [[5, END], [5, 6, END]]})
    root = torch.tensor([tries.roots["t"]] * 2)
    first = tries.choose(torch.zeros(2, 8), root)
    assert first.token.tolist() == [5, 5]
    assert first.log_probability.tolist() == [0, 0]  # no choice, no uncertainty
    logits = torch.zeros(2, 8)
    logits[0, END], logits[1, 6] = 3, 3
    second = tries.choose(logits, first.node)
    assert [tries.label(int(node)) for node in second.node] == [0, 1]


def test_probability_is_shared_among_allowed_tokens_only() -> None:
    tries = LabelTries({"t": [[1, END], [2, END], [3, END]]})
    logits = torch.log(torch.tensor([[0.5, 0.1, 0.3, 0.1]]))
    choice = tries.choose(logits, torch.tensor([tries.roots["t"]]))
    assert choice.token.item() == 2
    assert choice.log_probability.exp().item() == pytest.approx(0.6)


def test_rows_of_several_tasks_each_walk_their_own_labels() -> None:
    tries = LabelTries({"a": [[1, END], [2, END]], "b": [[3, END], [4, END]]})
    logits = torch.tensor([[9.0, 0, 1, 8, 0], [9.0, 8, 0, 0, 1]])
    choice = tries.choose(logits, torch.tensor([tries.roots["a"], tries.roots["b"]]))
    assert choice.token.tolist() == [2, 4]


def test_a_row_is_finished_as_soon_as_one_label_is_left() -> None:
    tries = LabelTries({"t": [[1, 7, 7, END], [2, 7, 7, END]]})
    choice = tries.choose(torch.zeros(1, 8), torch.tensor([tries.roots["t"]]))
    assert tries.label(int(choice.node)) == 0


def test_labels_with_the_same_tokens_are_refused() -> None:
    with pytest.raises(SpecError, match="task t: two labels"):
        LabelTries({"t": [[1, END], [1, END]]})
