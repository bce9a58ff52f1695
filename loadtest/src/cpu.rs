//! CPU time of processes and of the machine, read from `/proc`.

use std::{fs, time::Duration};

/// Returns the CPU time of a process and all its threads; `None` if the process has ended.
pub fn of_process(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the process name in parentheses, which may contain any character.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(ticks(user + system))
}

pub fn of_self() -> Duration {
    of_process(std::process::id()).unwrap_or_default()
}

/// Returns the busy and the idle time of all CPUs together.
pub fn of_machine() -> Option<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).take(8).collect();
    let idle = fields.get(3)? + fields.get(4)?;
    Some((ticks(fields.iter().sum::<u64>() - idle), ticks(idle)))
}

fn ticks(n: u64) -> Duration {
    Duration::from_secs_f64(n as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpu_times_of_this_process_and_machine_are_read() {
        assert!(super::of_process(std::process::id()).is_some());
        assert!(super::of_process(u32::MAX).is_none());
        let (busy, idle) = super::of_machine().unwrap();
        assert!(busy.as_secs_f64() > 0.0 && idle.as_secs_f64() > 0.0);
    }
}
