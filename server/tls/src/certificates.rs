//! Reads what a certificate says: its names, and when it is valid.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, ring};

/// A time after the end of every certificate: the year 9999 ends in 253,402,300,799 s.
const LATEST: Duration = Duration::from_secs(253_402_300_800);

/// Returns the names of a client's certificate: its URIs, such as SPIFFE IDs, and then its DNS names in lower case. The
/// certificate must have been verified.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris = certificate.valid_uri_names().map(str::to_owned);
    uris.chain(certificate.valid_dns_names().map(str::to_ascii_lowercase)).collect()
}

/// When a certificate is valid, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: u64,
    pub not_after_s: u64,
}

impl Validity {
    /// Reads the validity of a server's certificate. webpki reports these times only in its errors, so this function
    /// verifies the certificate at times at which it cannot be valid.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let certificate = EndEntityCert::try_from(certificate)?;
        let error_at = |time| {
            let time = UnixTime::since_unix_epoch(time);
            let algorithms = &[ring::ECDSA_P256_SHA256];
            let verified =
                certificate.verify_for_usage(algorithms, &[], &[], time, KeyUsage::server_auth(), None, None);
            // Without a trust anchor, no certificate passes.
            verified.err().unwrap_or(Error::UnknownIssuer)
        };
        let not_before_s = match error_at(Duration::ZERO) {
            Error::CertNotValidYet { not_before, .. } => not_before.as_secs(),
            // Valid since the epoch or before.
            Error::UnknownIssuer => 0,
            error => return Err(error),
        };
        let not_after_s = match error_at(LATEST) {
            Error::CertExpired { not_after, .. } => not_after.as_secs(),
            Error::UnknownIssuer => LATEST.as_secs(),
            error => return Err(error),
        };
        Ok(Self { not_before_s, not_after_s })
    }

    /// Describes why the certificate is not valid now, or returns `None`.
    #[must_use]
    pub fn fault_at(self, now_s: u64) -> Option<String> {
        if now_s > self.not_after_s {
            return Some(format!("expired {} ago", span(now_s - self.not_after_s)));
        }
        (now_s < self.not_before_s).then(|| format!("is valid only in {}", span(self.not_before_s - now_s)))
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
