//! Tests that roles are reloaded, also for open connections.

use std::time::Duration;

use tonic::Code;

use super::{CLOSED, GATEWAY, POOL, TLS, admits, endpoint, start};
use crate::support::{
    eventually,
    tls::{Authority, replace},
};

#[tokio::test]
async fn a_name_that_is_removed_from_the_list_loses_its_role_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let sidecar = start(directory.path(), &authority).await;
    let client = authority.sign(&[GATEWAY]);
    let channel = endpoint(&sidecar, &authority.pem, Some(&client)).connect().await.unwrap();
    admits(channel.clone(), "h", 1).await.unwrap();

    let config = |roles: &str| {
        replace(&directory.path().join("evenkeel.yaml"), &format!("{CLOSED}{POOL}{TLS}{roles}"));
    };
    config("gateway: {certificates: [another.example]}\n");
    let second = Duration::from_secs(20);
    eventually(second, "refused", || async {
        match admits(channel.clone(), "h", 1).await {
            Err(status) if status.code() == Code::PermissionDenied => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    config(&format!("gateway: {{certificates: ['{GATEWAY}']}}\n"));
    eventually(second, "admitted", || async {
        admits(channel.clone(), "h", 1).await.map_err(|status| status.to_string())
    })
    .await;
}
