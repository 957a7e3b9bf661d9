"""/v1/conversations with the unmodified SDK, on both databases: owners, contents, pages."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from databases import held, migrated_postgres, migrated_sqlite
from openai import APIStatusError, NotFoundError, OpenAI
from openai.types.conversations import Conversation
from process import Chattable, chattable

from chattable.agents.chat import Message
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import NewItem, SessionRecord, TurnRecord
from chattable.proxy.store.sessions.sql_store import SqlSessions

CONFIG = """
sessions: {{wait: 1s}}
agents:
  echo: {{use: "chattable.agents.echo:Echo"}}
  caller:
    use: "chattable.agents.scripted:Scripted"
    replies:
      - role: assistant
        content: "On it."
        tool_calls:
          - id: call_a
            type: function
            function: {{name: weather, arguments: '{{"city": "Oslo"}}'}}
          - {{id: call_b, type: function, function: {{name: alarm, arguments: '{{"at": 7}}'}}}}
default_model: echo
database_url: {url}
"""
FIELDS = {
    "id",
    "object",
    "created_at",
    "metadata",
    "alias",
    "title",
    "model",
    "message_count",
    "updated_at",
}
T = TypeVar("T")


class Place:
    """One server, with what its clients use."""

    def __init__(self, server: Chattable, url: str) -> None:
        self.server, self.url = server, url
        self.alice, self.bob = self.client("alice"), self.client("bob")

    def client(self, name: str) -> OpenAI:
        key = self.server.user_key(name)
        return OpenAI(base_url=f"{self.server.base_url}/v1", api_key=key, max_retries=0)

    def http(
        self, method: str, path: str, body: Any = None, *, by: OpenAI | None = None, **query: Any
    ) -> httpx.Response:
        """What the SDK has no method for."""
        key = (by or self.alice).api_key
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with httpx.Client(base_url=self.server.base_url, trust_env=False, timeout=30) as client:
            return client.request(
                method,
                path,
                content=content,
                params=query,
                headers={"authorization": f"Bearer {key}"},
            )

    def stored(self, work: Callable[[SqlSessions], Awaitable[T]]) -> T:
        """Does something to the store, beside the server."""

        async def run() -> T:
            database = Database(self.url)
            await database.start()
            try:
                return await work(SqlSessions(database.storage))
            finally:
                await database.stop()

        return asyncio.run(run())

    def add(self, conversation: Conversation, *messages: Message) -> SessionRecord:
        """Adds messages as a chat does."""

        async def work(store: SqlSessions) -> SessionRecord:
            session = await store.find(conversation.id)
            turn = TurnRecord(
                entries=tuple(NewItem(message=message) for message in messages), parent=session.head
            )
            return (await store.commit(session, turn)).session

        return self.stored(work)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Place]:
    if request.param == "sqlite":
        url = migrated_sqlite(tmp_path_factory.mktemp("serve") / "chattable.db")
        with chattable(CONFIG.format(url=json.dumps(url))) as server:
            yield Place(server, url)
        return
    with held(migrated_postgres()) as url, chattable(CONFIG.format(url=json.dumps(url))) as server:
        yield Place(server, url)


@pytest.fixture
def alice(place: Place) -> OpenAI:
    return place.alice


def said(text: str, role: str = "user") -> Any:
    return {"type": "message", "role": role, "content": text}


def word(item: Any) -> str:
    """What an item says or is."""
    given = item if isinstance(item, dict) else item.model_dump()
    return str(
        given["content"][0]["text"]
        if given["type"] == "message"
        else given.get("call_id") or given["type"]
    )


def words(client: OpenAI, conversation: Conversation) -> list[str]:
    """All of a conversation, in order."""
    return [
        word(item)
        for item in client.conversations.items.list(conversation.id, order="asc", limit=100)
    ]


def refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    return str(error["message"])


# --- conversations --------------------------------------------------------------------------------


def test_a_conversation_is_made_changed_and_deleted(alice: OpenAI) -> None:
    made = alice.conversations.create(metadata={"topic": "NUL \x00"}, items=[said("hi")])
    assert made.id.startswith("conv_")
    assert made.object == "conversation"
    shown = made.model_dump()
    assert shown.keys() == FIELDS | {"params", "state"}
    assert (shown["metadata"], shown["message_count"], shown["alias"], shown["title"]) == (
        {"topic": "NUL \x00"},
        1,
        None,
        None,
    )
    assert alice.conversations.retrieve(made.id) == made
    changed = alice.conversations.update(
        made.id, metadata={"topic": "b"}, extra_body={"title": " A title ", "state": {"n": 2**70}}
    )
    assert changed.metadata == {"topic": "b"}
    assert changed.model_dump()["title"] == "A title"
    assert alice.conversations.retrieve(made.id).model_dump()["state"] == {"n": 2**70}
    assert alice.conversations.update(made.id, metadata=None).metadata == {}
    gone = alice.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(NotFoundError) as error:
        alice.conversations.retrieve(made.id)
    assert (error.value.code, error.value.request_id is not None) == ("not_found", True)


def test_a_conversation_is_made_of_nothing(place: Place, alice: OpenAI) -> None:
    assert alice.conversations.create(items=[]).model_dump()["message_count"] == 0
    for body in (b"", b"{}", b'{"items": null, "metadata": null}'):
        answer = place.http("POST", "/v1/conversations", body)
        assert (answer.status_code, answer.json()["metadata"]) == (200, {})


def test_a_conversation_is_known_by_its_alias_too(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create(
        extra_body={"alias": (alias := f"chat {uuid4()}"), "model": "echo", "params": {"seed": 7}}
    )
    shown = alice.conversations.retrieve(alias).model_dump()
    assert (shown["id"], shown["alias"], shown["model"], shown["params"]) == (
        made.id,
        alias,
        "echo",
        {"seed": 7},
    )
    assert alice.conversations.items.create(alias, items=[said("hi")]).data
    assert words(alice, made) == ["hi"]
    again = place.http("POST", "/v1/conversations", {"alias": alias})
    refused(again, 409, "already_exists", "alias")
    assert place.bob.conversations.create(extra_body={"alias": alias}).id != made.id


def test_conversations_are_listed_the_newest_said_first(place: Place) -> None:
    carol = place.client(f"carol{uuid4().hex}")
    made = [
        carol.conversations.create(extra_body={"state": {"big": "x" * 1000}}).id for _ in range(5)
    ]
    carol.conversations.items.create(made[1], items=[said("hi")])
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = place.http("GET", "/v1/conversations", by=carol, limit=2, **after).json()
        assert page["object"] == "list"
        assert len(page["data"]) <= 2
        assert all(row.keys() == FIELDS for row in page["data"])
        assert (page["first_id"], page["last_id"]) == (
            page["data"][0]["id"],
            page["data"][-1]["id"],
        )
        found += [row["id"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert found[0] == made[1]
    assert sorted(found) == sorted(made)
    assert [
        place.http("GET", "/v1/conversations", by=carol, limit=0).json()[name]
        for name in ("data", "has_more")
    ] == [[], True]
    nobody = place.http("GET", "/v1/conversations", by=place.client(f"dave{uuid4().hex}")).json()
    assert (nobody["data"], nobody["has_more"], nobody["first_id"]) == ([], False, None)
    refused(
        place.http("GET", "/v1/conversations", by=carol, after="nothing"),
        400,
        "invalid_value",
        "after",
    )
    refused(
        place.http("GET", "/v1/conversations", by=carol, limit=101),
        400,
        "integer_above_max_value",
        "limit",
    )


TOO_MUCH: list[tuple[dict[str, Any], str, str]] = [
    ({"metadata": {str(i): "x" for i in range(17)}}, "invalid_value", "metadata"),
    ({"metadata": {"k" * 65: "x"}}, "invalid_value", "metadata"),
    ({"metadata": {"k": "x" * 513}}, "invalid_value", "metadata"),
    ({"metadata": {"k": 1}}, "invalid_type", "metadata"),
    ({"metadata": []}, "invalid_type", "metadata"),
    ({"params": [1]}, "invalid_type", "params"),
    ({"state": {"x": "y" * 2**20}}, "invalid_value", "state"),
    ({"title": 7}, "invalid_type", "title"),
    ({"titel": "x"}, "unknown_parameter", "titel"),
]


def test_what_is_wrong_is_refused_by_field_and_changes_nothing(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create()
    newest = place.http("GET", "/v1/conversations", limit=1).json()["data"]
    for body, code, param in TOO_MUCH:
        for path in ("/v1/conversations", f"/v1/conversations/{made.id}"):
            refused(place.http("POST", path, body | {"model": "echo"}), 400, code, param)
    for path in ("/v1/conversations", f"/v1/conversations/{made.id}"):
        refused(
            place.http("POST", path, {"model": "nothing", "title": "x"}),
            404,
            "model_not_found",
            "model",
        )
    refused(
        place.http("POST", "/v1/conversations", {"alias": "a\nb"}), 400, "invalid_value", "alias"
    )
    for body, code, param in (
        ({"items": [said("x")] * 21}, "array_above_max_length", "items"),
        (
            {"items": [said("kept?"), {"role": "wizard", "content": ""}]},
            "invalid_value",
            "items[1].role",
        ),
        ({"items": "x"}, "invalid_type", "items"),
        ({"items": [7]}, "invalid_type", "items[0]"),
    ):
        refused(place.http("POST", "/v1/conversations", body), 400, code, param)
        refused(place.http("POST", f"/v1/conversations/{made.id}/items", body), 400, code, param)
    refused(
        place.http("POST", f"/v1/conversations/{made.id}/items", {}),
        400,
        "missing_required_parameter",
        "items",
    )
    assert alice.conversations.retrieve(made.id) == made
    assert words(alice, made) == []
    assert place.http("GET", "/v1/conversations", limit=1).json()["data"] == newest
    full = {f"{i:064}": "é" * 512 for i in range(16)}
    assert alice.conversations.update(made.id, metadata=full).metadata == full


# --- whose ----------------------------------------------------------------------------------------


def test_another_users_conversation_is_like_one_that_nobody_has(
    place: Place, alice: OpenAI
) -> None:
    hers = alice.conversations.create(
        items=[said("secret")], extra_body={"alias": f"hers {uuid4()}"}
    )
    item = alice.conversations.items.list(hers.id).data[0].id
    alias = hers.model_dump()["alias"]
    for name in (hers.id, alias, "conv_" + "0" * 32, "nothing", "conv_123%00", "x" * 600):
        for method, path, body in (
            ("GET", "", None),
            ("POST", "", {"title": "mine"}),
            ("DELETE", "", None),
            ("GET", "/usage", None),
            ("POST", "/title", {"title": "mine"}),
            ("POST", "/fork", {}),
            ("POST", "/items", {"items": [said("mine")]}),
            ("GET", "/items", None),
            ("GET", f"/items/{item}", None),
            ("DELETE", f"/items/{item}", None),
        ):
            answer = place.http(method, f"/v1/conversations/{name}{path}", body, by=place.bob)
            shown = repr(name.replace("%00", "\0"))
            assert (
                refused(answer, 404, "not_found") == f"No conversation has the id or name {shown}."
            )
    assert words(alice, hers) == ["secret"]
    assert alice.conversations.retrieve(hers.id) == hers
    for path in ("/v1/conversations", f"/v1/conversations/{hers.id}/items"):
        with httpx.Client(base_url=place.server.base_url, trust_env=False) as client:
            assert client.get(path).status_code == 401


# --- items ----------------------------------------------------------------------------------------


def test_items_are_added_shown_and_deleted(alice: OpenAI) -> None:
    made = alice.conversations.create()
    added: Any = alice.conversations.items.create(
        made.id, items=[said("q"), said("a", "assistant")], include=["reasoning.encrypted_content"]
    )
    assert (added.object, added.has_more, added.first_id, added.last_id) == (
        "list",
        False,
        added.data[0].id,
        added.data[1].id,
    )
    assert [item.type for item in added.data] == ["message", "message"]
    listed = alice.conversations.items.list(
        made.id, order="asc", include=["reasoning.encrypted_content"]
    )
    assert listed.data == added.data
    assert [
        alice.conversations.items.retrieve(item.id, conversation_id=made.id) for item in added.data
    ] == added.data
    left = alice.conversations.items.delete(added.data[0].id, conversation_id=made.id)
    assert (left.id, left.object, left.model_dump()["message_count"]) == (
        made.id,
        "conversation",
        1,
    )
    assert words(alice, made) == ["a"]
    for call in (alice.conversations.items.retrieve, alice.conversations.items.delete):
        for unknown in (
            added.data[0].id,
            added.data[1].id + ".1",
            added.data[1].id.replace("msg_", "fc_"),
            "msg_abc",
            "after",
            "\0",
        ):
            with pytest.raises(NotFoundError):
                call(unknown, conversation_id=made.id)
    assert words(alice, made) == ["a"]
    assert alice.conversations.items.create(made.id, items=[]).data == []


def test_whatever_is_added_comes_back(place: Place, alice: OpenAI) -> None:
    items: list[Any] = [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "NUL \x00 👩\u200d💻"},
            {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "low"},
            {"type": "input_image", "file_id": "file_1", "detail": "high"},
            {"type": "input_file", "file_data": "QUJD", "filename": "a.pdf"},
        ], "status": "completed"},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "s"}],
            "encrypted_content": "e",
        },
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "f",
            "arguments": '{"x": 1}',
            "status": "completed",
        },
        {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"},
        {"type": "function_call_output", "call_id": "c1", "output": "42", "status": "completed"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "a b"}],
        },
        {
            "type": "not_invented_yet",
            "big": 2**70,
            "nested": [{"x": [None, 1.5, True]}],
            "content": 7,
        },
    ]  # fmt: skip
    made = alice.conversations.create(items=items)
    found = place.http("GET", f"/v1/conversations/{made.id}/items", order="asc").json()["data"]
    assert [
        {name: item[name] for name in given} for item, given in zip(found, items, strict=True)
    ] == items
    assert [item["id"].partition("_")[0] for item in found] == [
        "msg",
        "rs",
        "fc",
        "ctc",
        "fco",
        "ctco",
        "item",
    ]
    assert [item.type for item in alice.conversations.items.list(made.id, order="asc")] == [
        item["type"] for item in items
    ]


def test_halves_of_characters_survive(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create()
    body = (
        b'{"items": [{"role": "user", "content": "cut \\ud83d"},'
        b' {"type": "odd", "\\uD800": "\\udfff \\u0000"}]}'
    )
    added = place.http("POST", f"/v1/conversations/{made.id}/items", body)
    assert added.status_code == 200, added.text
    found = json.loads(
        place.http("GET", f"/v1/conversations/{made.id}/items", order="asc").content
    )["data"]
    assert found == json.loads(added.content)["data"]
    assert (word(found[0]), found[1]["\ud800"]) == ("cut \ud83d", "\udfff \x00")
    changed = place.http("POST", f"/v1/conversations/{made.id}", b'{"metadata": {"k": "\\ud800"}}')
    assert json.loads(changed.content)["metadata"] == {"k": "\ud800"}
    for broken in (
        b'{"items": [{"role": "user", "content": "\\ud83d"}',
        b'["\\ud83d"]',
        b'{"items": ["\\ud83d", NaN]}',
    ):
        assert (
            place.http("POST", f"/v1/conversations/{made.id}/items", broken).json()["error"][
                "param"
            ]
            is None
        )


HALF = "\\ud83d"
# Bodies with half a character where something else is expected, and the field that is wrong.
WRONG = [
    ('"HALF"', None),
    ('["HALF"]', None),
    ('{"HALF": 1}', "\ufffd"),
    ('{"metadata": ["HALF"]}', "metadata"),
    ('{"metadata": "HALF"}', "metadata"),
    ('{"metadata": {"HALF": 1}}', "metadata"),
    ('{"metadata": {"a": ["HALF"]}}', "metadata"),
    ('{"title": ["HALF"]}', "title"),
    ('{"params": ["HALF"]}', "params"),
    ('{"state": "HALF"}', "state"),
    ('{"items": "HALF"}', "items"),
    ('{"items": ["HALF"]}', "items[0]"),
    ('{"items": [["HALF"]]}', "items[0]"),
    ('{"items": [{"HALF": 1}]}', "items[0].type"),
    ('{"items": [{"role": "user", "content": ["HALF"]}]}', "items[0].content[0]"),
    ('{"alias": ["HALF"]}', "alias"),
]


@pytest.mark.parametrize("path", ["", "/{id}", "/{id}/items", "/{id}/title", "/{id}/fork"])
def test_half_a_character_where_something_else_is_expected_is_refused(
    place: Place,
    alice: OpenAI,
    path: str,
) -> None:
    made = alice.conversations.create()
    where = f"/v1/conversations{path}".format(id=made.id)
    for body, param in WRONG:
        told = place.http("POST", where, body.replace("HALF", HALF).encode())
        assert told.status_code == 400, (body, told.text)
        error = told.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        if path == "" or error["code"] != "unknown_parameter":  # the others take less
            assert error["param"] == param, body


NO_ITEMS = ["msg_abc", "abc", "msg_", "_", "msg_.1", "x" * 3000, "a\x00b", "é", "%", " ", "rs/1"]
NO_ITEMS += ["msg_" + "A" * 43]


def test_an_item_that_is_not_there_is_a_404(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create(items=[{"role": "user", "content": "hi"}])
    for name in NO_ITEMS:
        for method in ("GET", "DELETE"):
            told = place.http(method, f"/v1/conversations/{made.id}/items/{quote(name, safe='')}")
            assert told.status_code == 404, name
            kind, param, code = (told.json()["error"][name] for name in ("type", "param", "code"))
            assert (kind, param, code) == ("invalid_request_error", None, "not_found")
    assert len(alice.conversations.items.list(made.id).data) == 1


def test_ids_that_items_bring_are_accepted(place: Place, alice: OpenAI) -> None:
    """Those of messages give way to ours; what its provider knows by its id keeps that."""
    items: Any = [
        {"id": "msg_abc", "type": "message", "role": "user", "content": "hi"},
        {"id": "fc_abc", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"id": "rs_abc", "type": "reasoning", "summary": []},
    ]
    made = alice.conversations.create()
    added: Any = alice.conversations.items.create(made.id, items=items).data
    assert [item.id.partition("_")[0] for item in added] == ["msg", "fc", "rs"]
    for item in added:
        assert alice.conversations.items.retrieve(item.id, conversation_id=made.id) == item
    assert added[2].id == "rs_abc"


def mixed(place: Place) -> tuple[Conversation, list[str]]:
    """A conversation with messages of one item and of three, and what they are in order."""
    made = place.alice.conversations.create()
    calls = [
        {"id": c, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for c in ("a", "b")
    ]
    place.add(made, Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"))
    place.add(
        made,
        Message("assistant", "On it.", tool_calls=calls),
        Message("tool", "1", tool_call_id="a"),
    )
    place.add(
        made,
        Message("tool", "2", tool_call_id="b"),
        Message("assistant", "hm", reasoning_content="well"),
    )
    return made, ["q1", "a1", "q2", "On it.", "a", "b", "a", "b", "reasoning", "hm"]


def test_pages_are_exact_from_either_end_whatever_the_messages_are(
    place: Place, alice: OpenAI
) -> None:
    made, expected = mixed(place)
    for order in ("asc", "desc"):
        wanted = expected if order == "asc" else expected[::-1]
        for limit in (1, 2, 3, 4, 5, 9, 10, 11, 100):
            found: list[Any] = []
            more, after = True, dict[str, Any]()
            while more:
                page = place.http(
                    "GET", f"/v1/conversations/{made.id}/items", order=order, limit=limit, **after
                ).json()
                assert len(page["data"]) == min(limit, len(wanted) - len(found)), (
                    order,
                    limit,
                    len(found),
                )
                found += page["data"]
                more, after = page["has_more"], {"after": page["last_id"]}
            assert [word(item) for item in found] == wanted
            assert len({item["id"] for item in found}) == 10
    assert [word(item) for item in alice.conversations.items.list(made.id, limit=3)] == expected[
        ::-1
    ]
    end = place.http("GET", f"/v1/conversations/{made.id}/items", after=found[-1]["id"]).json()
    assert (end["data"], end["has_more"], end["first_id"], end["last_id"]) == ([], False, "", "")


def test_odd_questions_for_items_are_answered(place: Place, alice: OpenAI) -> None:
    made, _ = mixed(place)
    items = f"/v1/conversations/{made.id}/items"
    some = place.http("GET", items, limit=4).json()["data"]
    for unknown in (
        "after",
        "msg_abc",
        some[0]["id"] + ".7",
        "fc_" + some[0]["id"].partition("_")[2],
        "\0",
        "💥",
    ):
        page = place.http("GET", items, after=unknown).json()
        assert (page["data"], page["has_more"]) == ([], False), unknown
    none = place.http("GET", items, limit=0).json()
    assert (none["data"], none["has_more"]) == ([], True)
    assert len(place.http("GET", items, after="").json()["data"]) == 10
    refused(place.http("GET", items, limit=101), 400, "integer_above_max_value", "limit")
    refused(place.http("GET", items, order="up"), 400, "invalid_value", "order")
    # what was deleted still says where to go on
    alice.conversations.items.delete(some[3]["id"], conversation_id=made.id)
    page = place.http("GET", items, after=some[2]["id"], limit=2).json()
    assert [word(item) for item in page["data"]] == ["b", "a"]
    page = place.http("GET", items, after=some[3]["id"], order="asc").json()
    assert [word(item) for item in page["data"]] == ["b", "reasoning", "hm"]


def test_an_item_that_brought_an_id_is_found_by_it(place: Place, alice: OpenAI) -> None:
    thoughts: list[Any] = [
        {"type": "reasoning", "id": f"rs_{i % 3}", "summary": [], "n": i} for i in range(6)
    ]
    made = alice.conversations.create(
        items=[item for thought in thoughts for item in (thought, said(f"m{thought['n']}"))]
    )
    items = f"/v1/conversations/{made.id}/items"
    for order in ("asc", "desc"):
        for limit in (1, 2, 5):
            found: list[Any] = []
            more, after = True, dict[str, Any]()
            while more and len(found) < 20:
                page = place.http("GET", items, order=order, limit=limit, **after).json()
                found += page["data"]
                more, after = page["has_more"], {"after": page["last_id"]}
            assert [
                item.get("n", item.get("id")) for item in found if item["type"] == "reasoning"
            ] == (list(range(6)) if order == "asc" else list(range(5, -1, -1)))
            assert len(found) == 12
    for unique in (place.http("GET", items, limit=2).json()["last_id"], "rs_2"):
        assert place.http("GET", f"{items}/{unique}").json() == thoughts[5]
        assert [
            word(item) for item in place.http("GET", items, after=unique, limit=1).json()["data"]
        ] == ["m4"]
    fork = Conversation.model_validate(
        place.http("POST", f"/v1/conversations/{made.id}/fork", {"at": "rs_0"}).json()
    )
    assert words(alice, fork) == [
        "reasoning",
        "m0",
        "reasoning",
        "m1",
        "reasoning",
        "m2",
        "reasoning",
    ]
    alice.conversations.items.delete("rs_2", conversation_id=made.id)
    assert place.http("GET", f"{items}/rs_2").json() == thoughts[2]
    refused(place.http("GET", f"{items}/rs_theirs"), 404, "not_found")


def test_an_item_is_deleted_with_the_others_of_its_message(place: Place, alice: OpenAI) -> None:
    made, expected = mixed(place)
    call = next(
        item for item in alice.conversations.items.list(made.id) if item.type == "function_call"
    )
    assert call.id is not None
    left = alice.conversations.items.delete(call.id, conversation_id=made.id)
    assert left.model_dump()["message_count"] == 6
    assert words(alice, made) == expected[:3] + expected[6:]


def test_a_chat_and_the_items_are_one_conversation(alice: OpenAI) -> None:
    made = alice.conversations.create(
        items=[said("Say please.", "system"), said("hi"), said("hello", "assistant")]
    )
    here: Any = {"conversation": made.id}
    ask: Any = {"role": "user", "content": "and again"}
    answer = alice.chat.completions.with_raw_response.create(
        model="echo", messages=[ask], extra_body=here
    )
    assert (answer.headers["x-session-id"], answer.headers["x-session-injected"]) == (made.id, "3")
    assert words(alice, made) == ["Say please.", "hi", "hello", "and again", "and again"]
    alice.chat.completions.create(model="caller", messages=[ask], extra_body=here)
    items = alice.conversations.items.list(made.id, order="asc").data[-3:]
    assert [item.type for item in items] == ["message", "function_call", "function_call"]
    outputs: Any = [
        {"type": "function_call_output", "call_id": c, "output": "done"}
        for c in ("call_a", "call_b")
    ]
    alice.conversations.items.create(made.id, items=outputs)
    alice.chat.completions.create(model="echo", messages=[ask], extra_body=here)
    assert words(alice, made)[-6:] == [
        "call_a",
        "call_b",
        "call_a",
        "call_b",
        "and again",
        "and again",
    ]


def test_items_added_at_once_are_all_there_in_one_order(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create()

    def add(i: int) -> list[str]:
        added = alice.conversations.items.create(
            made.id, items=[said(f"{i} {part}") for part in range(3)]
        )
        return [item.id or "" for item in added.data]

    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(add, range(16)))
    found = words(alice, made)
    assert len({one for three in ids for one in three}) == 48
    assert sorted(found[::3]) == sorted(f"{i} 0" for i in range(16))
    assert [text[-1] for text in found] == ["0", "1", "2"] * 16


def test_items_wait_for_a_turn_that_is_under_way(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create()

    async def hold(store: SqlSessions) -> None:
        assert await store.lock(await store.find(made.id), "a turn", 60) is not None

    async def free(store: SqlSessions) -> None:
        await store.unlock(await store.find(made.id), "a turn")

    place.stored(hold)
    with pytest.raises(APIStatusError) as busy:
        alice.conversations.items.create(made.id, items=[said("hi")])
    assert (busy.value.status_code, busy.value.code, busy.value.param) == (
        409,
        "conversation_locked",
        "conversation",
    )
    assert busy.value.response.headers["x-should-retry"] == "true"
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(alice.conversations.items.create, made.id, items=[said("hi")])
        place.stored(free)
        assert waiting.result(30).data
    assert words(alice, made) == ["hi"]


# --- what OpenAI's API has not --------------------------------------------------------------------


def test_what_a_conversation_used(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create()
    used: dict[str, int] = {}
    for _ in range(2):
        ask: Any = {"role": "user", "content": "one two three"}
        answer = alice.chat.completions.create(
            model="echo", messages=[ask], extra_body={"conversation": made.id}
        )
        assert answer.usage is not None
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            used[name] = used.get(name, 0) + getattr(answer.usage, name)
    shown = place.http("GET", f"/v1/conversations/{made.id}/usage").json()
    assert shown == {"id": made.id, "object": "conversation.usage", "message_count": 4, **used}


def test_a_title_is_given(place: Place, alice: OpenAI) -> None:
    made = alice.conversations.create()
    path = f"/v1/conversations/{made.id}/title"
    assert place.http("POST", path, {"title": "  On \x00 whales\n"}).json()["title"] == "On whales"
    refused(place.http("POST", path, {"title": 7}), 400, "invalid_type", "title")
    assert alice.conversations.retrieve(made.id).model_dump()["title"] == "On whales"
    for body in (None, {}, {"title": None}, {"title": " \x00"}):  # nothing was said yet
        assert place.http("POST", path, body).json()["title"] == "New chat"
    alice.conversations.items.create(
        made.id, items=[said("Why do whales sing?"), said("And when?")]
    )
    assert place.http("POST", path, {}).json()["title"] == "Why do whales sing?"


def test_a_fork_goes_its_own_way(place: Place, alice: OpenAI) -> None:
    made, expected = mixed(place)
    path = f"/v1/conversations/{made.id}/fork"
    items = list(alice.conversations.items.list(made.id, order="asc"))
    whole = Conversation.model_validate(place.http("POST", path).json())
    alias = f"fork {uuid4()}"
    part = Conversation.model_validate(
        place.http("POST", path, {"at": items[4].id, "alias": alias}).json()
    )
    assert (words(alice, whole), words(alice, part)) == (expected, expected[:6])
    assert part.model_dump()["alias"] == alias
    alice.conversations.items.create(part.id, items=[said("on")])
    alice.conversations.items.delete(items[0].id or "", conversation_id=whole.id)
    assert words(alice, made) == expected
    assert words(alice, part) == [*expected[:6], "on"]
    refused(place.http("POST", path, {"alias": alias}), 409, "already_exists", "alias")
    refused(place.http("POST", path, {"alias": ""}), 400, "invalid_value", "alias")
    assert "'msg_abc'" in refused(place.http("POST", path, {"at": "msg_abc"}), 404, "not_found")


# --- administration -------------------------------------------------------------------------------


def test_an_admin_sees_whose_sessions_there_are(place: Place) -> None:
    erin = place.client(name := f"erin{uuid4().hex}")
    made = [erin.conversations.create(items=[said("private words")]).id for _ in range(3)]
    admin = place.server.admin
    first = admin("GET", f"/admin/sessions?user={name}&limit=2")
    rest = admin("GET", f"/admin/sessions?user={name}&limit=2&after={first['last_id']}")
    assert (
        [row["id"] for row in first["data"] + rest["data"]],
        first["has_more"],
        rest["has_more"],
    ) == (made[::-1], True, False)
    row = first["data"][0]
    assert row.keys() == FIELDS | {"user", "user_id", "usage"}
    assert (row["object"], row["user"], row["user_id"][:5], row["message_count"]) == (
        "session",
        name,
        "user_",
        1,
    )
    assert "private words" not in json.dumps(first)
    assert admin("GET", f"/admin/sessions/{row['id']}") == row
    assert {one["id"] for one in admin("GET", "/admin/sessions?limit=1000")["data"]} >= set(made)
    assert admin("GET", f"/admin/sessions?user={row['user_id']}")["data"][0]["id"] == row["id"]
    own = OpenAI(
        base_url=f"{place.server.base_url}/v1", api_key=place.server.admin_key, max_retries=0
    ).conversations.create()
    assert admin("GET", "/admin/sessions?user=admin")["data"][0]["id"] == own.id
    by = OpenAI(base_url="http://x.example", api_key=place.server.admin_key)
    refused(place.http("GET", "/admin/sessions", by=by, user="nobody at all"), 404, "not_found")
    refused(place.http("GET", "/admin/sessions/conv_nothing", by=by), 404, "not_found")
    for method, path in (("GET", ""), ("GET", f"/{made[0]}"), ("DELETE", f"/{made[0]}")):
        refused(place.http(method, f"/admin/sessions{path}"), 403, "forbidden")
    assert erin.conversations.retrieve(made[0]).id == made[0]


def test_an_admins_deletion_is_in_the_audit_trail(place: Place) -> None:
    frank = place.client(name := f"frank{uuid4().hex}")
    made = frank.conversations.create(items=[said("private words")])
    gone = place.server.admin("DELETE", f"/admin/sessions/{made.id}")
    assert gone == {"id": made.id, "object": "session.deleted", "deleted": True}
    with pytest.raises(NotFoundError):
        frank.conversations.retrieve(made.id)
    by = OpenAI(base_url="http://x.example", api_key=place.server.admin_key)
    refused(place.http("DELETE", f"/admin/sessions/{made.id}", by=by), 404, "not_found")
    entries = place.server.admin("GET", "/admin/audit?action=session.delete&limit=2")["data"]
    assert [entry["outcome"].partition(":")[0] for entry in entries] == ["refused", "done"]
    assert (entries[1]["target"], entries[1]["target_name"], entries[0]["target_name"]) == (
        made.id,
        f"session of {name}",
        made.id,
    )
