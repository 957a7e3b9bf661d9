"""Features of Anthropic's that want a header `anthropic-beta`, by their names without the date.

https://platform.claude.com/docs/en/api/beta-headers, read 2026-11.
"""

import re

# What a client may ask for: nothing that costs more, asks other models or other accounts.
KNOWN = frozenset(
    {
        "advanced-tool-use",
        "advisor-tool",
        "cache-diagnosis",
        "code-execution",
        "code-execution-web-tools",
        "compact",
    }
    | {
        "computer-use",
        "context-management",
        "effort",
        "extended-cache-ttl",
        "files-api",
        "fine-grained-tool-streaming",
    }
    | {
        "interleaved-thinking",
        "mcp-client",
        "memory-tool",
        "message-batches",
        "mid-conversation-system",
    }
    | {
        "mid-conversation-system-clear-at",
        "model-context-window-exceeded",
        "output-128k",
        "pdfs",
        "per-turn-effort",
    }
    | {
        "prompt-caching",
        "prompt-caching-scope",
        "redact-thinking",
        "search-results",
        "skills",
        "structured-outputs",
    }
    | {
        "task-budgets",
        "thinking-token-count",
        "token-counting",
        "token-efficient-tools",
        "tool-examples",
    }
    | {"tool-search-tool", "web-fetch", "web-search"}
)
# What a feature of the body brings with it.
CONTEXT = "context-management-2025-06-27"
DIAGNOSTICS = "cache-diagnosis-2026-04-07"
FAST = "fast-mode-2026-02-01"
FILES = "files-api-2025-04-14"
# the older has its tools among the servers
MCP, OLD_MCP = "mcp-client-2025-11-20", "mcp-client-2025-04-04"
SKILLS = ("skills-2025-10-02", "code-execution-2025-08-25")

DATE = re.compile(r"-20\d\d-\d\d-\d\d$")


def feature(beta: str) -> str:
    """The name of a feature, without the date of its version."""
    return DATE.sub("", beta)
