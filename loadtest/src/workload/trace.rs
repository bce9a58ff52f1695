//! Trace files: the CSV format of the Azure LLM inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`), and
//! Mooncake's JSON lines (module [`mooncake`]). The first line tells them apart.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    time::Duration,
};

use jiff::civil::{self, DateTime};

pub use super::error::TraceError;
use super::{
    Request, Workload,
    error::{HEADER, TOKENS_MAX},
    mooncake,
};

/// Maximum length of a line in an error.
const GOT_CHARS_MAX: usize = 200;

/// Reads a trace from a file.
pub fn read_file(path: &Path) -> Result<Workload, TraceError> {
    let failed = |source| TraceError::Io { path: path.display().to_string(), source };
    let file = File::open(path).map_err(failed)?;
    let source = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    read(BufReader::new(file), &source)
}

/// Reads a trace. Sorts the requests by time, and makes times relative to the first request.
pub fn read(input: impl BufRead, source: &str) -> Result<Workload, TraceError> {
    let mut lines = Vec::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.map_err(|e| TraceError::Io { path: source.into(), source: e })?;
        let line = line.trim_start_matches('\u{feff}').trim();
        if number == 0 || !line.is_empty() {
            lines.push((number + 1, line.to_owned()));
        }
    }
    let mut requests = match lines.first() {
        None => return Err(TraceError::Empty),
        Some((_, first)) if first.starts_with('{') => read_mooncake(&lines)?,
        Some((_, first)) if first == HEADER => read_csv(&lines[1..])?,
        Some((_, first)) => return Err(TraceError::Header { got: shorten(first) }),
    };
    let (Some(first), Some(last)) = (requests.first().map(|r| r.at), requests.last().map(|r| r.at)) else {
        return Err(TraceError::Empty);
    };
    for request in &mut requests {
        request.at -= first;
    }
    // The trace ends one nanosecond after the last request, so that it includes that request.
    let duration = last - first + Duration::from_nanos(1);
    Ok(Workload { source: source.into(), requests, duration })
}

/// Shortens the text of an error, because the first line of a file that is no trace can be the whole file.
fn shorten(text: &str) -> String {
    text.chars().take(GOT_CHARS_MAX).collect()
}

/// Returns the requests of a trace in Mooncake's format, ordered by time.
fn read_mooncake(lines: &[(usize, String)]) -> Result<Vec<Request>, TraceError> {
    let rows = lines.iter().filter(|(_, text)| !text.is_empty());
    let mut requests =
        rows.map(|(line, text)| mooncake::row(text, *line)).collect::<Result<Vec<Request>, _>>()?;
    requests.sort_by_key(|r| r.at);
    mooncake::spread_steps(&mut requests);
    Ok(requests)
}

/// Returns the requests of a CSV file, ordered by time.
fn read_csv(lines: &[(usize, String)]) -> Result<Vec<Request>, TraceError> {
    let mut rows = lines.iter().map(|(line, text)| row(text, *line)).collect::<Result<Vec<_>, _>>()?;
    rows.sort_by_key(|r| r.0);
    let Some(first) = rows.first().map(|r| r.0) else { return Ok(Vec::new()) };
    let request = |(at, prompt, output): (DateTime, u32, u32)| Request {
        at: at.duration_since(first).unsigned_abs(),
        prompt,
        output,
        ..Request::default()
    };
    Ok(rows.into_iter().map(request).collect())
}

fn row(text: &str, line: usize) -> Result<(DateTime, u32, u32), TraceError> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let &[time, prompt, output] = fields.as_slice() else {
        return Err(TraceError::Fields { line, got: fields.len() });
    };
    let invalid = |field, expected: &str, got: &str| TraceError::Field {
        line,
        field,
        expected: expected.into(),
        got: got.into(),
    };
    let tokens = |field, text: &str| match text.parse() {
        Ok(n) if n <= TOKENS_MAX => Ok(n),
        _ => Err(invalid(field, "a number of tokens", text)),
    };
    let at = time.parse().map_err(|_| invalid("TIMESTAMP", "YYYY-MM-DD hh:mm:ss.fffffff", time))?;
    Ok((at, tokens("ContextTokens", prompt)?, tokens("GeneratedTokens", output)?))
}

/// Writes a workload in a format of [`read`]: as JSON lines if it has blocks, as CSV otherwise. In CSV, times start at
/// midnight of 2023-11-16, the day of the original.
pub fn write(workload: &Workload, mut out: impl Write) -> io::Result<()> {
    if workload.has_blocks() {
        return mooncake::write(workload, out);
    }
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
        assert_eq!(trace.requests[0], Request { prompt: 374, output: 44, ..Request::default() });
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
                r#"line 1: expected the header "TIMESTAMP,ContextTokens,GeneratedTokens" or a JSON object, got "a,b,c""#,
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

    const MOONCAKE: &str = r#"{"timestamp": 6000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 512, "output_length": 9, "hash_ids": [0]}

{"timestamp": 0, "input_length": 513, "output_length": 9, "hash_ids": [0, 12345678901]}
{"timestamp": 0, "input_length": 3, "output_length": 1, "hash_ids": []}
"#;

    #[test]
    fn mooncakes_format_is_recognised() {
        let trace = parse(MOONCAKE).unwrap();
        let sizes: Vec<_> = trace.requests.iter().map(|r| (r.prompt, r.output, r.blocks.to_vec())).collect();
        let expected =
            [(512, 9, vec![0]), (513, 9, vec![0, 12_345_678_901]), (3, 1, vec![]), (700, 5, vec![0, 1])];
        assert_eq!(sizes, expected);
        assert_eq!(parse(MOONCAKE).unwrap(), trace);
    }

    /// The trace has times in steps of 3 s: the requests of a step arrive during the step, in their order.
    #[test]
    fn requests_of_the_same_time_are_spread_until_the_next() {
        let line = |ms: u32| {
            format!("{{\"timestamp\":{ms},\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}}\n")
        };
        let text: String = [0, 0, 0, 1500, 1500, 60_000, 90_000].map(line).concat();
        let at: Vec<f64> = parse(&text).unwrap().requests.iter().map(|r| r.at.as_secs_f64()).collect();
        assert!(at.is_sorted() && at[0] == 0.0, "{at:?}");
        let apart = |a: usize, b: usize| at[b] - at[a];
        assert!(apart(0, 2) > 0.0 && apart(0, 2) < 1.5, "{at:?}");
        assert!(apart(3, 4) > 0.0 && apart(3, 4) < 3.0, "{at:?}");
        assert!((apart(5, 6) - 30.0).abs() < 1e-9, "{at:?}");
    }

    #[test]
    fn errors_in_mooncakes_format_name_line_and_field() {
        let valid = r#"{"timestamp":0,"input_length":512,"output_length":9,"hash_ids":[0]}"#;
        for (from, to, message) in [
            ("0,\"input", "-1,\"input", "timestamp: expected milliseconds from 0, got \"-1\""),
            (
                "0,\"input",
                "1e13,\"input",
                "timestamp: expected milliseconds from 0, got \"10000000000000.0\"",
            ),
            ("512", "\"x\"", r#"input_length: expected a number of tokens, got "\"x\"""#),
            (":9", ":99999999", "output_length: expected a number of tokens, got \"99999999\""),
            (":9", ":9.5", "output_length: expected a number of tokens, got \"9.5\""),
            ("output_length", "output", "output_length: expected a number of tokens, got \"nothing\""),
            ("[0]", "[0,1]", "hash_ids: expected a list of at most 1 ids, one for each 512 tokens of"),
            ("[0]", "[-1]", "hash_ids: expected a list of at most 1 ids"),
            ("[0]}", "[0]", "the line: expected a JSON object, got \"EOF while parsing"),
        ] {
            let text = format!("{valid}\n\n{}\n", valid.replace(from, to));
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line 3, {message}")), "{error}");
        }
        assert!(parse("").is_err() && parse("\n{}").is_err());
    }

    #[test]
    fn a_written_trace_reads_back() {
        let requests = vec![
            Request { prompt: 1, output: 2, ..Request::default() },
            Request {
                at: Duration::from_nanos(90_061_000_000_700),
                prompt: 3,
                output: 4,
                ..Request::default()
            },
        ];
        let trace =
            Workload { source: "test".into(), requests, duration: Duration::from_nanos(90_061_000_000_701) };
        let mut text = Vec::new();
        write(&trace, &mut text).unwrap();
        assert_eq!(read(text.as_slice(), "test").unwrap(), trace);
    }

    #[test]
    fn a_written_trace_with_blocks_reads_back() {
        let row = |at_ms, prompt, blocks: &[u64]| Request {
            at: Duration::from_millis(at_ms),
            prompt,
            output: 4,
            blocks: blocks.into(),
            ..Request::default()
        };
        let requests = vec![row(0, 600, &[0, 1]), row(90_061, 700, &[0, 2])];
        let trace =
            Workload { source: "test".into(), requests, duration: Duration::from_nanos(90_061_000_001) };
        let mut text = Vec::new();
        write(&trace, &mut text).unwrap();
        assert_eq!(read(text.as_slice(), "test").unwrap(), trace);
    }
}
