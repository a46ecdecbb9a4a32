-- The entries after a cursor in each of some topics, and the records of the topics: one consistent view.
--
-- KEYS     state; then per topic: log, rec
-- ARGV[5]  channel to publish a probe on, or ""
-- ARGV[6]  maximum bytes of frames in the reply; one entry is always returned, whatever its size
-- ARGV[7]  maximum number of entries in the reply: each costs the server time
-- ARGV[8]  number of topics; then per topic: after (an id, exclusive; "$" for no entries), upto (an id, inclusive, or
--          "+"), max age in ms, newest: 0, or return at most so many entries, the newest ones, newest first
--
-- Reply    last, epoch, born, floor, rewinds, ahead; the last id to assume for topics without a record, or "" if all have one;
--          then an array per topic: its last id or "", ca or "", cb or "", e or "",
--          r or "", more (1 if the range may have further entries), and for each entry its id, the id before it, its lines.
--          A topic with more and no entry found the reply full
-- Payload  "P <epoch> <last>", the probe: after all payloads up to last

local room, left, is_empty, is_full = tonumber(ARGV[6]), tonumber(ARGV[7]), true, false

-- A cursor may be any id, even one that XRANGE can't start after.
local function is_short_of(cursor, ms, n)
  local cursor_ms, cursor_n = parse(cursor)
  return is_before(cursor_ms, cursor_n, ms, n)
end

-- The start of the range: after the cursor, without entries that are too old. Deleted entries are not in the log any more.
local function start_after(after, max_age)
  local kept_from = oldest_kept(max_age)
  return parse(after) < kept_from and ('%d'):format(kept_from) or '(' .. after
end

-- Add entries to `answer` while there is room, at most `most`; returns whether there are more, or may be. Reads a few entries at
-- a time, since the log may be much larger than the room, and none once the room is used up.
local function fill(answer, log, command, from, to, most)
  if is_full then
    return true
  end
  local step, page = room > 0 and left > 0 and math.min(8, most + 1) or 1, nil
  repeat
    page = call(command, log, from, to, 'COUNT', step)
    for _, entry in ipairs(page) do
      local id, p, lines = entry[1], entry[2][2], entry[2][6]
      local size = #lines + #id + 6
      is_full = not is_empty and (size > room or left == 0)
      if is_full or most == 0 then
        return true
      end
      room, left, most, is_empty = room - size, left - 1, most - 1, false
      local length = #answer
      answer[length + 1], answer[length + 2], answer[length + 3] = id, p:match('^%S+'), lines
      from = '(' .. id
    end
    local is_last = #page < step
    step = math.min(64, step * 2, most + 1)
  until is_last
  return false
end

local forgotten = ''

local function read(topic)
  local log, rec = KEYS[2 * topic], KEYS[2 * topic + 1]
  local after, upto, max_age, newest = unpack(ARGV, 5 + 4 * topic, 8 + 4 * topic)
  local known = open_record(rec, 'ca', 'cb', 'e', 'r')
  if not known then
    forgotten = unknown_last()
    return { '', '', '', '', '', 0 }
  end
  local retention = known[6] or ''
  local answer = { known[1] .. '-' .. known[2], known[3] or '', known[4] or '', known[5] or '', retention, 0 }
  max_age = retention:match('^%d+') or max_age
  if after ~= '$' and is_short_of(after, tonumber(known[1]), tonumber(known[2])) then
    local start, more = start_after(after, max_age), nil
    if newest == '0' then
      more = fill(answer, log, 'XRANGE', start, upto, left)
    else
      more = fill(answer, log, 'XREVRANGE', upto, start, tonumber(newest))
    end
    answer[6] = more and 1 or 0
  end
  return answer
end

local known = call('HMGET', KEYS[1], 'born', 'floor', 'rewinds', 'ahead')
local answer = { format(last_ms, last_n), tonumber(epoch), known[1], known[2], known[3], known[4] or '' }
for topic = 1, tonumber(ARGV[8]) do
  answer[7 + topic] = read(topic)
end
answer[7] = forgotten
if ARGV[5] ~= '' then
  call('PUBLISH', ARGV[5], 'P ' .. epoch .. ' ' .. answer[1])
end
return answer
