//! Spans of calls to the store.

use std::{sync::Arc, time::Instant};

use evenkeel_domain::StoreError;
use opentelemetry::trace::SpanKind;

use super::{HERE, span::Span};

/// What a call is made to, in the words of OpenTelemetry's conventions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// Redis, and where it listens, if that is one place.
    Redis(Option<(Arc<str>, u16)>),
    /// The store in this process.
    Memory,
}

/// A call to the store under way, or waiting to leave.
#[derive(Debug)]
pub struct StoreSpan {
    span: Span,
    queued: Instant,
}

impl StoreSpan {
    /// Begins one below the span that the present task works for, if there is one. `operation` is the script, `name`
    /// the span's.
    #[must_use]
    pub fn begin(name: &'static str, operation: &'static str, database: &Database) -> Option<Box<Self>> {
        let kind = if *database == Database::Memory { SpanKind::Internal } else { SpanKind::Client };
        let mut span = HERE.try_with(|here| here.child(name, kind)).ok()?;
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

    /// Begins one of a call to the store in this process.
    #[must_use]
    pub fn memory(name: &'static str) -> Option<Box<Self>> {
        Self::begin(name, "", &Database::Memory)
    }

    /// Says how many.
    pub fn set_number(&mut self, key: &'static str, number: usize) {
        self.span.set_number(key, number);
    }

    /// It leaves now, in a call of so many operations.
    pub fn sent(&mut self, operations: usize) {
        let waited_us = self.queued.elapsed().as_micros();
        self.span.set_number("evenkeel.store.waited_us", waited_us);
        self.span.set_number("evenkeel.store.operations", operations);
    }

    /// Ends one, if there is one, with the error where the call failed.
    pub fn ended(span: Option<Box<Self>>, error: Option<&StoreError>) {
        if let (Some(mut span), Some(error)) = (span, error) {
            span.span.fail(error.kind(), error);
        }
    }
}
