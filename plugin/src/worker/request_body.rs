//! What the plugin knows of one request's body, while the gateway holds the body and while it passes.

use evenkeel_proto::v1::{Generation, RequestBody};

use super::{
    Stream,
    body_buffer::{UNKNOWN_MODEL, content_length},
};
use crate::{
    attributes::VALUE_BYTES_MAX,
    config::Config,
    host::{Host, PART_BYTES_MAX},
    path::{self, RequestPath, call::Call},
    request_body::{BodyReader, BodySummary, PrefixSettings},
    text::shorten,
    usage::Usage,
};

/// Length of `{}`, which some clients send where an API takes no body.
const EMPTY_OBJECT_BYTES: u64 = 2;

/// What the headers of a request state about it.
#[derive(Debug, Default)]
pub(super) struct RequestTarget {
    pub(super) call: Call,
    /// The model that the path names. Empty if it names none.
    model: String,
    /// Whether the body names the model in `model_id`.
    uses_model_id: bool,
    /// Whether the request has a body with a model, if it has a body.
    pub(super) has_model_body: bool,
}

/// The reader of one request's body.
#[derive(Debug)]
pub(super) struct RequestReader {
    body: BodyReader,
    /// The model that Admit carried, if Admit was sent before the end of the body.
    pub(super) admitted_model: Option<String>,
}

impl RequestTarget {
    /// Reads the target of the effective stream. `end_of_stream`: the request has no body.
    pub(super) fn of(host: &dyn Host, config: &Config, end_of_stream: bool) -> RequestTarget {
        let text = host.request_header(":path").unwrap_or_default();
        let path = RequestPath::new(&text);
        let method = host.request_header(":method").unwrap_or_default();
        let header = |name: &str| host.request_header(name).unwrap_or_default();
        let is_reading =
            |method: &str| matches!(method, "" | "GET" | "HEAD" | "OPTIONS" | "DELETE" | "TRACE");
        // Frameworks and Google's gateways let a GET with such a header act as a POST.
        const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
        let overrides = |name: &&str| !is_reading(&header(name).trim().to_ascii_uppercase());
        let is_upgrade = header("upgrade").to_ascii_lowercase().contains("websocket");
        let call = Call::of(path::call::Request {
            method: &method,
            path: &path,
            is_upgrade,
            overrides_method: is_reading(&method) && OVERRIDES.iter().any(overrides),
            // DashScope returns the id of a task.
            is_asynchronous: header("x-dashscope-async").eq_ignore_ascii_case("enable"),
            has_body: !end_of_stream && content_length(host).is_none_or(|length| length > EMPTY_OBJECT_BYTES),
        });
        let names_model = call.generates() || config.count_helper_calls;
        RequestTarget {
            call,
            model: names_model.then(|| path::model::model(&path, is_upgrade)).flatten().unwrap_or_default(),
            uses_model_id: text.contains("/ml/v1/"),
            // A tunnel has no body that ends.
            has_model_body: !is_upgrade
                && method != "CONNECT"
                && (call.generates() || (config.count_helper_calls && call == Call::Helper)),
        }
    }

    /// Returns what Admit or Settle states about a request with this body.
    pub(super) fn request_body(&self, config: &Config, body: &BodySummary) -> RequestBody {
        let model = self.model(config, body);
        if !self.call.generates() {
            return RequestBody { model, generation: Generation::None.into(), ..RequestBody::default() };
        }
        let is_background = self.call == Call::Background || body.is_background;
        RequestBody {
            model,
            prompt_bytes: body.prompt_bytes,
            max_output_tokens: body.max_output_tokens,
            choices: body.choices,
            generation: if is_background { Generation::Background } else { Generation::Unspecified }.into(),
        }
    }

    fn model(&self, config: &Config, body: &BodySummary) -> String {
        let named =
            [&self.model, &body.model].into_iter().chain(self.uses_model_id.then_some(&body.model_id));
        match named.into_iter().find(|model| !model.is_empty()) {
            Some(model) => shorten(model, VALUE_BYTES_MAX),
            // A server may have a default model. If this request had no model, no limit on models would count it.
            None if config.read_body && (self.call.generates() || self.has_model_body) => {
                UNKNOWN_MODEL.into()
            }
            None => String::new(),
        }
    }
}

impl RequestReader {
    pub(super) fn new(prefixes: Option<PrefixSettings>) -> RequestReader {
        RequestReader { body: BodyReader::new(prefixes), admitted_model: None }
    }

    /// Notes that Admit leaves before the end of the body. Hashes come too late then.
    pub(super) fn admit_early(&mut self, model: String) {
        self.body.drop_prefixes();
        self.admitted_model = Some(model);
    }

    /// Reads what the gateway's buffer contains from offset `at` on.
    pub(super) fn read(&mut self, host: &dyn Host, mut at: usize) {
        loop {
            let part = host.request_body(at, PART_BYTES_MAX);
            self.body.feed(&part);
            at += part.len();
            if part.len() < PART_BYTES_MAX {
                break;
            }
        }
    }

    /// Reads what the buffer of a held body contains beyond the bytes that were read before.
    pub(super) fn read_held(&mut self, host: &dyn Host) {
        self.read(host, self.bytes() as usize);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.body.bytes()
    }

    pub(super) fn is_hopeless(&self) -> bool {
        self.body.is_hopeless()
    }

    pub(super) fn summary(&self) -> BodySummary {
        self.body.summary()
    }
}

impl Stream {
    /// Returns what the plugin has learned about the request after Admit; `None` if Admit carried it all.
    pub(super) fn late_body(&self, config: &Config, usage: &Usage) -> Option<RequestBody> {
        // A gateway may rewrite the path of a helper call to that of a model.
        if self.target.call == Call::Helper && usage.tokens.is_some_and(|tokens| tokens.output > 0) {
            return Some(RequestBody { model: UNKNOWN_MODEL.into(), ..RequestBody::default() });
        }
        let reader = self.request_reader.as_ref().filter(|reader| reader.admitted_model.is_some())?;
        let mut body = reader.summary();
        if reader.is_hopeless() {
            body.prompt_bytes = reader.bytes();
        }
        Some(self.target.request_body(config, &body))
    }

    /// Returns whether a body that has ended is not what Admit stated: it names another model, or is not one JSON object.
    pub(super) fn is_body_changed(&self, config: &Config) -> bool {
        let Some(reader) = &self.request_reader else { return false };
        let Some(admitted) = reader.admitted_model.as_ref().filter(|model| *model != UNKNOWN_MODEL) else {
            return false;
        };
        let body = reader.summary();
        self.target.model.is_empty() && (!body.is_object || self.target.model(config, &body) != *admitted)
    }
}
