-- algorithms: the table that each algorithm's fragment adds itself to.
--
-- PROVIDES  ALGORITHMS   kind -> algorithm, with the fields
--             kind, doubles   how a counter is stored; see codec
--             quota           true for the quotas
--             record          quotas: where the counter has the amount on record; -1 there means none
--             rule(rule, numbers, from)
--                             names the numbers of a rule, from numbers[from + 1] on
--             room(c, at, rule, cost)
--                             returns what a request can take, nil where there is no room
--             at_most(c, at, rule, cost)
--                             returns what a request takes that is not refused; without it, the cost
--             take(c, at, rule, taken)
--                             takes
--             settle(c, at, rule, window, reserved, actual)
--                             replaces what a request reserved by what it is charged
--             read(c, at, rule, reply, n)
--                             appends the counter to a reply of n numbers; returns the new n, and the window, slot,
--                             time or day to show when the request is settled
--             retry(c, at, rule, cost)
--                             returns, of a refusal, the ms until the request would fit, and the ms for which only an
--                             administrator can make room
--             figures(c, at, rule)
--                             quotas: returns what is used, reserved and overrun
--           take and settle return the time until which the counter matters, ms; 0 where that has no end; nil where
--           they changed nothing.
--           room, settle and figures bring the counter up to now; the others run after one of them.
--           A rule has `provisional` where what a request takes is replaced when it ends.
--           server/src/store/memory/cell.rs is the reference, with the same order of arithmetic.

local FIXED_WINDOW, SLIDING_WINDOW, TOKEN_BUCKET, CONCURRENCY, PREPAID, BUDGET = 1, 2, 3, 4, 5, 6
local FIRST_QUOTA = PREPAID
local ALGORITHMS = {}
