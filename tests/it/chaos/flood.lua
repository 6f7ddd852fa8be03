-- Puts ARGV[1] nudges that stand for all groups into the mailbox of every engine, past all bounds that senders
-- keep. Rows as `post.lua` of the driver writes them.
local stamp = redis.call('TIME')
local count = 0
for _, mailbox in ipairs(redis.call('ZRANGE', 'capstan:engines', 0, -1)) do
    for i = 1, tonumber(ARGV[1]) do
        local id = string.format('%08x-%04x-7000-8000-%012x', stamp[1] % 4294967296, stamp[2] % 65536, i)
        if redis.call('HSETNX', mailbox .. ':data', id, cjson.encode({ id = id, group = cjson.null })) == 1 then
            redis.call('HSET', mailbox .. ':meta:' .. id, 'attempts', 0, 'max_attempts', 1, 'status', 'Pending')
            redis.call('EXPIRE', mailbox .. ':meta:' .. id, 3600)
            redis.call('RPUSH', mailbox .. ':active', id)
            count = count + 1
        end
    end
end
return count
