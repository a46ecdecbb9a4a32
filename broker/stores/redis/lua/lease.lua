-- Take, renew or drop a topic's lease. On expiry the topic closes as abandoned.
--
-- KEYS     state, leases, rec
-- ARGV[5]  the topic
-- ARGV[6]  duration in ms; "" drops the lease
-- ARGV[7]  maximum number of leases
--
-- Reply    last, epoch, 1; 0 if too many leases exist

local topic, leases = ARGV[5], KEYS[2]

local function lease()
  confirm()
  if ARGV[6] == '' then
    call('ZREM', leases, topic)
    return 1
  end
  local known = open_record(KEYS[3], 'e')
  if known and known[3] then
    return 1
  end
  local expiry, before = now + ARGV[6], call('ZSCORE', leases, topic)
  if not before and call('ZCARD', leases) >= tonumber(ARGV[7]) then
    return 0
  end
  if not before or tonumber(before) < expiry then
    call('ZADD', leases, expiry, topic)
  end
  return 1
end

local is_taken = lease()
return { format(last_ms, last_n), tonumber(epoch), is_taken }
