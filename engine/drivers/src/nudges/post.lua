-- Puts nudges into the mailbox of every engine.
-- KEYS: the engines, apalis' list of queues.
-- ARGV: the sender's own mailbox, seconds an engine counts as alive, nudges a mailbox holds at most, seconds
--       rows are kept, then id and text of each nudge.
-- Answers how many mailboxes there are, how many nudges were put, and how many were not as one was full.
local own, most, kept = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local alive_since = tonumber(redis.call('TIME')[1]) - tonumber(ARGV[2])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. alive_since)) do
    -- Its other rows go by themselves; these have no end.
    for _, worker in ipairs(redis.call('ZRANGE', gone .. ':workers', 0, -1)) do
        redis.call('UNLINK', gone .. ':inflight:' .. worker, gone .. ':workers:metadata:' .. worker)
    end
    redis.call('UNLINK', gone .. ':workers')
    redis.call('ZREM', KEYS[1], gone)
    redis.call('ZREM', KEYS[2], gone .. ':workers')
end
local engines, sent, full = 0, 0, 0
for _, mailbox in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if mailbox ~= own then
        engines = engines + 1
        local active, data = mailbox .. ':active', mailbox .. ':data'
        for i = 5, #ARGV, 2 do
            if redis.call('LLEN', active) >= most then
                full = full + 1
            elseif redis.call('HSETNX', data, ARGV[i], ARGV[i + 1]) == 1 then
                local meta = mailbox .. ':meta:' .. ARGV[i]
                redis.call('HSET', meta, 'attempts', 0, 'max_attempts', 1, 'status', 'Pending')
                redis.call('EXPIRE', meta, kept)
                redis.call('RPUSH', active, ARGV[i])
                sent = sent + 1
            end
        end
        redis.call('EXPIRE', active, kept)
        redis.call('EXPIRE', data, kept)
    end
end
return { engines, sent, full }
