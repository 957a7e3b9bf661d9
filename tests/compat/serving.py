"""What the server under test serves: models of a scripted upstream, and agents of every kind."""

from upstream import ScriptedUpstream

ORIGIN = "https://chat.example.com"
UPSTREAM_KEY = "sk-the-upstream-must-stay-secret"

CONFIG = """
server: {{keepalive: 100ms, cors_origins: [{origin}], on_disconnect: {on_disconnect}}}
providers:
  stub: {{kind: openai, base_url: {url}, api_key: {key}, retries: 0}}
  plain: {{kind: vllm, base_url: {url}, retries: 0}}
  hasty: {{kind: openai, base_url: {url}, retries: 0, timeouts: {{connect: 1s, first_token: 200ms, total: 300ms}}}}
  nobody: {{kind: openai, base_url: "http://127.0.0.1:9/v1", retries: 0}}
models:
  m: {{provider: stub}}
  plain-m: {{provider: plain, model: m}}
  hasty-m: {{provider: hasty, model: m}}
  nobody-m: {{provider: nobody, model: m}}
  meta/llama-3.1:8b: {{provider: stub, model: m, owned_by: meta}}
  gpt-6.1: {{provider: stub, model: m, context_length: 8192, description: "With a dot"}}
  "wild/*": {{provider: stub, model: "*"}}
agents:
  echo: {{use: "chattable.agents.echo:Echo"}}
  scripted: {{use: "chattable.agents.scripted:Scripted", replies: ["one two", "three four"]}}
  jsonish: {{use: "chattable.agents.scripted:Scripted", replies: ['{{"city": "Oslo", "days": 2}}']}}
  caller:
    use: "chattable.agents.scripted:Scripted"
    replies:
      - role: assistant
        tool_calls:
          - {{id: call_a, type: function, function: {{name: weather, arguments: '{{"city": "Oslo"}}'}}}}
          - {{id: call_b, type: function, function: {{name: alarm, arguments: '{{"at": 7}}'}}}}
      - "it is seven in Oslo"
  thinker:
    use: "chattable.agents.scripted:Scripted"
    replies: [[{{reasoning_content: "hm, "}}, {{reasoning_content: "yes"}}, "42"]]
  failing: {{use: "chattable.agents.scripted:Scripted", replies: [{{fail: "The script says no."}}]}}
  half: {{use: "chattable.agents.scripted:Scripted", replies: [["so far ", {{fail: "The script says no."}}]]}}
  buggy: {{use: "chattable.agents.scripted:Scripted", replies: [{{tool_calls: 7}}]}}
  persona: {{model: m, context: "You are terse.", params: {{temperature: 0.5}}}}
  manager: {{use: "chattable.agents.scripted:Scripted", replies: [["asked: ", {{ask: m}}]]}}
"""


def config(upstream: ScriptedUpstream, on_disconnect: str = "drain") -> str:
    """The config of the server under test."""
    return CONFIG.format(
        url=upstream.url, key=UPSTREAM_KEY, origin=ORIGIN, on_disconnect=on_disconnect
    )
