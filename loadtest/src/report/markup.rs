//! Pieces of text on the page.

use crate::lab::Policy;

pub(super) fn title(policy: Policy) -> &'static str {
    match policy {
        Policy::EnvoyLeastRequest => "Envoy least request",
        Policy::EnvoyRoundRobin => "Envoy round robin",
        Policy::EnvoyRandom => "Envoy random",
        Policy::EvenkeelLeastRequest => "Evenkeel least request",
        Policy::EvenkeelUnread => "Evenkeel least work, without prefixes",
        Policy::EvenkeelLeastWork => "Evenkeel least work",
        Policy::Ideal => "Ideal",
        Policy::HigressPrefix => "Higress prefix cache",
        Policy::IdealWork => "Ideal by work",
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([thousands(7), thousands(1234), thousands(1_234_567)], ["7", "1,234", "1,234,567"]);
    }
}
