#!lua flags=allow-oom
-- Gives a tracker's programs back, at the head of the queue, with what its cancelled calls had generated.
-- KEYS  1 leases  2 queue  3 urgent programs of the queue
-- ARGV  1 tracker  2 key prefix of the shard  3 work channel  4… query id, epoch, completion tokens generated, those
--       of them that the tracker knows the log to tell of, repeated
-- Returns how many were given back.
local released = 0
for i = 4, #ARGV, 4 do
  local program = ARGV[2] .. 'program:' .. ARGV[i]
  local owned = redis.call('HMGET', program, 'owner', 'epoch', 'phase', 'booked_tokens', 'urgent')
  if owned[1] == ARGV[1] and owned[2] == ARGV[i + 1] and owned[3] == 'running' then
    -- An append that was on its way when the tracker counted may have come before this.
    local booked = math.max(ARGV[i + 3], owned[4] or 0)
    redis.call('HSET', program, 'owner', '', 'phase', 'queued', 'running_tokens', math.max(0, ARGV[i + 2] - booked))
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('ZADD', KEYS[2], 0, ARGV[i])
    if owned[5] then
      redis.call('ZADD', KEYS[3], 0, ARGV[i])
    end
    redis.call('PUBLISH', ARGV[3], ARGV[i])
    released = released + 1
  end
end
return released
