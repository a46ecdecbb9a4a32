-- Idempotency keys. This text stands in front of the scripts that have KEYS[4] keys and KEYS[5] keyage (see scripts.py).
--
-- A member is "<topic> <key>". keys, a hash, has "<id> <nonce>" for it: the id that it brought, and the call that
-- published it; keyage, a zset, has its expiry in ms. The state's kb counts the bytes of them all.

local KEY_OVERHEAD_BYTES = 250 -- what the server needs for a key beside its text

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

local function keep_key(member, id, nonce, ms)
  call('HSET', KEYS[4], member, id .. ' ' .. nonce)
  call('ZADD', KEYS[5], now + ms, member)
  call('HINCRBY', KEYS[1], 'kb', key_bytes({ member }))
end

-- The id that a key brought and its call's nonce, or nil. An expiry from far in the future is of a clock that has stepped
-- back since. Then whether the key is there all the same.
local function find_key(member, ms)
  local expiry = call('ZSCORE', KEYS[5], member)
  local is_known = expiry and tonumber(expiry) > now and tonumber(expiry) <= now + 2 * ms
  local value = is_known and call('HGET', KEYS[4], member)
  if value then
    return value:match('^(%S+) (.*)$')
  end
  return nil, nil, expiry
end
