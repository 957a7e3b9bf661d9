"""The README's blocks, pasted as they are: only the address, the key and folders differ."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from echo_model import ask
from process import Chattable, chattable
from upstream import ScriptedUpstream

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
AGENTS = (ROOT / "docs" / "agents.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def block(language: str, holding: str, text: str = README) -> str:
    found = [code for code in blocks(text, language) if holding in code]
    assert len(found) == 1, f"{len(found)} {language} blocks hold {holding!r}"
    return found[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with chattable() as running:
        yield running


def pasted(code: str, server: Chattable) -> str:
    assert "http://127.0.0.1:8000" in code
    return code.replace("http://127.0.0.1:8000", server.base_url).replace(
        "YOUR_KEY", server.admin_key
    )


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_every_block_is_run_here() -> None:
    assert {language: len(blocks(README, language)) for language in ("bash", "python", "javascript", "yaml")} == {
        "bash": 4, "python": 2, "javascript": 1, "yaml": 3,
    }  # fmt: skip
    assert len(README.splitlines()) < 200


def test_curl_chat(server: Chattable) -> None:
    assert '"content":"Hello"' in run(
        "bash", "-c", pasted(block("bash", '"content": "Hello"'), server)
    )


def test_curl_in_a_session(server: Chattable) -> None:
    out = run("bash", "-ec", pasted(block("bash", "X-Session-Id"), server))
    answer, items = (
        out.strip().splitlines() if "\n" in out.strip() else out.replace("}{", "}\n{").splitlines()
    )
    assert '"content":"Remember me"' in answer
    assert [item["content"][0]["text"] for item in json.loads(items)["data"]] == [
        "Remember me",
        "Remember me",
    ]


def test_python(server: Chattable) -> None:
    out = run(sys.executable, "-c", pasted(block("python", "from openai import"), server))
    assert out == "Hello from Python\nHello from Python"


@pytest.mark.skipif(
    shutil.which("npm") is None,
    reason="this machine has no Node.js; everything else needs only Python",
)
def test_node(server: Chattable, tmp_path: Path) -> None:
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chattable-tests" / "node"
    )
    if not (cache / "node_modules" / "openai").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        run(
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(cache),
            "openai@6",
        )
    script = cache / f"readme-{os.getpid()}.mjs"
    script.write_text(pasted(block("javascript", "OpenAI"), server))
    try:
        assert run("node", str(script)) == "Hello from Node"
    finally:
        script.unlink()


def test_curl_admin(server: Chattable) -> None:
    out = run("bash", "-ec", pasted(block("bash", "/admin/users"), server))
    assert '"name":"alice"' in out
    assert re.search(r'"key":"sk-[\w-]{40,}"', out)


def test_config_is_valid(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(block("yaml", "providers:"))
    env = {**os.environ, "OPENAI_API_KEY": "sk-test"}
    out = run(sys.executable, "-m", "chattable.proxy", "check", cwd=tmp_path, env=env)
    assert "fast → openai/gpt-4o-mini" in out
    assert "chef → fast" in out


STUB = "providers: {{stub: {{kind: openai, base_url: '{url}', api_key: x}}}}\n"
FAST = "models: {fast: {provider: stub}}\n"


def test_agents_answer(tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(block("python", "Chattable"))
    with ScriptedUpstream() as upstream:
        agents = block("yaml", "agents:\n  pirate")
        config = STUB.format(url=upstream.url) + FAST + agents
        with chattable(config, PYTHONPATH=str(tmp_path)) as server:
            for name in yaml.safe_load(agents)["agents"]:
                assert "ahoy" in said(server, name, "ahoy there").lower()


def said(server: Chattable, model: str, text: str, **fields: object) -> str:
    """What a model answers."""
    body = ask(text, model=model, **fields)
    answer = server.admin("POST", "/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    return str(message["content"] or message["tool_calls"][0]["function"]["name"])


WRITTEN = [code for code in blocks(AGENTS, "python") if code.startswith("# my_agents.py\n")]
ANSWERS = {
    "shout": "AHOY THERE",
    "french": "ahoy there",
    "german": "ahoy there",
    "debate": "**fast**: ahoy there\n\n**shout**: AHOY THERE\n\n",
    "slowly": "ahoy there",
    "forecaster": "Take an umbrella.",
    "clerk": "weather",
    "ask_client": "look_up",
    "by_sdk": "ahoy there",
    "by_blocking_sdk": "ahoy there",
    "chef": "ahoy there",
    "counting": "This is turn 1.",
    "structured": "ahoy there",
    "moody": "gruff gruff",
    "careful": "ahoy there",
    "noted": "Noted.",
}


@pytest.mark.parametrize("code", WRITTEN, ids=range(len(WRITTEN)))
def test_every_agent_of_the_page_stands_alone(code: str) -> None:
    exec(compile(code, "my_agents.py", "exec"), {"__name__": "my_agents"})


def test_every_python_block_of_the_page_is_an_agent() -> None:
    assert len(WRITTEN) == len(blocks(AGENTS, "python"))


def test_agents_of_the_page_answer(tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text("\n".join(WRITTEN))
    agents: dict[str, object] = {}
    for written in blocks(AGENTS, "yaml"):
        agents |= yaml.safe_load(written)["agents"]
    assert agents.keys() == ANSWERS.keys()
    with ScriptedUpstream() as upstream:
        config = STUB.format(url=upstream.url) + FAST + yaml.safe_dump({"agents": agents})
        with chattable(config, PYTHONPATH=str(tmp_path)) as server:
            for name, answer in ANSWERS.items():
                own = {"rounds": 2, "mood": "gruff"} if name == "moody" else {}
                kept = {"conversation": "new"} if name == "counting" else {}
                assert said(server, name, "ahoy there", **own, **kept).startswith(answer), name
            assert "INFO my_agents admin asked with 1 messages" in server.log()


def test_agents_are_tested_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text("\n".join(WRITTEN))
    page = (ROOT / "docs" / "testing-agents.md").read_text()
    (tmp_path / "test_my_agents.py").write_text("\n".join(blocks(page, "python")))
    (tmp_path / "test.yaml").write_text(block("yaml", "# test.yaml", page))
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    plain = ("-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    out = run(sys.executable, "-m", "pytest", "-q", *plain, cwd=tmp_path, env=env)
    assert "2 passed" in out
    command = (sys.executable, "-m", "chattable.proxy", "check", "--config", "test.yaml")
    assert "debate" in run(*command, cwd=tmp_path, env=env)


def test_librechat_snippet_reaches_the_models(server: Chattable) -> None:
    endpoint = yaml.safe_load(block("yaml", "endpoints:"))["endpoints"]["custom"][0]
    assert endpoint["baseURL"] == "http://127.0.0.1:8000/v1"
    served = [model["id"] for model in server.admin("GET", "/v1/models")["data"]]
    assert set(endpoint["models"]["default"]) <= set(served)


def test_open_webui_snippet_reaches_the_models(server: Chattable) -> None:
    script = pasted(block("bash", "OPENAI_API_BASE_URL"), server)
    script += '\ncurl -sf "$OPENAI_API_BASE_URL/models" -H "Authorization: Bearer $OPENAI_API_KEY"'
    assert '"id":"echo"' in run("bash", "-ec", script)
