//! Compiles the .proto files with protox, so that no `protoc` is needed on the machine.

use std::{env, fs, path::PathBuf};

const EVENKEEL: [&str; 3] =
    ["evenkeel/v1/gateway.proto", "evenkeel/v1/inspect.proto", "evenkeel/v1/admin.proto"];
const RATE_LIMIT_SERVICE: &str = "envoy/service/ratelimit/v3/rls.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in EVENKEEL.into_iter().chain([RATE_LIMIT_SERVICE]) {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(EVENKEEL, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("evenkeel.v1.bin");
    fs::write(out, prost::Message::encode_to_vec(&descriptors))?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).compile_fds(descriptors)?;
    if grpc {
        tonic_prost_build::configure().compile_fds(protox::compile([RATE_LIMIT_SERVICE], ["."])?)?;
    }
    Ok(())
}
