"""Who or what a budget is for: names as admins write them, ids as the ledger keeps them."""

from __future__ import annotations

from typing import Any

from chattable.agents.errors import InvalidRequest, ModelNotFound, clip
from chattable.budget.limits import Limit
from chattable.proxy.config.hints import hint
from chattable.proxy.identity.auth import ADMIN
from chattable.proxy.services import House
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.text import short

KINDS = ("user", "key", "team", "session", "agent", "model", "each_user", "everyone")
ALL = ("each_user", "everyone")  # name nobody


class UnknownSubject(NotFound):
    """A budget for somebody who is not there."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.field = f"subject.{kind}"


class Subjects:
    """Tells subjects apart.

    Law: a user, a team and a key are kept by id, so that a budget survives a new name.
    """

    def __init__(self, house: House) -> None:
        self._house = house

    def parse(self, given: dict[str, str | bool]) -> tuple[Any, str]:
        """The kind and the name in a request, or `InvalidRequest`; nobody is looked up yet."""
        if len(given) != 1 or (kind := next(iter(given))) not in KINDS:
            raise invalid("subject", f"give exactly one of {', '.join(KINDS)}")
        value, field = given[kind], f"subject.{kind}"
        if kind in ALL:
            if value is not True:
                raise invalid(field, f'expected true: a budget {{"{kind}": true}} names nobody')
            return kind, ""
        if not isinstance(value, str) or not value:
            raise invalid(field, "expected a name")
        return kind, short(value, field)

    async def find(self, kind: str, name: str) -> str:
        """What the ledger calls the subject; raises what says that it is not there."""
        house = self._house
        try:
            if kind == "user":
                return (await house.users.get(name)).id
            if kind == "team":
                return (await house.teams.get(name)).id
            if kind == "key":
                return (await house.users.get_key(name)).id
            if kind == "session":
                return (await house.session_store.find(name)).id
        except NotFound:
            raise UnknownSubject(kind, name) from None
        return "" if kind in ALL else self._served(kind, name)

    async def shown(self, limit: Limit) -> str | bool:
        """A limit's subject as admins call it; its id where it is gone."""
        try:
            if limit.kind == "user":
                return (await self._house.users.get(limit.subject)).name
            if limit.kind == "team":
                return (await self._house.teams.get(limit.subject)).name
        except NotFound:
            pass
        return limit.subject or True

    def _served(self, kind: str, name: str) -> str:
        """The name under which a model or an agent is counted: what it is called in the catalog."""
        field, catalog = f"subject.{kind}", self._house.catalogs.current
        if name.endswith("*"):
            raise invalid(
                field,
                "expected one name; for all that begin so, give 'everyone' and list the beginning in 'models'",
            )
        try:
            entry = catalog.find(name, ADMIN)
        except ModelNotFound:
            known = [
                entry.name
                for entry in catalog.visible(ADMIN)
                if entry.model.leaf == (kind == "model")
            ]
            raise invalid(field, f"there is no {kind} '{clip(name)}'{hint(name, known)}") from None
        if entry.model.leaf != (kind == "model"):
            what, other = ("a model", "model") if entry.model.leaf else ("an agent", "agent")
            raise invalid(field, f"'{entry.name}' is {what}: give {{\"{other}\": …}}")
        return entry.name


def invalid(field: str, why: str) -> InvalidRequest:
    """The refusal of a value."""
    return InvalidRequest(f"Invalid value for '{field}': {why}.", param=field, code="invalid_value")
