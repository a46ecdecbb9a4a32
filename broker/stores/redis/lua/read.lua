-- What lies after a cursor in each of some topics, and what the store knows of them: one view, of one moment.
--
-- KEYS     state; then per topic: log, rec
-- ARGV[5]  a channel on which to say that the view was taken, or ""
-- ARGV[6]  bytes of frames in an answer at most; one entry goes through however large it is
-- ARGV[7]  number of topics; then per topic: after (an id, exclusive; "$" for no entries), upto (an id, inclusive, or
--          "+"), max age in ms
--
-- Reply    last, epoch, born, floor, rewinds; then an array per topic: its last id or "", ca or "", cb or "", e or "",
--          r or "", more (1 where the answer was full before the last entry), and for each entry its id, the id before
--          it, its lines.
-- Message  "P <epoch> <last>", after all that was published before.

local room, is_empty = tonumber(ARGV[6]), true

-- A cursor may be any id, also one that no range can begin after.
local function is_short_of(cursor, ms, n)
  local cursor_ms, cursor_n = parse(cursor)
  return is_before(cursor_ms, cursor_n, ms, n)
end

-- Where to start so that what is too old isn't given. What was cleared is gone.
local function start_after(after, max_age)
  local kept_from = now - max_age
  return parse(after) < kept_from and ('%d'):format(kept_from) or '(' .. after
end

-- Put entries into `answer` as long as there is room; answers whether there are more. A log is read a few entries at a
-- time, for it may be much larger than the room.
local function fill(answer, log, start, upto)
  local step, page = room > 0 and 8 or 1, nil
  repeat
    page = call('XRANGE', log, start, upto, 'COUNT', step)
    for _, entry in ipairs(page) do
      local id, p, lines = entry[1], entry[2][2], entry[2][6]
      local size = #lines + #id + 6
      if size > room and not is_empty then
        return true
      end
      room, is_empty = room - size, false
      local length = #answer
      answer[length + 1], answer[length + 2], answer[length + 3] = id, p:match('^%S+'), lines
      start = '(' .. id
    end
    local is_last = #page < step
    step = math.min(64, step * 2)
  until is_last
  return false
end

local function read(topic)
  local log, rec = KEYS[2 * topic], KEYS[2 * topic + 1]
  local after, upto, max_age = unpack(ARGV, 5 + 3 * topic, 7 + 3 * topic)
  local known = open_record(rec, 'ca', 'cb', 'e', 'r')
  if not known then
    return { '', '', '', '', '', 0 }
  end
  local retention = known[6] or ''
  local answer = { known[1] .. '-' .. known[2], known[3] or '', known[4] or '', known[5] or '', retention, 0 }
  max_age = retention:match('^%d+') or max_age
  if after ~= '$' and is_short_of(after, tonumber(known[1]), tonumber(known[2])) then
    answer[6] = fill(answer, log, start_after(after, max_age), upto) and 1 or 0
  end
  return answer
end

local known = call('HMGET', KEYS[1], 'born', 'floor', 'rewinds')
local answer = { format(last_ms, last_n), tonumber(epoch), known[1], known[2], known[3] }
for topic = 1, tonumber(ARGV[7]) do
  answer[5 + topic] = read(topic)
end
if ARGV[5] ~= '' then
  call('PUBLISH', ARGV[5], 'P ' .. epoch .. ' ' .. answer[1])
end
return answer
