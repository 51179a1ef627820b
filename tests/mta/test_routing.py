"""Task ids reach the right rows, whatever runs the model, and bad ones are refused."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alter_core.errors import TaskIdError
from alter_core.mta import MTAModel, inject
from tests.mta.conftest import TASKS, batch_for, logits, plain_config, stir, tiny

ROWS = ["title", "intent", "nli", "intent"]


def made(architecture: str, **settings: Any) -> MTAModel:
    mta = inject(tiny(architecture), plain_config(layers="all", **settings), TASKS)
    stir(mta)
    mta.set_gate_mode("soft")
    return mta


class TestBadIds:
    """Each mistake names the known tasks."""

    @pytest.mark.parametrize(
        ("ids", "says"),
        [
            (["intent", "mood", "nli", "nli"], "row 1: 'mood'"),
            ([0, 1, 3, -1], "row 2: 3"),
            (torch.tensor([0, 1, 3, 0]), "row 2: 3"),
            (torch.tensor([[0, 1, 2, 0]]), r"shape \(1, 4\)"),
            (torch.tensor([0.0, 1.0, 2.0, 0.0]), "whole numbers"),
            ([True, False, True, True], "row 0: True"),
            ("intent", "single name"),
            ([], "no task ids"),
            ([None] * 4, "row 0: None"),
        ],
    )
    def test_is_refused_before_the_model_runs(self, ids: Any, says: str) -> None:
        mta = made("llama")
        with pytest.raises(TaskIdError, match=says) as caught, mta.routing(ids):
            pytest.fail("the context was entered")
        assert "0=intent, 1=nli, 2=title" in str(caught.value)

    @pytest.mark.parametrize("architecture", ["llama", "t5", "opt"])
    def test_a_model_without_ids_says_how_to_give_them(self, architecture: str) -> None:
        mta = made(architecture)
        with pytest.raises(TaskIdError, match=r"with mta\.routing") as caught:
            mta.model(**batch_for(mta.model))
        assert "1=nli" in str(caught.value)

    @pytest.mark.parametrize("architecture", ["llama", "opt"])
    @pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
    def test_a_wrong_number_of_ids_in_training_is_refused(self, architecture: str, count: int) -> None:
        mta = made(architecture)
        with pytest.raises(TaskIdError, match=f"{count} task ids .* 4 rows"), mta.routing([0] * count):
            mta.model(**batch_for(mta.model, rows=4))

    @pytest.mark.parametrize("architecture", ["llama", "opt"])
    @pytest.mark.parametrize("count", [3, 5])
    def test_a_number_that_no_generation_can_make_is_refused(self, architecture: str, count: int) -> None:
        mta = made(architecture)
        with pytest.raises(TaskIdError, match=f"{count} task ids .* 4 rows"):
            logits(mta, batch_for(mta.model, rows=4), [0] * count)


def test_whole_numbers_of_numpy_are_ids() -> None:
    mta = made("llama")
    batch = batch_for(mta.model, rows=3)
    assert torch.equal(logits(mta, batch, np.array([0, 2, 1])), logits(mta, batch, [0, 2, 1]))


def test_the_context_is_cleared_after_an_error() -> None:
    mta = made("llama")
    with pytest.raises(ZeroDivisionError), mta.routing([0]):
        _ = 1 / 0
    with pytest.raises(TaskIdError):
        mta.model(**batch_for(mta.model))


def test_contexts_nest_and_two_models_do_not_mix() -> None:
    one, two = made("llama"), made("gpt2")
    batch = batch_for(one.model, rows=1)
    alone = logits(one, batch, ["nli"]), logits(two, batch, ["title"])
    with torch.no_grad(), one.routing(["nli"]), two.routing(["title"]):
        with one.routing(["intent"]):
            inner = one.model(**batch).logits
        both = one.model(**batch).logits, two.model(**batch).logits
    assert torch.equal(both[0], alone[0])
    assert torch.equal(both[1], alone[1])
    assert not torch.equal(inner, alone[0])


ARCHITECTURES = ["llama", "t5", "bart", "gpt2", "opt"]


def each_row_alone(mta: MTAModel, batch: dict[str, torch.Tensor], **how: Any) -> list[torch.Tensor]:
    outputs = []
    for row, task in enumerate(ROWS):
        with mta.routing([task]):
            outputs.append(mta.model.generate(batch["input_ids"][row : row + 1], **how))  # type: ignore[operator]
    return outputs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"num_beams": 3}, id="beams"),
        pytest.param({"num_beams": 3, "num_return_sequences": 2}, id="beams-returned"),
    ],
)
def test_generation_of_a_mixed_batch_equals_each_row_alone(architecture: str, how: dict[str, Any]) -> None:
    mta = made(architecture)
    batch = batch_for(mta.model, rows=len(ROWS))
    how = {**how, "max_new_tokens": 5, "do_sample": False}
    with mta.routing(ROWS):
        mixed = mta.model.generate(batch["input_ids"], **how)  # type: ignore[operator]
    assert torch.equal(mixed, torch.cat(each_row_alone(mta, batch, **how)))
    with mta.routing(["nli"] * 4):
        assert not torch.equal(mixed, mta.model.generate(batch["input_ids"], **how))  # type: ignore[operator]


def test_sampled_sequences_come_from_their_rows_task() -> None:
    mta = made("llama")
    seen: list[torch.Tensor] = []

    def spy(_: Any, __: Any, out: torch.Tensor) -> None:
        seen.append(out[:, -1])

    handle = mta.layers[-1].register_forward_hook(spy)
    ids = torch.full((4, 3), 5)
    with mta.routing(ROWS):
        mta.model.generate(ids, do_sample=True, num_return_sequences=3, max_new_tokens=1)  # type: ignore[operator]
    handle.remove()
    got = seen[0].unflatten(0, (4, 3))
    assert torch.equal(got[:, 0], got[:, 1])  # equal prompts and tasks: equal streams
    torch.testing.assert_close(got[1], got[3])  # rows 1 and 3 are of one task
    assert not torch.allclose(got[0], got[1])


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_generation_with_a_cache_equals_generation_without(architecture: str) -> None:
    mta = made(architecture)
    ids = batch_for(mta.model, rows=4)["input_ids"]
    with mta.routing(ROWS):
        with_cache, without = (
            mta.model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=flag)  # type: ignore[operator]
            for flag in (True, False)
        )
    assert torch.equal(with_cache, without)


class TestGradientCheckpointing:
    """The recomputation in backward sees the ids of its forward."""

    @staticmethod
    def gradients(mta: MTAModel, in_thread: bool = False) -> list[torch.Tensor]:
        batch = batch_for(mta.model, rows=4)
        mta.model.train()
        mta.model.zero_grad()
        with mta.routing(ROWS):
            first = mta.model(**batch).logits.square().sum()
        with mta.routing(ROWS[::-1]):
            second = mta.model(**batch).logits.square().sum()
        # Both backward passes after both contexts, the older first: nothing but the graph can know the ids.
        work = (first + 0.5 * second).backward
        if in_thread:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        else:
            work()
        return [p.grad for p in mta.model.parameters() if p.grad is not None]

    @pytest.mark.parametrize("architecture", ["llama", "t5", "opt"])
    @pytest.mark.parametrize("reentrant", [True, False])
    @pytest.mark.parametrize("in_thread", [True, False])
    def test_gives_the_gradients_of_a_run_without(self, architecture: str, reentrant: bool, in_thread: bool) -> None:
        mta = made(architecture)
        wanted = [g.clone() for g in self.gradients(mta)]
        mta.model.activation_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
        mta.model.enable_input_require_grads()  # type: ignore[operator]
        runs = []
        handle = mta.layers[-1].register_forward_pre_hook(lambda *_: runs.append(1))
        got = self.gradients(mta, in_thread)
        handle.remove()
        assert len(runs) == 4  # two forwards, each recomputed once
        assert len(got) == len(wanted)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_two_threads_serve_different_tasks_at_once() -> None:
    mta = made("llama")
    batch = batch_for(mta.model, rows=2)
    wanted = {task: logits(mta, batch, [task] * 2) for task in TASKS}
    gate = threading.Barrier(len(TASKS))
    wrong: list[str] = []

    def serve(task: str) -> None:
        gate.wait()
        for _ in range(20):
            if not torch.equal(logits(mta, batch, [task] * 2), wanted[task]):
                wrong.append(task)

    threads = [threading.Thread(target=serve, args=(task,)) for task in TASKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_thread_does_not_inherit_ids() -> None:
    mta = made("llama")
    caught: list[BaseException] = []

    def serve() -> None:
        try:
            mta.model(**batch_for(mta.model, rows=1))
        except TaskIdError as error:
            caught.append(error)

    with mta.routing(["nli"]):
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_a_compiled_model_gives_the_same_logits_and_gradients() -> None:
    mta = made("llama")
    batch = batch_for(mta.model, rows=4)
    compiled: Any = torch.compile(mta.model, backend="aot_eager")
    for rows in (ROWS, ROWS[::-1]):
        with mta.routing(rows):
            wanted = mta.model(**batch).logits
            got = compiled(**batch).logits
        torch.testing.assert_close(got, wanted)
        one, two = (
            torch.autograd.grad(out.square().sum(), list(mta.layers[0].tasks.parameters())) for out in (got, wanted)
        )
        for ours, theirs in zip(one, two, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_are_grouped_once_per_batch_not_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    from alter_core.mta import routing

    calls: list[int] = []
    group = routing._group
    monkeypatch.setattr(routing, "_group", lambda *a: calls.append(1) or group(*a))
    mta = made("llama")
    logits(mta, batch_for(mta.model, rows=4), ROWS)
    assert len(mta.layers) == 2
    assert calls == [1]


class Sent(TorchDispatchMode):
    """Whole numbers that go from the CPU to another device, copy by copy."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        leaves = isinstance(out, torch.Tensor) and out.device.type != "cpu"
        if func is torch.ops.aten._to_copy.default and leaves and tensors[0].device.type == "cpu":
            self.copies += [] if out.is_floating_point() else [out.shape]
        return out


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("mixing", ["weight", "output"])
@pytest.mark.parametrize("adapter", ["ffn", "lora"])
def test_a_batch_sends_its_ids_once_and_no_layer_waits_for_the_device(
    adapter: str, mixing: str, mode: Any, learning: bool, no_autocast: None
) -> None:
    """A tensor on the device `meta` has no contents, so that to read one on the CPU is an error, as it is a wait."""
    mta = inject(tiny("llama"), plain_config(layers="all", adapter=adapter, mixing=mixing), TASKS)
    mta.set_gate_mode(mode)
    mta.model.to("meta")
    hidden = torch.zeros(4, 5, mta.model.config.hidden_size, device="meta")
    with Sent() as sent, torch.set_grad_enabled(learning), mta.routing(ROWS):
        for layer in mta.layers:
            hidden = layer(hidden)
    assert len(mta.layers) > 1
    assert sent.copies == [torch.Size([3, 4])]
