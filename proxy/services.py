"""What the routes share: built once, by app.py, and handed to each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from chattable.budget.journal import Journal
from chattable.budget.outbox import Outbox
from chattable.budget.sql_ledger import SqlLedger
from chattable.proxy.catalog.catalog import CatalogHolder
from chattable.proxy.config.settings import Config
from chattable.proxy.identity.auth import Auth
from chattable.proxy.people.audit import Audit
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.usage import UsageReports
from chattable.proxy.people.users import Users
from chattable.proxy.pipeline.metering import Metering
from chattable.proxy.pipeline.pipeline import Pipeline
from chattable.proxy.pipeline.turns import Turns
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import SessionStore

if TYPE_CHECKING:
    from chattable.budget.storage.redis import RedisScripts


class Services(Struct, frozen=True):
    """The collaborators of a running server."""

    config: Config
    database: Database
    users: Users
    teams: Teams
    audit: Audit
    auth: Auth
    catalogs: CatalogHolder
    pipeline: Pipeline
    turns: Turns
    metering: Metering
    usage: UsageReports
    outbox: Outbox
    session_store: SessionStore
    max_body: int  # bytes
    journal: Journal
    redis: RedisScripts | None
    ledger: SqlLedger
