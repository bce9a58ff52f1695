//! Requests without an answer to their Admit: they go on, or the plugin refuses them.

use evenkeel_proto::v1::Denied;

use super::{Progress, Worker, passed::Cause};
use crate::{config::OnError, host::Host, metrics::Counter};

/// What happens to a request without an answer to its Admit.
pub(super) enum WithoutAnswer {
    /// The request goes on, and the gateway chooses its endpoint.
    GoOn,
    /// A refusal stands for the request.
    Refused(Denied),
    /// The plugin refuses the request: `on_error` is closed, or too many requests have gone on.
    Closed,
}

impl Worker {
    /// Ends the wait of a stream whose deadline has passed. The stream must be the effective context.
    pub(super) fn on_deadline(
        &mut self,
        host: &dyn Host,
        context: u32,
        cause: Cause,
        without: WithoutAnswer,
    ) {
        host.count(Counter::AdmitsTimeout, 1);
        let deadline_ms = self.config.deadline_ms;
        let reason = || format!("Admit: no answer within {deadline_ms} ms");
        self.connectivity.on_failure(host, &self.config, reason);
        if self.on_unanswered(host, context, cause, without) == Progress::Proceed {
            host.resume_request();
        }
    }

    /// Handles an admission that failed before its deadline.
    pub(super) fn fail_admission(
        &mut self,
        host: &dyn Host,
        context: u32,
        counter: Counter,
        cause: Cause,
        reason: impl FnOnce() -> String,
    ) -> Progress {
        host.count(counter, 1);
        self.connectivity.on_failure(host, &self.config, reason);
        let without = self.without_answer(host, context);
        self.on_unanswered(host, context, cause, without)
    }

    /// Decides on a request without an answer to its Admit.
    pub(super) fn without_answer(&mut self, host: &dyn Host, context: u32) -> WithoutAnswer {
        let (now_ms, stream) = (host.now_ms(), self.streams.get(&context));
        if self.config.on_error == OnError::Closed || stream.is_some_and(|stream| stream.is_admin_call) {
            return WithoutAnswer::Closed;
        }
        let standing = stream.and_then(|stream| self.refusals.standing(&stream.refusal_keys, now_ms));
        match standing {
            Some(denied) => WithoutAnswer::Refused(denied),
            None if self.open_rate.take(self.config.open_per_second, now_ms) => WithoutAnswer::GoOn,
            None => {
                host.count(Counter::FailOpenLimited, 1);
                WithoutAnswer::Closed
            }
        }
    }

    /// Applies `on_error`. If the request proceeds, its lease stays in the lease table: the next list lists it, and it
    /// is settled at its end. A request for an admin path is always refused.
    fn on_unanswered(
        &mut self,
        host: &dyn Host,
        context: u32,
        cause: Cause,
        without: WithoutAnswer,
    ) -> Progress {
        if self.streams.get(&context).is_some_and(|stream| stream.is_admin_call) {
            return self.admin_call_unanswered(host, context);
        }
        match without {
            WithoutAnswer::Refused(denied) => {
                host.count(Counter::FailRefused, 1);
                self.deny(host, context, denied)
            }
            WithoutAnswer::GoOn => {
                host.count(Counter::FailOpen, 1);
                self.passed.count(cause, &self.connection, host.now_ms());
                self.place_by_gateway(host, context);
                self.set_report_header(context, "error");
                Progress::Proceed
            }
            WithoutAnswer::Closed => {
                host.count(Counter::FailClosed, 1);
                self.drop_lease(host, context);
                self.set_report_header(context, "error");
                let message = "The admission service did not answer. Try again.";
                self.refuse(host, context, 503, "admission_unavailable", message)
            }
        }
    }
}
