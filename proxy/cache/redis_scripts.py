"""The law of the cache as Redis runs it: every step is one script, and so one atomic round trip.

An entry is a hash: its body, the keys of its tags' generations and what they were when it was asked
for, and when it was stored, by the server's clock. A purge gives a tag a new generation, and no
entry of an old one counts any more. A lease is the id of a flight, "process:number". Its batches
are the list that the flight's followers read, its followers the set of processes that do.

A full server refuses what needs memory only as long as a script has written nothing, and a
deletion is a write: so what needs memory comes first, and where it is refused nothing is kept or
shared. A purge is the exception: it must always come through.
"""

from __future__ import annotations

from chattable.budget.storage.redis import RedisScript

SHARED = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function stamp(tags)
  local found = redis.call('MGET', unpack(tags))
  for i = 1, #tags do found[i] = found[i] or '' end
  return table.concat(found, ' ')
end

local function failed(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

local function full(reply)
  return failed(reply) and string.find(reply.err, 'OOM', 1, true) ~= nil
end

local function publish(followers, prefix, word)
  for _, who in ipairs(redis.call('SMEMBERS', followers)) do
    redis.call('PUBLISH', prefix .. who, word)
  end
end
"""

# KEYS: entry, lease, and the generations of the asker's tags. ARGV: its flight (empty: it does not
# want to lead), its process, milliseconds of a lease, of followers, and of age (empty: any),
# prefixes of followers and of channels. Answers {1, body, age}, {2, stamp, flight or empty} to one
# that leads or goes alone, or {3, flight} of the one that leads.
ACQUIRE = """
local mine, who, age = ARGV[1], ARGV[2], tonumber(ARGV[5])

local function kept()
  local entry = redis.call('HMGET', KEYS[1], 'body', 'tags', 'stamp', 'at')
  if not (entry[1] and entry[2] and entry[3] and entry[4]) then return nil end
  local tags, old = {}, math.max(0, now() - tonumber(entry[4]))
  for tag in string.gmatch(entry[2], '%S+') do tags[#tags + 1] = tag end
  if (age and old > age) or stamp(tags) ~= entry[3] then return nil end
  return {1, entry[1], old}
end

local well, found = pcall(kept)  -- what makes no sense is no answer
if well and found then return found end
local tags = {}
for i = 3, #KEYS do tags[#tags + 1] = KEYS[i] end
local generation = stamp(tags)
if mine == '' then return {2, generation, ''} end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= mine then
  local followers = ARGV[6] .. holder
  if full(redis.pcall('SADD', followers, who)) then return {2, generation, ''} end
  redis.pcall('PEXPIRE', followers, ARGV[4])
  redis.call('PUBLISH', ARGV[7] .. string.match(holder, '^[^:]*'), holder)
  return {3, holder}
end
local set = redis.pcall('SET', KEYS[2], mine, 'PX', ARGV[3])
if full(set) then return {2, generation, ''} end
if failed(set) then return set end
return {2, generation, mine}
"""

# KEYS: three per flight, its lease, batches and followers. ARGV: milliseconds of a lease and of
# batches, then the flights. Answers one number per flight: 0 lost, 1 led, 2 led and followed.
# Batches last as long as their lease, however long the answer is silent: there is no hole in it.
RENEW = """
local out = {}
for i = 1, #KEYS / 3 do
  out[i] = 0
  if redis.call('GET', KEYS[3 * i - 2]) == ARGV[i + 2] then
    redis.call('PEXPIRE', KEYS[3 * i - 2], ARGV[1])
    redis.call('PEXPIRE', KEYS[3 * i - 1], ARGV[2])
    out[i] = 1 + redis.call('EXISTS', KEYS[3 * i])
  end
end
return out
"""

# KEYS: lease, batches, followers. ARGV: the flight, milliseconds of a lease and of batches, prefix
# of channels, a batch. Answers {1}, or {0}: the lead is lost, or given up for want of room, for
# batches after one that is missing would be an answer with a hole.
SHARE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
if failed(redis.pcall('RPUSH', KEYS[2], ARGV[5])) then
  redis.call('DEL', KEYS[1], KEYS[2])
  publish(KEYS[3], ARGV[4], ARGV[1])
  redis.call('DEL', KEYS[3])
  return {0}
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
publish(KEYS[3], ARGV[4], ARGV[1])
return {1}
"""

# KEYS: lease, batches, followers. ARGV: the flight, the process, milliseconds of followers, the
# number of the first batch.
# Answers {1 if led, batch, …}.
READ = """
local out = {0}
if redis.call('GET', KEYS[1]) == ARGV[1] and not full(redis.pcall('SADD', KEYS[3], ARGV[2])) then
  out[1] = 1
  redis.pcall('PEXPIRE', KEYS[3], ARGV[3])
end
for _, batch in ipairs(redis.call('LRANGE', KEYS[2], ARGV[4], -1)) do out[#out + 1] = batch end
return out
"""

# KEYS: entry, lease, batches, followers, and the generations of the entry's tags. ARGV: the flight,
# the body (empty: nothing to store), milliseconds of its time and of batches, the stamp, prefix of
# channels, the last batches. Answers {1} if it was stored, else {0}.
RELEASE = """
local stored, old = 0, false
if ARGV[2] ~= '' then
  local tags = {}
  for i = 5, #KEYS do tags[#tags + 1] = KEYS[i] end
  local function keep()
    local names = table.concat(tags, ' ')
    local at = now()
    return redis.pcall('HSET', KEYS[1], 'body', ARGV[2], 'tags', names, 'stamp', ARGV[5], 'at', at)
  end
  local set = keep()
  if failed(set) and not full(set) then  -- what is there is no entry
    redis.call('DEL', KEYS[1])
    set = keep()
  end
  old = failed(set)
  if not old then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    stored = 1
  end
end
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) == ARGV[1] then
  if redis.call('EXISTS', KEYS[4]) == 1 then
    local told = true
    for i = 7, #ARGV do told = told and not failed(redis.pcall('RPUSH', KEYS[3], ARGV[i])) end
    if told then redis.call('PEXPIRE', KEYS[3], ARGV[4]) else redis.call('DEL', KEYS[3]) end
    publish(KEYS[4], ARGV[6], ARGV[1])
  end
  redis.call('DEL', KEYS[2], KEYS[4])
end
if old then redis.call('DEL', KEYS[1]) end  -- a newer answer was asked for than is there
return {stored}
"""

# KEYS: the generation of a tag. ARGV: a new one, milliseconds that no entry outlives.
PURGE = """
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1}
"""


ACQUIRE_SCRIPT, RENEW_SCRIPT, SHARE_SCRIPT, READ_SCRIPT, RELEASE_SCRIPT, PURGE_SCRIPT = SCRIPTS = [
    RedisScript(SHARED + body) for body in (ACQUIRE, RENEW, SHARE, READ, RELEASE, PURGE)
]
