"""What goes with a user who is deleted: keys, turns under way, conversations, kept answers."""

from __future__ import annotations

import asyncio
import logging

from chattable.proxy.errors import UnauthorizedError
from chattable.proxy.identity.auth import Principal
from chattable.proxy.people.users import UserRecord
from chattable.proxy.services import Services

log = logging.getLogger("chattable")

PATIENCE = 5.0  # seconds that turns may take to end
GONE = "The user of this API key was deleted."


async def remove_user(services: Services, id_or_name: str) -> UserRecord:
    """Deletes a user with what was said to them; what was used stays booked.

    The config may keep the sessions. Law: of a turn that is under way nothing is kept. A deletion
    that breaks down on its way leaves a disabled user, and the next one finishes it.
    """
    user = await services.users.update(
        id_or_name, disabled=True
    )  # so that nobody begins anything new
    services.auth.forget()
    keys = {key.id for key in await services.users.list_keys(user.id)}

    def theirs(who: Principal) -> bool:
        return who.user.id == user.id or who.key_id in keys

    pipeline = services.pipeline
    if ending := services.turns.drop(theirs, UnauthorizedError(GONE, "invalid_api_key")):
        await asyncio.wait(ending, timeout=PATIENCE)
    if services.config.sessions.retention.deleted_users == "delete":
        await pipeline.sessions.forget(user.id)
    await pipeline.idempotency.forget(user.id)
    if not await pipeline.cache.purge(user=user.id):
        log.warning("the cache is away: it keeps answers to %s until their time is over", user.id)
    return await services.users.delete(user.id)
