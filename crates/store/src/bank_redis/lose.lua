-- Forgets what every gateway has, until it says so again or its time has passed: after a restart or a failover
-- of Redis, whose memory may be old or gone. Of several gateways that notice, the first one does it.
--
-- KEYS  book, gateways, calls
-- ARGV  how long keys are kept (ms), the time to live of whoever was here (ms), then for each gateway that may
--       hold something its id and for how long it is waited (ms)

local run = server()
if redis.call('HGET', KEYS[1], 'run') == run then return 'DONE BEFORE' end
local keep, time_to_live = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('DEL', KEYS[1], KEYS[3])
-- Named after the moment it begins, so that none comes twice, even if all memory of earlier ones is gone.
local epoch = run .. '-' .. number_text(now)
redis.call('HSET', KEYS[1], 'run', run, 'epoch', epoch, 'recovering', '1')
for at = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], 'w:' .. ARGV[at], number_text(now_millis + tonumber(ARGV[at + 1])))
end
for id, gateway in pairs(read_gateways(KEYS[2])) do
  if is_live(gateway) then
    redis.call('HSET', KEYS[1], 'w:' .. id, number_text(now_millis + time_to_live + 2))
    redis.call('HSET', KEYS[2], id, gateway.number .. ' ' .. gateway.joined .. ' 0')
  end
end
redis.call('PEXPIRE', KEYS[1], keep)
return 'OK'
