-- filler: makes Redis store a hash as a hash table.
--
-- PROVIDES  FILLER   value of the field '' of a hash, which is not an endpoint, lease or reservation
--
-- Redis stores a hash of up to 512 fields as a list, and each access then costs O(fields). One value longer than
-- hash-max-listpack-value (64) makes it a hash table.

local FILLER = ':filler: keeps this hash a hash table instead of a list; see docs/redis-layout'
