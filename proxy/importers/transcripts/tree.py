"""A source's messages as a tree that can be stored, whatever their links say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized

from chattable.agents.chat import Message
from chattable.proxy.importers.transcripts.transcript import ImportNotes, Node, Unreadable
from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.sessions import chain, values
from chattable.proxy.store.sessions.port import Item, NewItem

MAX_MESSAGES = 100_000  # of one conversation: it is put together in memory


def grown(
    nodes: Iterable[Node], notes: ImportNotes
) -> tuple[list[Item], dict[str | None, str | None]]:
    """The messages, parents before children, and by which of them each node is kept, or None.

    Law: a message that cannot be stored, or says what another one after the same message says, is
    noted; what follows it stays.
    """
    kept: dict[str | None, str | None] = {None: None}
    first: dict[str, str] = {}  # digest of a path → the item that ends it
    ends: dict[str | None, str | None] = {None: None}
    items = []
    for node in ordered(nodes, notes):
        parent = kept[node.id] = kept[node.parent]
        if node.message is None:
            continue
        try:
            end = chain.next_id(ends[parent], chain.content_digest(node.message))
            values.message_text(node.message)
        except Invalid as error:
            notes.add(f"left out: {error}", node.index, node.id)
            continue
        if end in first:
            kept[node.id] = first[end]
            notes.add(
                f"says the same as the message {first[end]!a}, after the same one: kept once",
                node.index,
                node.id,
            )
            continue
        kept[node.id] = first[end] = node.id
        ends[node.id] = end
        items.append(_item(node, node.message, parent))
    return items, kept


def bounded(messages: Sized) -> None:
    """Refuses more messages than one conversation may have, before anything is made of them."""
    if len(messages) > MAX_MESSAGES:
        raise Unreadable(
            f"A conversation may have {MAX_MESSAGES:,} messages, and this one has more.",
            "messages",
        )


def ordered(nodes: Iterable[Node], notes: ImportNotes) -> list[Node]:
    """The nodes, parents before children.

    Law: an id is given once; a link to nowhere, or in a circle, is cut and noted.
    """
    by_id = _by_id(nodes, notes)
    done: dict[str, bool] = {}  # False: on the way that is being gone
    order: list[Node] = []
    for start in by_id.values():
        way: list[Node] = []
        node: Node | None = start
        while node is not None and node.id not in done:
            done[node.id] = False
            way.append(node)
            node = _before(node, by_id, notes)
        if node is not None and not done[node.id]:
            notes.add(
                "follows itself, by way of others: it begins a branch instead", node.index, node.id
            )
            node.parent = None
            at = way.index(node)
            way = [*way[:at], *way[at + 1 :], node]
        for node in reversed(way):
            done[node.id] = True
            order.append(node)
    return order


def head_of(
    head: object, kept: Mapping[str | None, str | None], items: list[Item], notes: ImportNotes
) -> str | None:
    """The item that the source's head is kept as, else the last message."""
    if isinstance(head, str) and kept.get(head) is not None:
        return kept[head]
    if head is not None:
        notes.add(
            f"the last message shown is said to be {head!a:.100}, which is not kept: "
            "the last one in the file is taken"
        )
    return items[-1].id if items else None


def instructions(id: str, words: str) -> list[Node]:  # noqa: A002 - the public word for it
    """The instructions that a conversation begins with, if any: no message of the source."""
    if not words:
        return []
    return [Node(id=id, parent=None, index=-1, message=Message("system", words))]


def branch(node: Node, messages: list[Message]) -> list[Node]:
    """The node as so many messages, one after the other; the last one has its id."""
    if not messages:
        return [node]
    before, nodes = node.parent, []
    for number, message in enumerate(messages[:-1], 1):
        step = Node(
            id=f"{node.id}/{number}",
            parent=before,
            index=node.index,
            message=message,
            speaker=node.speaker,
            created_at=node.created_at,
        )
        nodes.append(step)
        before = step.id
    node.parent, node.message = before, messages[-1]
    return [*nodes, node]


def _by_id(nodes: Iterable[Node], notes: ImportNotes) -> dict[str, Node]:
    by_id: dict[str, Node] = {}
    for node in nodes:
        if node.id in by_id:
            notes.add("its id is that of another message: both are kept", node.index, node.id)
            node.id = f"{node.id}/again/{len(by_id)}"
        by_id[node.id] = node
        bounded(by_id)
    return by_id


def _before(node: Node, by_id: Mapping[str, Node], notes: ImportNotes) -> Node | None:
    if node.parent is None:
        return None
    if node.parent not in by_id:
        notes.add(
            f"follows the message {node.parent!a:.100}, which is not there: it begins a branch",
            node.index,
            node.id,
        )
        node.parent = None
        return None
    return by_id[node.parent]


def _item(node: Node, message: Message, parent: str | None) -> Item:
    tokens = values.tokens_of(NewItem(message=message)) if node.tokens is None else node.tokens
    return Item(
        id=node.id,
        parent=parent,
        position=0,
        message=message,
        speaker=node.speaker,
        tokens=tokens,
        usage=node.usage,
        request_id=node.request_id,
        incomplete=node.incomplete,
        side=node.side,
        created_at=node.created_at,
    )
