#!lua flags=allow-oom
-- Takes the lease of a group's active scheduler where it is free, has ended, or is held under the same name by an
-- earlier process. Each acquisition raises the epoch, to the present time at least: it grows even where writes were lost.
-- KEYS  1 lease
-- ARGV  1 holder  2 lease [ms]
-- Returns the epoch, or 0 where another holder has the lease.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'holder', 'expires_ms')
if lease[1] and lease[1] ~= ARGV[1] and tonumber(lease[2]) > now then
  return 0
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'expires_ms', now + tonumber(ARGV[2]))
local epoch = math.max(now, tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') + 1)
redis.call('HSET', KEYS[1], 'epoch', epoch)
return epoch
