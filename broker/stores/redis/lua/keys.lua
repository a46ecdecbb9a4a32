-- Idempotency keys. This text precedes the scripts that use them (see scripts.py); their KEYS[4] is keys, KEYS[5] keyage.
--
-- A member is "<topic> <key>". keys is a hash of "<id> <nonce>" by member: the id of its event, and the call that published
-- it. keyage is a zset of members scored by their expiry (ms). Field kb of the state is the size of all members in bytes.

local KEY_OVERHEAD_BYTES = 250 -- the server's memory for a key, without its text

local function key_bytes(members)
  local bytes = 0
  for _, member in pairs(members) do
    bytes = bytes + #member - 1 + KEY_OVERHEAD_BYTES
  end
  return bytes
end

local function find_expired_keys(most)
  return call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, most)
end

local function drop_keys(members)
  if #members > 0 then
    call('HDEL', KEYS[4], unpack(members))
    call('ZREM', KEYS[5], unpack(members))
    call('HINCRBY', KEYS[1], 'kb', -key_bytes(members))
  end
end

-- How long keys are remembered, ms. The longest that a caller has named holds for all: the first call with a key may reach
-- one instance, and its repetition another.
local function key_window(named)
  local kept = tonumber(call('HGET', KEYS[1], 'window') or 0)
  return math.max(kept, named), kept
end

local function keep_key(member, id, nonce, ms)
  call('HSET', KEYS[4], member, id .. ' ' .. nonce)
  call('ZADD', KEYS[5], now + ms, member)
  call('HINCRBY', KEYS[1], 'kb', key_bytes({ member }))
end

-- The id of a key's event and the nonce of its call; for an expired key nil, nil and a true value, for an unknown one nil, nil
-- and a false one. A key that expires too far in the future is from before the clock stepped back: if there is a correction, its
-- time goes on, else it counts as expired.
local function find_key(member, ms)
  local expiry = call('ZSCORE', KEYS[5], member)
  local left = expiry and expiry - now
  if left and left > 2 * ms then
    left = left - step
  end
  local is_known = left and left > 0 and left <= 2 * ms
  local value = is_known and call('HGET', KEYS[4], member)
  if value then
    return value:match('^(%S+) (.*)$')
  end
  return nil, nil, expiry
end
