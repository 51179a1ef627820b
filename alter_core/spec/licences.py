"""LicencesSpec: what a model may be made of."""

from collections.abc import Iterator, Mapping

from alter_core.spec.section import Section


class LicencesSpec(Section):
    """Which licences the backbone and the data may have."""

    allow: tuple[str, ...]
    """As `licence` of the backbone and of each task has them, but for upper and lower case. What is not listed, or
    states none, is refused before anything is read."""

    def problems(self, stated: Mapping[str, str]) -> Iterator[str]:
        """One for each of `stated` (what it is -> its licence) that is not allowed."""
        listed = {_same(each) for each in self.allow}
        for what, licence in stated.items():
            if not licence.strip():
                yield f"{what} states no licence; give its `licence`, or take it out"
            elif _same(licence) not in listed:
                yield f"{what} has {licence!r}, which is not listed; list it if it may be used, or take it out"


def _same(licence: str) -> str:
    return " ".join(licence.split()).lower()
