//! Endpoints from DNS. The test contains a small name server.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use evenkeel_proto::v1::{Reason, admit_response::Answer};
use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use tokio::{net::UdpSocket, sync::watch};

use crate::support::{eventually, sidecar::Sidecar};

/// How the name server responds: with addresses, with an error, or with an error for A queries only.
#[derive(Clone)]
enum Zone {
    Addresses(Vec<IpAddr>),
    Fails(ResponseCode),
    FailsForA(ResponseCode),
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()
}

async fn name_server() -> (SocketAddr, Arc<watch::Sender<Zone>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let zone = Arc::new(watch::Sender::new(Zone::Addresses(Vec::new())));
    let zones = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..n]).unwrap();
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            let kind = query.query_type();
            match &*zones.borrow() {
                Zone::Fails(code) => answer.metadata.response_code = *code,
                Zone::FailsForA(code) if kind == RecordType::A => answer.metadata.response_code = *code,
                Zone::FailsForA(_) => {}
                Zone::Addresses(addresses) => {
                    for ip in addresses {
                        let data = match ip {
                            IpAddr::V4(ip) if kind == RecordType::A => RData::A(A(*ip)),
                            IpAddr::V6(ip) if kind == RecordType::AAAA => RData::AAAA(AAAA(*ip)),
                            _ => continue,
                        };
                        answer.add_answer(Record::from_rdata(query.name().clone(), 0, data));
                    }
                }
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

async fn follow(server: SocketAddr) -> Sidecar {
    Sidecar::start(&format!(
        "keep_alive_interval: 60s\n\
         pools: [{{cluster: llm, cap: 1, dns: {{name: llm.models.test., port: 8000, refresh: 100ms, nameserver: '{server}'}}}}]"
    ))
    .await
}

/// Waits for two more failed look-ups, because only the second surely started after this call.
async fn fails(s: &Sidecar) {
    let failed = async || s.metric("evenkeel_discovery_errors_total{source=\"dns\"}").await;
    let before = failed().await;
    eventually(Duration::from_secs(10), "failures are counted", || async {
        let now = failed().await;
        if now >= before + 2.0 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
    })
    .await;
}

#[tokio::test]
async fn endpoints_follow_dns() {
    let (server, zone) = name_server().await;
    let _ = zone.send_replace(Zone::Addresses(vec![v4(2), v4(1)]));
    let s = follow(server).await;
    becomes(&s, &["10.0.0.1:8000", "10.0.0.2:8000"]).await;
    let first = s.lease("llm", "h", 1).await;

    let _ = zone.send_replace(Zone::Addresses(vec![v4(3)]));
    becomes(&s, &["10.0.0.3:8000"]).await;
    // An endpoint that has left the pool stays visible until its last request ends.
    let gone = s.pool("llm").await.endpoints.into_iter().find(|e| !e.listed).unwrap();
    assert_eq!((gone.address.as_str(), gone.in_flight), (&*first, 1));
    assert!(s.settle("llm", "h", 1).await);
    assert!(s.pool("llm").await.endpoints.iter().all(|e| e.listed));

    // A failing name server changes no endpoint, and the failures are counted.
    let _ = zone.send_replace(Zone::Fails(ResponseCode::ServFail));
    fails(&s).await;
    assert_eq!(endpoints(&s).await, ["10.0.0.3:8000"]);

    // A service scaled to zero has no endpoints.
    let _ = zone.send_replace(Zone::Addresses(Vec::new()));
    becomes(&s, &[]).await;
    let Answer::Denied(denied) = s.admit("llm", "h", 2).await else { panic!("admitted") };
    assert_eq!(denied.reason(), Reason::NoEndpoints);
}

/// Guards against hickory's combined look-up of A and AAAA. It returned only the error of AAAA ("no records"), so the
/// pool became empty.
#[tokio::test]
async fn missing_aaaa_records_do_not_hide_a_failure_of_a() {
    let (server, zone) = name_server().await;
    let _ = zone.send_replace(Zone::Addresses(vec![v4(1)]));
    let s = follow(server).await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    let _ = zone.send_replace(Zone::FailsForA(ResponseCode::ServFail));
    fails(&s).await;
    assert_eq!(endpoints(&s).await, ["10.0.0.1:8000"]);
}

#[tokio::test]
async fn a_dual_stack_host_is_one_endpoint() {
    let (server, zone) = name_server().await;
    let _ = zone.send_replace(Zone::Addresses(vec![v6(1), v4(1)]));
    let s = follow(server).await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    let _ = zone.send_replace(Zone::Addresses(vec![v6(2), v6(1)]));
    becomes(&s, &["[fd00::1]:8000", "[fd00::2]:8000"]).await;
}
