-- concurrency: up to an amount of requests running at the same time. Redis counts them in a sorted set; see running.
--
-- ARGV    rule: amount, ms until a request that nobody renews stops to count
-- REPLY   how many run

ALGORITHMS[CONCURRENCY] = {
  rule = function(rule, numbers, from) rule.amount, rule.ttl = numbers[from + 1], numbers[from + 2] end,
}
