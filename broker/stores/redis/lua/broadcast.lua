-- Publish a command to all instances, and keep it for those that can't be reached now.
--
-- KEYS     state, notices (or droppable)
-- ARGV[5]  the channel, or "" to publish nothing
-- ARGV[6]  the payload
-- ARGV[7]  the command
-- ARGV[8]  until when it is kept, in seconds since 1970; "" if it isn't
-- ARGV[9]  the caller's time, in seconds since 1970
-- ARGV[10] maximum number of kept commands
-- ARGV[11] 1 if those that expire first make room for others
--
-- Reply    last, epoch, 1 (0 if too many commands are kept: then this one is not published), number of instances that it
--          was published to
--
-- notices, droppable: zsets of commands, scored by `until`

local function send()
  allow_writes()
  if ARGV[8] ~= '' then
    -- Neither the caller's clock nor the server's alone, if wrong, makes all instances forget a command.
    call('ZREMRANGEBYSCORE', KEYS[2], '-inf', math.min(ARGV[9], now / 1000))
    local makes_room = ARGV[11] == '1'
    if not makes_room and call('ZCARD', KEYS[2]) >= tonumber(ARGV[10]) then
      return 0, 0
    end
    call('ZADD', KEYS[2], 'GT', ARGV[8], ARGV[7])
    if makes_room then
      call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[10])
    end
  end
  return 1, ARGV[5] ~= '' and call('PUBLISH', ARGV[5], ARGV[6]) or 0
end

local is_sent, reached = send()
return { format(last_ms, last_n), tonumber(epoch), is_sent, reached }
