//! Spans of calls to the store.

use std::{sync::Arc, time::Instant};

use evenkeel_domain::StoreError;
use opentelemetry::trace::SpanKind;

use super::{CURRENT, span::Span};

/// The database that a store call goes to, in the terms of OpenTelemetry's conventions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// Redis, with its address and port. A cluster has none.
    Redis(Option<(Arc<str>, u16)>),
    Memory,
}

/// The span of a call to the store. It starts when the call is queued.
#[derive(Debug)]
pub struct StoreSpan {
    span: Span,
    queued: Instant,
}

impl StoreSpan {
    /// Starts a child of the span of the current task, if the task has one. `operation` is the name of the script.
    #[must_use]
    pub fn begin(name: &'static str, operation: &'static str, database: &Database) -> Option<Box<Self>> {
        let kind = if *database == Database::Memory { SpanKind::Internal } else { SpanKind::Client };
        let mut span = CURRENT.try_with(|parent| parent.child(name, kind)).ok()?;
        match database {
            Database::Memory => span.set("db.system.name", "memory"),
            Database::Redis(server) => {
                span.set("db.system.name", "redis");
                span.set("db.operation.name", "EVALSHA");
                span.set("db.stored_procedure.name", operation);
                if let Some((address, port)) = server {
                    span.set("server.address", Arc::clone(address));
                    span.set_number("server.port", *port);
                }
            }
        }
        Some(Box::new(Self { span, queued: Instant::now() }))
    }

    /// Starts the span of a call to the embedded store.
    #[must_use]
    pub fn memory(name: &'static str) -> Option<Box<Self>> {
        Self::begin(name, "", &Database::Memory)
    }

    pub fn set_number(&mut self, key: &'static str, number: usize) {
        self.span.set_number(key, number);
    }

    /// Records that the call is sent now, in a batch of `operations` operations.
    pub fn sent(&mut self, operations: usize) {
        let waited_us = self.queued.elapsed().as_micros();
        self.span.set_number("evenkeel.store.waited_us", waited_us);
        self.span.set_number("evenkeel.store.operations", operations);
    }

    /// Ends the span, if any, and records the error if the call failed.
    pub fn ended(span: Option<Box<Self>>, error: Option<&StoreError>) {
        if let (Some(mut span), Some(error)) = (span, error) {
            span.span.fail(error.kind(), error);
        }
    }
}
