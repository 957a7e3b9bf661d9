"""Holds and what becomes of them: settled, voided or forfeited, many in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import astuple

from chattable.budget.errors import BudgetExceededError
from chattable.budget.ledger import HOLD_LEASE_S, NOTHING, Amount, Charge, Hold, HoldRequest, State
from chattable.budget.limits import Limit, Payer, period
from chattable.budget.postings import LIMIT_COLUMNS, Account, Books, Key, LedgerDialect, limit_of
from chattable.budget.storage.statements import Steps, array, time
from chattable.budget.tables import CALL, CHARGE, TEXT

# Tokens of output that a call without a cap gets, if there are as many, however little remains.
FAIR_OUTPUT_TOKENS = 256


# The tags and field names of the two that follow are those of journals on disk.


class UnheldCall(Struct, frozen=True, tag="Record"):
    """A call that needed no hold, and what it used."""

    call: HoldRequest
    charge: Charge = field(name="used")

    @property
    def id(self) -> str:
        """The call's."""
        return self.call.id


class Settlement(Struct, frozen=True, tag="End"):
    """What became of a held call; a forfeit counts only once its lease is over."""

    id: str
    state: Literal["settled", "voided", "forfeited"]
    charge: Charge = field(default=Charge(), name="used")
    reason: str = ""


Step = HoldRequest | UnheldCall | Settlement
Answer = Hold | State | BudgetExceededError | KeyError | None


class _Call(Struct):
    """A call as the database has it, locked."""

    id: str
    state: State
    lease_until: float
    output: int
    held: Amount
    keys: list[Key]
    charge: Charge = Charge()  # of a call read from the database: only what a correction needs
    new: HoldRequest | UnsetType = UNSET  # set while the database does not have it
    changed: bool = False


def run_steps(dialect: LedgerDialect, steps: Sequence[Step]) -> Steps[list[Answer]]:
    """Takes the steps in their order and answers each; a refusal of one touches no other.

    Everything a batch needs is read and locked first (calls, then accounts, each in the order of
    its keys, so that two batches never wait for each other in a circle); then all is decided in
    memory; then all is written.
    """
    now, calls = yield from _calls(dialect, [step.id for step in steps])
    requests = [step for step in steps if isinstance(step, HoldRequest) and step.id not in calls]
    binding: dict[HoldRequest, list[Limit]] = {}
    if requests:
        now, binding = yield from _binding_limits(dialect, requests)
    books = Books(dialect, (yield from time(dialect)) if now is None else now)
    accounts, wanted = _keys(books, steps, calls, binding)
    yield from books.open(wanted)
    answers = [_take(books, calls, step, accounts) for step in steps]
    yield from _write(dialect, books, list(calls.values()))
    return answers


def binding_accounts(dialect: LedgerDialect, payer: Payer, model: str) -> Steps[list[Account]]:
    """The accounts of every limit that binds such a call, as they are now."""
    request = HoldRequest(id="", payer=payer, model=model, prompt=0, max_output=0)
    now, binding = yield from _binding_limits(dialect, [request])
    return (
        yield from Books(dialect, now).look(
            (limit, _owner(limit, payer)) for limit in binding[request]
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
        booked = Charge(prompt=used, cost=used_cost, unknown=bool(unknown))
        found[call_id] = _Call(call_id, state, lease, output, Amount(tokens, cost), keys, booked)
    return (rows[0][0] if rows else None), found


def _binding_limits(
    dialect: LedgerDialect, requests: list[HoldRequest]
) -> Steps[tuple[float, dict[HoldRequest, list[Limit]]]]:
    """The time, and for each request the limits in force that bind it."""
    subjects = {request: request.payer.subjects(request.model) for request in requests}
    pairs = dialect.rows("rows", {"kind": TEXT, "subject": TEXT})
    rows = yield (  # a row without a limit brings the time when nothing binds
        f"SELECT {dialect.now}, {LIMIT_COLUMNS} FROM (SELECT 1 AS one) AS always"
        f" LEFT JOIN limits ON active AND (kind, subject) IN {pairs} ORDER BY limits.id",
        array(list({pair for wanted in subjects.values() for pair in wanted})),
    )
    limits = [limit_of(row[1:]) for row in rows if row[1] is not None]
    return rows[0][0], {
        request: _binding(limits, request.model, wanted) for request, wanted in subjects.items()
    }


def _binding(
    limits: Sequence[Limit], model: str, subjects: Sequence[tuple[str, str]]
) -> list[Limit]:
    """The limits that bind a request for the model.

    A limit of the user's own takes the place of the one for each user.
    """
    mine = [limit for limit in limits if (limit.kind, limit.subject) in subjects]
    if "user" in [limit.kind for limit in mine]:
        mine = [limit for limit in mine if limit.kind != "each_user"]
    return [limit for limit in mine if limit.covers(model)]


def _owner(limit: Limit, payer: Payer) -> str:
    return payer.user if limit.kind == "each_user" else ""


def _keys(
    books: Books,
    steps: Sequence[Step],
    calls: Mapping[str, _Call],
    binding: Mapping[HoldRequest, list[Limit]],
) -> tuple[dict[HoldRequest, list[Key]], list[Key]]:
    """The accounts that each request would be held on, and all that the steps need."""
    accounts: dict[HoldRequest, list[Key]] = {}
    wanted: list[Key] = []
    for step in steps:
        if isinstance(step, Settlement) and step.id in calls:
            wanted += calls[step.id].keys
    for request, limits in binding.items():
        accounts[request] = [books.key(limit, _owner(limit, request.payer)) for limit in limits]
        wanted += accounts[request]
    return accounts, wanted


def _take(
    books: Books,
    calls: dict[str, _Call],
    step: Step,
    accounts: Mapping[HoldRequest, list[Key]],
) -> Answer:
    """Takes one step; a hold that there is already is answered as it was given."""
    call = calls.get(step.id)
    if isinstance(step, Settlement):
        return KeyError(step.id) if call is None else _end(books, call, step)
    if isinstance(step, HoldRequest):
        if call is not None:
            return Hold(id=call.id, output=call.output, held=call.held)
        return _hold(books, calls, step, accounts[step])
    if call is None:
        calls[step.id] = _Call(step.id, "settled", 0.0, 0, NOTHING, [], step.charge, new=step.call)
    return None


def _hold(
    books: Books, calls: dict[str, _Call], request: HoldRequest, keys: list[Key]
) -> Hold | BudgetExceededError:
    accounts = [books.accounts[key] for key in keys]
    hard = [account for account in accounts if account.limit.mode == "hard"]
    output = _fitting(request, hard)
    if output < request.min_output:
        return _refusal(request, hard)
    held = request.amount(output)
    if not accounts:
        return Hold(id=request.id, output=output, held=held, bound=False, hard=False)
    remaining, resets_at = _tightest(hard)
    warnings = _warnings(accounts, request, output)
    for key in keys:
        books.book(key, "hold", request.id, held=held)
    lease_until = books.now + HOLD_LEASE_S
    calls[request.id] = _Call(request.id, "pending", lease_until, output, held, keys, new=request)
    return Hold(
        id=request.id,
        output=output,
        held=held,
        hard=bool(hard),
        warnings=warnings,
        remaining=remaining,
        resets_at=resets_at,
    )


def _refusal(request: HoldRequest, hard: Sequence[Account]) -> BudgetExceededError:
    """The refusal of the tightest limit; `busy` where all would have room but for what is held."""
    most, least = request.max_output, request.min_output
    busy = all(account.fits(request, most, NOTHING) >= least for account in hard)
    tightest = min(hard, key=lambda account: account.fits(request, most))
    return tightest.refusal(request, busy=busy)


def _warnings(accounts: Sequence[Account], request: HoldRequest, output: int) -> tuple[str, ...]:
    """The ids of the soft limits that have no room for so much output."""
    soft = [account for account in accounts if account.limit.mode == "soft"]
    return tuple([each.limit.id for each in soft if each.fits(request, output) < output])


def _tightest(hard: Sequence[Account]) -> tuple[int | None, int | None]:
    """The tokens left under the tightest of these limits, and when its window ends."""
    remaining = resets_at = None
    for account in hard:
        if account.limit.tokens is not None:
            left = account.balance().remaining.tokens
            if remaining is None or left < remaining:
                remaining, resets_at = left, account.resets_at
    return remaining, resets_at


def _fitting(request: HoldRequest, hard: Sequence[Account]) -> int:
    """The output that a call gets: what it asks for, else what every hard limit leaves.

    One that names no cap gets half of that, so that its neighbours find room as well.
    """
    most = 2 * request.max_output if request.uncapped else request.max_output
    for account in hard:
        most = account.fits(request, most)
    if not request.uncapped or not hard:
        return min(most, request.max_output)
    return min(most, request.max_output, max(FAIR_OUTPUT_TOKENS, most // 2))


def _end(books: Books, call: _Call, settlement: Settlement) -> State:
    """Settles, voids or forfeits a pending call, once; whoever knows more later corrects it."""
    charge, held = settlement.charge, call.held
    if settlement.state == "forfeited":
        if call.state != "pending" or call.lease_until >= books.now:
            return call.state
        charge = Charge(
            prompt=held.tokens - call.output, completion=call.output, cost=held.cost, estimated=True
        )
        kind, change = "forfeit", {"spent": held, "held": -held}
    elif call.state == "pending":
        kind = "settle" if settlement.state == "settled" else "void"
        spent = charge.amount
        change = {"spent": spent, "held": -held, "overdraft": _beyond(spent, held)}
    else:
        kind, change = "correct", _correction(call, charge)
        if not change:
            return call.state
    for key in call.keys:
        if call.state == "settled":  # its hold is gone, and others may have had the room since
            change["overdraft"] = books.accounts[key].beyond(change["spent"])
        books.book(key, kind, call.id, **change, reason=settlement.reason)
    call.state, call.charge, call.changed = settlement.state, charge, True
    return call.state


def _correction(call: _Call, charge: Charge) -> dict[str, Amount]:
    """What a charge changes for a call that has ended; empty: nothing."""
    spent = charge.amount
    if call.state == "forfeited":
        return {"spent": spent - call.held, "overdraft": _beyond(spent, call.held)}
    if call.state == "settled" and _knows_more(charge, call.charge):
        return {"spent": spent - call.charge.amount}
    return {}


def _beyond(spent: Amount, held: Amount) -> Amount:
    """What was spent beyond the hold."""
    return Amount(max(0, spent.tokens - held.tokens), max(0, spent.cost - held.cost))


def _knows_more(charge: Charge, booked: Charge) -> bool:
    """Whether this corrects what is booked.

    Nothing corrects what is known; among guesses the larger stands, in whatever order they come.
    """
    return booked.unknown and (not charge.unknown or charge.amount.tokens > booked.amount.tokens)


def _write(dialect: LedgerDialect, books: Books, calls: list[_Call]) -> Steps[None]:
    new = [
        _row(dialect, books.now, call, call.new)
        for call in calls
        if isinstance(call.new, HoldRequest)
    ]
    if new:
        yield dialect.insert("calls", CALL, new)
    changed = [
        (call.id, call.state, *astuple(call.charge))
        for call in calls
        if call.changed and not isinstance(call.new, HoldRequest)
    ]
    if changed:
        ended = dialect.rows("rows", {"id": TEXT, "state": TEXT, **CHARGE})
        charged = ", ".join(f"{name} = ended.{name}" for name in CHARGE)
        yield (
            f"UPDATE calls SET state = ended.state, {charged} FROM {ended} AS ended"
            " WHERE calls.id = ended.id",
            array(changed),
        )
    yield from books.close()


def _row(dialect: LedgerDialect, now: float, call: _Call, request: HoldRequest) -> tuple[Any, ...]:
    """A call as a row, in the order of `CALL`."""
    payer = request.payer
    day, _ = period("day", now, dialect.zone)
    return (
        *(call.id, int(now), day, call.state, call.lease_until, call.output),
        *(*astuple(call.held), json.dumps(call.keys)),
        *(payer.user, payer.key, payer.team, payer.agent, payer.session),
        *(request.model, request.tag, request.request_id),
        *astuple(call.charge),
    )
