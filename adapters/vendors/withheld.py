"""What a client may not tell an upstream unless its provider's `allow` says so.

Another gateway behind it may obey such parameters.
"""

# Where a request goes, and through what.
ADDRESS = frozenset(
    {
        "api_base",
        "api_type",
        "api_version",
        "azure_endpoint",
        "base_url",
        "custom_llm_provider",
        "deployment_id",
    }
    | {
        "endpoint",
        "fallbacks",
        "context_window_fallback_dict",
        "model_list",
        "models",
        "plugins",
        "provider",
        "proxy",
        "route",
    }
)
# Whose account pays, and what is sent beside the body.
CREDENTIALS = frozenset(
    {
        "api_key",
        "api_keys",
        "authorization",
        "aws_access_key_id",
        "aws_bedrock_runtime_endpoint",
        "aws_profile_name",
    }
    | {
        "aws_region_name",
        "aws_role_name",
        "aws_secret_access_key",
        "aws_session_name",
        "aws_session_token",
    }
    | {
        "aws_sts_endpoint",
        "aws_web_identity_token",
        "azure_ad_token",
        "azure_password",
        "azure_username",
        "client_id",
    }
    | {
        "client_secret",
        "default_headers",
        "extra_body",
        "extra_headers",
        "extra_query",
        "headers",
        "organization",
    }
    | {"tenant_id", "vertex_credentials", "vertex_location", "vertex_project"}
)
# What a word costs, how often it is asked for and how long that may take.
PRICE = frozenset(
    {
        "inference_geo",
        "input_cost_per_second",
        "input_cost_per_token",
        "max_retries",
        "mock_response",
        "num_retries",
    }
    | {
        "output_cost_per_second",
        "output_cost_per_token",
        "performanceConfig",
        "request_timeout",
        "serviceTier",
    }
    | {"service_tier", "speed", "stream_timeout", "timeout"}
)
# Anthropic's header of features, where it says more than is known to be harmless
# (vendors/betas.py).
BETAS = "anthropic_beta"

WITHHELD = ADDRESS | CREDENTIALS | PRICE
ALLOWABLE = WITHHELD | {BETAS}
