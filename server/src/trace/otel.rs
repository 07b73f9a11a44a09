//! Spans, told to an OTLP collector over gRPC in batches.
//!
//! `served` is a span of the home, from when the request was read to when its answer was ready; `applied` one of each
//! replica, of the entry that the mutation is in. Both are children of the caller's span. A collector that cannot be
//! reached costs spans and nothing else.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use client::proto::Request;
use client::proto::request::Op;
use client::{TraceContext, TraceSource};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_ENDPOINT, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The field of a mutation that carries its trace.
const TRACE_FIELD: u32 = 20;

/// Where spans go; nowhere before [`start`], or where no collector is named.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Begins to tell spans, of this service and process, if the environment names a collector. To be called inside a tokio
/// runtime.
pub(crate) fn start(service: &str, instance: &str) -> Result<(), String> {
    if std::env::var_os(OTEL_EXPORTER_OTLP_ENDPOINT).is_none() {
        return Ok(());
    }
    let exporter = SpanExporter::builder().with_tonic().build();
    let exporter = exporter.map_err(|e| e.to_string())?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    // A second host in one process shares the first one's.
    drop(PROVIDER.set(provider));
    Ok(())
}

/// Tells what has not been told yet, and no more.
pub(crate) async fn stop() {
    if let Some(provider) = PROVIDER.get() {
        let stopping = tokio::task::spawn_blocking(|| provider.shutdown()).await;
        if let Ok(Err(e)) = stopping {
            tracing::warn!(error = %e, "spans were not told to the end");
        }
    }
}

fn tracer() -> Option<SdkTracer> {
    PROVIDER.get().map(|provider| provider.tracer("godwit"))
}

/// The span of a call, with which a trace begins.
pub(crate) struct Root(opentelemetry_sdk::trace::Span);

/// Begins a trace, if spans are told at all.
pub(crate) fn begin(name: &'static str) -> Option<Root> {
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Client);
    let tracer = tracer()?;
    Some(Root(builder.start_with_context(&tracer, &Context::new())))
}

impl Root {
    /// What the client sends along.
    pub(crate) fn source(&self) -> Arc<dyn TraceSource> {
        let context = self.0.span_context();
        Arc::new(Fixed(TraceContext {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
        }))
    }

    /// Ends the span.
    pub(crate) fn end(mut self) {
        self.0.end();
    }
}

struct Fixed(TraceContext);

impl TraceSource for Fixed {
    fn current(&self) -> Option<TraceContext> {
        Some(self.0)
    }
}

/// Tells that a request was answered just now, if it is traced.
pub(crate) fn served(request: &Request, took: Duration) {
    let (Some(tracer), Some(Op::Mutation(mutation))) = (tracer(), &request.op) else {
        return;
    };
    if let Some(context) = context_of(mutation) {
        let shard = i64::try_from(request.shard_id).unwrap_or(i64::MAX);
        let started = SystemTime::now() - took;
        let builder = SpanBuilder::from_name("serve")
            .with_kind(SpanKind::Server)
            .with_start_time(started)
            .with_attributes([KeyValue::new("godwit.shard", shard)]);
        builder.start_with_context(&tracer, &parent(context)).end();
    }
}

/// Applies an entry, and tells of those of its mutations that are traced, if it was applied.
pub(crate) fn applied<T, E>(
    payload: Option<&Bytes>,
    index: u64,
    apply: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let (Some(tracer), Some(payload)) = (tracer(), payload) else {
        return apply();
    };
    let mutations = storage::shard::encoded_mutations(payload).unwrap_or_default();
    let contexts: Vec<TraceContext> = mutations.iter().filter_map(|one| context_of(one)).collect();
    let started = SystemTime::now();
    let done = apply()?;
    let index = i64::try_from(index).unwrap_or(i64::MAX);
    for context in contexts {
        let builder = SpanBuilder::from_name("apply")
            .with_kind(SpanKind::Consumer)
            .with_start_time(started)
            .with_attributes([KeyValue::new("godwit.log_index", index)]);
        builder.start_with_context(&tracer, &parent(context)).end();
    }
    Ok(done)
}

fn parent(context: TraceContext) -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    ))
}

/// The trace that an encoded mutation belongs to; keys and values are not decoded.
fn context_of(mut mutation: &[u8]) -> Option<TraceContext> {
    while mutation.has_remaining() {
        let (field, wire) = decode_key(&mut mutation).ok()?;
        if field == TRACE_FIELD && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut mutation).ok()?).ok()?;
            return TraceContext::from_bytes(mutation.get(..length)?);
        }
        skip_field(wire, field, &mut mutation, DecodeContext::default()).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use client::proto::{Mutation, Put, mutation};
    use prost::Message;

    use super::*;

    #[test]
    fn a_trace_is_found_without_decoding_the_rest() {
        let context = TraceContext {
            trace_id: [7; 16],
            span_id: [9; 8],
        };
        let put = Put {
            key: "k".into(),
            value: "v".repeat(1_000).into(),
            ..Put::default()
        };
        let mut mutation = Mutation {
            session: 3,
            op: Some(mutation::Op::Put(put)),
            trace: context.to_bytes(),
            ..Mutation::default()
        };
        assert_eq!(context_of(&mutation.encode_to_vec()), Some(context));
        mutation.trace = Bytes::new();
        assert_eq!(context_of(&mutation.encode_to_vec()), None);
        mutation.trace = Bytes::from_static(b"short");
        assert_eq!(context_of(&mutation.encode_to_vec()), None);
        assert_eq!(context_of(&[0xff]), None);
    }
}
