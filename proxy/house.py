"""What the routes share: built once, by app.py, and handed to each of them."""

from __future__ import annotations

from msgspec import Struct

from chattable.proxy.auth import Auth
from chattable.proxy.catalog import Catalog
from chattable.proxy.config import Config
from chattable.proxy.metering import Metering
from chattable.proxy.pipeline import Pipeline
from chattable.proxy.store.database import Database
from chattable.proxy.store.users import Users


class House(Struct, frozen=True):
    """The collaborators of a running server."""

    config: Config
    database: Database
    users: Users
    auth: Auth
    catalog: Catalog
    pipeline: Pipeline
    metering: Metering
    max_body: int  # bytes
