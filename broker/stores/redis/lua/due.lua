-- Topics with an expired lease.
--
-- KEYS     state, leases
-- ARGV[5]  maximum number of topics
--
-- Reply    last, epoch, topics

-- Fields of the state: looked, the time of a call (late by up to LOOK_MS); leapt, the time after the clock's last leap.

local LOOK_MS = 60000
local GRACE_MS = 600000 -- for producers to renew their leases after a leap, or after all instances were away
local MOST_LEASES = 10000

-- Leases that a clock which was ahead has given end as long after now as after its last look.
local function set_back(looked)
  local first = math.max(now, looked - 2 * STEP_MS) + STEP_MS
  local last = looked + LOOK_MS + STEP_MS
  local leases = call('ZRANGEBYSCORE', KEYS[2], ('%d'):format(first), ('%d'):format(last), 'WITHSCORES', 'LIMIT', 0, MOST_LEASES)
  for index = 1, #leases, 2 do
    call('ZADD', KEYS[2], ('%d'):format(leases[index + 1] - looked + now), leases[index])
  end
end

local function look()
  local found = call('HMGET', KEYS[1], 'looked', 'leapt')
  local looked, leapt = tonumber(found[1] or 0), tonumber(found[2] or 0)
  if math.abs(now - looked) >= LOOK_MS then
    allow_writes()
    if looked > 0 and math.abs(now - looked) > STEP_MS then
      leapt = now
      if looked > now then
        set_back(looked)
      end
    end
    if looked > 0 then -- an id shows when records have expired, should the clock step back
      last_ms, last_n = next_id()
    end
    call('HSET', KEYS[1], 'looked', now, 'leapt', leapt, 'ms', last_ms, 'n', last_n)
  end
  return now < leapt or now >= leapt + GRACE_MS
end

local due = look() and call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[5]) or {}
return { format(last_ms, last_n), tonumber(epoch), unpack(due) }
