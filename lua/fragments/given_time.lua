-- given_time: lets tests run on virtual time.
--
-- ARGV  1  time to take for now, ms; '' for Redis's clock

now = tonumber(ARGV[1]) or now
