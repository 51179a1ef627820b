from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from alter_core.backbone import load_backbone
from alter_core.errors import DataError
from alter_core.training.batches import collate
from alter_core.training.encoded import EncodedRows, Ragged, encode_rows
from alter_core.training.lines import WIDTH_STEP, WIDTHS, width_of
from tests.training.conftest import Domain

PAD = 0


def encoded(lengths: list[tuple[int, int]], tasks: list[int] | None = None) -> EncodedRows:
    """Rows of given (prompt, answer) lengths; tokens tell the row and the place."""
    prompts = Ragged.of([[100 * row + i + 1 for i in range(n)] for row, (n, _) in enumerate(lengths)])
    targets = Ragged.of([[100 * row + 50 + i for i in range(n)] for row, (_, n) in enumerate(lengths)])
    return EncodedRows(np.array(tasks or [0] * len(lengths), dtype=np.int64), prompts, targets)


def test_lines_are_as_wide_as_fits_the_rows_best() -> None:
    rows = encoded([(40, 1), (24, 1), (24, 1), (24, 1)])
    batch = collate(rows, np.arange(4), PAD, packed=True)
    assert batch.inputs.shape == (1, 112)  # lines of 40, the longest row's width, would be four


def test_widths_hold_their_rows_pad_them_little_and_are_few() -> None:
    for longest in range(5000):
        width = width_of(longest)
        assert longest <= width < longest + max(WIDTH_STEP, longest / WIDTHS + 1)
        assert width % WIDTH_STEP == 0
    assert {len({width_of(n) for n in range(2**power, 2 ** (power + 1))}) for power in range(8, 12)} == {WIDTHS + 1}


def wide(*rows: list[int]) -> list[list[int]]:
    """Rows as collate pads them."""
    width = width_of(max(map(len, rows)))
    return [row + [PAD] * (width - len(row)) for row in rows]


def test_a_causal_batch_predicts_each_answer_token_from_the_token_before_it() -> None:
    rows = encoded([(3, 2), (5, 1)])
    batch = collate(rows, np.array([0, 1]), PAD, None)
    assert batch.inputs.tolist() == wide([1, 2, 3, 50], [101, 102, 103, 104, 105])
    read = batch.inputs[batch.at[:, 0], batch.at[:, 1]]
    assert list(zip(read.tolist(), batch.targets.tolist(), strict=True)) == [(3, 50), (50, 51), (105, 150)]
    assert batch.mask.sum(1).tolist() == [4, 5]


def test_an_encoder_decoder_batch_keeps_prompt_and_answer_apart() -> None:
    batch = collate(encoded([(3, 2), (2, 3)]), np.array([0, 1]), PAD, decoder_start=9)
    assert batch.inputs.tolist() == wide([1, 2, 3], [101, 102])
    assert batch.answer_inputs is not None
    assert batch.answer_inputs.tolist() == wide([9, 50], [9, 150, 151])
    assert batch.at.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]


def test_long_answers_weigh_as_much_as_short_ones() -> None:
    batch = collate(encoded([(2, 4), (2, 1)]), np.array([0, 1]), PAD, None)
    per_row = torch.zeros(2).index_add_(0, batch.at[:, 0], batch.weights)
    assert per_row.tolist() == [1.0, 1.0]


def test_the_digest_of_rows_sees_every_token_and_their_order() -> None:
    rows = encoded([(3, 2), (2, 3)])
    other = EncodedRows(rows.task_ids, rows.prompts, Ragged(rows.targets.flat[::-1].copy(), rows.targets.offsets))
    assert len({rows.digest, other.digest, encoded([(2, 3), (3, 2)]).digest}) == 3
    assert rows.digest == encoded([(3, 2), (2, 3)]).digest


def test_packed_rows_lie_whole_beside_rows_of_their_task() -> None:
    tasks = [0, 1, 0, 1, 1, 0, 2]
    rows = encoded([(9, 2), (3, 2), (4, 1), (2, 2), (3, 1), (2, 1), (1, 1)], tasks)
    chosen = np.arange(len(tasks))
    batch = collate(rows, chosen, PAD, packed=True)
    assert batch.positions is not None
    assert sorted(batch.rows) == sorted(chosen)
    assert len(batch.inputs) == 3  # of tasks 0, 1 and 2, where one row's line would be as long
    for row, line, offset in zip(batch.rows, batch.lines, batch.offsets, strict=True):
        whole = [*rows.prompts[row], *rows.targets[row][:-1]]
        assert batch.inputs[line, offset : offset + len(whole)].tolist() == whole
        assert batch.positions[line, offset : offset + len(whole)].tolist() == list(range(len(whole)))
        assert batch.task_ids[line] == tasks[row]
    read = batch.inputs[batch.at[:, 0], batch.at[:, 1]]
    last = [rows.prompts[row][-1] for row in batch.rows]
    firsts = np.flatnonzero(np.isin(batch.targets, [rows.targets[row][0] for row in batch.rows]))
    assert read[firsts].tolist() == last
    assert batch.weights.sum() == len(tasks)


def test_what_a_tasks_prompts_begin_with_lies_on_a_line_once() -> None:
    prompts = Ragged.of([[7, 8, 9, 1], [7, 8, 9, 2, 3], [7, 8, 9]])
    targets = Ragged.of([[50, 51, 52, 53, 54], [60, 61, 62, 63], [70]])
    rows = EncodedRows(np.zeros(3, dtype=np.int64), prompts, targets)
    batch = collate(rows, np.arange(3), PAD, packed=True)
    # The last token of a prompt is its own row's, though all begin with it: there its answer is predicted.
    assert batch.inputs.tolist() == wide([7, 8, 9, 1, 50, 51, 52, 53, 9, 2, 3, 60, 61, 62, 9])
    assert batch.positions is not None
    assert batch.owners is not None
    assert batch.positions[0, :15].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 2]
    assert batch.owners[0].tolist() == [0, 0, *[1] * 6, *[2] * 6, 3, -1]
    assert batch.at[:, 1].tolist() == [3, 4, 5, 6, 7, 10, 11, 12, 13, 14]
    mask = batch.attention(torch.float32)
    assert mask is not None
    assert np.flatnonzero(mask[0, 0, 9] == 0).tolist() == [0, 1, 8, 9]


def test_a_row_without_a_target_is_refused(domain: Domain) -> None:
    rows = datasets.Dataset.from_dict({"id": ["a", "b"], "input": ["x", "y"], "target": ["red", ""]})
    dataset: Any = SimpleNamespace(rows=lambda *_: rows)
    with pytest.raises(DataError, match="1 train rows have no target, the first with the id b"):
        encode_rows(dataset, "train", domain.spec, load_backbone(domain.backbone)[1])
