//! Quota mode: a request is refused only if all its quotas are over, so that the gateway may choose another backend.

use crate::rls::request::DescriptorEntry;

/// Keys of the entries that name a model on a backend, as Envoy AI Gateway writes them.
pub(super) const BACKEND: &str = "backend_name";
pub(super) const MODEL: &str = "model_name_override";

/// The descriptors that are evaluated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group<'r> {
    /// All descriptors of a model on a backend. One of the two may be empty.
    Model {
        backend: &'r str,
        model: &'r str,
    },
    Entries(&'r [DescriptorEntry<'r>]),
}

impl<'r> Group<'r> {
    pub(super) fn of(entries: &'r [DescriptorEntry<'r>]) -> Self {
        let value =
            |key: &str| entries.iter().rev().find(|(found, _)| *found == key).map_or("", |(_, value)| *value);
        match (value(BACKEND), value(MODEL)) {
            ("", "") => Self::Entries(entries),
            (backend, model) => Self::Model { backend, model },
        }
    }
}

/// The quotas of a request, by group.
#[derive(Default)]
pub(super) struct Quotas<'r>(Vec<(Group<'r>, bool)>);

impl<'r> Quotas<'r> {
    /// Adds a descriptor. A group is over if one of its descriptors is.
    pub(super) fn add(&mut self, entries: &'r [DescriptorEntry<'r>], over: bool) {
        let group = Group::of(entries);
        match self.0.iter_mut().find(|(other, _)| *other == group) {
            Some((_, any)) => *any |= over,
            None => self.0.push((group, over)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether there are quotas, and all are over.
    pub(super) fn all_over(&self) -> bool {
        !self.is_empty() && self.0.iter().all(|(_, over)| *over)
    }

    /// Returns whether the group of a descriptor is over.
    pub(super) fn is_over(&self, entries: &[DescriptorEntry<'_>]) -> bool {
        self.0.iter().any(|(group, over)| *over && *group == Group::of(entries))
    }
}
