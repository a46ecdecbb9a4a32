-- Append events to their topics' logs and publish them to whoever watches these topics: all of them or none.
--
-- KEYS      state, names, used, keys, keyage; then per topic: log, rec
-- ARGV[5]   nonce of the call, which its entries keep
-- ARGV[6]   "" or, for a retry, an id after which the entries of the first try would be
-- ARGV[7]   idempotency key or ""; with a key, at most one entry a topic
-- ARGV[8]   how long the key is remembered, ms
-- ARGV[9]   bound on the bytes of all keys
-- ARGV[10]  number of topics; then per topic: name, channel, max events, max bytes, max age in ms
-- then      number of entries; then per entry: number of its topic (from 1), lines
--
-- Reply     last, epoch, status, an id per entry. Status 0: published; 1: the key was known, nothing is published, these
--           are the first ids; 2: no room for another key, nothing is done, no ids.
--
-- names, used   zsets of topics: scores 0; ms of the topic's last entry (late by up to TOUCH_MS)
-- log           a stream of p "<id of the topic's entry before> <nonce>", z bytes of all entries up to this one, l lines
-- rec           a hash that outlives the log: ms, n (the topic's last id), z (of the last entry), ca, cb (delete.lua);
--               a, b (ms of the oldest entry, and z before it, as they were when last looked at: neither is too high);
--               t (ms when expiries were last set)
--
-- Message   "E <epoch> <prev> <ms> <n> <said> <count> <offset> <size> …\n" and the lines of all entries: the id of each
--           is <ms>-<n + offset>, its lines have <size> bytes; prev is the topic's id before the first. Ids of one call
--           have one ms and count on by one, whatever the topic; each topic has a message of its own. So one may name
--           ids behind others of which the next message tells: all before <ms>-<n + said> are told of with this one.

local EXPIRED_KEYS_A_CALL = 20

local nonce, key = ARGV[5], ARGV[7]
local topic_count = tonumber(ARGV[10])
local entries_at = 11 + 5 * topic_count
local entry_count = tonumber(ARGV[entries_at])

local function frame_bytes(id, lines)
  return #lines + #id + 6 -- "id: ", and two LF
end

local function reply(status, ids)
  return { format(last_ms, last_n), tonumber(epoch), status, unpack(ids) }
end

local function topic_of(entry)
  return ARGV[entries_at + 2 * entry - 1]
end

-- The ids that the first try of this call gave its entries, or nil where it never came here. Retention drops the oldest
-- first: if anything of it is left, then some topic's newest entry.
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

-- What stands for the last id of a topic of which nothing is known: it may have had an entry at or before it.
local function unknown_last(next_ms)
  local known = call('HMGET', KEYS[1], 'born', 'floor')
  local ms, n = next_ms - ARGV[4], 0
  if is_before(last_ms, last_n, ms, n) then
    ms, n = last_ms, last_n
  end
  for index = 1, 2 do
    local other_ms, other_n = parse(known[index])
    if is_before(ms, n, other_ms, other_n) then
      ms, n = other_ms, other_n
    end
  end
  return format(ms, n)
end

-- A topic before its next entry: its last id, z, a, b, t, which is nil if it is new.
local function open_topic(topic, next_ms)
  local rec = open_record(KEYS[5 + 2 * topic], 'z', 'a', 'b', 't')
  if rec then
    return { rec[1] .. '-' .. rec[2], tonumber(rec[3]), tonumber(rec[4]), tonumber(rec[5]), tonumber(rec[6]) }
  end
  return { unknown_last(next_ms), 0, next_ms, 0 }
end

-- Drop the oldest entries while more than `most` bytes are held; the newest stays. Answers ms of the oldest entry left,
-- and z before it. Entries are looked at a few at a time, for they come with their lines.
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

-- Append `entries` (by number) to a topic, keep it within its retention, and publish them. `offsets` has by number how
-- far the entry's id lies after ms-first_n, `said` how far what was told of goes then.
local function append(topic, entries, offsets, said, ms, first_n, record)
  local at = 6 + 5 * topic
  local log, rec = KEYS[4 + 2 * topic], KEYS[5 + 2 * topic]
  local prev, z, oldest_ms, before, touched = unpack(record, 1, 5)
  if not touched then -- new, so what is there under its keys is of a store that is gone
    call('DEL', log, rec)
    call('ZADD', KEYS[2], 0, ARGV[at])
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
    sizes[index] = offsets[entry] .. ' ' .. #own_lines
    lines[index] = own_lines
  end
  call('HSET', rec, 'ms', ms_text, 'n', n, 'z', z)

  call('XTRIM', log, 'MAXLEN', ARGV[at + 2])
  local max_bytes, kept_from = tonumber(ARGV[at + 3]), math.max(0, now - ARGV[at + 4])
  local is_looked_at = oldest_ms < kept_from or z - before > max_bytes
  if is_looked_at then
    call('XTRIM', log, 'MINID', kept_from)
    oldest_ms, before = trim_bytes(log, z, max_bytes)
  end
  if is_looked_at or not touched then
    call('HSET', rec, 'a', oldest_ms, 'b', before)
  end

  if not touched or math.abs(now - touched) >= TOUCH_MS then
    local used = math.max(now, ms)
    call('HSET', rec, 't', now)
    call('ZADD', KEYS[3], used, ARGV[at])
    call('PEXPIREAT', log, used + math.min(ARGV[at + 4], ARGV[4]) + SLACK_MS)
    call('PEXPIREAT', rec, used + ARGV[4] + SLACK_MS)
  end
  local head = table.concat({ 'E', epoch, prev, ms_text, first_n, said, #entries, table.concat(sizes, ' ') }, ' ')
  call('PUBLISH', ARGV[at + 1], head .. '\n' .. table.concat(lines))
end

-- Give ids to the entries that have none; answers the entries by topic, how far each id lies after ms-n, and how many.
local function give_ids(ids, ms, n)
  local entries, offsets, given = {}, {}, 0
  for topic = 1, topic_count do
    entries[topic] = {}
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

-- By topic: the offset of the first entry of all topics after it, of which nothing is told yet when it is published.
local function offsets_said(entries, offsets, given)
  local said, least = {}, given
  for topic = topic_count, 1, -1 do
    said[topic] = least
    local first = entries[topic][1]
    least = first and math.min(least, offsets[first]) or least
  end
  return said
end

local function publish(ids)
  local ms, n = next_id()
  local entries, offsets, given = give_ids(ids, ms, n)
  local said, records = offsets_said(entries, offsets, given), {}
  for topic = 1, topic_count do
    records[topic] = open_topic(topic, ms)
  end
  -- Where memory is full, a server refuses a script's first command that writes, no later one. So this is the first.
  call('HSET', KEYS[1], 'ms', ms, 'n', n + given - 1)
  last_ms, last_n = ms, n + given - 1
  for topic = 1, topic_count do
    if entries[topic][1] then
      append(topic, entries[topic], offsets, said[topic], ms, n, records[topic])
    end
  end
  return reply(0, ids)
end

-- What the key means for each entry, by number: `ids` that it brought at first, and `fresh` members where it is new.
-- `dropped` are members that count no more, `bytes` what all keys then need; `is_own`: an id is of this call's first try.
local function look_up_key()
  local found = { ids = {}, fresh = {}, dropped = find_expired_keys(EXPIRED_KEYS_A_CALL), is_own = false }
  local is_dropped = {}
  for _, member in ipairs(found.dropped) do
    is_dropped[member] = true
  end
  for entry = 1, entry_count do
    local member = ARGV[6 + 5 * topic_of(entry)] .. ' ' .. key
    local id, by, is_there = find_key(member, ARGV[8])
    found.ids[entry] = id
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
  local found = look_up_key()
  if not next(found.fresh) then
    drop_keys(found.dropped)
    return reply(found.is_own and 0 or 1, found.ids)
  end
  if found.bytes > tonumber(ARGV[9]) then
    drop_keys(found.dropped)
    return reply(2, {})
  end
  local answer = publish(found.ids)
  drop_keys(found.dropped)
  for entry, member in pairs(found.fresh) do
    keep_key(member, found.ids[entry], nonce, ARGV[8])
  end
  return answer
end

if key ~= '' then -- which tells a retry too
  return publish_once()
end
local ids = ARGV[6] ~= '' and find_first_try()
return ids and reply(0, ids) or publish({})
