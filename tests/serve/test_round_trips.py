"""How often a request waits for Redis: what it asks before the upstream call, and after it, goes together."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from answers import Gate
from openai import OpenAI
from process import chattable
from upstream import ScriptedUpstream
from valkeys import Valkey, valkey_server

CONFIG = """
redis_url: "{redis}"
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub}}
cache: {{ttl: 1h}}
budgets: {{default: {{tokens: 1000000, per: day}}}}
rate_limits: {{default: {{requests_per_minute: 1000, tokens_per_minute: 1000000, parallel: 50}}}}
"""


class Relay:
    """Stands between a client and Valkey, and counts what the client sends: one piece for each round trip."""

    def __init__(self, valkey: Valkey) -> None:
        self.pieces: list[bytes] = []
        self._valkey = valkey
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    @property
    def trips(self) -> list[bytes]:
        return [piece for piece in self.pieces if b"EVALSHA" in piece]

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(self._valkey.url.rpartition(":")[2].partition("/")[0])
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(self._pass(reader, forth, self.pieces), self._pass(back, writer, []))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]
    ) -> None:
        while piece := await reader.read(2**20):
            seen.append(piece)
            writer.write(piece)
        writer.close()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with valkey_server() as valkey:
        running = Relay(valkey)
        yield running
        running.stop()


def test_one_before_the_upstream_and_one_after(relay: Relay) -> None:
    with (
        ScriptedUpstream() as upstream,
        chattable(CONFIG.format(url=upstream.url, redis=relay.url)) as server,
    ):
        sdk = OpenAI(
            base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
        )

        def ask(text: str) -> str:
            return str(sdk.chat.completions.with_raw_response.create(
                model="m", messages=[{"role": "user", "content": text}]
            ).headers["x-cache"])  # fmt: skip

        for n in range(5):
            gate = Gate()
            upstream.script(gate)
            before = len(relay.trips)
            thread = threading.Thread(target=ask, args=[f"question {n}"])
            thread.start()
            gate.wait()
            assert len(relay.trips) - before == 1, relay.trips[before:]
            gate.release()
            thread.join(10)
            upstream.wait(lambda before=before: len(relay.trips) - before >= 2)
            assert len(relay.trips) - before == 2, relay.trips[before:]
        assert len(relay.trips) == 10
        assert ask("question 0") == "HIT"
        assert len(relay.trips) <= 12
