-- Topics with an expired lease.
--
-- KEYS     state, leases
-- ARGV[5]  maximum number of topics
--
-- Reply    last, epoch, topics

local due = call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[5])
if step > 0 and not due[1] then -- `expiry_of_lease`
  local first = math.max(now, corrected_at - 2 * STEP_MS) + STEP_MS
  local last = math.min(now + step, corrected_at + STEP_MS)
  due = call('ZRANGEBYSCORE', KEYS[2], ('(%d'):format(first), ('%d'):format(last), 'LIMIT', 0, ARGV[5])
end
return { format(last_ms, last_n), tonumber(epoch), unpack(due) }
