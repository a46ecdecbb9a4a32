-- Close a topic, unless it has moved on.
--
-- KEYS     state, names, used, leases, log, rec
-- ARGV[5]  the topic
-- ARGV[6]  its channel
-- ARGV[7]  the reason
-- ARGV[8]  "", or the id that must be the topic's last
-- ARGV[9]  1: only if its lease has expired; else 0
--
-- Reply    last, epoch, the id of the end, also if the topic was closed before; "" if it stays open
-- Payload  see ends.lua

local topic, leases, log, rec = ARGV[5], KEYS[4], KEYS[5], KEYS[6]

local function is_leased()
  local expiry = call('ZSCORE', leases, topic)
  return not expiry or tonumber(expiry) > now
end

local function close()
  local known = open_record(rec, 'e')
  if known and known[3] then
    confirm()
    call('ZREM', leases, topic)
    return known[3]:match('^%S+')
  end
  if ARGV[9] == '1' and is_leased() then
    return ''
  end
  local prev = known and known[1] .. '-' .. known[2]
  if ARGV[8] ~= '' and prev ~= ARGV[8] then
    return ''
  end
  local ms, n = next_id()
  prev = prev or unknown_last()
  allow_writes()
  call('HSET', KEYS[1], 'ms', ms, 'n', n)
  last_ms, last_n = ms, n
  return end_topic(topic, ARGV[6], leases, log, rec, not known, prev, ms, n, ARGV[7])
end

local id = close()
return { format(last_ms, last_n), tonumber(epoch), id }
