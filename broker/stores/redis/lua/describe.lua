-- The state of some topics, after removing entries that are too old.
--
-- KEYS     state; then per topic: log, rec
-- ARGV[5]  number of topics; then per topic: max age in ms
--
-- Reply    last, epoch; then per topic five values: number of entries, bytes of their frames, first id or "", the
--          topic's last id or "", 1 if it is closed, else 0

-- The oldest entry that is not too old. Checked before XTRIM, so that describing a topic usually writes nothing.
local function oldest_of(log, kept_from)
  local oldest = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if oldest and parse(oldest[1]) < kept_from then
    call('XTRIM', log, 'MINID', kept_from)
    oldest = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  end
  return oldest
end

local function describe(topic)
  local log, rec = KEYS[2 * topic], KEYS[2 * topic + 1]
  local known = open_record(rec, 'z', 'e', 'r')
  if not known then
    return 0, 0, '', '', 0
  end
  local has_ended = known[4] and 1 or 0
  local max_age = known[5] and known[5]:match('^%d+') or ARGV[5 + topic]
  local last = known[1] .. '-' .. known[2]
  local oldest = oldest_of(log, oldest_kept(max_age))
  if not oldest then
    return 0, 0, '', last, has_ended
  end
  local id, z, lines = oldest[1], oldest[2][4], oldest[2][6]
  return call('XLEN', log), known[3] - z + #lines + #id + 6, id, last, has_ended
end

local answer = { format(last_ms, last_n), tonumber(epoch) }
for topic = 1, tonumber(ARGV[5]) do
  local at = 5 * topic - 3
  answer[at + 1], answer[at + 2], answer[at + 3], answer[at + 4], answer[at + 5] = describe(topic)
end
return answer
