-- Accepts a query: idempotency key, first record of the log, place in the queue, quota, all or nothing.
-- KEYS  1 log  2 program  3 queue  4 tenant  5 tenant index  6 idempotency (the tenant key again where there is no key)
-- ARGV  1 query id  2 record  3 tenant  4 pool  5 accepted at [ms]  6 due at [ms]  7 most live queries of the tenant
--       8 most queued programs of the shard  9 fingerprint ('' where there is no key)  10 time to live of the key [s]
--       11 appended channel  12 work channel
-- Returns {status, query id}: 'accepted', 'duplicate' (the earlier id), 'conflict' (the earlier id), 'tenant-full',
--         'queue-full'. Sent twice after a lost reply, the second says 'accepted' and changes nothing.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'accepted', ARGV[1]}
end
if ARGV[9] ~= '' then
  local earlier = redis.call('HMGET', KEYS[6], 'query_id', 'fingerprint')
  if earlier[1] then
    return {earlier[2] == ARGV[9] and 'duplicate' or 'conflict', earlier[1]}
  end
end
if tonumber(redis.call('HGET', KEYS[4], 'live') or '0') >= tonumber(ARGV[7]) then
  return {'tenant-full', ''}
end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[8]) then
  return {'queue-full', ''}
end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], 'tenant', ARGV[3], 'pool', ARGV[4], 'phase', 'queued', 'epoch', 0, 'running_tokens', 0)
redis.call('ZADD', KEYS[3], ARGV[6], ARGV[1])
redis.call('HINCRBY', KEYS[4], 'live', 1)
redis.call('ZADD', KEYS[5], ARGV[5], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[5] - 604800000)  -- a week: longer than any final query stays
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -100001)
redis.call('EXPIRE', KEYS[5], 604800)
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[6], 'query_id', ARGV[1], 'fingerprint', ARGV[9])
  redis.call('EXPIRE', KEYS[6], ARGV[10])
end
redis.call('PUBLISH', ARGV[11], ARGV[1] .. '\n0\n' .. ARGV[2])
redis.call('PUBLISH', ARGV[12], ARGV[1])
return {'accepted', ARGV[1]}
