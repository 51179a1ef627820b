import numpy as np
import pytest

from alter_core.training.sampling import TOKENS_PER_TASK, SamplingPlan, divide, divide_by_task


def test_an_epoch_at_temperature_one_is_every_row_once() -> None:
    tasks = np.repeat([0, 1, 2], [50, 30, 16])
    plan = SamplingPlan.make(tasks, steps=12, rows_per_step=8, temperature=1, seed=3)
    assert sorted(plan.draws.flatten()) == list(range(96))


def test_every_step_of_a_plan_is_full_and_a_longer_plan_starts_as_a_shorter_one() -> None:
    tasks = np.repeat([0, 1, 2, 3, 4, 5, 6], [100, 1, 7, 40, 3, 2, 90])
    short, long = (SamplingPlan.make(tasks, n, 4, 2.0, seed=1) for n in (10, 60))
    assert long.draws.shape == (60, 4)
    assert np.array_equal(short.draws, long.draws[:10])


def test_a_high_temperature_gives_tasks_equal_shares() -> None:
    tasks = np.repeat([0, 1], [900, 100])
    draws = SamplingPlan.make(tasks, 50, 16, 1e6, seed=0).draws.flatten()
    assert (tasks[draws] == 1).sum() == 400


def test_temperature_two_takes_tasks_by_the_root_of_their_rows() -> None:
    tasks = np.repeat([0, 1], [900, 100])
    draws = SamplingPlan.make(tasks, 50, 16, 2, seed=0).draws.flatten()
    assert (tasks[draws] == 1).sum() == 200  # 30 to 10


def test_seeds_differ_in_order_and_not_in_shares() -> None:
    tasks = np.repeat([0, 1], [40, 24])
    one, two = (SamplingPlan.make(tasks, 4, 8, 1, seed=s).draws for s in (0, 1))
    assert not np.array_equal(one, two)
    assert [(tasks[r] == 0).sum() for r in one] == [(tasks[r] == 0).sum() for r in two]


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (2, 3), (3, 2), (1, 40)])
def test_processes_and_parts_share_out_a_step_without_loss_or_double(processes: int, parts: int) -> None:
    rows = np.array([5, 2, 9, 30, 11, 7, 8])
    lengths = np.arange(40)[::-1].copy()
    shares = [part for p in range(processes) for part in divide(rows, lengths, p, processes, parts)]
    assert sorted(np.concatenate(shares)) == sorted(rows)


@pytest.mark.parametrize(("processes", "parts", "most"), [(1, 1, 10_000), (2, 1, 10_000), (2, 7, 10_000), (3, 1, 64)])
def test_parts_of_whole_tasks_share_out_a_step_without_loss_or_double(processes: int, parts: int, most: int) -> None:
    random = np.random.default_rng(0)
    task_ids, lengths = random.integers(0, 4, 60), random.integers(1, 64, 60)
    rows = random.permutation(60)[:40]
    shares = [divide_by_task(rows, lengths, task_ids, p, processes, parts, most) for p in range(processes)]
    assert sorted(np.concatenate([part for share in shares for part in share])) == sorted(rows)
    assert all(len(share) >= parts for share in shares)
    sizes = [int(lengths[part].sum()) for share in shares for part in share]
    assert max(sizes) <= most + 64  # a part is cut by its number of rows


def test_tasks_of_few_tokens_share_a_part_and_others_have_their_own() -> None:
    task_ids = np.repeat([0, 1, 2, 3], 8)
    lengths = np.repeat([TOKENS_PER_TASK, 2, 3, 50], 8)
    parts = divide_by_task(np.arange(32), lengths, task_ids, 0, 1, 1, 10**6)
    assert [sorted(set(task_ids[part].tolist())) for part in parts] == [[1, 2, 3], [0]]


def test_each_pass_over_a_task_has_an_order_of_its_own() -> None:
    first, second = SamplingPlan.make(np.zeros(20, dtype=np.int64), 4, 10, 1, seed=0).draws.reshape(2, 20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second)
