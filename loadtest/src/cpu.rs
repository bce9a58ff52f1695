//! CPU time of processes and of cores, read from `/proc`.

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

/// Times of several cores together, since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CoreTimes {
    /// Time in which a core ran any process, or was stolen.
    pub busy: Duration,
    pub idle: Duration,
    /// Part of `busy` in which the hypervisor ran another virtual machine.
    pub stolen: Duration,
}

/// Returns the times of these cores; `None` if `/proc/stat` does not list them.
pub fn of_cores(cores: &[usize]) -> Option<CoreTimes> {
    parse_cores(&fs::read_to_string("/proc/stat").ok()?, cores)
}

fn parse_cores(stat: &str, cores: &[usize]) -> Option<CoreTimes> {
    let mut sum = CoreTimes::default();
    for core in cores {
        let name = format!("cpu{core} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
        // user, nice, system, idle, iowait, irq, softirq, steal. The later fields are parts of user and nice.
        let fields: Vec<u64> = line.split_whitespace().map_while(|f| f.parse().ok()).take(8).collect();
        let idle = fields.get(3)? + fields.get(4)?;
        sum.busy += ticks(fields.iter().sum::<u64>() - idle);
        sum.idle += ticks(idle);
        sum.stolen += ticks(fields.get(7).copied().unwrap_or_default());
    }
    Some(sum)
}

fn ticks(n: u64) -> Duration {
    Duration::from_secs_f64(n as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_of_this_process_and_its_cores_are_read() {
        assert!(of_process(std::process::id()).is_some());
        assert!(of_process(u32::MAX).is_none());
        let times = of_cores(&crate::machine::Machine::detect().cores).unwrap();
        assert!(times.busy > Duration::ZERO && times.idle > Duration::ZERO);
    }

    #[test]
    fn only_the_given_cores_count() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 0 50 300 20 0 0 30 7 0\ncpu1 1 1 1 1 1 1 1 1 1 1\n\
                    cpu10 200 0 0 100 0 0 0 0 0 0\nintr 1\n";
        let times = parse_cores(stat, &[0, 10]).unwrap();
        assert_eq!((times.busy, times.idle, times.stolen), (ticks(380), ticks(420), ticks(30)));
        assert_eq!(parse_cores(stat, &[2]), None);
    }
}
