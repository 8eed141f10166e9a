#!lua flags=allow-oom
-- Appends a program's last records, the final one among them, and settles it: lease, quota, time to live.
-- KEYS  1 log  2 program  3 leases  4 tenant  5 live programs by pool
-- ARGV  1 query id  2 tracker  3 epoch  4 expected length of the log [records]  5 appended channel  6 final phase
--       7 time to live of what remains [s]  8 samples that count, 9 Certaindex, for readers
--       10 completion tokens that the program has spent  11… records
-- Returns as append_records.lua does; 'ok' again where it is sent twice after a lost reply.
local owned = redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'phase', 'pool', 'reserved', 'window_ms')
if owned[1] == ARGV[2] and owned[2] == ARGV[3] and owned[3] == ARGV[6] then
  return {'ok'}
end
if owned[1] ~= ARGV[2] or owned[2] ~= ARGV[3] or owned[3] ~= 'running' then
  return {'fenced'}
end
local expected = tonumber(ARGV[4])
if redis.call('LLEN', KEYS[1]) ~= expected then
  local newer = redis.call('LRANGE', KEYS[1], expected, -1)
  table.insert(newer, 1, 'behind')
  return newer
end
for i = 11, #ARGV, 1000 do  -- Lua's stack holds some 8,000 values
  redis.call('RPUSH', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('HSET', KEYS[2], 'phase', ARGV[6], 'running_tokens', 0, 'samples', ARGV[8], 'certaindex', ARGV[9])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HINCRBY', KEYS[4], 'live', -1)
if redis.call('HINCRBY', KEYS[5], owned[4], -1) < 0 then  -- accepted by a release that did not count
  redis.call('HSET', KEYS[5], owned[4], 0)
end
if owned[5] then  -- the tenant has a budget: what was reserved gives way to what was spent, in the window that runs now
  local clock = redis.call('TIME')
  local now, window = clock[1] * 1000 + math.floor(clock[2] / 1000), tonumber(owned[6])
  local account = redis.call('HMGET', KEYS[4], 'window_ends_ms', 'mean_tokens')
  if now >= tonumber(account[1] or '0') then
    redis.call('HSET', KEYS[4], 'window_ends_ms', (math.floor(now / window) + 1) * window, 'spent', 0)
  end
  redis.call('HINCRBY', KEYS[4], 'spent', ARGV[10])
  redis.call('HINCRBY', KEYS[4], 'reserved', 0 - owned[5])  -- '-0' is no number to Redis
  local mean = tonumber(account[2] or ARGV[10])
  redis.call('HSET', KEYS[4], 'mean_tokens', mean + (ARGV[10] - mean) / 10)
end
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('EXPIRE', KEYS[2], ARGV[7])
redis.call('PUBLISH', ARGV[5], ARGV[1] .. '\n' .. expected .. '\n' .. table.concat(ARGV, '\n', 11))
return {'ok'}
