-- Says that an engine is there, and keeps what belongs to its mailbox for a while.
-- KEYS: the engines, apalis' list of queues, then the keys of the mailbox. ARGV: its name, seconds rows are kept.
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
for i = 3, #KEYS do
    redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return redis.status_reply('OK')
