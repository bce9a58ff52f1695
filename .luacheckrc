-- The scripts run in Redis 7: Lua 5.1 with `redis`, and KEYS and ARGV.
std = "lua51"
read_globals = { "redis", "cmsgpack", "KEYS", "ARGV" }
max_line_length = 120
