-- Append events to their topics' logs, publish them on the topics' channels, and close topics: all of it or nothing.
--
-- KEYS      state, names, used, keys, keyage; then per topic: log, rec; then, with options: leases
-- ARGV[5]   nonce of the call; its entries keep it
-- ARGV[6]   "", or for a retry: an id; entries of the first attempt can only lie after it
-- ARGV[7]   idempotency key or ""; with a key, at most one entry per topic
-- ARGV[8]   how long the key is remembered at least, ms
-- ARGV[9]   maximum bytes of all keys
-- ARGV[10]  when the entries were published, ms by the clock of the calling instance
-- ARGV[11]  number of topics; then per topic: name, channel, max events, max bytes, max age in ms
-- then      number of entries; then per entry: number of its topic (from 1), lines
-- then      the options, if any: name of the producer or "", the number of the first entry in its sequence; "" or the
--           retention "<max age in ms> <max events> <max bytes>" of a topic that this call opens; the reason of the ends;
--           the numbers of the topics to close. A producer needs one topic and no key.
--
-- Reply     last, epoch, status, known, closed; then an id per entry after the first `known`, or without entries an id
--           per end. Status 0: published. 1: the key was known, nothing is published, these are the first ids. In all
--           other cases nothing is done. 2: no room for another key. 3: the topics with the numbers that follow are
--           closed. 4: earlier entries of the producer are missing; the number that it must send follows. known: how many
--           leading entries the producer had published before. closed: 1 if all topics to close are closed.
--
-- names, used   zsets of topics: scores 0, without deleted ones; ms of the topic's last entry (late by up to TOUCH_MS)
-- log           a stream of p "<id of the topic's entry before> <nonce>", z bytes of all entries up to this one, l lines
-- rec           a hash that outlives the log: ms, n (the topic's last id), z (of the last entry), ca, cb (delete.lua);
--               a, b (ms of the oldest entry, and z before it, at the last check: neither is too high); t (ms at which
--               expiries were last set); e (ends.lua); r, the retention that the topic's first publisher asked for;
--               p "<producer> <number of its next entry>;…", the latest producer last
--
-- Payload   "E <epoch> <prev> <ms> <n> <announced> <count> <offset> <size> …\n" and the lines of all entries. An id
--           counts as the number ms * 2^64 + n. ms is when the entries were published (ARGV[10]), n is 0; the id of an entry
--           is <ms>-<n> plus offset, its lines have <size> bytes; prev is the topic's id before the first. (An older
--           version's ms and n are those of the call's first id, so offsets are small; instances of that version read this
--           payload in the same way.) The ids of one call have the same ms and increase by one, across topics; each topic
--           has a payload of its own. So a payload may contain ids that lie after ids of the next payload: with this one,
--           everything before <ms>-<n> plus announced is published. A topic with r has "F <epoch> <r> <prev> …". The ends
--           have the ids after those of the entries.

local EXPIRED_KEYS_A_CALL = 20

local nonce, key = ARGV[5], ARGV[7]
local published_ms = tonumber(ARGV[10])
local topic_count = tonumber(ARGV[11])
local entries_at = 12 + 5 * topic_count
local entry_count = tonumber(ARGV[entries_at])
local asked_at = entries_at + 2 * entry_count + 1
local has_more = ARGV[asked_at] ~= nil

local function frame_bytes(id, lines)
  return #lines + #id + 6 -- "id: ", and two LF
end

-- `ids` has the ids of all entries; the first `known` entries were published before.
local function reply(status, ids, known)
  local first, is_closed = 1 + (known or 0), 0
  if has_more then
    local ends = {}
    for at = asked_at + 4, #ARGV do
      local rec = open_record(KEYS[5 + 2 * ARGV[at]], 'e')
      ends[#ends + 1] = rec and rec[3] and rec[3]:match('^%S+') or nil
    end
    is_closed = ends[1] and #ends == #ARGV - asked_at - 3 and 1 or 0
    ids = status == 0 and entry_count == 0 and ends or ids
  end
  return { format(last_ms, last_n), tonumber(epoch), status, known or 0, is_closed, unpack(ids, first, #ids) }
end

local function topic_of(entry)
  return ARGV[entries_at + 2 * entry - 1]
end

-- gap * 2^64 in decimal digits: those before the last twelve, and those twelve as a number.
local function shifted(gap)
  local groups, rest = {}, 0
  for index, group in ipairs({ 1616, 955, 737, 6744, 1844 }) do -- 2^64 is 1844 6744 0737 0955 1616
    rest = rest + gap * group
    groups[index] = rest % 1e4
    rest = math.floor(rest / 1e4)
  end
  return ('%d%04d%04d'):format(rest, groups[5], groups[4]), groups[3] * 1e8 + groups[2] * 1e4 + groups[1]
end

-- When the entries were published, and a function that returns how far the id <ms>-<n> lies after that, for n up to `most`. If
-- the clocks differ by more than 30 years, the time in the id stands for that moment; so it does if the digits carry.
local function since_published(ms, most)
  local gap = ms - published_ms
  local sign, high, low = gap < 0 and -1 or 1, shifted(math.min(math.abs(gap), 1e12))
  local last = low + sign * most
  if gap == 0 or math.abs(gap) >= 1e12 or last < 0 or last >= 1e12 then
    return ms, function(n)
      return ('%d'):format(n)
    end
  end
  local digits = (sign < 0 and '-' or '') .. high .. '%012d'
  return published_ms, function(n)
    return digits:format(low + sign * n)
  end
end

local base_ms, distance

-- The ids that the first attempt of this call gave its entries, or nil if it never arrived. Retention drops the oldest
-- entries first, so if any entry of the attempt is left, the newest of some topic is.
local function find_first_try()
  local STEP = 16
  local ending = ' ' .. nonce
  local newest = {}
  for entry = 1, entry_count do
    newest[topic_of(entry)] = entry
  end
  for topic, entry in pairs(newest) do
    local log, to, page = KEYS[4 + 2 * topic], '+', nil
    repeat
      page = call('XREVRANGE', log, to, '(' .. ARGV[6], 'COUNT', STEP)
      for _, found in ipairs(page) do
        if found[2][2]:sub(-#ending) == ending then
          local ms, n = parse(found[1])
          local ids = {}
          for index = 1, entry_count do
            ids[index] = format(ms, n - entry + index)
          end
          return ids
        end
        to = '(' .. found[1]
      end
    until #page < STEP
  end
end

-- A topic before its next entry: its last id, z, a, b, t (nil for a new topic), r, e.
local function open_topic(topic, next_ms)
  local rec = open_record(KEYS[5 + 2 * topic], 'z', 'a', 'b', 't', 'r', 'e')
  if rec then
    local z, a, b, t = tonumber(rec[3]), tonumber(rec[4]), tonumber(rec[5]), tonumber(rec[6])
    return { rec[1] .. '-' .. rec[2], z, a, b, t, rec[7], rec[8] }
  end
  return { unknown_last(), 0, next_ms, 0 }
end

-- Drop the oldest entries while the log has more than `most` bytes; the newest stays. Returns ms of the oldest entry left, and
-- z before it. Reads a few entries at a time, since they come with their lines.
local function trim_bytes(log, z, most)
  local step, from, dropped, oldest, before = 2, '-', false, nil, nil
  while true do
    local page = call('XRANGE', log, from, '+', 'COUNT', step)
    assert(page[1], 'the newest entry is always found')
    for _, entry in ipairs(page) do
      local own_z = tonumber(entry[2][4])
      oldest, before = entry[1], before or own_z - frame_bytes(entry[1], entry[2][6])
      if z - before <= most or own_z == z then
        if dropped then
          call('XTRIM', log, 'MINID', oldest)
        end
        return (parse(oldest)), before
      end
      dropped, before = true, own_z
    end
    from, step = '(' .. oldest, math.min(64, step * 2)
  end
end

-- Append `entries` (by number) to a topic, apply its retention, and publish them. `offsets`: by number, how far the entry's id
-- lies after ms-first_n. `said`: the same for the first id that is not announced yet.
local function append(topic, entries, offsets, said, ms, first_n, record)
  local at = 7 + 5 * topic
  local log, rec = KEYS[4 + 2 * topic], KEYS[5 + 2 * topic]
  local prev, z, oldest_ms, before, touched, retention = unpack(record, 1, 6)
  if not touched then -- new: anything under its keys is left from a lost store
    call('DEL', log, rec)
  end
  if has_more and (touched or 0) == 0 and ARGV[asked_at + 2] ~= '' then
    retention = ARGV[asked_at + 2]
    call('HSET', rec, 'r', retention)
  end
  local max_events, max_bytes, max_age, kind = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], 'E ' .. epoch
  if retention then
    max_age, max_events, max_bytes = retention:match('^(%d+) (%d+) (%d+)$')
    kind = 'F ' .. epoch .. ' ' .. retention
  end

  local ms_text = ('%d'):format(ms)
  local id, n, sizes, lines = prev, nil, {}, {}
  for index, entry in ipairs(entries) do
    local own_lines = ARGV[entries_at + 2 * entry]
    local p = id .. ' ' .. nonce
    n = first_n + offsets[entry]
    id = ms_text .. '-' .. n
    z = z + frame_bytes(id, own_lines)
    call('XADD', log, id, 'p', p, 'z', z, 'l', own_lines)
    sizes[index] = distance(n) .. ' ' .. #own_lines
    lines[index] = own_lines
  end
  call('HSET', rec, 'ms', ms_text, 'n', n, 'z', z)

  call('XTRIM', log, 'MAXLEN', max_events)
  max_bytes = tonumber(max_bytes)
  local kept_from = oldest_kept(max_age)
  local is_looked_at = oldest_ms < kept_from or z - before > max_bytes
  if is_looked_at then
    call('XTRIM', log, 'MINID', kept_from)
    oldest_ms, before = trim_bytes(log, z, max_bytes)
  end
  if is_looked_at or not touched then
    call('HSET', rec, 'a', oldest_ms, 'b', before)
  end

  if not touched or math.abs(now - touched) >= TOUCH_MS or touched < memory_since then
    local used = math.max(now, ms - settled)
    call('HSET', rec, 't', now)
    call('ZADD', KEYS[2], 0, ARGV[at]) -- also after a DELETE, and if an older version has published since
    call('ZADD', KEYS[3], used, ARGV[at])
    call('PEXPIREAT', log, used + math.min(max_age, memory) + SLACK_MS)
    call('PEXPIREAT', rec, used + memory + SLACK_MS)
  end
  local base, announced = ('%d'):format(base_ms), distance(first_n + said)
  local head = table.concat({ kind, prev, base, 0, announced, #entries, table.concat(sizes, ' ') }, ' ')
  call('PUBLISH', ARGV[at + 1], head .. '\n' .. table.concat(lines))
end

-- Give an id to each entry after the first `known` that lacks one. Returns these entries by topic, how far each id lies after
-- ms-n, and their number.
local function give_ids(ids, known, ms, n)
  local entries, offsets, given = {}, {}, 0
  for topic = 1, topic_count do
    entries[topic] = {}
  end
  for entry = 1, known do
    ids[entry] = ''
  end
  for entry = 1, entry_count do
    if not ids[entry] then
      local own = entries[tonumber(topic_of(entry))]
      own[#own + 1] = entry
      offsets[entry] = given
      ids[entry] = format(ms, n + given)
      given = given + 1
    end
  end
  return entries, offsets, given
end

-- By topic: the lowest offset in the topics after it, which are not announced yet when it is published.
local function offsets_said(entries, offsets, given)
  local said, least = {}, given
  for topic = topic_count, 1, -1 do
    said[topic] = least
    local first = entries[topic][1]
    least = first and math.min(least, offsets[first]) or least
  end
  return said
end

local find_ending, end_topics
if has_more then
  -- The numbers of the topics that this call closes: without closed ones, and without those that knew the key.
  function find_ending(records, replayed)
    local ending = {}
    for at = asked_at + 4, #ARGV do
      local topic = tonumber(ARGV[at])
      if not records[topic][7] and not replayed[topic] then
        ending[#ending + 1] = topic
      end
    end
    return ending
  end

  function end_topics(ending, entries, ids, records, ms, first_n)
    local leases = KEYS[6 + 2 * topic_count]
    for index, topic in ipairs(ending) do
      local own, at, record = entries[topic], 7 + 5 * topic, records[topic]
      local last = own[#own]
      local log, rec = KEYS[4 + 2 * topic], KEYS[5 + 2 * topic]
      local is_new = not last and not record[5]
      local prev, n = last and ids[last] or record[1], first_n + index - 1
      end_topic(ARGV[at], ARGV[at + 1], leases, log, rec, is_new, prev, ms, n, ARGV[asked_at + 3])
    end
  end
end

-- Publish the entries without an id in `ids`, except the first `known`. `replayed`: topics that knew the key.
local function publish(ids, known, replayed)
  local ms, n = next_id()
  base_ms, distance = since_published(ms, n + entry_count)
  local entries, offsets, given = give_ids(ids, known, ms, n)
  local said, records, closed = offsets_said(entries, offsets, given), {}, {}
  for topic = 1, topic_count do
    records[topic] = open_topic(topic, ms)
    if records[topic][7] and entries[topic][1] then
      closed[#closed + 1] = topic
    end
  end
  if closed[1] then
    return reply(3, closed)
  end
  local ending = has_more and find_ending(records, replayed) or {}
  if given + #ending == 0 then
    confirm()
    return reply(0, ids, known)
  end
  -- A server without memory refuses a script's first write, but no later one. So this write comes first. An end alone needs
  -- hardly any memory.
  if given == 0 then
    allow_writes()
  end
  last_ms, last_n = ms, n + given + #ending - 1
  call('HSET', KEYS[1], 'ms', last_ms, 'n', last_n)
  for topic = 1, topic_count do
    if entries[topic][1] then
      append(topic, entries[topic], offsets, said[topic], ms, n, records[topic])
    end
  end
  if ending[1] then
    end_topics(ending, entries, ids, records, ms, n + given)
  end
  return reply(0, ids, known)
end

-- Look up the key for each entry. Returns, by number of the entry, `ids` of the first call and `fresh`, the members of new keys;
-- by topic, `replayed`: not nil if the topic knew the key; `dropped`: members to drop; `bytes`: of all keys afterwards;
-- `is_own`: whether an id is from this call's first attempt.
local function look_up_key(window)
  local found = { ids = {}, fresh = {}, replayed = {}, dropped = find_expired_keys(EXPIRED_KEYS_A_CALL), is_own = false }
  local is_dropped = {}
  for _, member in ipairs(found.dropped) do
    is_dropped[member] = true
  end
  for entry = 1, entry_count do
    local member = ARGV[7 + 5 * topic_of(entry)] .. ' ' .. key
    local id, by, is_there = find_key(member, window)
    found.ids[entry] = id
    found.replayed[tonumber(topic_of(entry))] = id
    found.is_own = found.is_own or by == nonce
    if not id then
      found.fresh[entry] = member
      if is_there and not is_dropped[member] then
        table.insert(found.dropped, member)
      end
    end
  end
  local bytes = tonumber(call('HGET', KEYS[1], 'kb') or 0)
  found.bytes = bytes + key_bytes(found.fresh) - key_bytes(found.dropped)
  return found
end

local function publish_once()
  local window, kept_window = key_window(tonumber(ARGV[8]))
  local found = look_up_key(window)
  if not next(found.fresh) then
    confirm()
    drop_keys(found.dropped)
    return reply(found.is_own and 0 or 1, found.ids)
  end
  if found.bytes > tonumber(ARGV[9]) then
    drop_keys(found.dropped)
    return reply(2, {})
  end
  local answer = publish(found.ids, 0, found.replayed)
  drop_keys(found.dropped)
  if answer[3] ~= 0 then
    return answer
  end
  for entry, member in pairs(found.fresh) do
    keep_key(member, found.ids[entry], nonce, window)
  end
  if window > kept_window then
    call('HSET', KEYS[1], 'window', window, 'windowed', now)
  end
  return answer
end

local is_in_order, count_known_then, publish_in_order = has_more and ARGV[asked_at] ~= '', nil, nil
if is_in_order then
  -- Returns "<name> <next>" of the other producers, and the number of this one's next entry.
  local function find_producer(name)
    local rec, others, expected = open_record(KEYS[7], 'p'), {}, 1
    for other, following in (rec and rec[3] or ''):gmatch('([^;%s]+) (%d+)') do
      if other == name then
        expected = tonumber(following)
      else
        others[#others + 1] = other .. ' ' .. following
      end
    end
    return others, expected
  end

  -- How many leading entries were known to this call's first attempt; `last` is the id of its last entry.
  function count_known_then(last)
    local ending, own = ' ' .. nonce, 0
    for _, found in ipairs(call('XREVRANGE', KEYS[6], last, '(' .. ARGV[6], 'COUNT', entry_count)) do
      own = own + (found[2][2]:sub(-#ending) == ending and 1 or 0)
    end
    return entry_count - own
  end

  function publish_in_order()
    local MOST_PRODUCERS = 16
    local name, first = ARGV[asked_at], tonumber(ARGV[asked_at + 1])
    local others, expected = find_producer(name)
    if first > expected then
      return reply(4, { expected })
    end
    local known = math.min(entry_count, expected - first)
    local answer = publish({}, known, {})
    if answer[3] == 0 and known < entry_count then
      others[#others + 1] = name .. ' ' .. ('%d'):format(first + entry_count)
      call('HSET', KEYS[7], 'p', table.concat(others, ';', math.max(1, #others - MOST_PRODUCERS + 1)))
    end
    return answer
  end
end

if key ~= '' then -- a key identifies a retry too
  return publish_once()
end
local ids = ARGV[6] ~= '' and find_first_try()
if ids then
  confirm()
  return reply(0, ids, is_in_order and count_known_then(ids[entry_count]) or 0)
end
return is_in_order and publish_in_order() or publish({}, 0, {})
