-- Give up what is remembered for longer than it has to be, and what is too much. Every instance calls it now and then.
--
-- KEYS     state, names, used, keys, keyage
-- ARGV[5]  topics to remember at most
-- ARGV[6]  prefix of the logs' keys
-- ARGV[7]  prefix of the recs' keys
-- ARGV[8]  topics to give up in one call at most
--
-- Reply    last, epoch, number of topics given up. As many as were asked for: call again.
--
-- The keys of logs and recs are not in KEYS, since only the script learns which they are; the hash tag puts them where
-- the others are.

local EXPIRED_KEYS_A_CALL = 200
local KEY_OVERHEAD_BYTES = 250 -- as in publish.lua

local function give_up(topic)
  call('ZREM', KEYS[2], topic)
  call('ZREM', KEYS[3], topic)
  call('DEL', ARGV[6] .. topic, ARGV[7] .. topic)
end

-- Topics whose record is as good as expired: `prev` of a next entry would reach back less far than to their last.
local function give_up_unused(most)
  local unused = call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[4] - SLACK_MS, 'LIMIT', 0, most)
  for _, topic in ipairs(unused) do
    give_up(topic)
  end
  return #unused
end

-- Too many topics: those longest unused go, and the floor rises to their last ids, so that the gap is told.
local function give_up_surplus(most)
  local count = math.min(most, call('ZCARD', KEYS[3]) - ARGV[5])
  if count <= 0 then
    return 0
  end
  local floor = call('HGET', KEYS[1], 'floor')
  local floor_ms, floor_n = parse(floor)
  local raised = floor
  for _, topic in ipairs(call('ZRANGE', KEYS[3], 0, count - 1)) do
    local known = call('HMGET', ARGV[7] .. topic, 'ms', 'n')
    local ms, n = tonumber(known[1] or 0), tonumber(known[2] or 0)
    if is_before(floor_ms, floor_n, ms, n) then
      floor_ms, floor_n, raised = ms, n, format(ms, n)
    end
    give_up(topic)
  end
  if raised ~= floor then
    epoch = ('%d'):format(epoch + 1)
    call('HSET', KEYS[1], 'floor', raised, 'epoch', epoch)
  end
  return count
end

local function drop_expired_keys()
  local members = call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, EXPIRED_KEYS_A_CALL)
  if #members == 0 then
    return
  end
  local bytes = 0
  for _, member in ipairs(members) do
    bytes = bytes + #member - 1 + KEY_OVERHEAD_BYTES
  end
  call('HDEL', KEYS[4], unpack(members))
  call('ZREM', KEYS[5], unpack(members))
  call('HINCRBY', KEYS[1], 'kb', -bytes)
end

drop_expired_keys()
local most = tonumber(ARGV[8])
local dropped = give_up_unused(most)
dropped = dropped + give_up_surplus(most - dropped)
return { format(last_ms, last_n), tonumber(epoch), dropped }
