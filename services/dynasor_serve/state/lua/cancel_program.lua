#!lua flags=allow-oom
-- Records a wish to cancel. A program that no tracker has had becomes final at once; else its owner winds it up.
-- KEYS  1 log  2 program  3 queue  4 tenant  5 live programs by pool  6 urgent programs of the queue
-- ARGV  1 query id  2 cancel record  3 final record for a program without evidence  4 appended channel  5 work channel
--       6 time to live of a final program [s]
-- Returns the phase after the request, or 'unknown'. Asking again changes nothing.
local state = redis.call('HMGET', KEYS[2], 'phase', 'epoch', 'cancel', 'pool', 'reserved')
if not state[1] then
  return 'unknown'
end
if (state[1] ~= 'queued' and state[1] ~= 'running') or state[3] then
  return state[1]
end
redis.call('HSET', KEYS[2], 'cancel', 1)
local sequence = redis.call('RPUSH', KEYS[1], ARGV[2]) - 1
if state[2] ~= '0' then
  redis.call('PUBLISH', ARGV[4], ARGV[1] .. '\n' .. sequence .. '\n' .. ARGV[2])
  redis.call('PUBLISH', ARGV[5], ARGV[1] .. '\ncancel')
  return state[1]
end
redis.call('RPUSH', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[2], 'phase', 'cancelled')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('HINCRBY', KEYS[4], 'live', -1)
if redis.call('HINCRBY', KEYS[5], state[4], -1) < 0 then  -- accepted by a release that did not count
  redis.call('HSET', KEYS[5], state[4], 0)
end
if state[5] then
  redis.call('HINCRBY', KEYS[4], 'reserved', 0 - state[5])  -- '-0' is no number to Redis
end
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
redis.call('PUBLISH', ARGV[4], ARGV[1] .. '\n' .. sequence .. '\n' .. ARGV[2] .. '\n' .. ARGV[3])
return 'cancelled'
