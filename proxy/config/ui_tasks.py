"""What chat UIs ask besides their users' questions, by the names that Open WebUI has for it."""

# The kinds of tasks. Those that are answered in JSON are called as the key that UIs read.
TITLE, TAGS, FOLLOW_UPS, QUERIES = "title", "tags", "follow_ups", "queries"
COMPLETION, IMAGE, TOOLS, MEMORY = "text", "prompt", "tool_calls", "operations"
MERGED, SUMMARY, OTHER = "merged", "summary", "other"
KEYS = (TITLE, TAGS, FOLLOW_UPS, QUERIES, COMPLETION, IMAGE, TOOLS, MEMORY)

TASKS = {  # what Open WebUI calls them
    "title_generation": TITLE,
    "tags_generation": TAGS,
    "follow_up_generation": FOLLOW_UPS,
    "query_generation": QUERIES,
    "autocomplete_generation": COMPLETION,
    "image_prompt_generation": IMAGE,
    "function_calling": TOOLS,
    "memory_review": MEMORY,
    "moa_response_generation": MERGED,
    "context_compaction": SUMMARY,
    "emoji_generation": OTHER,
    "other": OTHER,
}
