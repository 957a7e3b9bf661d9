"""Conversations besides their answers: titles, summaries, retention, budgets, cache, stores."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import Answer, Gate, Plain, Request, error
from conversations import Kept, asked, talk
from echo_model import chat_completion
from openai import APIError, InternalServerError, OpenAI, RateLimitError
from process import Chattable, chattable
from promises.house import until
from upstream import ScriptedUpstream

CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
  scribe: {{kind: openai, base_url: "{scribe}", api_key: x, retries: 0}}
models:
  m: {{provider: stub, price: {{input: 1, output: 1}}}}
  scribe: {{provider: scribe, price: {{input: 1, output: 1}}}}
"""
PLAIN = "sessions: {retention: {max_sessions_per_user: 3, max_messages: 4}}\ncache: {ttl: 1h}\n"
TESTS = Path(__file__).parents[1]

CARE = """
sessions:
  title: {{model: scribe}}
  summary: {{model: scribe, after: {after}, keep: 4}}
  window: {{messages: {most}}}
"""

STORES = '''
from pathlib import Path
from chattable.budget.storage.errors import StorageUnavailable
from session_model import MemorySessions

class Notebook(MemorySessions):
    """Writes down what is said, and is away while there is a file that says so."""

    async def open(self, *given, **more):
        self.check("open")
        return await super().open(*given, **more)

    async def commit(self, session, turn):
        self.check("commit")
        done = await super().commit(session, turn)
        with Path("notebook").open("a") as book:
            said = [entry.message for entry in turn.entries]
            book.writelines(f"{one.role}: {one.text}\\n" for one in said)
        return done

    def check(self, what):
        if Path(f"no-{what}").exists():
            raise StorageUnavailable("the canary dog ate it")
'''


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def scribe() -> Iterator[ScriptedUpstream]:
    """A model that writes titles and notes, each another."""
    with ScriptedUpstream() as running:
        running.reply = lambda request: written(request, len(running.requests))
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream, scribe: ScriptedUpstream) -> None:
    upstream.clear()
    scribe.clear()


@pytest.fixture(scope="module")
def plain(upstream: ScriptedUpstream, scribe: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url, scribe=scribe.url) + PLAIN) as running:
        yield running


@pytest.fixture(scope="module")
def cared(upstream: ScriptedUpstream, scribe: ScriptedUpstream) -> Iterator[Chattable]:
    """Sums up after 8 messages, of which all would fit."""
    with chattable(
        (CONFIG + CARE).format(url=upstream.url, scribe=scribe.url, after=8, most=100)
    ) as running:
        yield running


def written(request: Request, number: int) -> Answer:
    """A title, or notes."""
    words = (
        '"Ada\'s Otters"\n'
        if "title" in request.json["messages"][0]["content"]
        else f"notes {number}"
    )
    asked = {"messages": [{"role": "user", "content": words}]}
    # nearly as tokenisers count
    return Plain(200, chat_completion(asked, lambda text: -(-len(text) // 4)))


def client(server: Chattable, name: str) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key(name), max_retries=0, timeout=20
    )


def usage(server: Chattable, user: str) -> dict[str, int]:
    """A user's tokens by tag."""
    rows = server.admin("GET", f"/admin/usage?group_by=tag&user={user}")["data"]
    return {row["tag"] or "": row["total_tokens"] for row in rows}


def charged(server: Chattable, user: str, upstream: ScriptedUpstream) -> None:
    """Waits until the user is charged for all that an upstream answered, and nothing else."""

    def rows() -> Any:
        return server.admin("GET", f"/admin/usage?group_by=user&user={user}")["data"]

    until(lambda: rows() and rows()[0]["total_tokens"] >= upstream.tokens, f"{user} is charged", 10)
    assert rows()[0]["total_tokens"] == upstream.tokens
    assert rows()[0]["prompt_tokens"] == sum(spent.prompt_tokens for spent in upstream.usage_log)


# --- titles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Where do otters sleep?", "Where do otters sleep?"),
        ("  two\n\n lines\t\x07 of it ", "two lines of it"),
        ("a very long question " * 6, "a very long question a very long question a very long…"),
        ("x" * 100, "x" * 60 + "…"),
    ],
)
def test_a_title_is_made_of_the_first_words(plain: Chattable, said: str, title: str) -> None:
    name = f"words-{len(said)}-{len(title)}"
    talk(client(plain, name), said, "s")
    assert Kept(plain).title(name, "s") == title
    talk(client(plain, name), "and cats?", "s")
    assert Kept(plain).title(name, "s") == title


def test_a_title_is_written_by_the_model_that_the_config_names(
    cared: Chattable, scribe: ScriptedUpstream
) -> None:
    talk(client(cared, "ada"), "Where do otters sleep?", "s")
    assert Kept(cared).title("ada", "s") == "Ada's Otters"
    (prompt,) = asked(scribe)
    # the question, and the answer, which repeats it
    assert prompt.count("Where do otters sleep?") == 2
    until(lambda: set(usage(cared, "ada")) == {"", "title"}, "the title is charged")
    assert usage(cared, "ada")["title"] == scribe.tokens


def test_a_title_that_cannot_be_written_is_made_of_words(
    cared: Chattable, scribe: ScriptedUpstream
) -> None:
    scribe.script(error(500, "no"))
    talk(client(cared, "bea"), "Where do otters sleep?", "s")
    assert Kept(cared).title("bea", "s") == "Where do otters sleep?"


def test_the_title_of_somebody_stays(cared: Chattable, scribe: ScriptedUpstream) -> None:
    sdk, kept, held = client(cared, "cal"), Kept(cared), Gate()
    scribe.script(held)
    talk(sdk, "one", "s")
    held.wait()
    kept.update("cal", "s", title="Mine")  # while the model is still writing one
    held.release()
    until(lambda: "title" in usage(cared, "cal"), "the model has written")
    talk(sdk, "two", "s")
    assert kept.title("cal", "s") == "Mine"


# --- summaries ------------------------------------------------------------------------------------


def test_what_is_old_is_summed_up_and_the_sum_stands_for_it(
    cared: Chattable, upstream: ScriptedUpstream, scribe: ScriptedUpstream
) -> None:
    sdk, kept = client(cared, "sue"), Kept(cared)
    talk(sdk, [{"role": "system", "content": "be brief"}, {"role": "user", "content": "0"}], "s")
    for i in range(1, 5):
        talk(sdk, str(i), "s")
    assert len(asked(upstream)) == 10  # nothing was left out, and nobody waited
    until(lambda: kept.session("sue", "s").summary, "there is a summary")
    summary = kept.session("sue", "s").summary
    assert summary
    told = talk(sdk, "5", "s")
    assert asked(upstream)[0] == "s:be brief"
    assert asked(upstream)[1].startswith("s:") and asked(upstream)[1].endswith(summary.text)
    assert asked(upstream)[2:] == ["u:3", "a:3", "u:4", "a:4", "u:5"]
    assert told.injected == 6
    (prompt,) = (
        line for i in range(len(scribe.requests)) if "Notes:" in (line := asked(scribe, i)[0])
    )
    assert all(f"user: {i}" in prompt for i in range(3)) and "user: 3" not in prompt
    assert kept.said("sue", "s")[:3] == ["s:be brief", "u:0", "a:0"]  # nothing is lost by it
    until(lambda: usage(cared, "sue").keys() == {"", "title", "summary"}, "the summary is charged")
    assert usage(cared, "sue")["summary"] + usage(cared, "sue")["title"] == scribe.tokens


def test_a_summary_grows(
    cared: Chattable, upstream: ScriptedUpstream, scribe: ScriptedUpstream
) -> None:
    sdk, kept = client(cared, "gus"), Kept(cared)
    first = None
    for i in range(30):
        talk(sdk, str(i), "s")
        found = kept.session("gus", "s").summary
        first = first or found
        if found and first and found != first:
            break
    else:
        raise AssertionError("one summary was enough for 30 turns")
    notes = [line for i in range(len(scribe.requests)) if "Notes:" in (line := asked(scribe, i)[0])]
    assert first.text in notes[1]
    assert "user: 0" in notes[0] and "user: 0\n" not in notes[1]


def test_a_summary_that_fails_loses_nothing(
    cared: Chattable, upstream: ScriptedUpstream, scribe: ScriptedUpstream
) -> None:
    scribe.reply, before = lambda _: error(500, "no"), scribe.reply
    try:
        sdk = client(cared, "flo")
        for i in range(7):
            assert talk(sdk, str(i), "s").text == str(i)
        assert len(asked(upstream)) == 13
        assert Kept(cared).session("flo", "s").summary is None
    finally:
        scribe.reply = before


@pytest.mark.parametrize(("most", "keep"), [(6, 4), (3, 20)])
def test_what_does_not_fit_is_summed_up_before_it_is_missed(
    upstream: ScriptedUpstream, scribe: ScriptedUpstream, most: int, keep: int
) -> None:
    config = (CONFIG + CARE).format(url=upstream.url, scribe=scribe.url, after=60, most=most)
    with chattable(config.replace("keep: 4", f"keep: {keep}")) as server:
        sdk, kept = client(server, "pam"), Kept(server)
        for i in range(6):
            talk(sdk, f"say {i}", "s")
            session = kept.session("pam", "s")
            sent = asked(upstream)
            known = [f"u:say {k}" in sent for k in range(i)]
            summed = [
                line
                for k in range(len(scribe.requests))
                if "Notes:" in (line := asked(scribe, k)[0])
            ]
            assert all(
                known[k] or any(f"user: say {k}" in line for line in summed) for k in range(i)
            ), (sent, summed)
            assert len(sent) <= most + 2
        assert session.summary is not None


# --- retention ------------------------------------------------------------------------------------


def test_the_newest_sessions_and_messages_are_kept(
    plain: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept = client(plain, "rex"), Kept(plain)
    for name in "abcd":
        history = [
            {"role": role, "content": f"{name}{i}"}
            for i in range(4)
            for role in ("user", "assistant")
        ][:-1]
        talk(sdk, history, name, mode="mirror")
    talk(sdk, "e0", "e")
    until(
        lambda: {session.alias for session in kept.sessions("rex")} == set("cde"),
        "three sessions are left",
        10,
    )
    until(
        lambda: kept.said("rex", "d") == ["u:d2", "a:d2", "u:d3", "a:d3"],
        "of four messages each",
        10,
    )
    talk(sdk, "d4", "d")
    assert asked(upstream) == ["u:d2", "a:d2", "u:d3", "a:d3", "u:d4"]
    assert talk(sdk, "a4", "a").injected == 0


# --- budgets and the cache ------------------------------------------------------------------------


def test_the_history_is_paid_for(plain: Chattable, upstream: ScriptedUpstream) -> None:
    sdk = client(plain, "bud")
    for text in ("one two three", "four five", "six"):
        talk(sdk, text, "s", max_tokens=5)
    assert [spent.prompt_tokens for spent in upstream.usage_log] == [
        3,
        3 + 3 + 2,
        3 + 3 + 2 + 2 + 1,
    ]
    charged(plain, "bud", upstream)


def test_a_budget_without_room_for_the_history_refuses_the_turn(
    plain: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept = client(plain, "ben"), Kept(plain)
    talk(sdk, "otter " * 400, "s", max_tokens=1)
    plain.admin(
        "POST", "/admin/budgets", {"subject": {"user": "ben"}, "per": "total", "tokens": 300}
    )
    with pytest.raises(RateLimitError) as refused:
        talk(sdk, "hi", "s", max_tokens=5)
    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(upstream.requests) == 1
    assert len(kept.said("ben", "s")) == 2
    assert talk(sdk, "hi", "t", max_tokens=5).text == "hi"


def test_a_cached_answer_is_one_to_the_same_history(
    plain: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept = client(plain, "cas"), Kept(plain)
    for name, first in (("a", "red"), ("b", "blue"), ("c", "red")):
        talk(sdk, first, name)
        told = talk(sdk, "which colour", name)
        assert told.headers["x-cache"] == ("HIT" if name == "c" else "MISS")
        assert kept.said("cas", name) == [
            f"u:{first}",
            f"a:{first}",
            "u:which colour",
            "a:which colour",
        ]
    assert len(upstream.requests) == 4


# --- a store of one's own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noted(
    upstream: ScriptedUpstream, scribe: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chattable]:
    folder = tmp_path_factory.mktemp("store")
    (folder / "session_store.py").write_text(STORES)
    path = os.pathsep.join(filter(None, (str(folder), str(TESTS), os.environ.get("PYTHONPATH"))))
    config = (
        CONFIG.format(url=upstream.url, scribe=scribe.url)
        + 'sessions: {store: "session_store:Notebook"}\n'
    )
    prefix = ["env", "-C", str(folder)]
    with chattable(config, directory=folder, prefix=prefix, PYTHONPATH=path) as running:
        yield running


def test_sessions_are_kept_where_the_config_says(
    noted: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(noted, "sam")
    talk(sdk, "one", "s")
    talk(sdk, "two", "s", stream=True)
    assert asked(upstream) == ["u:one", "a:one", "u:two"]
    assert (
        Path(noted.directory, "notebook").read_text()
        == "user: one\nassistant: one\nuser: two\nassistant: two\n"
    )
    assert Kept(noted).sessions("sam") == []


def test_a_store_that_is_away_is_a_quick_503_and_others_are_answered(
    noted: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, away = client(noted, "sid"), Path(noted.directory, "no-open")
    talk(sdk, "one", "s")
    away.touch()
    try:
        with pytest.raises(InternalServerError) as refused:
            talk(sdk, "two", "s")
        assert (refused.value.status_code, refused.value.code) == (503, "database_unavailable")
        assert refused.value.response.headers["retry-after"] == "1"
        assert "canary" not in refused.value.response.text
        assert refused.value.response.elapsed.total_seconds() < 1
        assert talk(sdk, "without").text == "without"
        assert len(upstream.requests) == 2
    finally:
        away.unlink()
    assert talk(sdk, "three", "s").injected == 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_kept_is_not_called_complete(
    noted: Chattable, upstream: ScriptedUpstream, stream: bool
) -> None:
    name = f"una-{stream}"
    sdk, away = client(noted, name), Path(noted.directory, "no-commit")
    talk(sdk, "one", "s")
    away.touch()
    try:
        with pytest.raises(APIError) as refused:
            talk(sdk, "two", "s", stream=stream)
        assert refused.value.code == "database_unavailable"
    finally:
        away.unlink()
    talk(sdk, "three", "s")
    assert asked(upstream) == ["u:one", "a:one", "u:three"]
    charged(noted, name, upstream)  # the answer was there
