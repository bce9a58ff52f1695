-- The scripts run in Redis 7: Lua 5.1 with `redis`, `cmsgpack` and `struct`, and KEYS and ARGV.
std = "lua51"
read_globals = { "redis", "cmsgpack", "struct", "KEYS", "ARGV" }
max_line_length = 120
