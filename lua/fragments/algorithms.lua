-- algorithms: the table that each algorithm's fragment adds itself to.
--
-- PROVIDES  ALGORITHMS   kind -> algorithm, with the fields
--             kind, doubles   how a counter is stored; see codec
--             quota           true for the quotas
--             record          quotas: position of the amount on record, which is -1 without a record
--             rule(rule, numbers, from)
--                             sets the fields of a rule from the numbers at numbers[from + 1] and after
--             room(c, at, rule, cost)
--                             returns the amount that a request can take, nil if the cost does not fit
--             at_most(c, at, rule, cost)
--                             returns the amount for a request that is admitted although the cost does not fit;
--                             default: the cost
--             take(c, at, rule, taken)
--                             takes an amount
--             settle(c, at, rule, window, reserved, actual)
--                             replaces the reserved amount by the charge
--             read(c, at, rule, reply, n)
--                             appends the counter to a reply of n numbers; returns the new n, and the window, slot,
--                             time or day that the settlement passes back
--             retry(c, at, rule, cost)
--                             for a refusal, returns the ms until the request would fit, and the ms during which only
--                             an administrator can make it fit
--             figures(c, at, rule)
--                             quotas: returns the used, reserved and overrun amounts
--           take and settle return the time until which the counter matters, ms; 0 if it matters forever; nil if they
--           changed nothing.
--           room, settle and figures advance the counter to now; the others run after one of them.
--           A rule has `provisional` if the settlement replaces what a request takes.
--           server/store/src/memory/cell.rs is the reference, with the same order of arithmetic.

local FIXED_WINDOW, SLIDING_WINDOW, TOKEN_BUCKET, CONCURRENCY, PREPAID, BUDGET = 1, 2, 3, 4, 5, 6
local FIRST_QUOTA = PREPAID
local ALGORITHMS = {}
