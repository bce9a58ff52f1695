//! Compiles the .proto files with protox, so that no `protoc` is needed on the machine.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["evenkeel/v1/gateway.proto", "evenkeel/v1/inspect.proto", "evenkeel/v1/admin.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("evenkeel.v1.bin");
    fs::write(out, prost::Message::encode_to_vec(&descriptors))?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).compile_fds(descriptors)?;
    Ok(())
}
