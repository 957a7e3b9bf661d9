"""Rate limits as Redis runs them: three scripts, each one atomic step over all limits of a call.

KEYS are two per limit, its counter ("requests tokens at") and its slots (call → end of lease). ARGV
are the call, a number, the time (empty: the server's own) and some numbers per limit, of which -1
says that nothing limits.
"""

from __future__ import annotations

from chattable.budget.rates import MAX_DEBT_MINUTES, SLOT_LEASE_MS, WINDOW_MS
from chattable.budget.storage.redis import RedisScript

SHARED = (
    f"""
local WINDOW, LEASE, DEBT = {WINDOW_MS}, {SLOT_LEASE_MS}, {MAX_DEBT_MINUTES}
"""
    + """
local call, number, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function argument(bound, which)
  return tonumber(ARGV[bound * 3 + which])
end

local function drained(level, limit, elapsed)
  if limit < 0 then return 0 end
  return math.max(0, level - limit * elapsed)
end

local function save(key, requests, tokens, requests_limit, tokens_limit)
  local empty = 0
  if requests_limit > 0 then empty = requests / requests_limit end
  if tokens_limit > 0 then empty = math.max(empty, tokens / tokens_limit) end
  local levels = string.format('%.0f %.0f %.0f', requests, tokens, now)
  redis.call('SET', key, levels, 'PX', math.ceil(empty) + WINDOW)
end

local function load(key, requests_limit, tokens_limit)
  local requests, tokens, at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+) (%d+)$')
  if not at then return 0, 0 end
  local elapsed = now - at
  if elapsed < 0 then  -- the clock was set back: drain from here
    save(key, tonumber(requests), tonumber(tokens), requests_limit, tokens_limit)
    elapsed = 0
  end
  return drained(requests, requests_limit, elapsed), drained(tokens, tokens_limit, elapsed)
end

local function lease(slots)
  redis.call('ZADD', slots, now + LEASE, call)
  redis.call('PEXPIRE', slots, 2 * LEASE)
end
"""
)

# number: the estimate of tokens; per limit: the limits of requests, tokens and slots. Answers 1
# (let in) or 0, then the levels of each limit after the call, or as they are where it was refused.
ENTER = """
local levels, room = {}, true
local function weight(limit) return math.max(1, math.min(number, limit)) end
for i = 1, #KEYS / 2 do
  local by_requests, by_tokens, by_slots = argument(i, 1), argument(i, 2), argument(i, 3)
  local requests, tokens = load(KEYS[2 * i - 1], by_requests, by_tokens)
  local taken = redis.call('ZCOUNT', KEYS[2 * i], '(' .. string.format('%.0f', now), '+inf')
  if (by_requests >= 0 and requests + WINDOW > by_requests * WINDOW)
    or (by_tokens >= 0 and tokens + weight(by_tokens) * WINDOW > by_tokens * WINDOW)
    or (by_slots >= 0 and taken >= by_slots) then room = false end
  levels[3 * i - 2], levels[3 * i - 1], levels[3 * i] = requests, tokens, taken
end
if room then
  for i = 1, #KEYS / 2 do
    local by_requests, by_tokens, slots = argument(i, 1), argument(i, 2), KEYS[2 * i]
    if by_requests >= 0 then levels[3 * i - 2] = levels[3 * i - 2] + WINDOW end
    if by_tokens >= 0 then levels[3 * i - 1] = levels[3 * i - 1] + weight(by_tokens) * WINDOW end
    save(KEYS[2 * i - 1], levels[3 * i - 2], levels[3 * i - 1], by_requests, by_tokens)
    redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
    lease(slots)
  end
end
return {room and 1 or 0, unpack(levels)}
"""

# number: the tokens used; per limit: the limits of requests and tokens, and what the call weighed.
LEAVE = """
for i = 1, #KEYS / 2 do
  local by_requests, by_tokens, weighed = argument(i, 1), argument(i, 2), argument(i, 3)
  local ends = redis.call('ZSCORE', KEYS[2 * i], call)
  redis.call('ZREM', KEYS[2 * i], call)
  if ends and tonumber(ends) > now and by_tokens >= 0 then
    local requests, tokens = load(KEYS[2 * i - 1], by_requests, by_tokens)
    local most = by_tokens * WINDOW * (1 + DEBT)
    tokens = math.min(math.max(0, tokens + (number - weighed) * WINDOW), most)
    save(KEYS[2 * i - 1], requests, tokens, by_requests, by_tokens)
  end
end
return {1}
"""

RENEW = """
for i = 1, #KEYS / 2 do
  local ends = redis.call('ZSCORE', KEYS[2 * i], call)
  if ends and tonumber(ends) > now then lease(KEYS[2 * i]) end
end
return {1}
"""


SCRIPTS = ENTER_SCRIPT, LEAVE_SCRIPT, RENEW_SCRIPT = (
    RedisScript(SHARED + ENTER),
    RedisScript(SHARED + LEAVE),
    RedisScript(SHARED + RENEW),
)
