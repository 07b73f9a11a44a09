//! Compiles the public protocol. protox replaces the `protoc` program, so that a fresh machine needs nothing but Rust.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "godwit/v1/kv.proto",
            "godwit/v1/watch.proto",
            "godwit/v1/admin.proto",
        ],
        ["proto"],
    )?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("godwit.v1.bin"), files.encode_to_vec())?;
    // Keys and values are slices of the received frame instead of copies.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
