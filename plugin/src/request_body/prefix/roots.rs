//! The members of a request that make up its prompt.

use crate::scan::Key;

/// A member of a request that changes the prompt. The order is that in which servers put the prompt together, so that
/// the order of the members in the body does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Root {
    // These change the prompt from its first token on, or make a server keep its cache apart.
    CacheSalt,
    ChatTemplate,
    ChatTemplateOptions,
    CachedContent,
    ReasoningEffort,
    /// `effort` inside `reasoning`.
    Effort,
    Tools,
    /// `tools` inside another member.
    InnerTools,
    Functions,
    Preamble,
    System,
    Instructions,
    SystemInstruction,
    /// The system and developer messages before all others.
    LeadingMessages,
    Query,
    Documents,
    Texts,
    ChatHistory,
    Context,
    Images,
    /// A prompt that the server has stored, or an object of inputs.
    PromptObject,
    PreviousResponse,
    Conversation,
    Messages,
    Contents,
    Input,
    Prompt,
    Message,
    Text,
}

/// How the content of a member is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value that the prompt depends on, but that is no part of it.
    Setting,
    /// Definitions of tools: all tokens.
    Tools,
    System,
    /// Text between system and messages.
    Context,
    Messages,
}

impl Root {
    /// Returns the root that starts with a value at this path; `None` if the value does not change the prompt.
    /// `is_object`: the value is an object. `input_is_object`: so is the member `input`, whose members then count.
    pub(super) fn of(path: &[Key], is_object: bool, input_is_object: bool) -> Option<Root> {
        use Key::*;
        match path {
            [Input] if is_object => None,
            [key] => Root::of_member(*key, is_object),
            [Parameters | ToolConfig, Tools] => Some(Root::InnerTools),
            [Reasoning, Effort] => Some(Root::Effort),
            [Input, key] if input_is_object => match key {
                // Parts of the prompt that have no name of their own.
                Content | Parts | Output | Source | ToolCalls | Function | Arguments => Some(Root::Input),
                Input => None,
                key => Root::of_member(*key, is_object),
            },
            _ => None,
        }
    }

    fn of_member(key: Key, is_object: bool) -> Option<Root> {
        Some(match key {
            Key::CacheSalt => Root::CacheSalt,
            Key::ChatTemplate => Root::ChatTemplate,
            Key::ChatTemplateOptions => Root::ChatTemplateOptions,
            Key::CachedContent => Root::CachedContent,
            Key::ReasoningEffort => Root::ReasoningEffort,
            Key::Tools => Root::Tools,
            Key::Functions => Root::Functions,
            Key::Preamble => Root::Preamble,
            Key::System => Root::System,
            Key::Instructions => Root::Instructions,
            Key::SystemInstruction => Root::SystemInstruction,
            Key::Query => Root::Query,
            Key::Documents => Root::Documents,
            Key::Texts => Root::Texts,
            Key::ChatHistory => Root::ChatHistory,
            Key::Context => Root::Context,
            Key::Images => Root::Images,
            Key::Prompt if is_object => Root::PromptObject,
            Key::PreviousResponseId => Root::PreviousResponse,
            Key::Conversation => Root::Conversation,
            Key::Messages => Root::Messages,
            Key::Contents => Root::Contents,
            Key::Input => Root::Input,
            Key::Prompt => Root::Prompt,
            Key::Message => Root::Message,
            // In OpenAI's Responses, this object is the format of the answer.
            Key::Text if !is_object => Root::Text,
            _ => return None,
        })
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Root::CacheSalt
            | Root::ChatTemplate
            | Root::ChatTemplateOptions
            | Root::CachedContent
            | Root::ReasoningEffort
            | Root::Effort
            | Root::PreviousResponse
            | Root::Conversation => Kind::Setting,
            Root::Tools | Root::InnerTools | Root::Functions => Kind::Tools,
            Root::Preamble
            | Root::System
            | Root::Instructions
            | Root::SystemInstruction
            | Root::LeadingMessages => Kind::System,
            Root::Query
            | Root::Documents
            | Root::Texts
            | Root::ChatHistory
            | Root::Context
            | Root::Images
            | Root::PromptObject => Kind::Context,
            Root::Messages | Root::Contents | Root::Input | Root::Prompt | Root::Message | Root::Text => {
                Kind::Messages
            }
        }
    }

    /// Returns whether the member is a list of messages.
    pub(super) fn has_messages(self) -> bool {
        matches!(self, Root::Messages | Root::Contents | Root::Input)
    }

    /// Returns the member with which this one shares its hashes: its name does not reach the model.
    pub(super) fn family(self) -> Root {
        match self {
            Root::Effort => Root::ReasoningEffort,
            Root::InnerTools => Root::Tools,
            root if root.kind() == Kind::System => Root::System,
            root if root.has_messages() => Root::Messages,
            root => root,
        }
    }
}
