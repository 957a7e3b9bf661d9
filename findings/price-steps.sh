#!/usr/bin/env bash
# What one call costs, by two public price tables of the same month: litellm's and genai-prices'.
#
# One would expect: price = tokens x rate, the same rate for every token, at any time, in both.
# What happens: one more prompt token can double the whole bill, back to the first token, with half
# as much again for the answer (gpt-5.5 from 272,001 on). For claude-sonnet-4-5 from 200,001 on
# genai-prices doubles and litellm does not. DeepSeek's price doubles twice a day; at the weekend
# it does so for genai-prices and does not for litellm.
# Why a gateway's user cares: a budget in dollars that knows one rate per model books half of what
# a long prompt costs; the books need the hour of the call, not of the report; and two honest tools
# can differ by a factor of two on the same log.
#
# 2026-11-30, the versions pinned below. Neither the prices nor the tables are ours.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile litellm==1.110.2 genai-prices==0.2.3

cat >prices.py <<'PY'
import os
from datetime import UTC, datetime

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask for newer prices
import genai_prices
from litellm import Usage
from litellm.litellm_core_utils.llm_cost_calc.utils import generic_cost_per_token

def show(provider, model, tokens, day=30, hour=12):
    """Print what `tokens` of prompt and 1,000 of answer cost on a day of November 2026."""
    at = datetime(2026, 11, day, hour, tzinfo=UTC)
    usage = genai_prices.Usage(input_tokens=tokens, output_tokens=1000)
    one = genai_prices.calc_price(usage, model, genai_request_timestamp=at).total_price
    usage = Usage(prompt_tokens=tokens, completion_tokens=1000, total_tokens=tokens + 1000)
    other = sum(generic_cost_per_token(model, usage, provider, current_time=at))
    call = f"{model} {at:%a %H:%M} {tokens:,} + 1,000"
    print(f"{call}: genai-prices ${one:.4f}, litellm ${other:.4f}")

for provider, model, step in [
    ("openai", "gpt-5.5", 272_000),
    ("gemini", "gemini-2.5-pro", 200_000),
    ("anthropic", "claude-sonnet-4-5", 200_000),
]:
    show(provider, model, step)
    show(provider, model, step + 1)
for day, hour in (30, 0), (30, 1), (30, 4), (30, 6), (30, 10), (28, 6):
    show("deepseek", "deepseek-v4-pro", 100_000, day, hour)
PY
venv/bin/pip freeze | grep -iE '^(litellm|genai-prices)='
timeout 110 venv/bin/python prices.py 2>/dev/null | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
gpt-5.5 Mon 12:00 272,000 + 1,000: genai-prices $1.3900, litellm $1.3900
gpt-5.5 Mon 12:00 272,001 + 1,000: genai-prices $2.7650, litellm $2.7650
gemini-2.5-pro Mon 12:00 200,000 + 1,000: genai-prices $0.2600, litellm $0.2600
gemini-2.5-pro Mon 12:00 200,001 + 1,000: genai-prices $0.5150, litellm $0.5150
claude-sonnet-4-5 Mon 12:00 200,000 + 1,000: genai-prices $0.6150, litellm $0.6150
claude-sonnet-4-5 Mon 12:00 200,001 + 1,000: genai-prices $1.2225, litellm $0.6150
deepseek-v4-pro Mon 00:00 100,000 + 1,000: genai-prices $0.0680, litellm $0.0680
deepseek-v4-pro Mon 01:00 100,000 + 1,000: genai-prices $0.1360, litellm $0.1360
deepseek-v4-pro Mon 04:00 100,000 + 1,000: genai-prices $0.0680, litellm $0.0680
deepseek-v4-pro Mon 06:00 100,000 + 1,000: genai-prices $0.1360, litellm $0.1360
deepseek-v4-pro Mon 10:00 100,000 + 1,000: genai-prices $0.0680, litellm $0.0680
deepseek-v4-pro Sat 06:00 100,000 + 1,000: genai-prices $0.1360, litellm $0.0680
END
