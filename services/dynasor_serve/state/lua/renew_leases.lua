#!lua flags=allow-oom
-- Renews a tracker's leases in one shard and notes what its running calls have generated.
-- KEYS  1 leases
-- ARGV  1 tracker  2 lease [ms]  3 key prefix of the shard  4… query id, epoch, completion tokens generated, those
--       of them that the tracker knows the log to tell of, repeated
-- Returns per program the length of its log [records], or -1 where the tracker no longer has it.
local clock = redis.call('TIME')
local expires = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2])
local lengths = {}
for i = 4, #ARGV, 4 do
  local program = ARGV[3] .. 'program:' .. ARGV[i]
  local owned = redis.call('HMGET', program, 'owner', 'epoch', 'phase', 'booked_tokens')
  if owned[1] == ARGV[1] and owned[2] == ARGV[i + 1] and owned[3] == 'running' then
    redis.call('ZADD', KEYS[1], expires, ARGV[i])
    -- An append that was on its way when the tracker counted may have come before this.
    local booked = math.max(ARGV[i + 3], owned[4] or 0)
    redis.call('HSET', program, 'running_tokens', math.max(0, ARGV[i + 2] - booked))
    lengths[#lengths + 1] = redis.call('LLEN', ARGV[3] .. 'log:' .. ARGV[i])
  else
    lengths[#lengths + 1] = -1
  end
end
return lengths
