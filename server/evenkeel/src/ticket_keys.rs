//! Where the keys of tickets come from: a file, or the store.

use std::sync::Arc;

use evenkeel_domain::settings::Secret;
use evenkeel_engine::limiter::ticket_keys::TicketKeys;
use evenkeel_store::{Store, ticket_keys::TicketKeyStore};
use tokio::sync::watch;
use tracing::warn;

/// Returns the keys of tickets: those of the file, or those that all sidecars share.
pub(crate) async fn open(
    file: &watch::Receiver<Arc<Vec<Secret>>>,
    shared: Option<Arc<dyn TicketKeyStore>>,
    store: &dyn Store,
) -> Arc<TicketKeys> {
    let of_file = Arc::clone(&file.borrow());
    if !of_file.is_empty() {
        return Arc::new(TicketKeys::of_file(&of_file));
    }
    let keys = TicketKeys::shared(shared);
    if store.is_up()
        && let Err(error) = keys.refresh(false).await
    {
        warn!(%error, "the keys of tickets cannot be read: the sidecar signs with a key of its own until they can");
    }
    Arc::new(keys)
}
