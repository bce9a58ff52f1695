//! Messages: their roles, and where those of the system end.

use super::{PrefixHasher, mark};

/// The message that is being read.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// True once something of the message has entered.
    pub(super) begun: bool,
    is_system: bool,
    /// True once anything but role and type has entered.
    pub(super) has_content: bool,
    /// Digest of the message's id.
    id: Option<u64>,
}

impl PrefixHasher {
    pub(super) fn start_message(&mut self) {
        self.message = Some(Message::default());
        self.is_prepared = false;
    }

    /// Starts a message whose role is not known yet.
    pub(super) fn begin_message(&mut self) {
        if let Some(message) = &mut self.message {
            message.begun = true;
            self.feed_mark(mark::MESSAGE);
        }
    }

    /// Handles the role of the message. A leading message of the system equals a system prompt outside the messages, so
    /// its role does not enter.
    pub(super) fn set_role(&mut self, role: &[u8]) {
        let role: &[u8] = match role {
            b"system" | b"developer" => b"system",
            b"model" => b"assistant",
            role => role,
        };
        let Some(message) = &mut self.message else { return };
        message.is_system = role == b"system";
        let is_late = std::mem::replace(&mut message.begun, true);
        if self.is_leading && !is_late {
            if message.is_system {
                return;
            }
            self.end_leading();
        }
        if !is_late {
            self.feed_mark(mark::MESSAGE);
        }
        self.feed_mark(mark::ROLE);
        self.feed(role);
        self.feed_mark(mark::END);
    }

    /// Handles a type. The types of texts and of messages differ between APIs.
    pub(super) fn set_type(&mut self, name: &[u8]) {
        if !matches!(name, b"text" | b"input_text" | b"output_text" | b"message") {
            self.feed_mark(mark::TYPE);
            self.feed(name);
            self.feed_mark(mark::END);
        }
    }

    pub(super) fn set_id(&mut self) {
        let id = self.name.digest();
        if let Some(message) = &mut self.message {
            message.id = Some(id);
        }
    }

    pub(super) fn end_message(&mut self) {
        let Some(message) = &self.message else { return };
        // A reference to a stored message has only an id.
        if let Some(id) = message.id.filter(|_| !message.has_content) {
            self.feed(&id.to_le_bytes());
        }
        self.is_prepared = false;
        let (Some(message), Some(section)) = (self.message.take(), &mut self.section) else { return };
        if !message.begun || (self.is_leading && message.is_system && !message.has_content) {
            return;
        }
        section.feed(&[mark::MESSAGE_END]);
        if self.is_leading && message.is_system {
            section.mark();
        } else if self.is_leading {
            self.end_leading();
        }
    }

    /// Ends the section of the leading messages.
    pub(super) fn end_leading(&mut self) {
        self.finish_section();
        self.is_leading = false;
        self.section = Some(self.new_section());
    }
}
