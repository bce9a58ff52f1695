//! What the path of a value within its root states.

use crate::scan::Key;

/// Returns whether a text at this path is text of a message and nothing else.
pub(super) fn is_plain(below: &[Key]) -> bool {
    below.iter().all(|key| matches!(key, Key::Item | Key::Content | Key::Parts | Key::Text))
}

/// Returns whether a member never reaches the model. Clients move their cache hints from message to message.
pub(super) fn is_ignored(below: &[Key]) -> bool {
    use Key::{Annotations, CacheControl, CallId, Id, Item, Logprobs, Status};
    matches!(below, [Item, .., Annotations | CacheControl | CallId | Id | Logprobs | Status])
}

/// Returns whether a member contains the arguments or the result of a tool, which may have any names.
pub(super) fn is_verbatim_member(below: &[Key]) -> bool {
    matches!(below, [Key::Item, .., Key::Input | Key::Args | Key::Arguments | Key::Response])
}
