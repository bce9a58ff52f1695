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
    /// Whether the response stated the tokens from the prompt cache, even as 0.
    pub cached_input_stated: bool,
    /// Size of the generated text in the response, in bytes.
    pub output_bytes: u64,
    /// Whether the gateway saw any part of the response's body.
    pub began: bool,
    /// Whether the gateway read the whole response body and knows its form. If so, `output_bytes` counts all generated
    /// text.
    pub body_read: bool,
    /// Sum of input and output tokens, if the response reported only their sum. Otherwise 0.
    pub total_tokens: u64,
    /// Whether the response switched the connection to another protocol, such as WebSocket.
    pub upgraded: bool,
    /// Whether the gateway saw a part of a body that it could not read or whose form it does not know.
    pub form_unknown: bool,
    /// Time to the end of the response.
    pub total_ms: u64,
}

/// Most bytes of text per token. The longest tokens of common vocabularies are 128 spaces, so a count of tokens with
/// more text than this cannot be true.
const BYTES_PER_TOKEN_MAX: u64 = 128;

/// Most tokens that a response can report. The largest contexts have 10 million tokens, and a provider may make several
/// calls for one request. A larger count comes from an overflow, such as a -1 that became unsigned.
const TOKENS_MAX: u64 = 100_000_000;

/// Tokens per second of an upgraded connection that reported no usage and no text. They are the rates at which OpenAI's
/// realtime API counts audio: 10 tokens for a second from the client, 20 for a second to it.
const CONNECTION_INPUT_PER_SECOND: u64 = 10;
const CONNECTION_OUTPUT_PER_SECOND: u64 = 20;

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
        Self::unread(Outcome::NotSent)
    }

    /// The report of a request whose response the gateway did not see.
    #[must_use]
    pub fn unread(outcome: Outcome) -> Self {
        Self {
            outcome,
            tokens: None,
            is_final: false,
            cached_input_stated: false,
            output_bytes: 0,
            began: false,
            body_read: false,
            total_tokens: 0,
            upgraded: false,
            form_unknown: false,
            total_ms: 0,
        }
    }

    /// Returns the tokens that the response reported; `None` if it reported none that can be true.
    fn possible_tokens(&self) -> Option<Tokens> {
        self.tokens.filter(|tokens| tokens.input.max(tokens.output) <= TOKENS_MAX)
    }

    /// Returns whether the output of these tokens can be true, beside the text that the gateway saw.
    fn is_credible(&self, output: u64) -> bool {
        output.saturating_mul(BYTES_PER_TOKEN_MAX) >= self.output_bytes
    }
}

impl Charge {
    /// Computes the charge of a request. `response_model` is the model that the response named.
    ///
    /// - nothing, if the request generates nothing;
    /// - the tokens that its response reported at its end, except counts that cannot be true;
    /// - nothing, if the request was never sent, or if it failed or was cut off before the body started;
    /// - otherwise the prompt, and the larger of the output that the response reported and the output that the gateway
    ///   saw. If its body could not be read or has an unknown form, or if the server generates after its response, the
    ///   expected output. If the response switched protocols and could not be read, its duration.
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
    if ticket.generation == Generation::Nothing && !report.upgraded {
        return (Tokens::default(), false);
    }
    let is_background = ticket.generation == Generation::Background;
    let tokens = report.possible_tokens();
    let reported = tokens.unwrap_or_default();
    let nothing_more = match report.outcome {
        Outcome::NotSent => return (Tokens::default(), false),
        Outcome::Success => false,
        Outcome::ClientError | Outcome::ServerError => true,
        // The server may have accepted the request, and goes on without the client.
        Outcome::ClientAbort | Outcome::Timeout if is_background => false,
        Outcome::Unknown | Outcome::UpstreamReset | Outcome::ClientAbort | Outcome::Timeout => !report.began,
    };
    // A server that generates later may report zeros for now.
    let is_final = report.is_final && tokens.is_some() && !(is_background && reported.output == 0);
    let is_prompt_missing = reported.input == 0 && ticket.prompt_bytes > 0;
    let is_complete = is_final && !is_prompt_missing && report.is_credible(reported.output);
    if nothing_more || is_complete {
        return (reported, false);
    }
    let is_unread = report.output_bytes == 0 && !report.body_read;
    if report.upgraded && is_unread && tokens.is_none() {
        return (by_duration(report), true);
    }
    let prompt = RequestBody { prompt_bytes: ticket.prompt_bytes, ..RequestBody::default() };
    let input = estimates.estimate(rules, &ticket.model, &prompt).input.ceil() as u64;
    let text = estimates.output_tokens_of(&ticket.model, report.output_bytes);
    let has_total = !is_background && (1..=TOKENS_MAX).contains(&report.total_tokens);
    if tokens.is_none() && has_total {
        return (divide(report.total_tokens, input, if is_unread { None } else { Some(text) }), true);
    }
    let mut tokens = reported;
    if tokens.input == 0 {
        tokens.input = input;
    }
    let is_unknown = is_unread && report.began && (report.form_unknown || report.outcome == Outcome::Success);
    if is_background && !is_final {
        // The response has at most a part of what the server generates.
        tokens.output = tokens.output.max(ticket.output_tokens).max(text);
    } else if is_unknown && !is_final {
        tokens.output = tokens.output.max(ticket.output_tokens);
    } else if !is_final || !report.is_credible(tokens.output) {
        tokens.output = tokens.output.max(text);
    }
    (tokens, true)
}

/// Divides a total into the output, if its text was seen, and the rest; otherwise into the expected input, and the rest.
fn divide(total: u64, input: u64, text: Option<u64>) -> Tokens {
    let output = text.map_or_else(|| total.saturating_sub(input), |text| text.min(total));
    Tokens { input: total - output, output, ..Tokens::default() }
}

/// Estimates the use of an upgraded connection whose messages could not be read.
fn by_duration(report: &UsageReport) -> Tokens {
    let seconds = if report.began { report.total_ms.div_ceil(1000) } else { 0 };
    Tokens {
        input: seconds.saturating_mul(CONNECTION_INPUT_PER_SECOND),
        output: seconds.saturating_mul(CONNECTION_OUTPUT_PER_SECOND),
        ..Tokens::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charge_depends_on_the_outcome_and_the_reported_usage() {
        let tokens = |input, output| Tokens { input, output, ..Tokens::default() };
        let ticket = Ticket { output_tokens: 300, prompt_bytes: 38, ..Ticket::default() };
        let report = |outcome, tokens, is_final, output_bytes, began| UsageReport {
            tokens,
            is_final,
            output_bytes,
            began,
            ..UsageReport::unread(outcome)
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

    /// Evidence against a report: text without tokens, a prompt without tokens, a total alone.
    #[test]
    fn a_count_that_cannot_be_true_is_estimated() {
        let tokens = |input, output| Some(Tokens { input, output, ..Tokens::default() });
        let read = UsageReport { began: true, body_read: true, ..UsageReport::unread(Outcome::Success) };
        let total = |total_tokens, output_bytes| UsageReport { total_tokens, output_bytes, ..read };
        let reported = |tokens, output_bytes| UsageReport { tokens, is_final: true, output_bytes, ..read };
        let unread = UsageReport { began: true, ..UsageReport::unread(Outcome::Success) };
        let interrupted = UsageReport { outcome: Outcome::ClientAbort, ..unread };
        let socket = UsageReport { upgraded: true, total_ms: 9500, ..unread };
        let cut = UsageReport { outcome: Outcome::UpstreamReset, ..socket };
        // The prompt has 400 bytes; the expected output is 300 tokens.
        let cases = [
            (reported(tokens(0, 0), 80), (100, 20), true),
            (reported(tokens(90, 0), 80), (90, 20), true),
            (reported(tokens(0, 7), 28), (100, 7), true),
            (reported(tokens(90, 1), 8000), (90, 2000), true),
            (reported(tokens(90, 1), 128), (90, 1), false),
            (reported(tokens(90, 0), 0), (90, 0), false),
            (total(500, 80), (480, 20), true),
            (total(10, 80), (0, 10), true),
            // An overflow.
            (reported(tokens(u64::MAX, 7), 80), (100, 20), true),
            (reported(tokens(90, u64::from(u32::MAX)), 80), (100, 20), true),
            (total(u64::MAX, 80), (100, 20), true),
            (reported(tokens(TOKENS_MAX, 7), 28), (TOKENS_MAX, 7), false),
            (UsageReport { total_tokens: 500, ..unread }, (100, 400), true),
            (UsageReport { total_tokens: 60, ..unread }, (60, 0), true),
            (unread, (100, 300), true),
            // The response reported its prompt alone, in an unknown form.
            (UsageReport { tokens: tokens(90, 0), ..unread }, (90, 300), true),
            (UsageReport { tokens: tokens(90, 40), ..unread }, (90, 300), true),
            // A response of an unknown form was cut off; one of a known form was cut off before any text.
            (UsageReport { form_unknown: true, ..interrupted }, (100, 300), true),
            (interrupted, (100, 0), true),
            // The response had no body.
            (UsageReport { began: false, ..unread }, (100, 0), true),
            (socket, (100, 200), true),
            (cut, (100, 200), true),
            (UsageReport { body_read: true, ..socket }, (100, 0), true),
            (UsageReport { output_bytes: 400, ..socket }, (100, 100), true),
            (
                UsageReport { tokens: tokens(90, 40), is_final: true, output_bytes: 99, ..socket },
                (90, 40),
                false,
            ),
        ];
        let ticket = Ticket { output_tokens: 300, prompt_bytes: 400, ..Ticket::default() };
        for (report, (input, output), estimated) in cases {
            let charge = Charge::of(&report, &ticket, "", &Estimates::default(), &LimitRules::default());
            let charged = (charge.tokens.input, charge.tokens.output, charge.estimated);
            assert_eq!(charged, (input, output, estimated), "{report:?}");
        }
    }

    fn report_of(outcome: Outcome, tokens: Option<(u64, u64)>, output_bytes: u64) -> UsageReport {
        let tokens = tokens.map(|(input, output)| Tokens { input, output, ..Tokens::default() });
        let is_final = tokens.is_some();
        UsageReport {
            tokens,
            is_final,
            output_bytes,
            began: true,
            body_read: true,
            ..UsageReport::unread(outcome)
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
            (UsageReport { total_tokens: 9, ..report_of(Outcome::Success, None, 12) }, (10, 300, true)),
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
