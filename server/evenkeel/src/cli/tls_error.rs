//! Describes why a connection failed, in particular because of TLS.

use std::{error::Error as StdError, io};

use rustls::{CertificateError, Error};

/// Begin of the text of an alert that the sidecar has sent. HTTP/2 passes on errors of TLS only as text.
const ALERT: &str = "received fatal alert: ";

/// Describes why a connection failed. Of a chain of errors, only the last names the cause.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> String {
    fault(error).unwrap_or_else(|| last(error).to_string())
}

/// Describes an error of TLS, or returns `None` if the connection failed for another reason.
pub(super) fn fault(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(fault) = tls_error(error) {
        return Some(describe(fault));
    }
    let text = last(error).to_string();
    if let Some((_, alert)) = text.split_once(ALERT) {
        return Some(describe_alert(alert));
    }
    let inadequate = text.to_lowercase().contains("security") && text.to_lowercase().contains("inadequate");
    (inadequate || text.contains("this port speaks TLS"))
        .then(|| "the sidecar speaks TLS there; use https://".to_owned())
}

fn last<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    std::iter::successors(Some(error), |error| (*error).source()).last().unwrap_or(error)
}

/// Returns the error of TLS in a chain of errors.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| {
        let of_io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.downcast_ref::<Error>().or_else(|| of_io.and_then(|inner| inner.downcast_ref::<Error>()))
    })
}

fn describe_alert(alert: &str) -> String {
    if alert == "CertificateRequired" {
        return "the sidecar requires a client certificate; see --cert-file and --key-file".to_owned();
    }
    format!("the sidecar rejects the client certificate or the version of TLS: {alert}; see --cert-file")
}

fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no authority that this command trusts has signed the sidecar's certificate; see --ca-file"
                .to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("the sidecar's certificate is for another name: {error}; see --server-name"),
        Error::InvalidCertificate(_) => format!("the sidecar's certificate is not valid: {error}"),
        Error::InvalidMessage(_) => "the sidecar speaks no TLS there; use http://".to_owned(),
        Error::AlertReceived(alert) => describe_alert(&format!("{alert:?}")),
        _ => error.to_string(),
    }
}
