"""The law of calls: held, then settled, voided or forfeited, any number of them in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import astuple

from chattable.budget.errors import BudgetExceededError
from chattable.budget.ledger import LEASE, NOTHING, Amount, Hold, State, Used, Wish
from chattable.budget.limits import Asker, Limit, period
from chattable.budget.postings import LIMITS, Account, Books, Key, LedgerDialect, limit_of
from chattable.budget.storage.statements import Steps, array, time
from chattable.budget.tables import CALL, TEXT, USED


class Record(Struct, frozen=True, tag=True):
    """A call that needed no hold, and what it used."""

    call: Wish
    used: Used

    @property
    def id(self) -> str:
        """The call's."""
        return self.call.id


class End(Struct, frozen=True, tag=True):
    """What became of a held call; a forfeit counts only once its lease is over."""

    id: str
    state: Literal["settled", "voided", "forfeited"]
    used: Used = Used()
    reason: str = ""


# tokens of output that a call without a cap gets, if there are as many, however little remains
FAIR = 256

Ask = Wish | Record | End
Answer = Hold | State | BudgetExceededError | KeyError | None


class _Call(Struct):
    """A call as the database has it, locked."""

    id: str
    state: State
    lease_until: float
    output: int
    held: Amount
    keys: list[Key]
    used: Used = Used()  # of a call read from the database: only what a correction needs
    new: Wish | UnsetType = UNSET  # set while the database does not have it
    changed: bool = False


def work(dialect: LedgerDialect, asks: Sequence[Ask]) -> Steps[list[Answer]]:
    """Does what is asked, in its order, and says what came of each; a refusal of one touches no other.

    Everything a batch needs is read and locked first (calls, then accounts, each in the order of
    its keys, so that two batches never wait for each other in a circle); then all is decided in
    memory; then all is written.
    """
    now, calls = yield from _calls(dialect, [ask.id for ask in asks])
    wishes = [ask for ask in asks if isinstance(ask, Wish) and ask.id not in calls]
    binding: dict[Wish, list[Limit]] = {}
    if wishes:
        now, binding = yield from _binding(dialect, wishes)
    books = Books(dialect, (yield from time(dialect)) if now is None else now)
    ended = [calls[ask.id] for ask in asks if isinstance(ask, End) and ask.id in calls]
    accounts = {
        wish: [books.key(limit, _owner(limit, wish.asker)) for limit in binding[wish]]
        for wish in wishes
    }
    yield from books.open(
        [key for call in ended for key in call.keys]
        + [key for keys in accounts.values() for key in keys]
    )
    answers: list[Answer] = []
    for ask in asks:
        if isinstance(ask, End):
            answers.append(_end(books, calls[ask.id], ask) if ask.id in calls else KeyError(ask.id))
        elif ask.id in calls:
            call = calls[ask.id]
            answers.append(
                Hold(id=call.id, output=call.output, held=call.held)
                if isinstance(ask, Wish)
                else None
            )
        elif isinstance(ask, Wish):
            answers.append(_hold(books, calls, ask, accounts[ask]))
        else:
            calls[ask.id] = _Call(ask.id, "settled", 0.0, 0, NOTHING, [], ask.used, new=ask.call)
            answers.append(None)
    yield from _write(dialect, books, list(calls.values()))
    return answers


def asked(dialect: LedgerDialect, asker: Asker, model: str) -> Steps[list[Account]]:
    """The accounts of every limit that binds such a call, as they are now."""
    wish = Wish(id="", asker=asker, model=model, prompt=0, most=0)
    now, binding = yield from _binding(dialect, [wish])
    return (
        yield from Books(dialect, now).look(
            (limit, _owner(limit, asker)) for limit in binding[wish]
        )
    )


def _calls(dialect: LedgerDialect, ids: list[str]) -> Steps[tuple[float | None, dict[str, _Call]]]:
    """The calls with these ids that there are, locked, and the time if it came with them."""
    rows = yield (
        f"SELECT {dialect.now}, id, state, lease_until, output, tokens, cost, accounts,"
        " prompt_tokens + completion_tokens, used_cost, unknown FROM calls"
        f" WHERE id IN {dialect.rows('rows', {'id': TEXT})} ORDER BY id{dialect.lock('calls')}",
        array([[call_id] for call_id in ids]),
    )
    found = {}
    for _, call_id, state, lease, output, tokens, cost, accounts, used, used_cost, unknown in rows:
        keys = [(limit, owner, begin) for limit, owner, begin in json.loads(accounts)]
        booked = Used(prompt=used, cost=used_cost, unknown=bool(unknown))
        found[call_id] = _Call(call_id, state, lease, output, Amount(tokens, cost), keys, booked)
    return (rows[0][0] if rows else None), found


def _binding(
    dialect: LedgerDialect, wishes: list[Wish]
) -> Steps[tuple[float, dict[Wish, list[Limit]]]]:
    """The time, and for each wish the limits in force that bind it."""
    subjects = {wish: wish.asker.subjects(wish.model) for wish in wishes}
    rows = yield (  # a row without a limit brings the time when nothing binds
        f"SELECT {dialect.now}, {LIMITS} FROM (SELECT 1 AS one) AS always LEFT JOIN limits ON active"
        f" AND (kind, subject) IN {dialect.rows('rows', {'kind': TEXT, 'subject': TEXT})} ORDER BY limits.id",
        array(list({pair for pairs in subjects.values() for pair in pairs})),
    )
    limits = [limit_of(row[1:]) for row in rows if row[1] is not None]
    binding = {}
    for wish in wishes:
        mine = [limit for limit in limits if (limit.kind, limit.subject) in subjects[wish]]
        # a limit of one's own takes the place of the one for each user
        if any(limit.kind == "user" for limit in mine):
            mine = [limit for limit in mine if limit.kind != "each_user"]
        binding[wish] = [limit for limit in mine if limit.covers(wish.model)]
    return rows[0][0], binding


def _owner(limit: Limit, asker: Asker) -> str:
    return asker.user if limit.kind == "each_user" else ""


def _hold(
    books: Books, calls: dict[str, _Call], wish: Wish, keys: list[Key]
) -> Hold | BudgetExceededError:
    accounts = [books.accounts[key] for key in keys]
    hard = [account for account in accounts if account.limit.mode == "hard"]
    output = _fitting(wish, hard)
    if output < wish.least:
        busy = all(account.fits(wish, wish.most, NOTHING) >= wish.least for account in hard)
        tightest = min(hard, key=lambda account: account.fits(wish, wish.most))
        return tightest.refusal(wish, busy=busy)
    held = wish.amount(output)
    if not accounts:
        return Hold(id=wish.id, output=output, held=held, bound=False, hard=False)
    warnings = tuple(
        account.limit.id
        for account in accounts
        if account.limit.mode == "soft" and account.fits(wish, output) < output
    )
    left = [
        (account.room().remaining.tokens, account.resets_at)
        for account in hard
        if account.limit.tokens is not None
    ]
    remaining, resets_at = min(left, key=lambda pair: pair[0], default=(None, None))
    for key in keys:
        books.book(key, "hold", wish.id, held=held)
    calls[wish.id] = _Call(wish.id, "pending", books.now + LEASE, output, held, keys, new=wish)
    return Hold(
        id=wish.id,
        output=output,
        held=held,
        hard=bool(hard),
        warnings=warnings,
        remaining=remaining,
        resets_at=resets_at,
    )


def _fitting(wish: Wish, hard: Sequence[Account]) -> int:
    """The output that a call gets: what it wishes, else what every hard limit leaves.

    One that names no cap gets half of that, so that its neighbours find room as well.
    """
    most = 2 * wish.most if wish.uncapped else wish.most
    for account in hard:
        most = account.fits(wish, most)
    if not wish.uncapped or not hard:
        return min(most, wish.most)
    return min(most, wish.most, max(FAIR, most // 2))


def _end(books: Books, call: _Call, end: End) -> State:
    """PENDING → SETTLED | VOIDED | FORFEITED, once; who knows more corrects a forfeit, and what was settled as unknown."""
    held, used = call.held, end.used
    over = Amount(max(0, used.amount.tokens - held.tokens), max(0, used.amount.cost - held.cost))
    if call.state == "pending" and end.state == "forfeited":
        if call.lease_until >= books.now:
            return "pending"
        used = Used(
            prompt=held.tokens - call.output, completion=call.output, cost=held.cost, estimated=True
        )
        kind, change = "forfeit", {"spent": held, "held": -held}
    elif call.state == "pending":
        kind = "settle" if end.state == "settled" else "void"
        change = {"spent": used.amount, "held": -held, "overdraft": over}
    elif call.state == "forfeited" and end.state != "forfeited":
        kind, change = "correct", {"spent": used.amount - held, "overdraft": over}
    elif call.state == "settled" and end.state != "forfeited" and _knows_more(used, call.used):
        kind, change = "correct", {"spent": used.amount - call.used.amount}
    else:
        return call.state
    for key in call.keys:
        if call.state == "settled":  # its hold is gone, and others may have had the room since
            change["overdraft"] = books.accounts[key].beyond(change["spent"])
        books.book(key, kind, call.id, **change, reason=end.reason)
    call.state, call.used, call.changed = end.state, used, True
    return call.state


def _knows_more(used: Used, booked: Used) -> bool:
    """Whether this is news: nothing corrects what is known, and among guesses the larger stands, in whatever order."""
    return booked.unknown and (not used.unknown or used.amount.tokens > booked.amount.tokens)


def _write(dialect: LedgerDialect, books: Books, calls: list[_Call]) -> Steps[None]:
    new = [_row(dialect, books.now, call, call.new) for call in calls if isinstance(call.new, Wish)]
    if new:
        yield dialect.insert("calls", CALL, new)
    changed = [
        (call.id, call.state, *astuple(call.used))
        for call in calls
        if call.changed and not isinstance(call.new, Wish)
    ]
    if changed:
        ended = dialect.rows("rows", {"id": TEXT, "state": TEXT, **USED})
        yield (
            f"UPDATE calls SET state = ended.state, {', '.join(f'{name} = ended.{name}' for name in USED)} FROM {ended} AS ended"
            " WHERE calls.id = ended.id",
            array(changed),
        )
    yield from books.close()


def _row(dialect: LedgerDialect, now: float, call: _Call, wish: Wish) -> tuple[Any, ...]:
    asker = wish.asker
    day, _ = period("day", now, dialect.zone)
    return (
        call.id, int(now), day, call.state, call.lease_until, call.output, *astuple(call.held), json.dumps(call.keys),
        asker.user, asker.key, asker.team, asker.agent, asker.session, wish.model, wish.tag, wish.request, *astuple(call.used),
    )  # fmt: skip
