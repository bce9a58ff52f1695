//! The policy for outages of the store.

/// What a pool, limit or quota does while the store is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// A pool chooses an endpoint from local knowledge. In a limit, each sidecar counts on its own, up to the amount
    /// divided by the number of live sidecars.
    #[default]
    Local,
    /// A pool admits the request without an endpoint, so that the gateway chooses one. A limit counts nothing and
    /// refuses nothing.
    Open,
    /// The request is refused.
    Closed,
}
