-- Topics with an expired lease.
--
-- KEYS     state, leases
-- ARGV[5]  maximum number of topics
--
-- Reply    last, epoch, topics

local due = call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[5])
return { format(last_ms, last_n), tonumber(epoch), unpack(due) }
