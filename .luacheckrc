-- The scripts run in Redis 7: Lua 5.1 with `redis`, `cmsgpack` and `struct`, and KEYS and ARGV. luacheck reads them
-- assembled (.ci/assemble-lua), where a script need not use all that a fragment provides.
std = "lua51"
read_globals = { "redis", "cmsgpack", "struct", "KEYS", "ARGV" }
max_line_length = 120
ignore = { "211/[A-Z][A-Z_]+", "211/max", "211/min", "211/floor", "211/packed_of", "211/encode", "211/lease_value", "211/with.*_counter" }
