-- Remove expired idempotency keys, and topics that were unused for too long or are too many. Every instance calls this
-- regularly.
--
-- KEYS     state, names, used, keys, keyage
-- ARGV[5]  maximum number of topics to remember
-- ARGV[6]  prefix of the logs' keys
-- ARGV[7]  prefix of the recs' keys
-- ARGV[8]  maximum number of topics to remove in one call
-- ARGV[9]  how long idempotency keys are remembered at least, ms
--
-- Reply    last, epoch, number of topics removed or counted as used now. If it is the maximum, call again.
--
-- The keys of logs and recs are not in KEYS, since only the script finds out which they are. The hash tag puts them in the
-- same slot.

local EXPIRED_KEYS_A_CALL = 200
local NAMED_AGAIN_MS = 30000
local UNNAMED_MS = 60000 -- more, by the time between two calls of an instance

local function give_up(topic)
  call('ZREM', KEYS[2], topic)
  call('ZREM', KEYS[3], topic)
  call('DEL', ARGV[6] .. topic, ARGV[7] .. topic)
end

-- Topics with a record that is about to expire: the `prev` of a new entry would already lie after their last id.
local function give_up_unused(most)
  local unused = call('ZRANGEBYSCORE', KEYS[3], '-inf', now - memory - SLACK_MS, 'LIMIT', 0, most)
  for _, topic in ipairs(unused) do
    give_up(topic)
  end
  return #unused
end

-- Too many topics: remove those unused for longest. The floor rises to their last ids, so that cursors before it get a gap.
local function give_up_surplus(most)
  local count = math.min(most, call('ZCARD', KEYS[3]) - ARGV[5])
  if count <= 0 then
    return 0
  end
  local floor = call('HGET', KEYS[1], 'floor')
  local floor_ms, floor_n = parse(floor)
  local raised = floor
  for _, topic in ipairs(call('ZRANGE', KEYS[3], 0, count - 1)) do
    local known = open_record(ARGV[7] .. topic)
    if known and is_before(floor_ms, floor_n, tonumber(known[1]), tonumber(known[2])) then
      raised = known[1] .. '-' .. known[2]
      floor_ms, floor_n = parse(raised)
    end
    give_up(topic)
  end
  if raised ~= floor then
    epoch = ('%d'):format(epoch + 1)
    call('HSET', KEYS[1], 'floor', raised, 'epoch', epoch)
  end
  return count
end

-- Expired keys from before the clock stepped back.
local function find_keys_ahead(most)
  if step == 0 then
    return {}
  end
  local first = '(' .. ('%d'):format(now + 2 * key_window(tonumber(ARGV[9])))
  return call('ZRANGEBYSCORE', KEYS[5], first, ('%d'):format(now + step), 'LIMIT', 0, most)
end

-- Topics that were last used by a clock that was ahead, and would be kept until it is there again: from now on, they count as
-- used now.
local function reset_topics_ahead(most)
  local latest = math.max(now, last_ms - settled) + STEP_MS
  local found = call('ZRANGEBYSCORE', KEYS[3], '(' .. ('%d'):format(latest), '+inf', 'LIMIT', 0, most)
  for _, topic in ipairs(found) do
    for _, prefix in ipairs({ ARGV[6], ARGV[7] }) do
      call('PEXPIREAT', prefix .. topic, ('%d'):format(now + memory + SLACK_MS))
    end
    call('ZADD', KEYS[3], ('%d'):format(now), topic)
  end
  return #found
end

-- Callers name a time, `field` of the state; the longest holds for all. One that names less is older, or newly set. So a longer
-- time goes only once it was not named for as long: promises made with it have ended then. Returns the time that holds.
local function hold(field, named_at_field, named)
  local found = call('HMGET', KEYS[1], field, named_at_field)
  local held, named_at = tonumber(found[1] or 0), tonumber(found[2] or 0)
  if named_at > now + STEP_MS then -- by a clock that was ahead: count from now
    named = math.max(named, held)
  elseif now < named_at + (named < held and held + UNNAMED_MS or NAMED_AGAIN_MS) and named <= held then
    return held
  end
  allow_writes()
  call('HSET', KEYS[1], field, named, named_at_field, now)
  return named
end

drop_keys(find_expired_keys(EXPIRED_KEYS_A_CALL))
drop_keys(find_keys_ahead(EXPIRED_KEYS_A_CALL))
memory = hold('memory', 'named', tonumber(ARGV[4]))
hold('window', 'windowed', tonumber(ARGV[9]))
local most = tonumber(ARGV[8])
local dropped = give_up_unused(most)
dropped = dropped + give_up_surplus(most - dropped)
dropped = dropped + reset_topics_ahead(most - dropped)
return { format(last_ms, last_n), tonumber(epoch), dropped }
