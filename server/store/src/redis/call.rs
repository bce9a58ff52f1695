//! Calls of the scripts of lua/, and what they reply.

use evenkeel_domain::StoreError;
use redis::{Cmd, RedisError, Value};
use serde::Serialize;

use super::{
    link::{Link, Way},
    script::Script,
};

/// A call under construction: keys first, then arguments.
pub(crate) struct Call {
    script: &'static Script,
    keys: usize,
    arguments: Vec<u8>,
    ends: Vec<usize>,
}

impl Call {
    pub(crate) fn new(script: &'static Script, keys: &[&str]) -> Self {
        let mut call = Self { script, keys: keys.len(), arguments: Vec::new(), ends: Vec::new() };
        for key in keys {
            call.arg(key);
        }
        call
    }

    pub(crate) fn name(&self) -> &'static str {
        self.script.name
    }

    pub(crate) fn arg(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends an argument of any bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.arguments.extend_from_slice(bytes);
        self.ends.push(self.arguments.len());
        self
    }

    /// Appends one argument that consists of several parts.
    pub(crate) fn joined<const N: usize>(&mut self, parts: [&[u8]; N]) -> &mut Self {
        for part in parts {
            self.arguments.extend_from_slice(part);
        }
        self.ends.push(self.arguments.len());
        self
    }

    /// Appends a number as an argument.
    pub(crate) fn number(&mut self, value: impl std::fmt::Display) -> &mut Self {
        use std::io::Write as _;
        // Writes to a Vec cannot fail.
        let _ = write!(self.arguments, "{value}");
        self.ends.push(self.arguments.len());
        self
    }

    fn command(&self, by_hash: bool) -> Cmd {
        let mut cmd = Cmd::with_capacity(self.ends.len() + 3, self.arguments.len() + 64);
        if by_hash {
            cmd.arg("EVALSHA").arg(&self.script.sha1);
        } else {
            cmd.arg("EVAL").arg(&self.script.source);
        }
        cmd.arg(self.keys);
        let mut from = 0;
        for &end in &self.ends {
            cmd.arg(&self.arguments[from..end]);
            from = end;
        }
        cmd
    }

    /// Runs the script. Sends the source if Redis does not have the script.
    pub(crate) async fn run(&self, link: &Link, way: Way) -> Result<Reply, StoreError> {
        match self.answer(link, way).await? {
            Value::Array(values) => Ok(Reply { script: self.script.name, values: values.into_iter() }),
            other => Err(corrupt(self.script.name, &other)),
        }
    }

    /// Like [`Self::run`], for a script that returns packed doubles.
    pub(crate) async fn run_packed(&self, link: &Link, way: Way) -> Result<Numbers, StoreError> {
        match self.answer(link, way).await? {
            Value::BulkString(bytes) => Ok(Numbers { script: self.script.name, bytes, at: 0 }),
            other => Err(corrupt(self.script.name, &other)),
        }
    }

    async fn answer(&self, link: &Link, way: Way) -> Result<Value, StoreError> {
        let mut answer = link.query(&self.command(true), way).await?;
        if matches!(&answer, Err(error) if is_noscript(error)) {
            answer = link.query(&self.command(false), way).await?;
        }
        answer.map_err(|error| StoreError::Script { script: self.script.name, detail: error.to_string() })
    }
}

/// A script's reply of packed little-endian doubles, read from the front.
pub(crate) struct Numbers {
    script: &'static str,
    bytes: Vec<u8>,
    at: usize,
}

impl Numbers {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the next number, which must be a non-negative integer.
    pub(crate) fn count(&mut self) -> Result<u64, StoreError> {
        let eight = self.bytes.get(self.at..self.at + 8).and_then(|bytes| bytes.try_into().ok());
        let number =
            eight.map(f64::from_le_bytes).map(|n| n.min(9e15)).filter(|n| *n >= 0.0 && n.fract() == 0.0);
        self.at += 8;
        number.map(|n| n as u64).ok_or_else(|| StoreError::Corrupt {
            script: self.script,
            detail: format!("no whole number at byte {} of {}", self.at - 8, self.bytes.len()),
        })
    }
}

/// Packs an argument as MessagePack.
pub(crate) fn pack<T: Serialize>(value: &T) -> Vec<u8> {
    // Fails only for lists of unknown length and for writers that fail, and callers pass neither.
    rmp_serde::to_vec(value).unwrap_or_default()
}

fn is_noscript(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}

fn corrupt(script: &'static str, value: &Value) -> StoreError {
    let mut detail = format!("{value:?}");
    if let Some((end, _)) = detail.char_indices().nth(200) {
        detail.truncate(end);
    }
    StoreError::Corrupt { script, detail }
}

/// A script's reply, read from the front.
pub(crate) struct Reply {
    script: &'static str,
    values: std::vec::IntoIter<Value>,
}

impl Reply {
    /// Returns the next value, of any type.
    pub(crate) fn value(&mut self) -> Result<Value, StoreError> {
        self.values.next().ok_or_else(|| StoreError::Corrupt {
            script: self.script,
            detail: "fewer values than expected".to_owned(),
        })
    }

    /// Returns the next value as an integer.
    pub(crate) fn integer(&mut self) -> Result<i64, StoreError> {
        match self.value()? {
            Value::Int(n) => Ok(n),
            other => Err(corrupt(self.script, &other)),
        }
    }

    /// Returns the next value as a count. A negative value is an error.
    pub(crate) fn count(&mut self) -> Result<u64, StoreError> {
        let n = self.integer()?;
        u64::try_from(n).map_err(|_| corrupt(self.script, &Value::Int(n)))
    }

    /// Returns all values not read yet.
    pub(crate) fn rest(self) -> Vec<Value> {
        self.values.collect()
    }

    /// Returns the next value as pairs of name and number. Skips the name '', which is filler.
    pub(crate) fn pairs(&mut self) -> Result<Vec<(String, f64)>, StoreError> {
        let values = match self.value()? {
            Value::Array(values) => values,
            other => return Err(corrupt(self.script, &other)),
        };
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => {
                String::from_utf8(bytes.clone()).map_err(|_| corrupt(self.script, value))
            }
            other => Err(corrupt(self.script, other)),
        };
        let mut pairs = Vec::with_capacity(values.len() / 2);
        for pair in values.chunks_exact(2) {
            let name = text(&pair[0])?;
            if !name.is_empty() {
                let number = text(&pair[1])?.parse().map_err(|_| corrupt(self.script, &pair[1]))?;
                pairs.push((name, number));
            }
        }
        Ok(pairs)
    }

    /// Builds the error for a value of this reply.
    pub(crate) fn corrupt(&self, value: &Value) -> StoreError {
        corrupt(self.script, value)
    }
}
