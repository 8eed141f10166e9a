-- Appends records to a program's log on behalf of its owner.
-- KEYS  1 log  2 program
-- ARGV  1 query id  2 tracker  3 epoch  4 expected length of the log [records]  5 appended channel
--       6 completion tokens generated, 7 those of them that the log with the records tells of
--       8 samples that count, 9 Certaindex, both after the records, for readers  10… records
-- Returns {status, …}: 'ok'; 'fenced' (another tracker has the program, or it is final); 'behind' followed by the
--         records from the expected length on (somebody appended in between: fold them and try again).
local owned = redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'phase')
if owned[1] ~= ARGV[2] or owned[2] ~= ARGV[3] or owned[3] ~= 'running' then
  return {'fenced'}
end
local expected = tonumber(ARGV[4])
if redis.call('LLEN', KEYS[1]) ~= expected then
  local newer = redis.call('LRANGE', KEYS[1], expected, -1)
  table.insert(newer, 1, 'behind')
  return newer
end
for i = 10, #ARGV, 1000 do  -- Lua's stack holds some 8,000 values
  redis.call('RPUSH', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('HSET', KEYS[2], 'running_tokens', ARGV[6] - ARGV[7], 'booked_tokens', ARGV[7], 'samples', ARGV[8],
  'certaindex', ARGV[9])
redis.call('PUBLISH', ARGV[5], ARGV[1] .. '\n' .. expected .. '\n' .. table.concat(ARGV, '\n', 10))
return {'ok'}
