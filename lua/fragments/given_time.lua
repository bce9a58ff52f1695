-- given_time: lets tests run on virtual time.
--
-- ARGV  1  current time, ms; '' for Redis's clock

now = tonumber(ARGV[1]) or now
