#!lua flags=allow-oom
-- Takes the lease of a group's active scheduler where nobody has it, where the caller has seen it end (nobody renewed it
-- while the caller watched), where the caller has it already, or where an earlier process of the caller's name has it.
-- Each acquisition raises the epoch, to the present time [ms] at least: it grows even where writes were lost. No other
-- clock is read, so none that jumps makes a lease longer or shorter.
-- KEYS  1 lease
-- ARGV  1 holder  2 its process  3 its address  4 lease [ms]  5 '1' to take over from an earlier process of this name
--       6 epoch  7 renewals of the lease that the caller has seen end, '0' where it has seen none
-- Returns {epoch}, or {0, epoch, renewals, lease [ms]} of the lease that another has.
local lease = redis.call('HMGET', KEYS[1], 'holder', 'process', 'epoch', 'renewals', 'lease_ms')
local epoch, renewals = lease[3] or '0', lease[4] or '0'
local is_free = not lease[1] or lease[2] == ARGV[2] or (ARGV[5] == '1' and lease[1] == ARGV[1])
if not is_free and not (epoch == ARGV[6] and renewals == ARGV[7]) then
  return {0, tonumber(epoch), tonumber(renewals), tonumber(lease[5] or ARGV[4])}
end
local clock = redis.call('TIME')
local new = math.max(clock[1] * 1000 + math.floor(clock[2] / 1000), tonumber(epoch) + 1)
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'process', ARGV[2], 'address', ARGV[3], 'lease_ms', ARGV[4],
  'epoch', new, 'renewals', 0)
return {new}
