"""ModelStore: one registered model per domain, its versions, and the aliases that users load."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from registry.champions import CHAMPION, ORDER, Champion, champions, is_noted, written
from registry.errors import AliasConflict, RegistryError, RegistryInputError, reported
from registry.registration import Registration
from registry.store import domain_lock
from registry.versions import Version, is_ours

CHALLENGER = "challenger"
REVIEW = "review"  # alias of the version that the rule would promote, and that waits for a person's word
NOTE_SECONDS = 2.0  # that a command which only looks waits to note what it saw
STARTED_FROM = "started_from"  # tag of a version: the version whose weights training went on from


class ModelStore(Registration):
    """Moves aliases; reading and registering are inherited."""

    def versions(self, domain: str | None = None) -> list[Version]:
        """As Versions.versions; a champion that was made outside of here is noted."""
        rows = super().versions(domain)
        for row in rows:
            if CHAMPION in row["aliases"]:
                self._note(row)
        return rows

    def get(self, domain: str, which: int | str) -> Version:
        """As Versions.get; a champion that was made outside of here is noted."""
        found = super().get(domain, which)
        if which == CHAMPION:
            self._note(found)
        return found

    def champion(self, domain: str) -> Version | None:
        """The version that users load, None where there is none; one that was made so outside of here is noted."""
        now = self.alias(domain, CHAMPION)
        if now:
            self._note(now)
        return now

    def champions(self, domain: str) -> list[Champion]:
        """All that are known to have been champion, oldest first; the present one, or the last that was, is last."""
        with reported(f"read {domain}", self.tracking_uri):
            now = self.alias(domain, CHAMPION)
            return champions(self.client.get_registered_model(domain).tags, now["version"] if now else None)

    def _note(self, now: Version) -> None:
        """Remember a champion. Whoever may only look notes nothing, and a model of others is not written to."""
        domain = now["name"]
        try:
            with reported(f"read {domain}", self.tracking_uri):
                tags = self.client.get_registered_model(domain).tags
            ours = is_ours(now) or any(map(is_ours, self.listed(domain)))
            if is_noted(tags, now["version"]) or not ours:
                return
            with domain_lock(self.client, self.tracking_uri, domain, NOTE_SECONDS):
                order = self.champions(domain)
                with reported(f"note the champion of {domain}", self.tracking_uri):
                    self.client.set_registered_model_tag(domain, ORDER, written(order))
        except RegistryError:
            return  # the next command sees it too

    def set_champion(self, domain: str, version: int, expected_previous: int | None) -> None:
        """Make `version` the champion if the champion still is `expected_previous` (None: there is none).

        A challenger that is older waits no longer: what was decided of it was against a champion before this one.
        Raises AliasConflict when it is another one by now: decide again against that one.
        """
        with self._locked(domain):
            now = self.alias(domain, CHAMPION)
            current = now["version"] if now else None
            if current == version:
                return
            self._need_champion(domain, version, current, expected_previous)
            self.get(domain, version)
            with reported(f"promote {domain} version {version}", self.tracking_uri):
                order = self.champions(domain)
                # Announced, moved, noted: whichever of them a kill comes after, it shows what was done.
                self.client.set_registered_model_tag(domain, ORDER, written(order, version))
                self.client.set_registered_model_alias(domain, CHAMPION, str(version))
                self.client.set_registered_model_tag(domain, ORDER, written([*order, Champion(version)]))
                for alias in (CHALLENGER, REVIEW):
                    waiting = self.alias(domain, alias)
                    if waiting and waiting["version"] <= version:
                        self.client.delete_registered_model_alias(domain, alias)
                        if alias == REVIEW and waiting["version"] != version:
                            self._tag(domain, waiting["version"], review_ended=_replaced(version))
                self._tag(domain, version, promoted=_now())

    def set_challenger(self, domain: str, version: int) -> None:
        """Name `version` as the one that waits for a person's decision."""
        with self._locked(domain), reported(f"name a challenger of {domain}", self.tracking_uri):
            self.get(domain, version)
            self.client.set_registered_model_alias(domain, CHALLENGER, str(version))

    def set_review(self, domain: str, version: int, expected_champion: int | None) -> None:
        """Name `version` as the one that waits for a person's word; an older one that waits is replaced by it.

        Raises AliasConflict when the champion is not `expected_champion` (None: there is none), which it was held
        against.
        """
        with self._locked(domain), reported(f"put {domain} version {version} up for review", self.tracking_uri):
            now, waiting = self.alias(domain, CHAMPION), self.alias(domain, REVIEW)
            self._need_champion(domain, version, now["version"] if now else None, expected_champion)
            self.client.set_registered_model_alias(domain, REVIEW, str(version))
            if waiting and waiting["version"] != version:
                self._tag(domain, waiting["version"], review_ended=_replaced(version))

    def end_waiting(self, domain: str, version: int, tags: Mapping[str, object]) -> None:
        """Take `version` out of those that wait for a person's word, and say with `tags` how that ended.

        Raises AliasConflict when it waits no longer.
        """
        with self._locked(domain), reported(f"end the review of {domain} version {version}", self.tracking_uri):
            waits = [one for one in (REVIEW, CHALLENGER) if (v := self.alias(domain, one)) and v["version"] == version]
            if not waits:
                raise AliasConflict(
                    f"{domain} version {version} waits for no decision: it was decided or replaced meanwhile; "
                    "`alter status` tells what waits"
                )
            self._tag(domain, version, **tags)
            for alias in waits:
                self.client.delete_registered_model_alias(domain, alias)

    def rollback(self, domain: str) -> tuple[int, int]:
        """Give the champion's place back to the one before it, whoever made it so; (version that left, champion now).

        Called again, it goes one further back. Raises RegistryInputError when there is none before, and where a person
        moved the alias outside of here in a way that leaves open which one is meant.
        """
        with self._locked(domain):
            now = self.alias(domain, CHAMPION)
            there = {row["version"] for row in self.listed(domain)}
            order = self.champions(domain) if there else []
            earlier = [place for place, one in enumerate(order[:-1]) if _may_return(one, order, there)]
            if now is None and order and order[-1].version in there:
                raise _left_open(domain, f"the alias was taken from version {order[-1].version}", order, there)
            if now and order[-1].outside and order[-1] in [Champion(one.version, True) for one in order[:-1]]:
                moved = f"from version {order[-2].version} back to version {now['version']}, an earlier champion"
                raise _left_open(domain, moved, order, there)
            if not earlier:
                raise RegistryInputError(
                    f"{domain} has no earlier champion to go back to; "
                    f"`alter promote {domain} VERSION` chooses one of versions "
                    f"{', '.join(map(str, sorted(there))) or 'that `alter run` makes'}"
                )
            left, back = order[-1].version, order[earlier[-1]].version
            with reported(f"roll {domain} back", self.tracking_uri):
                self.client.set_registered_model_tag(domain, ORDER, written(order[: earlier[-1] + 1]))
                self.client.set_registered_model_alias(domain, CHAMPION, str(back))
                if left in there:
                    self._tag(domain, left, rolled_back=_now())
            return left, back

    def earlier_champions(self, domain: str) -> list[int]:
        """Versions that were champion before the present one and are there still, oldest first."""
        there = {row["version"] for row in self.listed(domain)}
        if not there:
            return []
        order = self.champions(domain)
        return [one.version for one in order[:-1] if _may_return(one, order, there)]

    def _need_champion(self, domain: str, version: int, current: int | None, expected: int | None) -> None:
        if current != expected:
            raise AliasConflict(
                f"{domain}: version {version} was compared with champion {_shown(expected)}, but the champion is "
                f"{_shown(current)} by now: compare them again (`alter promote {domain} {version}`)"
            )

    def tag(self, domain: str, version: int, tags: Mapping[str, object]) -> None:
        """Add or replace tags of a version."""
        with reported(f"tag {domain} version {version}", self.tracking_uri):
            self._tag(domain, version, **tags)

    def _tag(self, domain: str, version: int, **tags: Any) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(domain, str(version), key, str(value))


def _may_return(one: Champion, order: Sequence[Champion], there: Collection[int]) -> bool:
    return one.version in there and one.version != order[-1].version


def _left_open(domain: str, what: str, order: Sequence[Champion], there: Collection[int]) -> RegistryInputError:
    choices = dict.fromkeys(one.version for one in reversed(order) if one.version in there)
    return RegistryInputError(
        f"{domain}: the champion was moved outside alter ({what}), so that it is not known which one to go back to; "
        f"`alter promote {domain} VERSION --reason TEXT` says it. Champions so far, the newest first: "
        f"{', '.join(map(str, choices))}"
    )


def _replaced(version: int) -> str:
    return f"replaced by version {version} before anybody decided"


def _shown(version: int | None) -> str:
    return "none" if version is None else str(version)


def _now() -> str:
    """UTC, so finely that the tags of two decisions tell which came first."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
