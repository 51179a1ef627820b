"""Groups that a person would take for one and that split apart: by case, invisible characters or look-alike letters."""

from alter_core.text import look

MOST = 200_000  # different groups that are kept to be compared
SHOWN = 12


class AlikeGroups:
    """Watches the groups that rows are split by."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}
        self._known: set[str] = set()
        self.pairs: list[tuple[str, str]] = []
        """The first ones: groups that look alike and are in different splits."""
        self.count = 0
        self.full = False
        """Whether there were more groups than are compared."""

    def look_at(self, group: str, split: str) -> None:
        if group in self._known:
            return
        if len(self._known) >= MOST:
            self.full = True
            return
        self._known.add(group)
        other, its_split = self._first.setdefault(look(group), (group, split))
        if its_split != split:
            self.count += 1
            if len(self.pairs) < SHOWN:
                self.pairs.append((other, group))
