#!lua flags=allow-oom
-- Claims programs of one shard for a tracker: first those whose lease has ended, then queued ones that are due first,
-- and into the places that are kept for them some more of the urgent ones.
-- Each claim raises the program's epoch and records itself in the log, so that an earlier owner is fenced from then on.
-- Sent twice under the same receipt, after a lost reply, it claims nothing more and returns what the first one claimed.
-- KEYS  1 leases  2 queue  3 receipt  4 urgent programs of the queue
-- ARGV  1 tracker  2 its address  3 most programs  4 lease [ms]  5 key prefix of the shard  6 appended channel
--       7 this process of the tracker  8 '1' to take over leases that an earlier process of the same name left
--       9 time to live of the receipt [ms]  10 most urgent programs beyond those  11 bytes of logs after which nothing more is claimed
-- Returns a list of {query id, epoch, record, record, …}: the whole log of each claimed program.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local limit = tonumber(ARGV[3])

local function entry_of(id, epoch)
  local entry = redis.call('LRANGE', ARGV[5] .. 'log:' .. id, 0, -1)
  table.insert(entry, 1, id)
  table.insert(entry, 2, epoch)
  return entry
end

local claimed, bytes = {}, 0
for _, id in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  local held = redis.call('HMGET', ARGV[5] .. 'program:' .. id, 'owner', 'process', 'phase', 'epoch')
  if held[1] == ARGV[1] and held[2] == ARGV[7] and held[3] == 'running' then
    claimed[#claimed + 1] = entry_of(id, held[4])
  end
end
if #claimed > 0 then
  return claimed
end

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit)
if ARGV[8] == '1' and #ids < limit then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local held = redis.call('HMGET', ARGV[5] .. 'program:' .. id, 'owner', 'process')
    if #ids < limit and held[1] == ARGV[1] and held[2] ~= ARGV[7] then
      ids[#ids + 1] = id
    end
  end
end
if #ids < limit then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, limit - #ids - 1)) do
    ids[#ids + 1] = id
  end
end
local kept = tonumber(ARGV[10])
if kept > 0 then
  local taken = {}
  for _, id in ipairs(ids) do
    taken[id] = true
  end
  for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, #ids + kept - 1)) do
    if not redis.call('ZSCORE', KEYS[2], id) then  -- taken by a release that kept no places
      redis.call('ZREM', KEYS[4], id)
    elseif kept > 0 and not taken[id] then
      ids[#ids + 1] = id
      kept = kept - 1
    end
  end
end
for _, id in ipairs(ids) do
  if bytes >= tonumber(ARGV[11]) then
    break
  end
  local program, log = ARGV[5] .. 'program:' .. id, ARGV[5] .. 'log:' .. id
  local epoch = redis.call('HINCRBY', program, 'epoch', 1)
  local lost = tonumber(redis.call('HGET', program, 'running_tokens') or '0')
  redis.call('HSET', program, 'owner', ARGV[1], 'process', ARGV[7], 'address', ARGV[2], 'phase', 'running',
    'running_tokens', 0)
  redis.call('HINCRBY', program, 'booked_tokens', lost)
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', KEYS[4], id)
  local record = cjson.encode({
    version = 1, time_ms = now, type = 'claimed',
    event = {tracker = ARGV[1], epoch = epoch, tokens_lost = lost},
  })
  local sequence = redis.call('RPUSH', log, record) - 1
  redis.call('PUBLISH', ARGV[6], id .. '\n' .. sequence .. '\n' .. record)
  redis.call('RPUSH', KEYS[3], id)
  local entry = entry_of(id, epoch)
  for i = 3, #entry do
    bytes = bytes + #entry[i]
  end
  claimed[#claimed + 1] = entry
end
if #ids > 0 then
  redis.call('PEXPIRE', KEYS[3], ARGV[9])
end
return claimed
