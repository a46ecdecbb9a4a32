-- Empty a topic for every reader to come, and tell those who watch it where it ended.
--
-- KEYS     state, names, used, leases, log, rec
-- ARGV[5]  the topic
-- ARGV[6]  its channel
--
-- Reply    last, epoch, the id of the end; "" where nothing is known of the topic, which then stays so.
-- A topic that had ended is open again.
--
-- Message  "D <epoch> <prev> <id>": prev is the topic's id before.
--
-- In rec: ca (cleared at) is the id of the end, cb (cleared before) the last entry's: a cursor from cb on has seen all.

local leases, log, rec = KEYS[4], KEYS[5], KEYS[6]

local function delete()
  call('ZREM', leases, ARGV[5])
  local known = open_record(rec, 'ca', 'e')
  if not known then
    return ''
  end
  local prev = known[1] .. '-' .. known[2]
  local seen = known[4] and known[4]:match('^%S+ (%S+)') or prev
  local ms, n = next_id()
  local id = format(ms, n)
  call('DEL', log) -- first, since no server refuses it where memory is full; then it refuses nothing of the rest
  call('HSET', KEYS[1], 'ms', ms, 'n', n)
  last_ms, last_n = ms, n
  call('HSET', rec, 'ms', ms, 'n', n, 'ca', id, 't', 0) -- t: the next log has no expiry yet
  call('HDEL', rec, 'e', 'r', 'p')
  if seen ~= known[3] then
    call('HSET', rec, 'cb', seen)
  end
  local used = math.max(now, ms)
  call('ZADD', KEYS[3], used, ARGV[5])
  call('PEXPIREAT', rec, used + ARGV[4] + SLACK_MS)
  call('PUBLISH', ARGV[6], 'D ' .. epoch .. ' ' .. prev .. ' ' .. id)
  return id
end

local id = delete()
return { format(last_ms, last_n), tonumber(epoch), id }
