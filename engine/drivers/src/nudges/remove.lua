-- Removes a mailbox with everything that lies in it.
-- KEYS: the engines, apalis' list of queues, then the keys of the mailbox. ARGV: its name.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1] .. ':workers')
-- Tasks have a row each, and workers two; a mailbox holds few, unless something else filled it.
for _, id in ipairs(redis.call('HKEYS', ARGV[1] .. ':data')) do
    redis.call('UNLINK', ARGV[1] .. ':meta:' .. id)
end
for _, worker in ipairs(redis.call('ZRANGE', ARGV[1] .. ':workers', 0, -1)) do
    redis.call('UNLINK', ARGV[1] .. ':inflight:' .. worker, ARGV[1] .. ':workers:metadata:' .. worker)
end
for i = 3, #KEYS do
    redis.call('UNLINK', KEYS[i])
end
return redis.status_reply('OK')
