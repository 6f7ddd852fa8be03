-- Removes a nudge that was received. KEYS: what its worker has in hand, the texts, its row. ARGV: its id.
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[3])
return redis.status_reply('OK')
