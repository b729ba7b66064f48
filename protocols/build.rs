//! Generates the message and service code from `proto/`, without any program outside the toolchain.

use std::{env, fs, path::PathBuf};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const FILES: [&str; 8] = ["agent", "confidential_data_hub", "cri", "csi", "extras", "health", "oci", "types"];
/// Files with services, which get a second module of client and server code.
const SERVICES: [&str; 4] = ["agent", "confidential_data_hub", "extras", "health"];

fn main() {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("wire");
    fs::create_dir_all(&out).expect("create the folder for generated code");
    let inputs = FILES.map(|name| format!("proto/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    Codegen::new()
        .inputs(&inputs)
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(true))
        .customize(Customize { async_all: true, ..Default::default() })
        .out_dir(&out)
        .run()
        .expect("generate code from proto/");
    let mut modules = fs::read_to_string(out.join("mod.rs")).expect("read the generated module list");
    for name in SERVICES {
        let line = format!("pub mod {name}_ttrpc;\n");
        if !modules.contains(&line) {
            modules.push_str(&line);
        }
    }
    fs::write(out.join("mod.rs"), modules).expect("write the generated module list");
}
