"""Batches: which rows are answered together, as many as there is memory for."""

from collections.abc import Iterator, Sequence

from alter_core.inference.decoding import Request
from alter_core.inference.labels import FREE

ROWS_PER_BATCH = 512
"""Most rows of a batch, each of which has a row of logits as long as the vocabulary."""


class Batches:
    """Rows that write alike lie together, in a batch those with as much to read."""

    def __init__(self, tokens: int) -> None:
        """tokens: most of a batch's prompts and answers, padding counted."""
        self._tokens = tokens

    def make(self, requests: Sequence[Request], count: int, share: float = 1.0) -> list[list[int]]:
        """Row numbers, batch by batch, at least `count` of them where there are rows for it; so many may be answered at
        once. share: of the tokens that these may have together.

        Long answers come first, so that the time that is left is over- rather than underestimated.
        """
        found = list(self._divided(requests, self._tokens * share / count))
        while len(found) < count and len(longest := max(found, key=len, default=[])) > 1:
            at = found.index(longest)
            found[at : at + 1] = [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
        return found

    def fitting(self, waiting: Sequence[Request], writing: Sequence[Request], shares: int) -> int:
        """How many of `waiting`, the first ones, there is memory for beside those that write, where so many `shares`
        write at once; one at least where no row writes."""
        longest, count = max(map(_length, writing), default=0), 0
        for request in waiting:
            longest = max(longest, _length(request))
            rows = len(writing) + count
            if rows and (longest * (rows + 1) > self._tokens // shares or rows == ROWS_PER_BATCH):
                break
            count += 1
        return count

    @staticmethod
    def likeness(request: Request) -> tuple[int, str]:
        """By which rows lie together that have as much to read."""
        return request.prefix - len(request.prompt), request.task

    def _divided(self, requests: Sequence[Request], tokens: float) -> Iterator[list[int]]:
        def rest(row: int) -> tuple[int, str]:
            return self.likeness(requests[row])

        def alike(row: int) -> tuple[bool, int, str, int]:
            request = requests[row]
            return request.root != FREE, -request.max_new_tokens, request.task, -len(request.prompt)

        batch: list[int] = []
        prompt = answer = 0  # the longest of the batch, in tokens
        for row in sorted(range(len(requests)), key=alike):
            request = requests[row]
            prompt, answer = max(prompt, len(request.prompt)), max(answer, _room(request))
            full = (prompt + answer) * (len(batch) + 1) > tokens or len(batch) == ROWS_PER_BATCH
            if batch and full:
                yield sorted(batch, key=rest)
                batch, prompt, answer = [], len(request.prompt), _room(request)
            batch.append(row)
        if batch:
            yield sorted(batch, key=rest)


def _room(request: Request) -> int:
    return request.max_new_tokens if request.root == FREE else 1


def _length(request: Request) -> int:
    return len(request.prompt) + _room(request)
