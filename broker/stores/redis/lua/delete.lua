-- Delete the events of a topic, and publish its end to its subscribers. A closed topic is open again afterwards.
--
-- KEYS     state, names, used, leases, log, rec
-- ARGV[5]  the topic
-- ARGV[6]  its channel
--
-- Reply    last, epoch, the id of the end; "" if the topic has no record, and gets none
-- Payload  "D <epoch> <prev> <id>": prev is the topic's last id before
--
-- Fields of rec: ca (cleared at), the id of the end; cb (cleared before), the id of the last entry, or a later one at which ids
-- resumed after a loss. A cursor at or after cb has seen every event.

local leases, log, rec = KEYS[4], KEYS[5], KEYS[6]

-- `id`, or the id at which ids resumed after the newest loss, if that is later: the topic may have had an entry before it.
local function beyond_losses(id)
  local ms, n = parse(id)
  for lost, seen, resumed in (call('HGET', KEYS[1], 'rewinds') or ''):gmatch('([%d-]+) ([%d-]+) ([%d-]+)') do
    if seen ~= lost and is_before(ms, n, parse(resumed)) then
      id, ms, n = resumed, parse(resumed)
    end
  end
  return id
end

local function delete()
  call('ZREM', leases, ARGV[5])
  local known = open_record(rec, 'ca', 'e')
  if not known then
    return ''
  end
  local prev = known[1] .. '-' .. known[2]
  local seen = beyond_losses(known[4] and known[4]:match('^%S+ (%S+)') or prev)
  local ms, n = next_id()
  local id = format(ms, n)
  call('DEL', log) -- first: a server without memory allows it, and afterwards refuses no command of this script
  call('HSET', KEYS[1], 'ms', ms, 'n', n)
  last_ms, last_n = ms, n
  call('HSET', rec, 'ms', ms, 'n', n, 'ca', id, 't', 0) -- t: the next log has no expiry yet
  call('HDEL', rec, 'e', 'r', 'p')
  if seen ~= known[3] then
    call('HSET', rec, 'cb', seen)
  end
  call('ZREM', KEYS[2], ARGV[5]) -- publish.lua and ends.lua add it again
  local used = math.max(now, ms - settled)
  call('ZADD', KEYS[3], used, ARGV[5])
  call('PEXPIREAT', rec, used + memory + SLACK_MS)
  call('PUBLISH', ARGV[6], 'D ' .. epoch .. ' ' .. prev .. ' ' .. id)
  return id
end

local id = delete()
return { format(last_ms, last_n), tonumber(epoch), id }
