-- Ends of topics. This text precedes the scripts that close topics (see scripts.py); their KEYS[2] is names, KEYS[3] used.
--
-- Field e of rec: "<id of the end> <id of the topic's entry before> <reason>", if the topic is closed.
-- leases: a zset of topics, scored by the time (ms) at which each closes as abandoned unless its lease is renewed.
--
-- Payload  "C <epoch> <prev> <id> <reason>", after those of all entries of the same call

-- Close a topic; `prev` is its last id. The caller has written the state already.
local function end_topic(topic, channel, leases, log, rec, is_new, prev, ms, n, reason)
  local id = format(ms, n)
  if is_new then -- anything under its keys is left from a lost store
    call('DEL', log, rec)
    call('HSET', rec, 'z', 0, 'a', ms, 'b', 0, 't', 0)
  end
  call('HSET', rec, 'ms', ms, 'n', n, 'e', id .. ' ' .. prev .. ' ' .. reason)
  local used = math.max(now, ms - settled)
  call('ZADD', KEYS[2], 0, topic) -- a deleted topic isn't there
  call('ZADD', KEYS[3], used, topic)
  call('PEXPIREAT', rec, used + memory + SLACK_MS)
  call('ZREM', leases, topic)
  call('PUBLISH', channel, 'C ' .. epoch .. ' ' .. prev .. ' ' .. id .. ' ' .. reason)
  return id
end
