//! Endpoints from DNS, asked of a small name server of the test's own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use evenkeel_proto::v1::{Reason, admit_response::Answer};
use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use tokio::{net::UdpSocket, sync::watch};

use crate::support::{eventually, sidecar::Sidecar};

/// What the name server says: these addresses, or an error.
type Zone = Result<Vec<Ipv4Addr>, ResponseCode>;

async fn name_server() -> (SocketAddr, Arc<watch::Sender<Zone>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let zone = Arc::new(watch::Sender::new(Ok(Vec::new()) as Zone));
    let zones = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..n]).unwrap();
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            match &*zones.borrow() {
                Err(code) => answer.metadata.response_code = *code,
                Ok(addresses) if query.query_type() == RecordType::A => {
                    for ip in addresses {
                        answer.add_answer(Record::from_rdata(query.name().clone(), 0, RData::A(A(*ip))));
                    }
                }
                Ok(_) => {}
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, zone)
}

async fn endpoints(s: &Sidecar) -> Vec<String> {
    let state = s.pool("llm").await;
    state.endpoints.into_iter().filter(|e| e.listed).map(|e| e.address).collect()
}

async fn becomes(s: &Sidecar, expected: &[&str]) {
    eventually(Duration::from_secs(10), &format!("endpoints are {expected:?}"), || async {
        let got = endpoints(s).await;
        if got == expected { Ok(()) } else { Err(format!("{got:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_headless_service_is_followed() {
    let (server, zone) = name_server().await;
    let ip = |last| Ipv4Addr::new(10, 0, 0, last);
    let _ = zone.send_replace(Ok(vec![ip(2), ip(1)]));
    let s = Sidecar::start(&format!(
        "pools: [{{cluster: llm, cap: 1, dns: {{name: llm.models.test., port: 8000, refresh: 100ms, nameserver: '{server}'}}}}]"
    ))
    .await;
    becomes(&s, &["10.0.0.1:8000", "10.0.0.2:8000"]).await;
    let first = s.lease("llm", "h", 1).await;

    let _ = zone.send_replace(Ok(vec![ip(3)]));
    becomes(&s, &["10.0.0.3:8000"]).await;
    // What has left the pool stays visible until its last request is done.
    let gone = s.pool("llm").await.endpoints.into_iter().find(|e| !e.listed).unwrap();
    assert_eq!((gone.address.as_str(), gone.in_flight), (&*first, 1));
    assert!(s.settle("llm", "h", 1).await);
    assert!(s.pool("llm").await.endpoints.iter().all(|e| e.listed));

    // A name server in trouble changes nothing; it is counted.
    let _ = zone.send_replace(Err(ResponseCode::ServFail));
    eventually(Duration::from_secs(10), "the failure is counted", || async {
        let (_, text) = s.get("/metrics").await;
        if text.contains("evenkeel_discovery_errors_total 0") { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(endpoints(&s).await, ["10.0.0.3:8000"]);

    // A service scaled to nothing has no endpoints.
    let _ = zone.send_replace(Ok(Vec::new()));
    becomes(&s, &[]).await;
    let Answer::Denied(denied) = s.admit("llm", "h", 2).await else { panic!("admitted") };
    assert_eq!(denied.reason(), Reason::NoEndpoints);
}
