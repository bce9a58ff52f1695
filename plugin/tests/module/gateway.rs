//! A gateway that runs the module in an interpreter. It implements Higress's host calls and the part of the proxy-wasm
//! 0.2.1 interface that the plugin uses.

use std::collections::HashMap;

use evenkeel_proto::v1::{FromWorker, ToWorker};
use prost::Message as _;
use wasmi::{Caller, Engine, Error, Extern, Func, Instance, Linker, Memory, Module, Store, Val};

/// Statuses of host calls.
const OK: i32 = 0;
const NOT_FOUND: i32 = 1;

/// A stream to the sidecar.
#[derive(Clone, Debug)]
pub(crate) struct SidecarStream {
    pub(crate) token: u32,
    pub(crate) context: u32,
    pub(crate) target: Vec<u8>,
    pub(crate) service: String,
    pub(crate) method: String,
}

/// State of the gateway, including the module's changes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) configuration: Vec<u8>,
    pub(crate) properties: HashMap<String, Vec<u8>>,
    pub(crate) request_headers: HashMap<String, String>,
    pub(crate) response_headers: HashMap<String, String>,
    pub(crate) request_body: Vec<u8>,
    /// The current chunk of the response body.
    pub(crate) response_body: Vec<u8>,
    pub(crate) upstream_hosts: Vec<(String, String)>,
    /// The message from the sidecar.
    pub(crate) message: Vec<u8>,
    pub(crate) now_ns: u64,
    pub(crate) effective: u32,
    pub(crate) opened: Vec<SidecarStream>,
    /// Messages to the sidecar.
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) closed: Vec<u32>,
    pub(crate) is_done: bool,
    pub(crate) overridden: Vec<(u32, String)>,
    pub(crate) resumed: Vec<u32>,
    pub(crate) tick_ms: u32,
    pub(crate) logs: Vec<String>,
    pub(crate) metrics: Vec<(String, i64)>,
}

pub(crate) struct Gateway {
    pub(crate) store: Store<State>,
    instance: Instance,
}

impl Gateway {
    /// Instantiates and initializes a module.
    pub(crate) fn start(module: &[u8], state: State) -> Gateway {
        let engine = Engine::default();
        let module = Module::new(&engine, module).expect("a valid module");
        let mut linker = <Linker<State>>::new(&engine);
        for import in module.imports() {
            let ty = import.ty().func().expect("only functions are imported").clone();
            let name = import.name().to_owned();
            let call = move |caller: Caller<'_, State>, arguments: &[Val], results: &mut [Val]| {
                let status = Host { caller, arguments }.call(&name)?;
                if let Some(result) = results.first_mut() {
                    *result = Val::I32(status);
                }
                Ok(())
            };
            linker.func_new(import.module(), import.name(), ty, call).expect("imported once");
        }
        let mut store = Store::new(&engine, state);
        let instance = linker.instantiate_and_start(&mut store, &module).expect("instantiates");
        let mut gateway = Gateway { store, instance };
        gateway.call("_initialize", &[]);
        gateway
    }

    /// Calls an exported function. Returns the function's result, or 0 if it has no result.
    pub(crate) fn call(&mut self, name: &str, arguments: &[u32]) -> i32 {
        let function: Func = self.instance.get_func(&self.store, name).unwrap_or_else(|| panic!("no {name}"));
        let arguments: Vec<Val> = arguments.iter().map(|value| Val::I32(*value as i32)).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        if let Err(error) = function.call(&mut self.store, &arguments, &mut results) {
            panic!("{name}: {error}; log: {:?}", self.store.data().logs);
        }
        results.first().and_then(Val::i32).unwrap_or(0)
    }

    /// Calls a callback of a stream or root context, as [`Gateway::call`] does.
    pub(crate) fn callback(&mut self, name: &str, context: u32, arguments: &[u32]) -> i32 {
        self.store.data_mut().effective = context;
        self.call(name, &[&[context], arguments].concat())
    }

    pub(crate) fn state(&self) -> &State {
        self.store.data()
    }

    /// Returns the messages to the sidecar.
    pub(crate) fn sent(&self) -> Vec<FromWorker> {
        self.state().sent.iter().map(|message| FromWorker::decode(&**message).unwrap()).collect()
    }

    /// Delivers a message from the sidecar on the last stream.
    pub(crate) fn say(&mut self, message: &ToWorker) {
        let stream = self.state().opened.last().unwrap().clone();
        let message = message.encode_to_vec();
        let bytes = message.len() as u32;
        self.store.data_mut().message = message;
        self.callback("proxy_on_grpc_receive", stream.context, &[stream.token, bytes]);
    }

    /// Ends the last stream with a gRPC status.
    pub(crate) fn end_stream(&mut self, status: u32) {
        let stream = self.state().opened.last().unwrap().clone();
        self.callback("proxy_on_grpc_close", stream.context, &[stream.token, status]);
    }
}

/// A host call by the module.
struct Host<'a> {
    caller: Caller<'a, State>,
    arguments: &'a [Val],
}

impl Host<'_> {
    fn call(&mut self, name: &str) -> Result<i32, Error> {
        match name {
            "proxy_log" => {
                let line = self.text(1);
                self.state().logs.push(line);
            }
            "proxy_get_buffer_bytes" => {
                let (start, len) = (self.int(1) as usize, self.int(2) as usize);
                let bytes = match self.int(0) {
                    0 => self.state().request_body.clone(),
                    1 => self.state().response_body.clone(),
                    5 => self.state().message.clone(),
                    7 => self.state().configuration.clone(),
                    other => panic!("buffer {other}"),
                };
                self.give(3, &bytes[start..bytes.len().min(start.saturating_add(len))])?;
            }
            "proxy_set_buffer_bytes" => {
                let (start, replaced) = (self.int(1) as usize, self.int(2) as usize);
                let (which, bytes) = (self.int(0), self.bytes(3));
                let buffer = match which {
                    0 => &mut self.state().request_body,
                    1 => &mut self.state().response_body,
                    other => panic!("buffer {other}"),
                };
                // Envoy can only replace bytes from the beginning.
                assert_eq!(start, 0);
                buffer.splice(..replaced, bytes);
            }
            "proxy_get_property" => {
                let path = self.text(0).replace('\0', ".");
                let Some(value) = self.state().properties.get(&path).cloned() else { return Ok(NOT_FOUND) };
                self.give(2, &value)?;
            }
            "proxy_set_property" => {
                let (path, value) = (self.text(0).replace('\0', "."), self.bytes(2));
                self.state().properties.insert(path, value);
            }
            "proxy_get_header_map_value" => {
                let name = self.text(1);
                let Some(value) = self.headers().get(&name).cloned() else { return Ok(NOT_FOUND) };
                self.give(3, value.as_bytes())?;
            }
            "proxy_get_header_map_pairs" => {
                let headers: Vec<_> = self.headers().clone().into_iter().collect();
                let mut map = (headers.len() as u32).to_le_bytes().to_vec();
                for (name, value) in &headers {
                    map.extend([name, value].iter().flat_map(|text| (text.len() as u32).to_le_bytes()));
                }
                for (name, value) in &headers {
                    map.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
                }
                self.give(1, &map)?;
            }
            "proxy_replace_header_map_value" => {
                let (name, value) = (self.text(1), self.text(3));
                self.headers().insert(name, value);
            }
            "proxy_remove_header_map_value" => {
                let name = self.text(1);
                self.headers().remove(&name);
            }
            "proxy_grpc_stream" => {
                let state = self.state();
                let stream = SidecarStream {
                    token: 2 * state.opened.len() as u32 + 2,
                    context: state.effective,
                    target: self.bytes(0),
                    service: self.text(2),
                    method: self.text(4),
                };
                self.put(8, &stream.token.to_le_bytes());
                self.state().opened.push(stream);
            }
            "proxy_grpc_send" => {
                let (token, message) = (self.int(0), self.bytes(1));
                let state = self.state();
                assert_eq!(Some(token), state.opened.last().map(|stream| stream.token));
                state.sent.push(message);
            }
            "proxy_grpc_close" => {
                let token = self.int(0);
                self.state().closed.push(token);
            }
            "proxy_done" => self.state().is_done = true,
            "proxy_continue_stream" => {
                let state = self.state();
                state.resumed.push(state.effective);
            }
            "proxy_set_effective_context" => self.state().effective = self.int(0),
            "proxy_set_tick_period_milliseconds" => self.state().tick_ms = self.int(0),
            "proxy_define_metric" => {
                let name = self.text(1);
                self.state().metrics.push((name, 0));
                let id = self.state().metrics.len() as u32 - 1;
                self.put(3, &id.to_le_bytes());
            }
            "proxy_increment_metric" => {
                let (id, by) = (self.int(0) as usize, self.arguments[1].i64().unwrap());
                self.state().metrics[id].1 += by;
            }
            "proxy_get_current_time_nanoseconds" => {
                let now_ns = self.state().now_ns;
                self.put(0, &now_ns.to_le_bytes());
            }
            "proxy_get_upstream_hosts" => {
                let map = encode_pairs(&self.state().upstream_hosts);
                self.give(0, &map)?;
            }
            "proxy_set_upstream_override_host" => {
                let address = self.text(0);
                let state = self.state();
                state.overridden.push((state.effective, address));
            }
            "clock_time_get" => {
                let now_ns = self.state().now_ns;
                self.put(2, &now_ns.to_le_bytes());
            }
            "random_get" => {
                let bytes: Vec<u8> = (0..self.int(1)).map(|i| (i * 37 + 11) as u8).collect();
                self.put(0, &bytes);
            }
            "environ_sizes_get" => {
                self.put(0, &[0; 4]);
                self.put(1, &[0; 4]);
            }
            "environ_get" => {}
            other => return Err(Error::new(format!("{other} is not expected to be called"))),
        }
        Ok(OK)
    }

    /// Returns the header map that the first argument selects.
    fn headers(&mut self) -> &mut HashMap<String, String> {
        match self.int(0) {
            0 => &mut self.state().request_headers,
            2 => &mut self.state().response_headers,
            other => panic!("headers {other}"),
        }
    }

    fn state(&mut self) -> &mut State {
        self.caller.data_mut()
    }

    fn int(&self, index: usize) -> u32 {
        self.arguments[index].i32().unwrap() as u32
    }

    fn memory(&self) -> Memory {
        self.caller.get_export("memory").and_then(Extern::into_memory).unwrap()
    }

    /// Returns the bytes whose address is argument `index` and whose length is argument `index + 1`.
    fn bytes(&self, index: usize) -> Vec<u8> {
        let (at, len) = (self.int(index) as usize, self.int(index + 1) as usize);
        self.memory().data(&self.caller)[at..at + len].to_vec()
    }

    fn text(&self, index: usize) -> String {
        String::from_utf8(self.bytes(index)).unwrap()
    }

    /// Writes bytes to the address in argument `index`.
    fn put(&mut self, index: usize, bytes: &[u8]) {
        let at = self.int(index) as usize;
        self.memory().write(&mut self.caller, at, bytes).unwrap();
    }

    /// Copies bytes into memory that the module allocates. Writes their address and length to the addresses in
    /// arguments `index` and `index + 1`.
    fn give(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let allocate =
            self.caller.get_export("proxy_on_memory_allocate").and_then(Extern::into_func).unwrap();
        let mut at = [Val::I32(0)];
        allocate.call(&mut self.caller, &[Val::I32(bytes.len() as i32)], &mut at)?;
        let at = at[0].i32().unwrap();
        self.memory().write(&mut self.caller, at as usize, bytes).unwrap();
        self.put(index, &at.to_le_bytes());
        self.put(index + 1, &(bytes.len() as u32).to_le_bytes());
        Ok(())
    }
}

fn encode_pairs(pairs: &[(String, String)]) -> Vec<u8> {
    let mut map = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        map.extend((name.len() as u32).to_le_bytes());
        map.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        map.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
    }
    map
}
