//! The CSV of the Azure LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    time::Duration,
};

use super::{Request, Workload};

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// A request of more tokens than this is taken for a fault of the file.
const TOKENS_MAX: u32 = 10_000_000;

/// A trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be opened or read.
    #[error("{path}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The first line is not the header.
    #[error("line 1: expected the header {HEADER:?}, got {got:?}")]
    Header {
        /// What was there.
        got: String,
    },
    /// A line has too few or too many fields.
    #[error("line {line}: expected 3 fields, got {got}")]
    Fields {
        /// Line number, from 1.
        line: usize,
        /// Number of fields.
        got: usize,
    },
    /// A field is not what it should be.
    #[error("line {line}, {field}: expected {expected}, got {got:?}")]
    Field {
        /// Line number, from 1.
        line: usize,
        /// Name of the column.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What was there.
        got: String,
    },
    /// There is no request in it.
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

/// Reads a trace. Requests are put in order of time, and times counted from the first.
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
    let requests =
        rows.iter().map(|&(at, prompt, output)| Request { at: nanos(at - first), prompt, output }).collect();
    // The last request ends the trace one nanosecond later: it is part of it.
    Ok(Workload { source: source.into(), requests, duration: nanos(last - first + 1) })
}

fn nanos(n: i64) -> Duration {
    Duration::from_nanos(n.unsigned_abs())
}

fn row(text: &str, line: usize) -> Result<(i64, u32, u32), TraceError> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let &[time, prompt, output] = fields.as_slice() else {
        return Err(TraceError::Fields { line, got: fields.len() });
    };
    let tokens = |field, text: &str| match text.parse() {
        Ok(n) if n <= TOKENS_MAX => Ok(n),
        _ => Err(TraceError::Field { line, field, expected: "a number of tokens", got: text.into() }),
    };
    let at = timestamp(time).ok_or_else(|| TraceError::Field {
        line,
        field: "TIMESTAMP",
        expected: "YYYY-MM-DD hh:mm:ss.fffffff",
        got: time.into(),
    })?;
    Ok((at, tokens("ContextTokens", prompt)?, tokens("GeneratedTokens", output)?))
}

/// Nanoseconds since 1970 of `YYYY-MM-DD hh:mm:ss[.f…]`.
fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let in_range = (1970..2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && fraction.len() <= 9
        && fraction.bytes().all(|b| b.is_ascii_digit());
    if !in_range {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some((((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos)
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let parts: Vec<i64> = text
        .split(separator)
        .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?)
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

/// Days from 1970-01-01 in the Gregorian calendar; the year is taken to begin in March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// Writes a workload in the same format, on a day of its own (2023-11-16, as the original).
pub fn write(workload: &Workload, mut out: impl Write) -> io::Result<()> {
    writeln!(out, "{HEADER}")?;
    for r in &workload.requests {
        let (s, ticks) = (r.at.as_secs(), r.at.subsec_nanos() / 100);
        let day = 16 + s / 86_400;
        writeln!(
            out,
            "2023-11-{day:02} {:02}:{:02}:{:02}.{ticks:07},{},{}",
            s / 3600 % 24,
            s / 60 % 60,
            s % 60,
            r.prompt,
            r.output
        )?;
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
    fn times_cross_midnight_and_months_and_are_put_in_order() {
        let trace = parse(&format!(
            "{HEADER}\n2024-03-01 00:00:00,1,1\n2024-02-28 23:59:59.5,2,2\n2024-02-29 00:00:00.0000001,3,3\n"
        ))
        .unwrap();
        let at: Vec<_> = trace.requests.iter().map(|r| (r.prompt, r.at.as_nanos())).collect();
        assert_eq!(at, [(2, 0), (3, 500_000_100), (1, 86_400_500_000_000)]);
    }

    #[test]
    fn faults_name_line_and_field() {
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
    fn what_is_written_reads_back() {
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
