-- The store's state, opened. This text stands in front of every script (see scripts.py).
--
-- KEYS[1]  state, a hash: ms, n (the last id given out), run (id of the server that gave it out), epoch, born, floor,
--          rewinds ("L S N;L S N", oldest first), rewound (ms of the newest N), kb (bytes of all idempotency keys)
-- ARGV[1]  run id of the server, as the caller's connection read it
-- ARGV[2]  seen: the highest id that the caller has seen come out of the store; 0-0 for none
-- ARGV[3]  failover margin, ms
-- ARGV[4]  topic memory, ms
--
-- Afterwards `now` (ms), `last_ms`, `last_n` and `epoch` (text) are set. `epoch` rises whenever born, floor or rewinds
-- change: who knows them for this epoch need not ask again. It is never lower than an epoch that a server had which has
-- been lost since: it starts at the time of birth, and goes on from the id that a rewind goes on from.
--
-- A script's functions are made anew at every call, so what is seldom needed is made only where it is needed.

local call = redis.call

local TOUCH_MS = 1000 -- a topic's expiries are set anew when they are as old as that,
local SLACK_MS = 2000 -- so they are late by more than that

local function parse(id)
  local ms, n = id:match('^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- `..` would do for now: it writes a number of more than 14 digits with an exponent.
local function format(ms, n)
  return ('%d-%d'):format(ms, n)
end

local function is_before(ms, n, other_ms, other_n)
  return ms < other_ms or (ms == other_ms and n < other_n)
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local last_ms, last_n, epoch

-- A topic's record: ms and n of its last id, then the fields asked for. nil where nothing is known of the topic, or what
-- is known lies ahead: then it is of a store that is gone.
local function open_record(rec, ...)
  local found = call('HMGET', rec, 'ms', 'n', ...)
  local ms = tonumber(found[1])
  if ms and not is_before(last_ms, last_n, ms, tonumber(found[2])) then
    return found
  end
end

-- Ids never go back, whatever the clock does.
local function next_id()
  if now > last_ms then
    return now, 0
  end
  return last_ms, last_n + 1
end

-- Bring a state up to date that is not there, or that knows less than the caller.
local function renew(seen_ms, seen_n)
  local MOST_REWINDS = 64
  local margin, memory = tonumber(ARGV[3]), tonumber(ARGV[4])

  -- Small, and needed for the server to be of use at all, so it is written also where memory is full: a server lets a
  -- script go on that has begun to write, and refuses nobody a deletion.
  local function save(...)
    call('HDEL', KEYS[1], '')
    call('HSET', KEYS[1], ...)
  end

  -- Above all that was given out and is lost, also what no caller has seen. Another server's clock may be behind by the
  -- margin. Not on top of an id that is itself ahead of the clock by a margin: of a store that goes back twice within
  -- that time, the second would go on where the first did, with the same ids.
  local function beyond(ms)
    local ahead = now + margin
    return ahead > ms and ahead or ms + margin
  end

  -- Where the caller has seen ids, there was a store before this one, whose clock may have been ahead. Epochs are
  -- counted from the time of birth, so that none of them comes a second time.
  local function bear()
    last_ms, last_n = now, 0
    if seen_ms > 0 then
      last_ms = beyond(seen_ms)
    end
    epoch = ('%d'):format(last_ms)
    local born = format(last_ms, 0)
    save('ms', last_ms, 'n', 0, 'run', ARGV[1], 'epoch', epoch, 'born', born, 'floor', born, 'rewinds', '', 'rewound', 0)
  end

  local function load()
    local rewinds = {}
    for lost, seen, resumed in (call('HGET', KEYS[1], 'rewinds') or ''):gmatch('([%d-]+) ([%d-]+) ([%d-]+)') do
      rewinds[#rewinds + 1] = { lost = lost, seen = seen, resumed = resumed }
    end
    return rewinds
  end

  -- The floor may have risen on a server that is lost, and its epoch with it: one more than this one knows may be known.
  local function store(rewinds)
    local texts = {}
    for index, rewind in ipairs(rewinds) do
      texts[index] = rewind.lost .. ' ' .. rewind.seen .. ' ' .. rewind.resumed
    end
    epoch = ('%d'):format(math.max(epoch + 1, rewinds[#rewinds] and (parse(rewinds[#rewinds].resumed)) or 0))
    save('rewinds', table.concat(texts, ';'), 'epoch', epoch)
  end

  -- The caller has seen what was given out before the server went back, and comes only now. Where ids were given since,
  -- readers have crossed the place of the loss without being told: so it moves to where they are.
  local function raise(rewinds)
    for index, rewind in ipairs(rewinds) do
      local resumed_ms, resumed_n = parse(rewind.resumed)
      local known_ms, known_n = parse(rewind.seen)
      if is_before(known_ms, known_n, seen_ms, seen_n) and is_before(seen_ms, seen_n, resumed_ms, resumed_n) then
        rewind.seen = ARGV[2]
        if is_before(resumed_ms, resumed_n, last_ms, last_n) then
          rewind.seen = format(last_ms, last_n)
          last_ms, last_n = next_id()
          rewind.resumed = format(last_ms, last_n)
          save('ms', last_ms, 'n', last_n)
          table.insert(rewinds, table.remove(rewinds, index))
        end
        return true
      end
    end
    return false
  end

  -- Give up rewinds that nobody can meet any more. With one that is too many, or told of a loss, goes what it knew: so
  -- the store counts as born behind it.
  local function shorten(rewinds)
    while rewinds[1] do
      local oldest = rewinds[1]
      local too_many = #rewinds > MOST_REWINDS
      if not too_many and parse(oldest.resumed) >= now - memory then
        break
      end
      if too_many or oldest.lost ~= oldest.seen then
        save('born', oldest.resumed)
      end
      table.remove(rewinds, 1)
    end
  end

  -- Another server than before, or the same with less than it had: ids go on above everything that may have been given
  -- out. Where nothing was lost (seen == lost) it is kept all the same: a later caller may have seen more.
  local function rewind(rewinds)
    local lost = format(last_ms, last_n)
    local seen = is_before(last_ms, last_n, seen_ms, seen_n) and ARGV[2] or lost
    last_ms, last_n = beyond(math.max(last_ms, seen_ms)), 0
    rewinds[#rewinds + 1] = { lost = lost, seen = seen, resumed = format(last_ms, 0) }
    shorten(rewinds)
    save('ms', last_ms, 'n', 0, 'run', ARGV[1], 'rewound', last_ms)
  end

  if not last_ms then
    return bear()
  end
  local rewinds = load()
  local changed = raise(rewinds)
  if call('HGET', KEYS[1], 'run') ~= ARGV[1] or is_before(last_ms, last_n, seen_ms, seen_n) then
    rewind(rewinds)
    changed = true
  end
  if changed then
    store(rewinds)
  end
end

do
  local state = call('HMGET', KEYS[1], 'ms', 'n', 'run', 'epoch', 'rewound')
  local seen_ms, seen_n = parse(ARGV[2])
  last_ms, last_n, epoch = tonumber(state[1]), tonumber(state[2]), state[4]
  if
    state[3] ~= ARGV[1]
    or is_before(last_ms, last_n, seen_ms, seen_n)
    or (seen_ms < tonumber(state[5]) and seen_ms > 0)
  then
    renew(seen_ms, seen_n)
  end
end
