#!lua flags=allow-oom
-- Renews the lease of a group's active scheduler.
-- KEYS  1 lease
-- ARGV  1 holder  2 lease [ms], 0 to give it up  3 epoch
-- Returns 1, or 0 where the lease is another's by now.
local clock = redis.call('TIME')
local lease = redis.call('HMGET', KEYS[1], 'holder', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], 'expires_ms', clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2]))
return 1
