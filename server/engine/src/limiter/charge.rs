//! The charge of a request that has ended.

use evenkeel_domain::{
    limit::{Counts, Generation, LimitRules, RequestBody, price::Tokens},
    usage::Outcome,
};

use super::{estimates::Estimates, ticket::Ticket};

/// How a request ended, and the usage its response reported.
#[derive(Clone, Copy, Debug)]
pub struct UsageReport {
    /// How the request ended.
    pub outcome: Outcome,
    /// The tokens that the response reported, if any.
    pub tokens: Option<Tokens>,
    /// Whether the response reported the tokens at its end.
    pub is_final: bool,
    /// Size of the generated text in the response, in bytes.
    pub output_bytes: u64,
    /// Whether the gateway saw any part of the response's body.
    pub began: bool,
    /// Whether the gateway read and parsed the whole response body. If so, `output_bytes` counts all generated text.
    pub body_read: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Charge {
    pub tokens: Tokens,
    /// Whether the tokens are estimated.
    pub estimated: bool,
    /// Cost of the tokens, in millionths of the price table's currency.
    pub cost: u64,
}

impl UsageReport {
    /// The report of a request that its gateway did not send upstream.
    #[must_use]
    pub fn not_sent() -> Self {
        let outcome = Outcome::NotSent;
        Self { outcome, tokens: None, is_final: false, output_bytes: 0, began: false, body_read: false }
    }
}

impl Charge {
    /// Computes the charge of a request. `response_model` is the model that the response named.
    ///
    /// - nothing, if the request generates nothing;
    /// - the tokens that its response reported at its end;
    /// - nothing, if the request was never sent, or if it failed or was cut off before the body started;
    /// - otherwise the prompt and the output that the gateway saw. If the response is complete but its body could not
    ///   be read, or if the server generates after its response, the estimated output.
    #[must_use]
    pub fn of(
        report: &UsageReport,
        ticket: &Ticket,
        response_model: &str,
        estimates: &Estimates,
        rules: &LimitRules,
    ) -> Self {
        let (tokens, estimated) = tokens(report, ticket, estimates, rules);
        Self { tokens, estimated, cost: rules.prices.cost(&ticket.model, response_model, &tokens) }
    }

    /// Returns the charge in the unit that a limit or quota counts.
    #[must_use]
    pub fn amount(&self, counts: Counts) -> u64 {
        counts.amount(&self.tokens, || self.cost)
    }
}

fn tokens(
    report: &UsageReport,
    ticket: &Ticket,
    estimates: &Estimates,
    rules: &LimitRules,
) -> (Tokens, bool) {
    // The usage of an object that the request reads is not the usage of the request.
    if ticket.generation == Generation::Nothing {
        return (Tokens::default(), false);
    }
    let is_background = ticket.generation == Generation::Background;
    let reported = report.tokens.unwrap_or_default();
    let nothing_more = match report.outcome {
        Outcome::NotSent => return (Tokens::default(), false),
        Outcome::Success => false,
        Outcome::ClientError | Outcome::ServerError => true,
        // The server may have accepted the request, and goes on without the client.
        Outcome::ClientAbort | Outcome::Timeout if is_background => false,
        Outcome::Unknown | Outcome::UpstreamReset | Outcome::ClientAbort | Outcome::Timeout => !report.began,
    };
    // A server that generates later may report zeros for now.
    let is_final = report.is_final && report.tokens.is_some() && !(is_background && reported.output == 0);
    if nothing_more || is_final {
        return (reported, false);
    }
    let mut tokens = reported;
    if tokens.input == 0 {
        let prompt = RequestBody { prompt_bytes: ticket.prompt_bytes, ..RequestBody::default() };
        tokens.input = estimates.estimate(rules, &ticket.model, &prompt).input.ceil() as u64;
    }
    let output = match report.output_bytes {
        // The response of a background request has at most a part of what the server generates.
        bytes if is_background => ticket.output_tokens.max(estimates.output_tokens_of(&ticket.model, bytes)),
        0 if report.outcome == Outcome::Success && !report.body_read => ticket.output_tokens,
        bytes => estimates.output_tokens_of(&ticket.model, bytes),
    };
    tokens.output = tokens.output.max(output);
    (tokens, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charge_depends_on_the_outcome_and_the_reported_usage() {
        let tokens = |input, output| Tokens { input, output, ..Tokens::default() };
        let ticket = Ticket { output_tokens: 300, prompt_bytes: 38, ..Ticket::default() };
        let report = |outcome, tokens, is_final, output_bytes, began| UsageReport {
            outcome,
            tokens,
            is_final,
            output_bytes,
            began,
            body_read: false,
        };
        let charge = |report| Charge::of(&report, &ticket, "", &Estimates::default(), &LimitRules::default());
        let (complete, cut_off, failed) = (Outcome::Success, Outcome::UpstreamReset, Outcome::ServerError);
        let cases = [
            (report(complete, Some(tokens(5, 7)), true, 99, true), tokens(5, 7), false),
            // The stream was cut off after it had reported its usage.
            (report(cut_off, Some(tokens(5, 7)), true, 99, true), tokens(5, 7), false),
            // The stream was cut off before its end: the charge is the prompt and the streamed output.
            (report(cut_off, None, false, 41, true), tokens(10, 11), true),
            (report(cut_off, Some(tokens(8, 1)), false, 40, true), tokens(8, 10), true),
            (report(cut_off, None, false, 0, false), tokens(0, 0), false),
            (report(failed, None, false, 0, true), tokens(0, 0), false),
            // The response is complete, but its body could not be read.
            (report(complete, None, false, 0, true), tokens(10, 300), true),
            (report(complete, None, false, 80, true), tokens(10, 20), true),
        ];
        for (report, tokens, estimated) in cases {
            assert_eq!(charge(report), Charge { tokens, estimated, cost: 0 }, "{report:?}");
        }
        // The response is complete and has no generated text, such as a list of models.
        let listed = UsageReport { body_read: true, ..report(complete, None, false, 0, true) };
        assert_eq!(charge(listed).tokens, tokens(10, 0));
        let nothing = Charge { tokens: tokens(0, 0), estimated: false, cost: 0 };
        assert_eq!(charge(report(Outcome::NotSent, None, false, 0, false)), nothing);
    }

    fn report_of(outcome: Outcome, tokens: Option<(u64, u64)>, output_bytes: u64) -> UsageReport {
        let tokens = tokens.map(|(input, output)| Tokens { input, output, ..Tokens::default() });
        UsageReport {
            outcome,
            tokens,
            is_final: tokens.is_some(),
            output_bytes,
            began: true,
            body_read: true,
        }
    }

    fn charge_of(generation: Generation, report: &UsageReport) -> (u64, u64, bool) {
        let ticket = Ticket { generation, output_tokens: 300, prompt_bytes: 40, ..Ticket::default() };
        let charge = Charge::of(report, &ticket, "", &Estimates::default(), &LimitRules::default());
        (charge.tokens.input, charge.tokens.output, charge.estimated)
    }

    /// A stored response or batch contains the usage of the request that created it.
    #[test]
    fn reading_a_stored_result_costs_nothing() {
        for outcome in [Outcome::Success, Outcome::ClientAbort, Outcome::ServerError] {
            for tokens in [None, Some((90_000, 60_000))] {
                let charge = charge_of(Generation::Nothing, &report_of(outcome, tokens, 5000));
                assert_eq!(charge, (0, 0, false), "{outcome:?} {tokens:?}");
            }
        }
    }

    #[test]
    fn a_background_request_is_charged_its_expected_output() {
        let cases = [
            // `{"status":"queued","usage":null}`
            (report_of(Outcome::Success, None, 0), (10, 300, true)),
            (report_of(Outcome::Success, Some((0, 0)), 0), (10, 300, true)),
            (report_of(Outcome::Success, Some((8, 0)), 12), (8, 300, true)),
            // A client that streams the answer gets its usage.
            (report_of(Outcome::Success, Some((8, 700)), 2800), (8, 700, false)),
            // The server goes on after the client has left.
            (report_of(Outcome::ClientAbort, None, 40), (10, 300, true)),
            (report_of(Outcome::ClientAbort, None, 4000), (10, 1000, true)),
            (report_of(Outcome::ClientError, None, 0), (0, 0, false)),
            (UsageReport { began: false, ..report_of(Outcome::ClientAbort, None, 0) }, (10, 300, true)),
            (UsageReport { began: false, ..report_of(Outcome::UpstreamReset, None, 0) }, (0, 0, false)),
        ];
        for (report, expected) in cases {
            assert_eq!(charge_of(Generation::Background, &report), expected, "{report:?}");
        }
    }
}
