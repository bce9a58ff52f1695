//! The search over loads.

use std::fmt;

/// Lowest load of a search. A policy that needs a lower one is of no use.
const LOAD_MIN: f64 = 0.05;
/// Highest load of a search, several times above what exact least request completes.
const LOAD_MAX: f64 = 5.0;
/// Ratio of the loads that are tried one after another, before the interval is halved.
const STEP: f64 = 1.2;
/// The search ends when the ends of the interval are this close, as a ratio. Other seeds change the result by more.
const PRECISION: f64 = 1.01;

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// The highest load that was tried and met the target, and the fraction attained there.
    At { load: f64, attainment: f64 },
    /// The lowest load does not meet the target.
    Below { load: f64, attainment: f64 },
    /// The highest load meets the target.
    Above { load: f64, attainment: f64 },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (relation, load, attainment) = match self {
            Self::At { load, attainment } => ("load", load, attainment),
            Self::Below { load, attainment } => ("below load", load, attainment),
            Self::Above { load, attainment } => ("at least load", load, attainment),
        };
        write!(f, "{relation} {load:.3}, where {:.1} % are in time", attainment * 100.0)
    }
}

/// Searches the load at which the fraction `attained` falls below `target`. Tries ever higher loads until one misses the
/// target, and then halves the interval to the one before. With few requests, chance lets the fraction rise again at higher
/// loads, which a search from both ends would mistake for the limit.
pub fn search(target: f64, mut attained: impl FnMut(f64) -> f64) -> Found {
    let (mut low, mut attainment) = (LOAD_MIN, attained(LOAD_MIN));
    if attainment < target {
        return Found::Below { load: LOAD_MIN, attainment };
    }
    let mut high = low * STEP;
    loop {
        let at_high = attained(high);
        if at_high < target {
            break;
        }
        (low, attainment) = (high, at_high);
        if high >= LOAD_MAX {
            return Found::Above { load: high, attainment };
        }
        high = (high * STEP).min(LOAD_MAX);
    }
    while high / low > PRECISION {
        let middle = (low * high).sqrt();
        let at_middle = attained(middle);
        if at_middle >= target {
            (low, attainment) = (middle, at_middle);
        } else {
            high = middle;
        }
    }
    Found::At { load: low, attainment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_found_within_the_precision() {
        for limit in [0.07, 0.5, 1.0, 4.0] {
            let mut calls = 0;
            let found = search(0.95, |load| {
                calls += 1;
                if load <= limit { 0.97 } else { 0.5 }
            });
            let Found::At { load, attainment } = found else { panic!("{found:?}") };
            assert!(load <= limit && limit / load <= PRECISION && attainment == 0.97, "{found:?}");
            assert!(calls < 33, "{calls}");
        }
    }

    #[test]
    fn the_lowest_limit_is_found() {
        let found = search(0.95, |load| if load < 0.6 || (1.0..2.0).contains(&load) { 0.97 } else { 0.5 });
        let Found::At { load, .. } = found else { panic!("{found:?}") };
        assert!(load < 0.6 && load > 0.59, "{found:?}");
    }

    #[test]
    fn a_target_outside_the_range_is_reported() {
        assert_eq!(search(0.95, |_| 0.9), Found::Below { load: LOAD_MIN, attainment: 0.9 });
        assert_eq!(search(0.95, |_| 0.96), Found::Above { load: LOAD_MAX, attainment: 0.96 });
        assert_eq!(search(0.95, |_| 0.96).to_string(), "at least load 5.000, where 96.0 % are in time");
    }
}
