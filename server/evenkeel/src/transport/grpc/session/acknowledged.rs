//! Numbers of settlements that have been applied, up to which all are.

use std::collections::VecDeque;

/// Tracks the settlements of one stream by their numbers.
#[derive(Default)]
pub(super) struct Acknowledged {
    /// All settlements up to this number are applied, or will never come. 0 before the first settlement.
    through: u64,
    /// Whether each settlement after `through` is applied.
    applied: VecDeque<bool>,
}

impl Acknowledged {
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// Registers a settlement. Returns false if the stream has had this number or a larger one. The worker has dropped
    /// the settlements whose numbers it skips, or knows them to be applied.
    pub(super) fn received(&mut self, number: u64) -> bool {
        let next = self.through + self.applied.len() as u64 + 1;
        if number < next {
            return false;
        }
        if self.applied.is_empty() {
            self.through = number - 1;
        } else {
            let skipped = usize::try_from(number - next).unwrap_or(usize::MAX);
            // The settlements in progress are bounded, so a longer gap only has to be remembered as one.
            if skipped > self.applied.len() + super::SETTLEMENTS_MAX {
                return false;
            }
            self.applied.extend(std::iter::repeat_n(true, skipped));
        }
        self.applied.push_back(false);
        true
    }

    /// Marks a settlement as applied. Returns the number of settlements that are acknowledged by this.
    pub(super) fn applied(&mut self, number: u64) -> u64 {
        let before = self.through;
        if let Some(applied) = self.applied.get_mut((number - self.through - 1) as usize) {
            *applied = true;
        }
        while self.applied.front() == Some(&true) {
            self.applied.pop_front();
            self.through += 1;
        }
        self.through - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settlements_are_acknowledged_without_gaps() {
        let mut acknowledged = Acknowledged::default();
        assert_eq!(acknowledged.through(), 0);
        for number in [5, 6, 7, 10] {
            assert!(acknowledged.received(number));
        }
        assert!(!acknowledged.received(7) && !acknowledged.received(10));
        assert_eq!(acknowledged.through(), 4, "a resumed stream does not start at 1");
        acknowledged.applied(6);
        acknowledged.applied(10);
        assert_eq!(acknowledged.through(), 4);
        acknowledged.applied(5);
        assert_eq!(acknowledged.through(), 6);
        acknowledged.applied(7);
        assert_eq!(acknowledged.through(), 10, "8 and 9 will not come");
        assert!(acknowledged.received(1_000_000));
        acknowledged.applied(1_000_000);
        assert_eq!(acknowledged.through(), 1_000_000);
    }

    #[test]
    fn a_gap_costs_bounded_memory() {
        let mut acknowledged = Acknowledged::default();
        assert!(acknowledged.received(1));
        assert!(!acknowledged.received(1 << 52));
    }
}
