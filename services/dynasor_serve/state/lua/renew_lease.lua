#!lua flags=allow-oom
-- Renews the lease of a group's active scheduler: those who watch it see that it goes on.
-- KEYS  1 lease
-- ARGV  1 process  2 epoch
-- Returns 1, or 0 where the lease is another's by now.
local lease = redis.call('HMGET', KEYS[1], 'process', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
  return 0
end
redis.call('HINCRBY', KEYS[1], 'renewals', 1)
return 1
