"""What becomes of turns whose key or user may ask no more: they end."""

from __future__ import annotations

from chattable.budget.periodic import Periodic
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.errors import UnauthorizedError
from chattable.proxy.identity.auth import Principal
from chattable.proxy.people.users import Users
from chattable.proxy.pipeline.turns import Turns

TICK = 0.5  # seconds between two looks; a turn that is over within them is never looked up
OVER = (
    "The API key of this request was revoked or has expired, or its user was disabled or deleted."
)


class Revocation:
    """Looks whether those may still ask whose turns are under way.

    Law: within two ticks a turn ends, and is not kept, whose key was revoked or has expired, or
    whose user, or the key's owner, was disabled or deleted, wherever that was done. A database
    that is away ends none.
    """

    def __init__(self, users: Users, turns: Turns) -> None:
        self._users = users
        self._turns = turns
        self._known: set[Principal] = set()  # who had turns under way at the last look
        self._watch = Periodic(
            "keys of turns under way", self.look, TICK, expected=(StorageUnavailable,)
        )

    async def start(self) -> None:
        """Begins to look."""
        self._watch.start()

    async def stop(self) -> None:
        """Ends."""
        await self._watch.stop()

    async def look(self) -> None:
        """Ends the turns of those who may ask no more; asks nothing about turns that are new."""
        now = {who for who in self._turns.principals() if who.key_id}
        long, self._known = now & self._known, now
        if not long:
            return
        ids = {who.key_id for who in long} | {who.user.id for who in long}
        good = await self._users.active(ids)

        def over(who: Principal) -> bool:
            return who in long and not {who.key_id, who.user.id} <= good

        self._turns.drop(over, UnauthorizedError(OVER, "invalid_api_key"))
