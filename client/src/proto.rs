//! The public protocol, generated from `proto/godwit/v1`: messages, and for each service its client and server.
//!
//! The `.proto` files are the documentation; what is generated carries their comments.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

tonic::include_proto!("godwit.v1");

/// The compiled `.proto` files (an encoded `FileDescriptorSet`), for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/godwit.v1.bin"));
