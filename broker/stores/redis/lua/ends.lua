-- Ends of topics. This text stands in front of the scripts that end some (see scripts.py), which have KEYS[2] names and
-- KEYS[3] used.
--
-- In a rec, e is "<id of the end> <id of the topic's entry before> <reason>": a topic that has it has ended. In leases, a
-- zset, a topic has the ms at which it ends unless somebody speaks for it.
--
-- Message  "C <epoch> <prev> <id> <reason>", after those of all entries of the same call.

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

-- End a topic whose last id is `prev`. The caller has written the state already.
local function end_topic(topic, channel, leases, log, rec, is_new, prev, ms, n, reason)
  local id = format(ms, n)
  if is_new then -- what is there under its keys is of a store that is gone
    call('DEL', log, rec)
    call('ZADD', KEYS[2], 0, topic)
    call('HSET', rec, 'z', 0, 'a', ms, 'b', 0, 't', 0)
  end
  call('HSET', rec, 'ms', ms, 'n', n, 'e', id .. ' ' .. prev .. ' ' .. reason)
  local used = math.max(now, ms)
  call('ZADD', KEYS[3], used, topic)
  call('PEXPIREAT', rec, used + ARGV[4] + SLACK_MS)
  call('ZREM', leases, topic)
  call('PUBLISH', channel, 'C ' .. epoch .. ' ' .. prev .. ' ' .. id .. ' ' .. reason)
  return id
end
