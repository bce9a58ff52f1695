//! The format of Mooncake's traces: one JSON object per line with `timestamp` in ms, `input_length` and `output_length`
//! in tokens, and `hash_ids`, the ids of the prompt's blocks of 512 tokens. Two prompts have the same id where their
//! text so far is the same.

use std::{
    io::{self, Write},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Map, Value, json};

use super::{
    Request, Workload,
    error::{TOKENS_MAX, TraceError},
};
use crate::engine::BLOCK_TOKENS;

/// Latest time in a trace, about 30 years. A later time is reported as an error in the file.
const TIMESTAMP_MS_MAX: f64 = 1e12;
/// Mooncake's conversation trace has times in steps of 3 s.
const STEP_MAX: Duration = Duration::from_secs(3);
/// Seed of the times within a step.
const STEP_SEED: u64 = 7;

/// Reads one line. The time of the request is relative to the trace's zero.
pub(super) fn row(text: &str, line: usize) -> Result<Request, TraceError> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| TraceError::Field {
        line,
        field: "the line",
        expected: "a JSON object".into(),
        got: error.to_string(),
    })?;
    let row = Row { fields, line };
    let timestamp = row.field("timestamp", "milliseconds from 0", |value| {
        value.as_f64().filter(|ms| (0.0..=TIMESTAMP_MS_MAX).contains(ms))
    })?;
    let tokens = |value: &Value| Some(value.as_u64()?.try_into().ok()?).filter(|n| *n <= TOKENS_MAX);
    let prompt: u32 = row.field("input_length", "a number of tokens", tokens)?;
    let output = row.field("output_length", "a number of tokens", tokens)?;
    let count = prompt.div_ceil(BLOCK_TOKENS) as usize;
    let expected =
        format!("a list of at most {count} ids, one for each {BLOCK_TOKENS} tokens of input_length");
    let blocks = row.field("hash_ids", &expected, |value| {
        let ids = value.as_array().filter(|ids| ids.len() <= count)?;
        ids.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>()
    })?;
    Ok(Request {
        at: Duration::from_secs_f64(timestamp / 1e3),
        prompt,
        output,
        blocks: blocks.into(),
        ..Request::default()
    })
}

/// Writes a workload in this format.
pub(super) fn write(workload: &Workload, mut out: impl Write) -> io::Result<()> {
    for Request { at, prompt, output, blocks, .. } in &workload.requests {
        let timestamp = at.as_millis() as u64;
        let row = json!({"timestamp": timestamp, "input_length": prompt, "output_length": output, "hash_ids": **blocks});
        writeln!(out, "{row}")?;
    }
    out.flush()
}

struct Row {
    fields: Map<String, Value>,
    line: usize,
}

impl Row {
    fn field<T>(
        &self,
        field: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, TraceError> {
        let value = self.fields.get(field);
        value.and_then(read).ok_or_else(|| TraceError::Field {
            line: self.line,
            field,
            expected: expected.into(),
            got: value.map_or_else(|| "nothing".into(), Value::to_string),
        })
    }
}

/// Spreads requests of the same time at random over the time until the next request, at most over [`STEP_MAX`]. Sent at
/// once, they would be a burst that the recorded system did not have.
pub(super) fn spread_steps(requests: &mut [Request]) {
    let mut rng = SmallRng::seed_from_u64(STEP_SEED);
    let nexts: Vec<Duration> = {
        let steps: Vec<Duration> = requests.chunk_by(|a, b| a.at == b.at).map(|step| step[0].at).collect();
        let last = steps.last().map(|at| *at + STEP_MAX);
        steps.iter().skip(1).copied().chain(last).collect()
    };
    for (step, next) in requests.chunk_by_mut(|a, b| a.at == b.at).zip(nexts) {
        if step.len() == 1 {
            continue;
        }
        let gap = (next - step[0].at).min(STEP_MAX);
        let mut offsets: Vec<f64> = (0..step.len()).map(|_| rng.random()).collect();
        offsets.sort_by(f64::total_cmp);
        for (request, offset) in step.iter_mut().zip(offsets) {
            request.at += gap.mul_f64(offset);
        }
    }
}
