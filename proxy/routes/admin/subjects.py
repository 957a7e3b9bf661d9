"""Who or what a budget is for: names as admins write them, ids as the ledger keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from chattable.agents.errors import InvalidRequest, ModelNotFound, clip
from chattable.budget.limits import Limit
from chattable.budget.storage.statements import Steps
from chattable.proxy.config.hints import hint
from chattable.proxy.identity.auth import ADMIN
from chattable.proxy.people.teams import team_named
from chattable.proxy.people.users import key_named, user_named
from chattable.proxy.services import Services
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.ids import names_of
from chattable.proxy.store.text import short

KINDS = ("user", "key", "team", "session", "agent", "model", "each_user", "everyone")
ALL = ("each_user", "everyone")  # name nobody


class UnknownSubject(NotFound):
    """A budget for somebody who is not there."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.field = f"subject.{kind}"


class Found(Struct, frozen=True):
    """What the ledger calls a subject, and what admins do."""

    id: str
    name: str | bool


class Subjects:
    """Tells subjects apart.

    Law: a user, a team and a key are kept by id, so that a budget survives a new name.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

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

    async def finder(self, kind: str, name: str) -> Callable[[], Steps[Found]]:
        """An operation that finds the subject, or raises what says that it is not there."""
        session = await self._session(name) if kind == "session" else ""

        def find() -> Steps[Found]:
            try:
                if kind == "user":
                    user = yield from user_named(name)
                    return Found(user.id, user.name)
                if kind == "team":
                    team = yield from team_named(name)
                    return Found(team.id, team.name)
                if kind == "key":
                    key = yield from key_named(name)
                    return Found(key.id, key.id)
            except NotFound:
                raise UnknownSubject(kind, name) from None
            if session is None:
                raise UnknownSubject(kind, name)
            if kind in ALL:
                return Found("", True)
            known = session or self._served(kind, name)
            return Found(known, known)

        return find

    async def _session(self, name: str) -> str | None:
        try:
            return (await self._services.session_store.find(name)).id
        except NotFound:
            return None

    def shown(self, limits: Sequence[Limit]) -> Steps[dict[str, str | bool]]:
        """The limits' subjects as admins call them, by the limits' ids; an id where one is gone."""
        names: dict[tuple[str, str], str] = {}
        for kind, table in (("user", "users"), ("team", "teams")):
            if ids := {limit.subject for limit in limits if limit.kind == kind}:
                found = yield from names_of(self._services.ledger.dialect, table, sorted(ids))
                names |= {(kind, one): name for one, name in found.items()}
        return {
            limit.id: names.get((limit.kind, limit.subject)) or limit.subject or True
            for limit in limits
        }

    def _served(self, kind: str, name: str) -> str:
        """The name under which a model or an agent is counted: what it is called in the catalog."""
        field, catalog = f"subject.{kind}", self._services.catalogs.current
        if name.endswith("*"):
            raise invalid(
                field,
                "expected one name; for all that begin so, give 'everyone' and list the beginning "
                "in 'models'",
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
