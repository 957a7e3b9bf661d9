"""The statements that walk a session's tree.

Each is one query, whose cost grows with what it returns and not with the length of the path.

A path is a few pieces: ranges of depth, one for each branch it lies on. `piece` finds them from the
end towards the root and stops at `reach`; what is read of a piece lies between `low` and `high`.
Rows of deleted messages are left in place, so every range is longer by as many as the session has
of them.

The planners are left no choice, because both would rather read all of a session's rows at once.
Messages are looked up one piece at a time: on PostgreSQL by a fenced LATERAL; on SQLite by CROSS
JOIN, which keeps the order of tables, and by conditions that name the table before: of rows that
meet other conditions SQLite first makes a Bloom filter, which reads them all.
"""

from __future__ import annotations

from chattable.proxy.store.tables import session_messages as messages

NAMES = [column.name for column in messages.c]
M = ", ".join(f"m.{name}" for name in NAMES)

PIECE = """
WITH RECURSIVE piece(session, branch, start, base, top, low, high, reach) AS (
    SELECT s.id, m.branch, m.start, m.base, m.depth, {low}, {high}, {reach}
    FROM sessions s {end}
    WHERE s.id = :session AND s.user_id = :user
  UNION ALL
    SELECT p.session, m.branch, m.start, m.base, m.depth, p.low, p.high, p.reach
    FROM piece p {parent}
    WHERE p.start > p.reach
)"""
LIVE = "NOT (m.erased AND p.top > 0)"  # every depth is: but so it is no condition on m alone
WITHIN = f"""m.session_id = p.session AND m.branch = p.branch AND {LIVE}
    AND m.depth >= CASE WHEN p.start > p.low THEN p.start ELSE p.low END
    AND m.depth <= CASE WHEN p.top < p.high THEN p.top ELSE p.high END"""

LOWEST = "m.depth - :most - s.erased + 1"
WINDOW = """,
edge AS (
    SELECT MAX(p.top) AS top, MAX(p.low) AS low, MAX(CASE WHEN p.branch = s.summary_branch
        AND s.summary_depth BETWEEN p.start AND p.top THEN s.summary_depth ELSE 0 END) AS summarised
    FROM piece p JOIN sessions s ON s.id = :session
),
near AS (
    SELECT p.session, m.branch, m.depth, m.tokens
    FROM edge e CROSS JOIN piece p {near}
    ORDER BY m.depth DESC LIMIT :most
),
fits AS (
    SELECT session, branch, depth, SUM(tokens) OVER (ORDER BY depth DESC) AS total,
        ROW_NUMBER() OVER (ORDER BY depth DESC) AS place
    FROM near
)
SELECT e.top,
    CASE WHEN e.summarised > 0 AND COALESCE(f.place, 1) = 1 THEN s.summary END AS summary,
    CASE WHEN e.summarised > 0 AND COALESCE(f.place, 1) = 1 THEN s.summary_upto END AS upto,
    {columns}
FROM edge e JOIN sessions s ON s.id = :session
    LEFT JOIN fits f ON f.total <= CAST(:tokens AS BIGINT) {rows}
ORDER BY m.depth"""
# The same where the window lies on one branch, and nothing was deleted or summarised: otherwise it
# may return too few rows.
STRAIGHT = """SELECT {columns} FROM sessions s {end} {rows}
WHERE s.id = :session AND s.user_id = :user
    AND s.erased = 0 AND s.trimmed = 0 AND s.summary_depth IS NULL
ORDER BY m.depth DESC"""
NEAR = f"""m.session_id = p.session AND m.branch = p.branch AND {LIVE} AND m.depth <= p.top
    AND m.depth >= CASE
    WHEN p.start > e.low AND p.start > e.summarised THEN p.start
    WHEN e.low > e.summarised THEN e.low ELSE e.summarised + 1 END"""

AFTER = "(SELECT a.depth FROM session_messages a WHERE a.session_id = :session AND a.id = :after)"
# `after` may be on another branch
BEFORE = f"CASE WHEN {AFTER} > m.depth THEN m.depth ELSE {AFTER} - 1 END"
RANGES = {  # lowest and highest depth of a page: descending or not, from an end or behind `after`
    (True, False): (LOWEST, "m.depth"),
    (True, True): (f"{BEFORE} - :most - s.erased + 1", BEFORE),
    (False, False): ("1", ":most + s.erased + s.trimmed"),
    (False, True): (
        f"{AFTER} + 1",
        f"CASE WHEN {AFTER} < s.trimmed THEN s.trimmed ELSE {AFTER} END + :most + s.erased",
    ),
}
COPIED = {"session_id": ":new", "branch": "0", "start": "1", "base": "-1"}
BETTER = (
    "prefix",
    "speaker",
    "tokens",
    "request_id",
    "incomplete",
    "erased",
    "created_at",
    "usage",
    "message",
)


class Paths:
    """The statements for one kind of database."""

    def __init__(self, *, sqlite: bool) -> None:
        self._sqlite = sqlite
        reach = f"CASE WHEN s.summary_depth < {LOWEST} THEN s.summary_depth ELSE {LOWEST} END"
        window = WINDOW.format(
            near=self._each(NEAR, "ORDER BY m.depth DESC LIMIT :most"),
            rows=self._each(
                "m.session_id = f.session AND m.branch = f.branch AND m.depth = f.depth", left=True
            ),
            columns=M,
        )
        self.window = self._pieces(LOWEST, "m.depth", reach=reach) + window
        self.straight = STRAIGHT.format(
            columns=M,
            end=self._each("m.session_id = s.id AND m.id = :at")
            .replace("m.", "e.")
            .replace(" m ", " e "),
            rows=self._each(
                "m.session_id = e.session_id AND m.branch = e.branch"
                " AND m.depth > e.depth - :most AND m.depth <= e.depth"
            ),
        )
        self.items = {which: self._items(*which) for which in RANGES}
        pieces, rows = self._pieces("1", "m.depth"), self._each(WITHIN)
        self.count = f"{pieces} SELECT COUNT(*) FROM piece p {rows}"
        oldest = " ORDER BY m.depth DESC LIMIT 1 OFFSET :most"
        self.last_to_go = f"{pieces} SELECT m.depth FROM piece p {rows}{oldest}"
        there = "p.branch = :branch AND :depth BETWEEN p.start AND p.top"
        found = f" SELECT COUNT(*) FROM piece p WHERE {there}"
        self.on_path = self._pieces(":depth", "m.depth") + found
        every = WITHIN.replace(LIVE, "TRUE")
        taken = ", ".join(COPIED.get(name, f"m.{name}") for name in NAMES)
        copied = f"{pieces} SELECT {taken} FROM piece p {self._each(every)}"
        self.copy = f"INSERT INTO session_messages ({', '.join(NAMES)}) {copied}"
        self.matching, self.placing = self._matching(), self._placing()

    def _each(self, where: str, end: str = "OFFSET 0", *, left: bool = False) -> str:
        """Joins the messages `m` of each row before."""
        if self._sqlite:
            return f"{'LEFT' if left else 'CROSS'} JOIN session_messages m ON {where}"
        kind = "LEFT" if left else "INNER"
        return (
            f"{kind} JOIN LATERAL (SELECT * FROM session_messages m WHERE {where} {end}) m ON TRUE"
        )

    def _pieces(self, low: str, high: str, *, end: str = ":at", reach: str = "") -> str:
        last = self._each(f"m.session_id = s.id AND m.id = {end}")
        parent = self._each(
            "m.session_id = p.session AND m.branch = p.base AND m.depth = p.start - 1"
        )
        return PIECE.format(low=low, high=high, reach=reach or low, end=last, parent=parent)

    def _items(self, descending: bool, after: bool) -> str:
        """A page of a path's messages."""
        order = "DESC" if descending else "ASC"
        pieces = self._pieces(*RANGES[descending, after], end="s.head")
        rows = self._each(WITHIN, f"ORDER BY m.depth {order} LIMIT :most")
        return f"{pieces} SELECT {M} FROM piece p {rows} ORDER BY m.depth {order} LIMIT :most"

    def _list(self) -> str:
        """The session beside each text of a JSON list, as rows (value, key)."""
        if self._sqlite:
            return "sessions s CROSS JOIN json_each(:list) AS i"
        texts = "jsonb_array_elements_text(CAST(:list AS jsonb))"
        return f"sessions s CROSS JOIN {texts} WITH ORDINALITY AS i(value, key)"

    def _matching(self) -> str:
        """Finds the longest of the path digests in `list` that is stored, and its last message."""
        stored = "m.session_id = s.id AND m.prefix = i.value AND NOT m.erased AND NOT m.side"
        return (
            f"SELECT m.id, i.key FROM {self._list()} {self._each(stored)}"
            " WHERE s.id = :session AND s.user_id = :user"
            " AND m.role NOT IN ('system', 'developer', 'item')"
            " ORDER BY i.key DESC, m.branch DESC, m.depth DESC LIMIT 1"
        )

    def _placing(self) -> str:
        """Finds where the messages in `list` are, and which are the last of their branch."""
        follows = "n.session_id = m.session_id AND n.branch = m.branch AND n.depth = m.depth + 1"
        found = self._each("m.session_id = s.id AND m.id = i.value")
        return (
            "SELECT m.id, m.prefix, m.branch, m.start, m.base, m.depth,"
            f" NOT EXISTS (SELECT 1 FROM session_messages n WHERE {follows}),"
            " m.erased, m.incomplete, m.side"
            f" FROM {self._list()} {found} WHERE s.id = :session"
        )
