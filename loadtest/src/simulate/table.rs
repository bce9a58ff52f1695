//! The requests in flight of a simulation.

use std::{collections::HashMap, time::Duration};

use evenkeel_domain::choice::Load;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlightRequest {
    pub(super) gateway: usize,
    pub(super) host: usize,
    pub(super) sent: Duration,
    /// Prompt tokens that the host has to read, as the policy knows it; 0 after the first token.
    pub(super) unread: u64,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    requests: HashMap<u64, InFlightRequest>,
    /// Number of requests in flight, by gateway and host.
    pub(super) local: Vec<Vec<u32>>,
    pub(super) global: Vec<Load>,
    /// Times to first token in milliseconds, by request; `None` before it.
    pub(super) ttft: Vec<Option<f64>>,
    /// Times to last token in milliseconds.
    pub(super) e2e: Vec<f64>,
    /// When each request ended.
    pub(super) ends: Vec<Duration>,
}

impl Table {
    pub(super) fn new(hosts: usize, gateways: usize, requests: usize) -> Self {
        Self {
            ttft: vec![None; requests],
            local: vec![vec![0; hosts]; gateways],
            global: vec![Load::default(); hosts],
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, id: u64, request: InFlightRequest) {
        self.local[request.gateway][request.host] += 1;
        let load = &mut self.global[request.host];
        load.in_flight += 1;
        load.unread += request.unread;
        self.requests.insert(id, request);
    }

    pub(super) fn first_token(&mut self, id: u64, at: Duration) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        self.global[request.host].unread -= std::mem::take(&mut request.unread);
        self.ttft[id as usize] = Some((at - request.sent).as_secs_f64() * 1e3);
    }

    pub(super) fn end(&mut self, id: u64, at: Duration) {
        let Some(request) = self.requests.remove(&id) else { return };
        self.local[request.gateway][request.host] -= 1;
        self.global[request.host].in_flight -= 1;
        self.e2e.push((at - request.sent).as_secs_f64() * 1e3);
        self.ends.push(at);
    }
}
