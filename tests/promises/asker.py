"""A process that asks the ledger for the same ends as others: asker.py URL hold|NUMBER HOLD…"""

import asyncio
import random
import sys

from ledgers import open_ledger

from chattable.budget.ledger import Charge, HoldRequest, Ledger
from chattable.budget.limits import Payer

REPEATS = 5


async def main(url: str, what: str, holds: list[str]) -> None:
    async with open_ledger(url) as ledger:
        if what == "hold":
            asker = Payer(user="p4e")
            await asyncio.gather(
                *(
                    ledger.hold(
                        HoldRequest(id=hold, payer=asker, model="m", prompt=10, max_output=90)
                    )
                    for hold in holds
                )
            )
            print(*["pending"] * len(holds))
        else:
            dice, asked = random.Random(what), holds * REPEATS
            dice.shuffle(asked)
            await asyncio.gather(*(end(ledger, hold, dice.randint(1, 100)) for hold in asked))
            print(*[await ledger.void(hold) for hold in holds])


async def end(ledger: Ledger, hold: str, tokens: int) -> None:
    """Voids it or settles it with some figure."""
    if tokens % 3:
        await ledger.settle(hold, Charge(prompt=10, completion=tokens))
    else:
        await ledger.void(hold)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
