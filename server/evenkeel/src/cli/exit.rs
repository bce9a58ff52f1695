//! Errors and exit codes of commands.

use std::error::Error as _;

use tonic::{Code, Status};

use super::{
    OutputClosed,
    tls_error::{cause, fault},
};

/// Help text that lists the exit codes.
pub(super) const HELP: &str = "\
Exit codes:
  0  done
  1  any other failure
  2  usage error: an unknown option, a value the sidecar rejects, an invalid --server URL
  3  not found: no such pool, quota, record or request
  4  not permitted: the token or certificate is missing, unknown, or of another role
  5  no answer: no sidecar at the address, or its store is down";

/// Exit codes of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    NoAnswer = 5,
}

/// An error with a specific exit code.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(super) struct Fault {
    pub(super) exit: Exit,
    words: String,
}

impl Fault {
    pub(super) fn error(exit: Exit, words: impl Into<String>) -> anyhow::Error {
        Self { exit, words: words.into() }.into()
    }
}

impl Exit {
    /// Returns the exit code for an error of a command.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        // A reader that closes the output early, such as `head`, is not a failure.
        if error.is::<OutputClosed>() {
            return Self::Done;
        }
        error.chain().find_map(|cause| cause.downcast_ref::<Fault>()).map_or(Self::Failed, |fault| fault.exit)
    }

    /// Returns the exit code for a sidecar's error response.
    fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::NoAnswer,
            _ => Self::Failed,
        }
    }
}

/// Converts a sidecar's error response. `what` completes the message "cannot …" and may name a command that helps.
pub(super) fn failed(what: &'static str) -> impl FnOnce(Status) -> anyhow::Error {
    move |status| {
        if is_http(&status) {
            return Fault::error(Exit::Usage, HTTP_PORT);
        }
        if let Some(fault) = status.source().and_then(fault) {
            return Fault::error(Exit::NoAnswer, format!("cannot {what}: {fault}"));
        }
        let why = why(&status);
        let help = match status.code() {
            Code::Unimplemented => "; the sidecar runs an older version that does not know this command",
            Code::Unauthenticated => "; see EVENKEEL_TOKEN, --token-file and --token",
            _ => "",
        };
        Fault::error(Exit::of_code(status.code()), format!("cannot {what}: {why}{help}"))
    }
}

/// Returns the sidecar's message, or the cause if the connection failed.
pub(super) fn why(status: &Status) -> String {
    match status.source() {
        Some(source) => cause(source),
        None => status.message().to_owned(),
    }
}

/// The error message if the address answers only HTTP.
pub(super) const HTTP_PORT: &str = "--server: must be a sidecar's gRPC address (listen.grpc, port 9190); this \
                                    address answers only HTTP, as listen.http does (port 9191)";

/// Returns true if a web server answered 404. tonic then reports `Unimplemented` with this message.
pub(super) fn is_http(status: &Status) -> bool {
    status.code() == Code::Unimplemented && status.message().starts_with("grpc-status header missing")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_web_server_is_not_an_older_version() {
        let words = "grpc-status header missing, mapped from HTTP status code ";
        let error = failed("try")(Status::unimplemented(format!("{words}404")));
        assert_eq!((Exit::of(&error), error.to_string()), (Exit::Usage, HTTP_PORT.to_owned()));
        // A proxy answers 503 if it cannot reach its sidecar.
        let error = failed("try")(Status::unavailable(format!("{words}503")));
        assert_eq!(Exit::of(&error), Exit::NoAnswer);
        let error = failed("try")(Status::unimplemented("x"));
        assert!(error.to_string().starts_with("cannot try: x; the sidecar runs an older version"), "{error}");
    }

    #[test]
    fn every_answer_has_an_exit_code() {
        let table = [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::NotFound),
            (Code::Unauthenticated, Exit::Refused),
            (Code::PermissionDenied, Exit::Refused),
            (Code::Unavailable, Exit::NoAnswer),
            (Code::DeadlineExceeded, Exit::NoAnswer),
            (Code::ResourceExhausted, Exit::Failed),
            (Code::Internal, Exit::Failed),
            (Code::Unimplemented, Exit::Failed),
        ];
        for (code, exit) in table {
            let error = failed("try")(Status::new(code, "x"));
            assert_eq!(Exit::of(&error), exit, "{code:?}");
            assert_eq!(
                Exit::of(&Err::<(), _>(error).context("doing").unwrap_err()),
                exit,
                "{code:?}, wrapped"
            );
        }
        assert_eq!(Exit::of(&anyhow::anyhow!("else")), Exit::Failed);
        assert_eq!(Exit::of(&OutputClosed.into()), Exit::Done);
        for exit in [Exit::Done, Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Refused, Exit::NoAnswer] {
            assert!(HELP.contains(&format!("\n  {}  ", exit as u8)), "{exit:?} is missing");
        }
    }
}
