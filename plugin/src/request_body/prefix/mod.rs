//! Hashes the beginnings of a request's prompt, as the model will see it, while the body passes in parts.
//!
//! The prompt is tools, then system, then messages, whatever the order of the members in the body. Each member is hashed
//! by itself as a [`Section`], and the sections are joined at the end. Within a section, a running hash takes texts as
//! they are, and bytes that no text in UTF-8 contains between them ([`mark`]). What has no influence on the prompt does
//! not enter: whitespace, escapes, nulls, ids and cache hints.

mod message;
mod paths;
mod roots;
mod running;
mod section;
#[cfg(test)]
mod tests;

use message::Message;
use paths::{is_ignored, is_plain, is_verbatim_member};
use roots::{Kind, Root};
use running::Running;
pub use section::Prefixes;
use section::{Finished, Section};

use crate::scan::{DEPTH_MAX, Event, Key, Token, Word};

/// What the sidecar asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixSettings {
    /// Size of the blocks after which a hash is taken; not 0.
    pub block_bytes: u32,
    /// Maximum number of hashes; not 0.
    pub hashes_max: u32,
}

/// Maximum number of hashes in one Admit, as the sidecar's API states. Bounds the state of each section.
const HASHES_MAX: u32 = 1024;

impl PrefixSettings {
    /// Returns the settings; `None` if the sidecar asks for no hashes.
    pub fn new(block_bytes: u32, hashes_max: u32) -> Option<PrefixSettings> {
        let hashes_max = hashes_max.min(HASHES_MAX);
        (block_bytes > 0 && hashes_max > 0).then_some(PrefixSettings { block_bytes, hashes_max })
    }
}

/// Bytes that separate the parts of a section. UTF-8 contains none of them.
mod mark {
    pub(super) const MEMBER: u8 = 0xf5;
    pub(super) const TEXT: u8 = 0xf6;
    pub(super) const NUMBER: u8 = 0xf7;
    pub(super) const WORD: u8 = 0xf8;
    pub(super) const END: u8 = 0xf9;
    pub(super) const ARRAY: u8 = 0xfa;
    pub(super) const OBJECT: u8 = 0xfb;
    pub(super) const CLOSE: u8 = 0xfc;
    pub(super) const MESSAGE: u8 = 0xfd;
    pub(super) const ROLE: u8 = 0xfe;
    pub(super) const MESSAGE_END: u8 = 0xc0;
    pub(super) const TYPE: u8 = 0xc1;
}

/// What a text, number or word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Ignored,
    Role,
    Type,
    Id,
    /// Enters with the bytes that it has.
    Hashed,
}

/// Bytes of the tokens of a tool definition without those of its texts: quotes and colon of a member, quotes of a text, a
/// word. The size of the whole definitions corrects the sum.
const MEMBER_BYTES: u64 = 3;
const QUOTES_BYTES: u64 = 2;
const WORD_BYTES: u64 = 4;

/// The depth of no container.
const NOWHERE: usize = usize::MAX;

#[derive(Debug)]
pub(super) struct PrefixHasher {
    settings: PrefixSettings,
    /// The sections read so far, in the order of the prompt.
    finished: Vec<Finished<(Root, Root)>>,
    /// One bit for each root that the body had.
    seen: u32,
    /// True if a member is repeated. Which one counts depends on the server.
    is_ambiguous: bool,
    /// True while the member `input` is an object.
    input_is_object: bool,
    /// The section that is being read, its root, and the length of the root's path.
    section: Option<Section>,
    root: Root,
    kind: Kind,
    has_messages: bool,
    root_depth: usize,
    /// True until a message that is not one of the system.
    is_leading: bool,
    message: Option<Message>,
    leaf: Option<Leaf>,
    /// The last member's name, or the text of an id.
    name: Running,
    /// False if what comes next is preceded by a message's start or by `pending`.
    is_prepared: bool,
    /// An opened container that has no content yet: the digest of its name, if it has one, and its mark.
    pending: Option<(Option<u64>, u8)>,
    /// Depth of the container whose tokens all enter.
    verbatim_from: usize,
    /// Depth of the container that does not enter.
    ignored_from: usize,
}

impl PrefixHasher {
    pub(super) fn new(settings: PrefixSettings) -> PrefixHasher {
        PrefixHasher {
            settings,
            finished: Vec::new(),
            seen: 0,
            is_ambiguous: false,
            input_is_object: false,
            section: None,
            root: Root::Text,
            kind: Kind::Messages,
            has_messages: false,
            root_depth: 0,
            is_leading: false,
            message: None,
            leaf: None,
            name: Running::new(),
            is_prepared: false,
            pending: None,
            verbatim_from: NOWHERE,
            ignored_from: NOWHERE,
        }
    }

    /// Returns the hashes of a body that has been read to its end.
    pub(super) fn prefixes(&self) -> Prefixes {
        if self.is_ambiguous || self.section.is_some() {
            return Prefixes::default();
        }
        Prefixes::join(&self.finished, self.settings.hashes_max)
    }

    /// Handles an event. `prompt_bytes` is what the event adds to the size of the prompt.
    pub(super) fn on_event(&mut self, path: &[Key], event: &Event<'_>, prompt_bytes: u64) {
        let is_start = !matches!(event, Event::Close { .. });
        let is_object = matches!(event, Event::Open { array: false, .. });
        if self.section.is_none() && !(is_start && self.begin_section(path, is_object)) {
            return;
        }
        let depth = path.len() - self.root_depth;
        if !self.is_full() {
            match event {
                Event::Open { .. } | Event::Close { .. } if depth == 0 => {}
                Event::Open { array, .. } => self.open(path, if *array { mark::ARRAY } else { mark::OBJECT }),
                Event::Close { .. } => self.close(path),
                Event::Part(part) => self.part(path, mark::TEXT, part, prompt_bytes > 0),
                Event::Text(head) => self.end_text(path, head),
                Event::Number(_) => self.end_number(prompt_bytes),
                Event::Word { word, .. } => self.word(path, *word),
            }
        }
        if depth == 0 && !matches!(event, Event::Open { .. } | Event::Part(_)) {
            self.end_section(prompt_bytes);
        }
    }

    pub(super) fn on_token(&mut self, path: &[Key], token: Token<'_>) {
        let is_start = matches!(token, Token::Raw(_));
        if self.section.is_none() && !(is_start && self.begin_section(path, false)) || self.is_full() {
            return;
        }
        let is_verbatim = self.is_verbatim(path);
        match token {
            Token::Member if is_verbatim => {
                self.leaf = None;
                self.feed_mark(mark::MEMBER);
                self.count_token(MEMBER_BYTES);
            }
            Token::Member => {
                self.leaf = None;
                self.name.reset();
            }
            Token::Name(part) if is_verbatim => self.feed_part(part, self.counts_tokens()),
            Token::Name(part) => self.name.feed(part),
            Token::Raw(part) => self.part(path, mark::NUMBER, part, self.counts_tokens()),
        }
    }

    /// Returns whether nothing of the rest of the section can change a hash.
    fn is_full(&self) -> bool {
        let is_last = self.kind == Kind::Messages && !self.is_leading;
        is_last && self.section.as_ref().is_some_and(Section::is_full)
    }

    /// Starts a section if a value at this path changes the prompt.
    fn begin_section(&mut self, path: &[Key], is_object: bool) -> bool {
        if path == [Key::Input] {
            self.input_is_object = is_object;
        }
        let Some(root) = Root::of(path, is_object, self.input_is_object) else { return false };
        let bit = 1 << root as u32;
        self.is_ambiguous |= self.seen & bit != 0;
        self.seen |= bit;
        if self.is_ambiguous {
            return false;
        }
        (self.root, self.kind, self.has_messages) = (root, root.kind(), root.has_messages());
        (self.root_depth, self.is_leading) = (path.len(), self.has_messages);
        self.section = Some(self.new_section());
        self.is_prepared = false;
        let is_verbatim = matches!(self.kind, Kind::Setting | Kind::Tools) || root == Root::PromptObject;
        self.verbatim_from = if is_verbatim { 0 } else { NOWHERE };
        true
    }

    fn new_section(&self) -> Section {
        let settings = match self.kind {
            Kind::Setting => PrefixSettings { hashes_max: 0, ..self.settings },
            _ => self.settings,
        };
        let family = if self.is_leading { Root::LeadingMessages } else { self.root }.family();
        Section::new(settings, family as u8)
    }

    fn end_section(&mut self, prompt_bytes: u64) {
        if self.message.is_some() {
            self.end_message();
        }
        if let Some(section) = &mut self.section {
            match self.kind {
                Kind::Setting | Kind::Messages => {}
                Kind::Tools => {
                    section.set_bytes(prompt_bytes);
                    section.mark();
                }
                Kind::System if section.has_content() => {
                    section.feed(&[mark::MESSAGE_END]);
                    section.mark();
                }
                Kind::System | Kind::Context => section.mark(),
            }
        }
        self.finish_section();
        (self.leaf, self.pending) = (None, None);
        (self.verbatim_from, self.ignored_from) = (NOWHERE, NOWHERE);
    }

    fn finish_section(&mut self) {
        let place = (if self.is_leading { Root::LeadingMessages } else { self.root }, self.root);
        if let Some(section) = self.section.take().filter(Section::has_content) {
            let at = self.finished.iter().take_while(|before| before.root < place).count();
            self.finished.insert(at, section.finish(place));
        }
    }

    /// Returns whether all tokens of the value or container at this path enter.
    fn is_verbatim(&self, path: &[Key]) -> bool {
        path.len() - self.root_depth >= self.verbatim_from
    }

    fn open(&mut self, path: &[Key], mark: u8) {
        self.leaf = None;
        let below = &path[self.root_depth..];
        if below.len() >= self.ignored_from {
            return;
        }
        if self.is_verbatim(path) {
            self.feed_mark(mark);
            return self.count_token(1);
        }
        // The end of a container as deep as this is not reported.
        let ends = path.len() < DEPTH_MAX;
        if self.is_message(below) {
            self.start_message();
        } else if is_ignored(below) && ends {
            self.ignored_from = below.len();
        } else if is_ignored(below) {
            self.leaf = Some(Leaf::Ignored);
        } else if !self.is_neutral(below) {
            self.prepare();
            self.pending = Some((self.name_of(below), mark));
            self.is_prepared = false;
            if ends && is_verbatim_member(below) {
                self.verbatim_from = below.len();
            }
        }
    }

    fn close(&mut self, path: &[Key]) {
        self.leaf = None;
        let below = &path[self.root_depth..];
        if below.len() >= self.ignored_from {
            if below.len() == self.ignored_from {
                self.ignored_from = NOWHERE;
            }
            return;
        }
        if below.len() == self.verbatim_from {
            self.verbatim_from = NOWHERE;
        } else if self.is_verbatim(path) {
            self.feed_mark(mark::CLOSE);
            return self.count_token(1);
        }
        if self.is_message(below) {
            self.end_message();
        } else if !self.is_neutral(below) && self.pending.take().is_none() {
            self.feed_mark(mark::CLOSE);
        }
    }

    /// Handles a part of a text or number. `counts`: its bytes are prompt text.
    fn part(&mut self, path: &[Key], mark: u8, part: &[u8], counts: bool) {
        let leaf = match self.leaf {
            Some(leaf) => leaf,
            None => self.begin_leaf(path, mark),
        };
        match leaf {
            Leaf::Hashed => self.feed_part(part, counts),
            Leaf::Id => self.name.feed(part),
            Leaf::Ignored | Leaf::Role | Leaf::Type => {}
        }
    }

    /// Adds what precedes the bytes of a text, number or word.
    #[inline(never)]
    fn begin_leaf(&mut self, path: &[Key], mark: u8) -> Leaf {
        let below = &path[self.root_depth..];
        let leaf = self.leaf_at(below);
        self.leaf = Some(leaf);
        match leaf {
            Leaf::Id => self.name.reset(),
            Leaf::Ignored | Leaf::Role | Leaf::Type => {}
            Leaf::Hashed if self.is_verbatim(path) => self.feed_mark(mark),
            Leaf::Hashed => {
                if below.is_empty() && self.root == Root::Input {
                    self.start_message();
                    self.set_role(b"user");
                }
                self.prepare();
                if let Some(message) = &mut self.message {
                    message.has_content = true;
                }
                if !is_plain(below) {
                    let name = self.name_of(below);
                    self.feed_name(name);
                    self.feed_mark(mark);
                } else if mark != mark::TEXT {
                    self.feed_mark(mark);
                }
            }
        }
        leaf
    }

    fn leaf_at(&self, below: &[Key]) -> Leaf {
        match below {
            _ if below.len() >= self.ignored_from => Leaf::Ignored,
            _ if below.len() >= self.verbatim_from => Leaf::Hashed,
            [Key::Item, Key::Role] if self.has_messages => Leaf::Role,
            [Key::Item, Key::Id] if self.has_messages => Leaf::Id,
            [Key::Role] => Leaf::Ignored,
            [.., Key::Type] => Leaf::Type,
            _ if is_ignored(below) => Leaf::Ignored,
            _ => Leaf::Hashed,
        }
    }

    fn end_text(&mut self, path: &[Key], head: &[u8]) {
        match self.leaf.take() {
            // An empty text is a token, but no text of a message.
            None if self.is_verbatim(path) => {
                self.begin_leaf(path, mark::TEXT);
                self.end_text(path, head);
            }
            None | Some(Leaf::Ignored) => {}
            Some(Leaf::Role) => self.set_role(head),
            Some(Leaf::Type) => self.set_type(head),
            Some(Leaf::Id) => self.set_id(),
            Some(Leaf::Hashed) => {
                self.feed_mark(mark::END);
                self.count_token(QUOTES_BYTES);
            }
        }
    }

    fn end_number(&mut self, prompt_bytes: u64) {
        match self.leaf.take() {
            Some(Leaf::Hashed) => {
                self.feed_mark(mark::END);
                if let Some(section) = &mut self.section {
                    section.count(prompt_bytes);
                }
            }
            Some(Leaf::Id) => self.set_id(),
            _ => {}
        }
    }

    fn word(&mut self, path: &[Key], word: Word) {
        let is_token = self.is_verbatim(path) && path.len() > self.root_depth;
        let letter = match word {
            Word::True => b't',
            Word::False => b'f',
            Word::Null if is_token => b'n',
            Word::Null => return,
            // Its letters came before.
            Word::Other => return self.end_number(0),
        };
        if self.begin_leaf(path, mark::WORD) == Leaf::Hashed {
            self.feed_mark(letter);
            self.count_token(WORD_BYTES);
        }
        self.leaf = None;
    }

    /// Starts the message, and adds the containers around what comes next.
    #[inline(never)]
    fn prepare(&mut self) {
        self.is_prepared = true;
        match &self.message {
            Some(message) if !message.begun => self.begin_message(),
            Some(_) => {}
            None if self.is_leading => self.end_leading(),
            None => {}
        }
        if let Some((name, mark)) = self.pending.take() {
            self.feed_name(name);
            self.feed_mark(mark);
        }
    }

    fn feed_name(&mut self, name: Option<u64>) {
        if let Some(name) = name {
            self.feed_mark(mark::MEMBER);
            self.feed(&name.to_le_bytes());
        }
    }

    fn feed_mark(&mut self, mark: u8) {
        if !self.is_prepared {
            self.prepare();
        }
        if let Some(section) = &mut self.section {
            section.feed_byte(mark);
        }
    }

    /// Adds bytes that are no text of the prompt.
    fn feed(&mut self, bytes: &[u8]) {
        if !self.is_prepared {
            self.prepare();
        }
        if let Some(section) = &mut self.section {
            section.feed(bytes);
        }
    }

    fn feed_part(&mut self, part: &[u8], counts: bool) {
        match &mut self.section {
            Some(section) if counts => section.feed_text(part),
            Some(section) => section.feed(part),
            None => {}
        }
    }

    /// Returns whether the bytes of all tokens count as prompt.
    fn counts_tokens(&self) -> bool {
        self.kind == Kind::Tools
    }

    fn count_token(&mut self, bytes: u64) {
        if let Some(section) = self.section.as_mut().filter(|_| self.kind == Kind::Tools) {
            section.count(bytes);
        }
    }

    /// Returns the digest of the name of the member at this path; `None` for an item of an array.
    fn name_of(&self, below: &[Key]) -> Option<u64> {
        (below.last() != Some(&Key::Item)).then(|| self.name.digest())
    }

    fn is_message(&self, below: &[Key]) -> bool {
        below == [Key::Item] && self.has_messages
    }

    /// Returns whether a container makes no difference: a text given as a list of one part equals the text.
    fn is_neutral(&self, below: &[Key]) -> bool {
        match below {
            [Key::Item] => self.kind == Kind::System,
            [.., Key::Content | Key::Parts] | [.., Key::Content | Key::Parts, Key::Item] => true,
            _ => false,
        }
    }
}
