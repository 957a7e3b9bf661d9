"""Why settings of LiteLLM have no counterpart, and what to do instead."""

from __future__ import annotations

from chattable.proxy.config.document import Where

_PARAMETERS = {
    "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "n", "stop", "seed",
    "presence_penalty", "user",
    "frequency_penalty", "logit_bias", "response_format", "tools", "tool_choice",
    "reasoning_effort", "thinking", "num_ctx",
    "extra_body", "stream", "verbosity", "keep_alive", "default_litellm_params",
}  # fmt: skip
_HEALTH = "a target that fails five times in a row, or half of the time, rests by itself"
_LOGS = "nothing is sent to other services; usage is at GET /admin/usage and `chattable usage`"
_ALERTS = "no alerts are sent but for budgets: `budgets.webhook`"
_USERS = (
    "users, teams and keys are made with POST /admin/users, or `chattable user` and `chattable key`"
)
_PLACE = "what a kind has no place for is left out, or refused: `unsupported`"
_REDIS = "one Redis or Valkey is used: no cluster, no sentinels"
_DATABASE = "the database is used in its own way; there is nothing to set"
_GOOGLE = "Google Cloud's sign-in is not spoken; kind gemini takes an API key"
_AZURE = "Azure's sign-in by token is not spoken; kind azure takes an API key"
_AWS = (
    "roles and profiles are not looked up; "
    "kind bedrock takes a Bedrock API key, or an access key with its secret"
)
_TAGS = "calls are not routed by tags; give the deployment a `model_name` of its own"
_PRICE = "a price has parts for input, output, what is cached, long prompts and pictures"

_REASONS = {
    "guardrails":
        "there are no guardrails; an agent of your own can look at a chat before it asks the model "
        "(docs/agents.md)",
    "mcp_servers":
        "no tools are called here for a client; an agent of your own can (docs/agents.md)",
    "pass_through_endpoints": "only the routes in docs/api.md are served",
    "callback_settings": _LOGS, "callbacks": _LOGS, "success_callback": _LOGS,
    "failure_callback": _LOGS,
    "service_callbacks": _LOGS,
    "turn_off_message_logging": "messages are not logged",
    "redact_messages_in_exceptions": "messages are not logged",
    "alerting": _ALERTS, "alerting_threshold": _ALERTS, "alert_types": _ALERTS,
    "alerting_args": _ALERTS,
    "set_verbose": "how much is logged is not set here",
    "json_logs": "how logs look is not set here",
    "debug_level": "how much is logged is not set here",
    "content_policy_fallbacks":
        "what an upstream refuses for its content is told to the client, and nobody else is asked",
    "allowed_fails": _HEALTH, "allowed_fails_policy": _HEALTH, "cooldown_time": _HEALTH,
    "disable_cooldowns": _HEALTH,
    "retry_policy": "retries are the same for all errors: `retries`",
    "model_group_retry_policy": "`retries` of each model",
    "retry_after":
        "how long to wait before a retry is not set: it doubles, and the upstream's own "
        "`retry-after` counts",
    "max_fallbacks": "all of `fallbacks` are asked in their order",
    "enable_pre_call_checks":
        "a prompt that an upstream finds too long goes on to a target that can read more by itself",
    "optional_pre_call_checks": "turns of one session stay at one target by themselves",
    "routing_strategy_args": "there is nothing to set: by weight, or the quicker of two",
    "enable_tag_filtering": _TAGS, "tag_filtering_match_any": _TAGS, "tags": _TAGS,
    "provider_budget_config": "a provider has no budget; a model has one: POST /admin/budgets",
    "max_budget": "make a budget for all together: POST /admin/budgets with the subject `everyone`",
    "budget_duration": "goes with `max_budget`",
    "max_end_user_budget": "end users have no budgets; users have: `budgets.default`",
    "default_team_settings": _USERS, "default_internal_user_params": _USERS,
    "default_key_generate_params": _USERS,
    "upperbound_key_generate_params": _USERS, "key_generation_settings": _USERS, "team_id": _USERS,
    "access_groups":
        "which models a key may use is said when it is made: `chattable key create --models`",
    "enable_jwt_auth": "only keys are taken", "litellm_jwtauth": "only keys are taken",
    "custom_auth": "only keys are taken",
    "litellm_key_header_name": "keys come as `Authorization: Bearer` or `x-api-key`",
    "user_header_name":
        "keys that are `trusted` say on whose behalf they ask: docs/budgets.md",
    "global_max_parallel_requests": "limits are per user, team, key and model: `rate_limits`",
    "max_parallel_requests": "limits are per user, team, key and model: `rate_limits`",
    "default_max_parallel_requests": "limits are per user, team, key and model: `rate_limits`",
    "store_model_in_db": "models are in config.yaml only; restart the server to read it anew",
    "supported_db_objects": "models are in config.yaml only; restart the server to read it anew",
    "database_connection_pool_limit": _DATABASE, "database_connection_timeout": _DATABASE,
    "proxy_batch_write_at": _DATABASE,
    "allow_requests_on_db_unavailable": "never: nothing is answered that cannot be booked",
    "disable_spend_logs": "what is used is always booked",
    "store_prompts_in_spend_logs": "conversations are kept as sessions",
    "background_health_checks": "no calls are made to look: the calls of clients say who is well",
    "health_check_interval": "no calls are made to look: the calls of clients say who is well",
    "namespace": "keys in Redis have names of their own",
    "supported_call_types": "only chats are kept",
    "redis_startup_nodes": _REDIS, "sentinel_nodes": _REDIS, "service_name": _REDIS,
    "max_connections": "there is nothing to set",
    "similarity_threshold": "only identical requests are answered from the cache",
    "organization":
        "the header OpenAI-Organization is not sent; use a key of that organization's project",
    "extra_headers": "no headers are added", "headers": "no headers are added",
    "additional_drop_params": _PLACE,
    "allowed_openai_params": _PLACE,
    "modify_params": "requests are changed only as the kind of the provider needs it",
    "order": "give the later deployments a `model_name` of their own and name it in `fallbacks`",
    "ssl_verify": "certificates are always checked", "force_ipv4": "there is nothing to set",
    "vertex_project": _GOOGLE, "vertex_location": _GOOGLE, "vertex_credentials": _GOOGLE,
    "azure_ad_token": _AZURE, "tenant_id": _AZURE, "client_id": _AZURE, "client_secret": _AZURE,
    "azure_scope": _AZURE,
    "aws_role_name": _AWS, "aws_session_name": _AWS, "aws_profile_name": _AWS,
    "aws_web_identity_token": _AWS,
    "aws_sts_endpoint": _AWS, "aws_external_id": _AWS,
    "id": "targets have no ids",
    "base_model":
        "what is known of another model is not taken over: set `price` and `context_length`",
    "mock_response": "no answers are made up; an agent can: `chattable.agents.echo:Echo`",
    "supported_environments": "use a config file for each environment",
    "credential_info": "nothing is kept beside a provider",
    "description": "nothing is kept beside a provider",
}  # fmt: skip


def why(where: Where) -> str:
    """What to say of a setting that nothing was made of."""
    name = str(where[-1])
    if where[0] == "environment_variables":
        return "set it where the server starts: a config file here sets no variables"
    if where[0] == "credential_list":
        return _REASONS.get(name, "kind and address of the provider have no use for it")
    if name in _PARAMETERS:
        return (
            "a parameter of every request: "
            "clients send it, or an agent with a `model` and `params` does"
        )
    if "_cost_per_" in name:
        return _PRICE
    if name.startswith("supports_"):
        return "nothing is refused here for what a model is said to support"
    return _REASONS.get(name, "there is nothing like it here")
