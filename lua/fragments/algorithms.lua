-- algorithms: the table that each algorithm's fragment adds itself to.
--
-- PROVIDES  RECORD       kind of a quota -> position of the amount on record, which is -1 without a record
--           ALGORITHMS   kind -> function(numbers, from, shadow, provisional), which returns the rule with the numbers
--                        at numbers[from + 1] and after. A rule has the fields
--             kind, doubles   how a counter is stored; see codec
--             record          quotas: RECORD of the kind
--             shadow          true if the rule refuses no request
--             room(c, at, cost)
--                             returns the amount that a request can take, nil if the cost does not fit
--             at_most(c, at, cost)
--                             returns the amount for a request that is admitted although the cost does not fit;
--                             default: the cost
--             take(c, at, taken, reply, n)
--                             takes an amount unless `taken` is nil, and appends the counter to a reply of n numbers.
--                             Returns the new n; the window, slot, time or day that the settlement passes back; and
--                             UNTIL
--             settle(c, at, window, reserved, actual)
--                             replaces the reserved amount by the charge; returns UNTIL
--             retry(c, at, cost)
--                             for a refusal, returns the ms until the request would fit, and the ms during which only
--                             an administrator can make it fit
--             level(c, at)    quotas: returns the amount or balance on record, -1 without a record
--             figures(c, at)  quotas: returns the used, reserved and overrun amounts
--           UNTIL is the time until which the counter matters, ms; 0 if it matters forever; nil if nothing changed.
--           room, settle and figures advance the counter to now; the others run after one of them.
--           `provisional`: the settlement replaces what a request takes.
--           A script creates only the functions of the rules that it uses. Their numbers are locals, which Lua reads
--           faster than fields of a table. In fixed windows and token buckets, positions are literal numbers: a named
--           position would be a local of an outer function, and make a call of `count` 2 % slower.
--           server/store/src/memory/cell.rs is the reference, with the same order of arithmetic.

local FIXED_WINDOW, SLIDING_WINDOW, TOKEN_BUCKET, CONCURRENCY, PREPAID, BUDGET = 1, 2, 3, 4, 5, 6
local FIRST_QUOTA = PREPAID
local RECORD = { [PREPAID] = 1, [BUDGET] = 4 }
local ALGORITHMS = {}
