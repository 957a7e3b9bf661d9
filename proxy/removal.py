"""What goes with a user who is deleted: keys, turns under way, conversations, and answers that are kept for repeats."""

from __future__ import annotations

import logging

from chattable.proxy.auth import Principal
from chattable.proxy.errors import UnauthorizedError
from chattable.proxy.house import House
from chattable.proxy.store.users import User

log = logging.getLogger("chattable")

GONE = "The user of this API key was deleted."


async def remove_user(house: House, id_or_name: str) -> User:
    """Deletes a user with what was said to them, unless the config keeps that; what was used stays booked.

    Law: of a turn that is under way nothing is kept. A deletion that breaks down on its way leaves a disabled user, and is
    finished by the next one.
    """
    user = await house.users.update(id_or_name, disabled=True)  # so that nobody begins anything new
    house.auth.forget()
    keys = {key.id for key in await house.users.list_keys(user.id)}

    def theirs(who: Principal) -> bool:
        return who.user.id == user.id or who.key_id in keys

    pipeline = house.pipeline
    await pipeline.drop(theirs, UnauthorizedError(GONE, "invalid_api_key"))
    if house.config.sessions.retention.deleted_users == "delete":
        await pipeline.sessions.forget(user.id)
    await pipeline.idempotency.forget(user.id)
    if not await pipeline.cache.purge(user=user.id):
        log.warning("answers that %s was given are kept until their time is over: the cache is away", user.id)
    return await house.users.delete(user.id)
