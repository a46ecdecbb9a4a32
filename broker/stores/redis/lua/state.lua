-- Open the store's state. This text precedes every script (see scripts.py).
--
-- KEYS[1]  state, a hash: ms, n (the last id given out), run (id of the server that gave it out), epoch, born, floor,
--          rewinds ("L S N;L S N", oldest first: the store went back to L, S was seen, ids resumed at N), rewound (ms of the
--          newest N), kb (bytes of all idempotency keys), memory (how long topics are remembered, ms: the longest that a
--          caller has named), longer (ms since when it is that long), named (ms at which it was last named; forget.lua),
--          confirmed (ms), window and windowed (the same for how long idempotency keys are remembered; keys.lua), suspect
--          (1 if the server lost events that perhaps no caller has seen; set from outside, before the first call),
--          ahead ("F A;F A", oldest first: ids from F-0 on are A ms ahead of the clock; absent if none ever was),
--          looked and leapt (due.lua)
-- ARGV[1]  run id of the server, as the caller's connection read it
-- ARGV[2]  seen: the highest id that the caller has received from the store; 0-0 for none
-- ARGV[3]  failover margin, ms
-- ARGV[4]  topic memory, ms
--
-- Afterwards `now` (ms), `last_ms`, `last_n`, `epoch` (text), `memory` and `memory_since` (ms) are set. `epoch` rises whenever
-- born, floor, rewinds or ahead change, so callers read them once per epoch. It is never lower than an epoch of a lost server:
-- it starts at the time of birth, and a rewind raises it to the id at which ids resume.
--
-- Ids never go back. If the last one is over an hour ahead of the clock, the clock was wrong for a while, or is now. A
-- correction is added then: from the next id on, ids are as far ahead of the clock as that one, and go on with it. An id's
-- time is what the newest correction at or before it says, but no later than the clock at the following correction. If the
-- clock steps forward again to where an earlier correction fits the last id, the later ones are removed.
--
-- `ahead` (ms) is that of the newest correction, `step` (ms) how much it added; both are 0 without one. `settled` (ms) is how far
-- ids are ahead for expiries: by a correction that is less than an hour old, a clock that is behind would have topics expire
-- at once when it is right again. So until then the one before it counts.
--
-- A script creates its functions at every call. So rarely needed ones are nested, and created only when needed.

local call = redis.call

local TOUCH_MS = 1000 -- a topic's expiries are set again when they are this old,
local SLACK_MS = 2000 -- so they must be late by more
local STEP_MS = 3600000 -- a clock that is behind the last id by more was wrong, or is

local function parse(id)
  local ms, n = id:match('^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- `..` would write a number of more than 14 digits with an exponent.
local function format(ms, n)
  return ('%d-%d'):format(ms, n)
end

local function is_before(ms, n, other_ms, other_n)
  return ms < other_ms or (ms == other_ms and n < other_n)
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local last_ms, last_n, epoch, memory, memory_since
local corrections, ahead, step, settled = nil, 0, 0, 0

-- A topic's record: ms and n of its last id, then the given fields. nil if there is none, or if it lies ahead of the store: then
-- it is left from a lost store.
local function open_record(rec, ...)
  local found = call('HMGET', rec, 'ms', 'n', ...)
  local ms = tonumber(found[1])
  if ms and not is_before(last_ms, last_n, ms, tonumber(found[2])) then
    return found
  end
end

-- Ids never go back, whatever the clock does.
local function next_id()
  if now + ahead > last_ms then
    return now + ahead, 0
  end
  return last_ms, last_n + 1
end

-- The lowest ms of the ids that are at most `age` ms old.
local function oldest_kept(age)
  local at = now - age
  for index = corrections and #corrections or 0, 1, -1 do
    local from, lead = unpack(corrections[index])
    if at > from - lead then
      return at + lead
    end
  end
  return math.max(0, at)
end

-- A server without memory refuses a script's first write, but a deletion never, and then no later write. So this comes first
-- in a script that must work then.
local function allow_writes()
  call('HDEL', KEYS[1], '')
end

-- To be called before an answer that repeats an earlier one, and so has nothing to write. The caller's WAIT waits for the
-- connection's last write: this one, and with it all before it, on whatever connection.
local function confirm()
  allow_writes()
  call('HSET', KEYS[1], 'confirmed', now)
end

-- The last id to assume for a topic without a record: it may have had an entry at or before this id.
local function unknown_last()
  local known = call('HMGET', KEYS[1], 'born', 'floor')
  local behind = math.max(0, last_ms - now - ahead) -- the clock: the time before may have expired records
  local ms, n = oldest_kept(memory - behind), 0
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

local function use_corrections(text)
  corrections, ahead, step, settled = {}, 0, 0, 0
  for from, lead in text:gmatch('(%d+) (%d+)') do
    corrections[#corrections + 1] = { tonumber(from), tonumber(lead) }
    step = lead - ahead
    settled = now + lead > from + STEP_MS and tonumber(lead) or ahead
    ahead = tonumber(lead)
  end
end

-- Create the state, or bring it up to date if the caller has seen more than it knows, wants topics remembered for longer, or if
-- the clock was wrong.
local function renew(seen_ms, seen_n)
  local MOST_REWINDS = 64
  local margin, named = tonumber(ARGV[3]), tonumber(ARGV[4])
  local is_suspect = call('HGET', KEYS[1], 'suspect')

  -- The state is small, and no script works without it. So it is written even if memory is full.
  local function save(...)
    allow_writes()
    call('HSET', KEYS[1], ...)
  end

  -- An id above all that were given out and lost, even those that no caller has seen: this server's clock may be behind by
  -- the margin. If `ms` itself is ahead of the clock by a margin, the result lies a margin after it. It is a whole number of
  -- margins ahead of the clock: a store that goes back twice to the same state must not give out the same ids twice.
  local function beyond(ms)
    local base, size = now + ahead, math.max(1, margin)
    local steps = base + size > ms and 1 or math.ceil((ms - base) / size) + 1
    return base + steps * size
  end

  -- If the caller has seen ids, there was a store before this one, and its clock may have been ahead. Epochs are counted from
  -- the time of birth, so that none occurs twice.
  local function bear()
    last_ms, last_n = now, 0
    if seen_ms > 0 or is_suspect then
      last_ms = beyond(seen_ms)
    end
    epoch = ('%d'):format(last_ms)
    local born = format(last_ms, 0)
    save('ms', last_ms, 'n', 0, 'run', ARGV[1], 'epoch', epoch, 'born', born, 'floor', born, 'rewinds', '', 'rewound', 0)
    memory, memory_since = named, 0
    save('memory', named, 'longer', 0, 'named', now)
  end

  -- Records expire that were touched before, and some have expired already. A topic without one may have had any of the
  -- present entries.
  local function lengthen_memory()
    memory, memory_since = named, now + 1
    save('memory', named, 'longer', memory_since, 'named', now, 'floor', format(last_ms, last_n))
  end

  local function load()
    local rewinds = {}
    for lost, seen, resumed in (call('HGET', KEYS[1], 'rewinds') or ''):gmatch('([%d-]+) ([%d-]+) ([%d-]+)') do
      rewinds[#rewinds + 1] = { lost = lost, seen = seen, resumed = resumed }
    end
    return rewinds
  end

  -- The floor, and the epoch with it, may have risen on a lost server. So one more than this server's epoch may be in use.
  local function store(rewinds)
    local texts = {}
    for index, rewind in ipairs(rewinds) do
      texts[index] = rewind.lost .. ' ' .. rewind.seen .. ' ' .. rewind.resumed
    end
    epoch = ('%d'):format(math.max(epoch + 1, rewinds[#rewinds] and (parse(rewinds[#rewinds].resumed)) or 0))
    save('rewinds', table.concat(texts, ';'), 'epoch', epoch)
  end

  -- The caller has seen ids from before the server went back, and is the first to say so. Subscribers may have crossed the loss
  -- without a gap, so it moves to a new id. Callers have seen that id then: should the server lose this write, they
  -- show that it did. Comes after `rewind`: the new id must lie after all that were given out, even those lost just now.
  local function raise(rewinds)
    for index, rewind in ipairs(rewinds) do
      local lost_ms, lost_n = parse(rewind.lost)
      local resumed_ms, resumed_n = parse(rewind.resumed)
      local is_from_before = is_before(lost_ms, lost_n, seen_ms, seen_n) and is_before(seen_ms, seen_n, resumed_ms, resumed_n)
      if is_from_before and rewind.seen == rewind.lost then
        rewind.seen = format(last_ms, last_n)
        last_ms, last_n = next_id()
        rewind.resumed = format(last_ms, last_n)
        save('ms', last_ms, 'n', last_n)
        table.insert(rewinds, table.remove(rewinds, index))
        return true
      end
    end
    return false
  end

  -- Remove rewinds that are older than any remembered topic, or too many. If a removed one was a loss, or is removed because
  -- there are too many, the store counts as born after it.
  local function shorten(rewinds)
    while rewinds[1] do
      local oldest = rewinds[1]
      local too_many = #rewinds > MOST_REWINDS
      if not too_many and parse(oldest.resumed) >= oldest_kept(memory or named) then
        break
      end
      if too_many or oldest.lost ~= oldest.seen then
        save('born', oldest.resumed)
      end
      table.remove(rewinds, 1)
    end
  end

  -- Another server than before, or the same with less data: ids resume above all that may have been given out. The rewind is
  -- recorded even if no loss is known (seen == lost), since a later caller may have seen more. If a loss must be assumed, all
  -- ids that may have been given out count as seen.
  local function rewind(rewinds)
    local lost = format(last_ms, last_n)
    local seen = is_before(last_ms, last_n, seen_ms, seen_n) and ARGV[2] or lost
    last_ms, last_n = beyond(math.max(last_ms, seen_ms)), 0
    local resumed = format(last_ms, 0)
    rewinds[#rewinds + 1] = { lost = lost, seen = is_suspect and resumed or seen, resumed = resumed }
    shorten(rewinds)
    save('ms', last_ms, 'n', 0, 'run', ARGV[1], 'rewound', last_ms)
  end

  -- Bring `corrections` in line with the clock.
  local function correct()
    local MOST_CORRECTIONS = 8
    corrections = corrections or {}
    local fitting
    for index = 0, #corrections do
      local lead = index > 0 and corrections[index][2] or 0
      fitting = fitting or (last_ms <= now + lead + STEP_MS and index or nil)
    end
    -- By a clock that was ahead, or one that was behind for long, records have expired too soon.
    if not fitting or last_ms > corrections[#corrections][1] + STEP_MS then
      save('floor', format(last_ms, last_n))
    end
    if fitting then
      for index = #corrections, fitting + 1, -1 do
        corrections[index] = nil
      end
    else
      if #corrections == MOST_CORRECTIONS then
        table.remove(corrections, 1)
      end
      corrections[#corrections + 1] = { last_ms + 1, last_ms + 1 - now }
      if memory_since > now then -- it would stay so for long, and each publish would set its topic's expiries
        memory_since = now + 1
        save('longer', memory_since)
      end
    end
    local texts = {}
    for index, correction in ipairs(corrections) do
      texts[index] = ('%d %d'):format(correction[1], correction[2])
    end
    use_corrections(table.concat(texts, ';'))
    save('ahead', table.concat(texts, ';'))
  end

  -- Whether the corrections don't fit the clock: it is behind the last id, or has caught up with one.
  local function is_off()
    return last_ms > now + ahead + STEP_MS or (step > 0 and last_ms <= now + ahead - step + STEP_MS)
  end

  if is_suspect then
    call('HDEL', KEYS[1], 'suspect')
  end

  if not last_ms then
    bear()
    if is_off() then
      correct()
    end
    return
  end
  local rewinds = load()
  local is_another = call('HGET', KEYS[1], 'run') ~= ARGV[1]
  local has_gone_back = is_another or is_suspect or is_before(last_ms, last_n, seen_ms, seen_n)
  if has_gone_back then
    rewind(rewinds)
  end
  local changed = raise(rewinds) or has_gone_back
  if not memory or memory < named then
    lengthen_memory()
    changed = true
  end
  if is_off() then
    correct()
    changed = true
  end
  if changed then
    store(rewinds)
  end
end

do
  local state = call('HMGET', KEYS[1], 'ms', 'n', 'run', 'epoch', 'rewound', 'memory', 'longer', 'suspect', 'ahead')
  local seen_ms, seen_n = parse(ARGV[2])
  last_ms, last_n, epoch = tonumber(state[1]), tonumber(state[2]), state[4]
  memory, memory_since = tonumber(state[6]), tonumber(state[7])
  if state[9] and state[9] ~= '' then
    use_corrections(state[9])
  end
  if
    state[3] ~= ARGV[1]
    or state[8]
    or not memory
    or memory < tonumber(ARGV[4])
    or is_before(last_ms, last_n, seen_ms, seen_n)
    or (seen_ms < tonumber(state[5]) and seen_ms > 0)
    or last_ms > now + ahead + STEP_MS
    or (step > 0 and last_ms <= now + ahead - step + STEP_MS)
  then
    renew(seen_ms, seen_n)
  end
end
