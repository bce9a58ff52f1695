-- concurrency: up to an amount of requests at the same time. A sorted set counts them; see running.
--
-- ARGV    rule: amount, ms after which a request that is not renewed no longer counts
-- REPLY   number of in-flight requests

ALGORITHMS[CONCURRENCY] = function(numbers, from, shadow)
  return { amount = numbers[from + 1], ttl = numbers[from + 2], shadow = shadow }
end
