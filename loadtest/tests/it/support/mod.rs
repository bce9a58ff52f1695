//! Fixtures that several test files share.

pub(crate) mod admin;
pub(crate) mod chat;
pub(crate) mod gateway;
pub(crate) mod lab;
pub(crate) mod pool;
pub(crate) mod proxy;
pub(crate) mod traffic;
pub(crate) mod wait;
