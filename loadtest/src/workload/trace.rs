//! The CSV format of the Azure LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    time::Duration,
};

use jiff::civil::{self, DateTime};

use super::{Request, Workload};

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// Maximum number of tokens in a field. A larger number is reported as an error in the file.
const TOKENS_MAX: u32 = 10_000_000;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{path}")]
    Io { path: String, source: io::Error },
    #[error("line 1: expected the header {HEADER:?}, got {got:?}")]
    Header { got: String },
    #[error("line {line}: expected 3 fields, got {got}")]
    Fields {
        /// Line number, starting at 1.
        line: usize,
        got: usize,
    },
    #[error("line {line}, {field}: expected {expected}, got {got:?}")]
    Field {
        /// Line number, starting at 1.
        line: usize,
        /// Name of the column.
        field: &'static str,
        expected: &'static str,
        got: String,
    },
    #[error("the trace has no requests")]
    Empty,
}

/// Reads a trace from a file.
pub fn read_file(path: &Path) -> Result<Workload, TraceError> {
    let failed = |source| TraceError::Io { path: path.display().to_string(), source };
    let file = File::open(path).map_err(failed)?;
    let source = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    read(BufReader::new(file), &source)
}

/// Reads a trace. Sorts the requests by time, and makes times relative to the first request.
pub fn read(input: impl BufRead, source: &str) -> Result<Workload, TraceError> {
    let mut rows = Vec::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.map_err(|e| TraceError::Io { path: source.into(), source: e })?;
        let line = line.trim_start_matches('\u{feff}').trim();
        match number {
            0 if line == HEADER => {}
            0 => return Err(TraceError::Header { got: line.into() }),
            _ if line.is_empty() => {}
            _ => rows.push(row(line, number + 1)?),
        }
    }
    rows.sort_by_key(|r| r.0);
    let (Some(first), Some(last)) = (rows.first().map(|r| r.0), rows.last().map(|r| r.0)) else {
        return Err(TraceError::Empty);
    };
    let since_first = |at: DateTime| at.duration_since(first).unsigned_abs();
    let requests =
        rows.iter().map(|&(at, prompt, output)| Request { at: since_first(at), prompt, output }).collect();
    // The trace ends one nanosecond after the last request, so that it includes that request.
    let duration = since_first(last) + Duration::from_nanos(1);
    Ok(Workload { source: source.into(), requests, duration })
}

fn row(text: &str, line: usize) -> Result<(DateTime, u32, u32), TraceError> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let &[time, prompt, output] = fields.as_slice() else {
        return Err(TraceError::Fields { line, got: fields.len() });
    };
    let tokens = |field, text: &str| match text.parse() {
        Ok(n) if n <= TOKENS_MAX => Ok(n),
        _ => Err(TraceError::Field { line, field, expected: "a number of tokens", got: text.into() }),
    };
    let at = time.parse().map_err(|_| TraceError::Field {
        line,
        field: "TIMESTAMP",
        expected: "YYYY-MM-DD hh:mm:ss.fffffff",
        got: time.into(),
    })?;
    Ok((at, tokens("ContextTokens", prompt)?, tokens("GeneratedTokens", output)?))
}

/// Writes a workload in the format of [`read`]. Times start at midnight of 2023-11-16, the day of the original.
pub fn write(workload: &Workload, mut out: impl Write) -> io::Result<()> {
    let day = civil::date(2023, 11, 16).to_datetime(civil::Time::midnight());
    writeln!(out, "{HEADER}")?;
    for r in &workload.requests {
        let at = day.checked_add(r.at).map_err(io::Error::other)?;
        writeln!(out, "{},{},{}", at.strftime("%Y-%m-%d %H:%M:%S%.7f"), r.prompt, r.output)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Workload, TraceError> {
        read(text.as_bytes(), "test")
    }

    #[test]
    fn the_published_format_is_read() {
        let trace = parse(
            "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
             2023-11-16 18:15:46.6805900,374,44\r\n\
             2023-11-16 18:15:50.9951690,396,109\r\n",
        )
        .unwrap();
        assert_eq!(trace.requests[0], Request { at: Duration::ZERO, prompt: 374, output: 44 });
        assert_eq!(trace.requests[1].at, Duration::from_nanos(4_314_579_000));
    }

    #[test]
    fn times_cross_midnight_and_months_and_are_sorted() {
        let trace = parse(&format!(
            "{HEADER}\n2024-03-01 00:00:00,1,1\n2024-02-28 23:59:59.5,2,2\n2024-02-29 00:00:00.0000001,3,3\n"
        ))
        .unwrap();
        let at: Vec<_> = trace.requests.iter().map(|r| (r.prompt, r.at.as_nanos())).collect();
        assert_eq!(at, [(2, 0), (3, 500_000_100), (1, 86_400_500_000_000)]);
    }

    #[test]
    fn errors_name_line_and_field() {
        for (text, message) in [
            (
                "a,b,c\n",
                r#"line 1: expected the header "TIMESTAMP,ContextTokens,GeneratedTokens", got "a,b,c""#,
            ),
            ("H\n2023-11-16 18:15:46.6,374\n", "line 2: expected 3 fields, got 2"),
            (
                "H\n2023-11-16 18:15:46.6,374,44\n2023-11-16 18:15:46.6,x,44\n",
                r#"line 3, ContextTokens: expected a number of tokens, got "x""#,
            ),
            (
                "H\n2023-11-16 18:15:46.6,374,-1\n",
                r#"line 2, GeneratedTokens: expected a number of tokens, got "-1""#,
            ),
            (
                "H\n2023-13-16 18:15:46.6,374,1\n",
                r#"line 2, TIMESTAMP: expected YYYY-MM-DD hh:mm:ss.fffffff, got "2023-13-16 18:15:46.6""#,
            ),
            ("H\n", "the trace has no requests"),
        ] {
            let error = parse(&text.replace("H\n", &format!("{HEADER}\n"))).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_written_trace_reads_back() {
        let requests = vec![
            Request { at: Duration::ZERO, prompt: 1, output: 2 },
            Request { at: Duration::from_nanos(90_061_000_000_700), prompt: 3, output: 4 },
        ];
        let trace =
            Workload { source: "test".into(), requests, duration: Duration::from_nanos(90_061_000_000_701) };
        let mut text = Vec::new();
        write(&trace, &mut text).unwrap();
        assert_eq!(read(text.as_slice(), "test").unwrap(), trace);
    }
}
