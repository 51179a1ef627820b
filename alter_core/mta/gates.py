"""Gate: the table (task, adapter) of one MTA layer; independent of the input, so a task's weights are constants.

weights = softmax(logits / temperature) in soft mode. In hard mode, a task's home adapter and the shared adapters
beside it share the weight evenly and all others have none. In signed mode the logits themselves are the weights, of any
sign and sum; in strength mode too, for the columns of the hard mode alone.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from alter_core.errors import MTAError
from alter_core.spec.stage import FREE, GateMode

HOME_LEAD = 0.2
"""How much higher a fresh logit at home is, in units of the temperature. From equal logits, copies of one FFN would
get equal gradients and never part."""


class Gate(nn.Module):
    """Gate of one MTA layer.

    Columns are adapters: the shared ones first, then the task adapters. Rows come in parts, one at injection and one
    per added task; a part's rows end at the columns that existed when it was made, so that adding a task leaves the
    arithmetic of all earlier rows as it was. `homes[t]` is the column of task t's home adapter.
    """

    def __init__(self, columns: Sequence[str], shared: int, homes: Sequence[int], temperature: float) -> None:
        super().__init__()
        self.columns = list(columns)
        self.shared = shared
        self.homes = list(homes)
        self.temperature = temperature
        self.mode: GateMode = "hard"
        self.without_home: frozenset[int] = frozenset()
        """Tasks whose home adapter is left out at present, in hard mode; see `MTAModel.leaving_out`."""
        self.task_active = True
        self.shared_active = True
        self.logits = nn.ParameterList()
        self._add_part(list(homes), torch.device("cpu"))

    def _add_part(self, homes: list[int], device: torch.device) -> None:
        logits = torch.zeros(len(homes), len(self.columns), device=device)
        logits[:, : self.shared] = HOME_LEAD * self.temperature
        logits[range(len(homes)), homes] = HOME_LEAD * self.temperature
        self.logits.append(nn.Parameter(logits))

    def add_task(self, column: str, home: int | None) -> None:
        """Append one row, on the existing column `home` or, when that is None, on a new column named `column`."""
        if home is None:
            self.columns.append(column)
            home = len(self.columns) - 1
        self.homes.append(home)
        self._add_part([home], self.logits[0].device)

    def place(self, task: int) -> tuple[nn.Parameter, int]:
        """Return the part that holds a task's logits, and its row there."""
        for part in self.logits:
            if task < len(part):
                return part, task
            task -= len(part)
        raise IndexError("no such task")

    def active(self, width: int | None = None) -> list[bool]:
        """Return, for the first `width` columns, whether the adapter exists at present."""
        width = len(self.columns) if width is None else width
        return [self.shared_active if c < self.shared else self.task_active for c in range(width)]

    def hard_columns(self, task: int) -> list[int]:
        """Return the columns that `task` uses in hard mode; none when no adapter is active."""
        active = self.active()
        home = () if task in self.without_home else (self.homes[task],)
        return [c for c in (*range(self.shared), *home) if active[c]]

    def one_hot(self) -> list[int] | None:
        """Return each task's only column when every task has exactly one of weight 1, else None."""
        if self.mode in FREE:
            return None
        if self.mode == "soft":
            return [0] * len(self.homes) if len(self.columns) == 1 and all(self.active()) else None
        columns = [self.hard_columns(t) for t in range(len(self.homes))]
        return [c[0] for c in columns] if all(len(c) == 1 for c in columns) else None

    @property
    def state(self) -> tuple[object, ...]:
        """What the weights depend on besides the logits."""
        return self.mode, self.without_home, self.task_active, self.shared_active, tuple(self.homes)

    @property
    def is_whole(self) -> bool:
        """Tell whether every row of the table sums to 1, where any adapter is active."""
        return self.mode not in FREE and not self.without_home

    def table(self) -> Float[Tensor, "task adapter"]:
        """Return the weights, fp32: each row sums to 1 (but see `is_whole`), or to 0 when no adapter is active."""
        if self.mode in FREE:
            return self._free()
        return self._hard() if self.mode == "hard" else self._soft()

    def _free(self) -> Tensor:
        width = len(self.columns)
        table = torch.cat([F.pad(logits.float(), (0, width - logits.shape[1])) for logits in self.logits])
        if self.mode == "strength":
            return table * (self._hard() > 0)
        return table if all(self.active()) else table * torch.tensor(self.active()).to(table.device)

    def _hard(self) -> Tensor:
        rows = []
        for task in range(len(self.homes)):
            columns = self.hard_columns(task)
            rows.append([1 / len(columns) if c in columns else 0.0 for c in range(len(self.columns))])
        return torch.tensor(rows).to(self.logits[0].device, non_blocking=True)  # no wait for what the device does

    def _soft(self) -> Tensor:
        rows = []
        for logits in self.logits:
            active = self.active(logits.shape[1])
            scores = logits.float() / self.temperature
            if all(active):
                weights = scores.softmax(1)
            elif any(active):
                mask = torch.tensor(active).to(scores.device, non_blocking=True)
                weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
            else:
                weights = torch.zeros_like(scores)
            rows.append(F.pad(weights, (0, len(self.columns) - logits.shape[1])))
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    @torch.no_grad()
    def free(self, mode: GateMode, first_part: int = 0) -> None:
        """Go to one of FREE with the weights that are in force, as far as that mode can say them.

        Rows before `first_part` keep their logits.
        """
        table = self.table() if self.mode != mode else self._hard()
        first = 0
        for number, logits in enumerate(self.logits):
            if number >= first_part:
                logits.copy_(table[first : first + len(logits), : logits.shape[1]])
            first += len(logits)
        self.mode = mode

    @torch.no_grad()
    def open(self, keep: float, first_part: int = 0) -> None:
        """Go to soft mode with weights keep * hard + (1 - keep) * uniform over the active adapters outside of hard.

        Rows before `first_part` keep their logits. Raises MTAError unless 0 < keep < 1 (at 1 the logits of the
        others would be minus infinity).
        """
        if not 0 < keep < 1:
            raise MTAError(f"open_gates: keep must lie between 0 and 1, both excluded; got {keep}")
        active = self.active()
        first = 0
        for number, logits in enumerate(self.logits):
            tasks = range(first, first + len(logits))
            first += len(logits)
            if number >= first_part:
                scores = [self._opened(task, keep, active[: logits.shape[1]]) for task in tasks]
                logits.copy_(torch.tensor(scores))
        self.mode = "soft"

    def _opened(self, task: int, keep: float, active: list[bool]) -> list[float]:
        hard = self.hard_columns(task)
        others = [c for c, is_active in enumerate(active) if is_active and c not in hard]
        # Inactive columns start level with the others, or as they would, should they come to exist later.
        others = others or [c for c in range(len(active)) if c not in hard]
        if not hard or not others:
            return [0.0] * len(active)
        low, high = math.log((1 - keep) / len(others)), math.log(keep / len(hard))
        scores = [self.temperature * (high if c in hard else low) for c in range(len(active))]
        mean = sum(scores) / len(scores)
        return [score - mean for score in scores]
