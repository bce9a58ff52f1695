//! Compiles the .proto files with protox, so that no `protoc` is needed on the machine.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use prost_types::{
    FieldDescriptorProto, FileDescriptorSet, OneofDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const EVENKEEL: [&str; 3] =
    ["evenkeel/v1/gateway.proto", "evenkeel/v1/inspect.proto", "evenkeel/v1/admin.proto"];
const RATE_LIMIT_SERVICE: &str = "envoy/service/ratelimit/v3/rls.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in EVENKEEL.into_iter().chain([RATE_LIMIT_SERVICE]) {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(EVENKEEL, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("evenkeel.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    let mut builder = tonic_prost_build::configure().build_client(grpc).build_server(grpc);
    if env::var_os("CARGO_FEATURE_JSON").is_some() {
        builder = builder.message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]");
        builder = builder.message_attribute(".", "#[serde(default, deny_unknown_fields)]");
        for (path, field) in enum_fields(&descriptors) {
            let name = field.type_name().rsplit('.').next().unwrap_or_default().to_owned();
            let module = if field.label() == Label::Repeated { "enums" } else { "enumeration" };
            let with = |verb: &str| format!("{verb}_with = \"crate::json::{module}::{verb}::<{name}, _>\"");
            let attribute = format!("#[serde({}, {})]", with("serialize"), with("deserialize"));
            builder = builder.field_attribute(path, attribute);
        }
        // A oneof has no JSON: only responses to gateways have one, and they are not served over HTTP.
        for path in oneofs(&descriptors) {
            builder = builder.field_attribute(path, "#[serde(skip)]");
        }
        fs::write(out.join("json.rs"), enum_names(&descriptors)?)?;
    }
    builder.compile_fds(descriptors)?;
    if grpc {
        tonic_prost_build::configure().compile_fds(protox::compile([RATE_LIMIT_SERVICE], ["."])?)?;
    }
    Ok(())
}

/// Every oneof by its full name, but for those protoc adds for optional fields.
fn oneofs(descriptors: &FileDescriptorSet) -> impl Iterator<Item = String> {
    descriptors.file.iter().flat_map(|file| &file.message_type).flat_map(|message| {
        let named = message.oneof_decl.iter().map(OneofDescriptorProto::name);
        named
            .filter(|name| !name.starts_with('_'))
            .map(|name| format!("evenkeel.v1.{}.{name}", message.name()))
    })
}

/// Every field whose type is an enum, by its full name.
fn enum_fields(descriptors: &FileDescriptorSet) -> Vec<(String, &FieldDescriptorProto)> {
    let messages = descriptors.file.iter().filter(|file| file.package() == "evenkeel.v1");
    let fields = messages.flat_map(|file| &file.message_type).flat_map(|message| {
        message.field.iter().map(|field| (format!("evenkeel.v1.{}.{}", message.name(), field.name()), field))
    });
    fields.filter(|(_, field)| field.r#type() == Type::Enum).collect()
}

/// The short names of every enum: `redis_cluster` for `STORE_KIND_REDIS_CLUSTER`.
fn enum_names(descriptors: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let files = descriptors.file.iter().filter(|file| file.package() == "evenkeel.v1");
    for one in files.flat_map(|file| &file.enum_type) {
        let prefix = one.value.first().map_or("", |value| value.name().trim_end_matches("UNSPECIFIED"));
        let names = one.value.iter().skip(1).map(|value| {
            let short = value.name().trim_start_matches(prefix).to_lowercase();
            format!("({:?}, {})", short, value.number())
        });
        let names = names.collect::<Vec<_>>().join(", ");
        writeln!(text, "impl Named for v1::{} {{ const NAMES: &[(&str, i32)] = &[{names}]; }}", one.name())?;
    }
    Ok(text)
}
