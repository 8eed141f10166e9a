-- Accepts a query: idempotency key, first record of the log, place in the queue, quota, all or nothing.
-- KEYS  1 log  2 program  3 queue  4 tenant  5 tenant index  6 idempotency (the tenant key again where there is no key)
--       7 live programs by pool  8 urgent programs of the queue
-- ARGV  1 query id  2 record  3 tenant  4 pool  5 accepted at [ms]  6 due at [ms]  7 most live queries of the tenant
--       8 most queued programs of the shard  9 fingerprint ('' where there is no key)  10 time to live of the key [s]
--       11 work channel  12 most live programs of the pool in this shard  13 '1' where it is urgent
--       14 completion tokens of the tenant per window ('' where there is no bound)  15 window [ms]
--       16 tokens reserved while no query of the tenant has ended  17 most tokens the query may spend (0: no bound)
-- Returns {status, query id, figure, milliseconds}: 'accepted', 'duplicate' (the earlier id), 'conflict' (the earlier
--         id); refused, with the figure that has reached its bound: 'tenant-full', 'queue-full', 'pool-full',
--         'budget-spent' (tokens spent and reserved, and how long the window still is). Sent twice after a lost reply, the
--         second says 'accepted' and changes nothing.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'accepted', ARGV[1], 0, 0}
end
if ARGV[9] ~= '' then
  local earlier = redis.call('HMGET', KEYS[6], 'query_id', 'fingerprint')
  if earlier[1] then
    return {earlier[2] == ARGV[9] and 'duplicate' or 'conflict', earlier[1], 0, 0}
  end
end
local live = tonumber(redis.call('HGET', KEYS[4], 'live') or '0')
if live >= tonumber(ARGV[7]) then
  return {'tenant-full', '', live, 0}
end
local queued = redis.call('ZCARD', KEYS[3])
if queued >= tonumber(ARGV[8]) then
  return {'queue-full', '', queued, 0}
end
local of_pool = tonumber(redis.call('HGET', KEYS[7], ARGV[4]) or '0')
if of_pool >= tonumber(ARGV[12]) then
  return {'pool-full', '', of_pool, 0}
end
if ARGV[14] ~= '' then
  local clock = redis.call('TIME')
  local now, window = clock[1] * 1000 + math.floor(clock[2] / 1000), tonumber(ARGV[15])
  local account = redis.call('HMGET', KEYS[4], 'window_ends_ms', 'spent', 'reserved', 'mean_tokens')
  local ends, spent = tonumber(account[1] or '0'), tonumber(account[2] or '0')
  if now >= ends or ends - now > window then  -- it is over, or was of another length
    ends, spent = (math.floor(now / window) + 1) * window, 0
  end
  -- Whoever has no live query has nothing reserved, whatever a release that knew no budgets left behind.
  local reserved = live > 0 and tonumber(account[3] or '0') or 0
  if spent + reserved >= tonumber(ARGV[14]) then
    return {'budget-spent', '', spent + reserved, ends - now}
  end
  local cost = math.floor(tonumber(account[4] or ARGV[16]))
  if ARGV[17] ~= '0' then
    cost = math.min(cost, tonumber(ARGV[17]))
  end
  redis.call('HSET', KEYS[4], 'window_ends_ms', ends, 'spent', spent, 'reserved', reserved + cost)
  redis.call('HSET', KEYS[2], 'reserved', cost, 'window_ms', window)
end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], 'tenant', ARGV[3], 'pool', ARGV[4], 'phase', 'queued', 'epoch', 0, 'running_tokens', 0)
redis.call('ZADD', KEYS[3], ARGV[6], ARGV[1])
if ARGV[13] == '1' then
  redis.call('HSET', KEYS[2], 'urgent', 1)
  redis.call('ZADD', KEYS[8], ARGV[6], ARGV[1])
end
redis.call('HINCRBY', KEYS[4], 'live', 1)
redis.call('HINCRBY', KEYS[7], ARGV[4], 1)
redis.call('ZADD', KEYS[5], ARGV[5], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[5] - 604800000)  -- a week: longer than any final query stays
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -100001)
redis.call('EXPIRE', KEYS[5], 604800)
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[6], 'query_id', ARGV[1], 'fingerprint', ARGV[9])
  redis.call('EXPIRE', KEYS[6], ARGV[10])
end
redis.call('PUBLISH', ARGV[11], ARGV[1])
return {'accepted', ARGV[1], 0, 0}
