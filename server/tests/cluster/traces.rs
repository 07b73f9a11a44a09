//! One trace follows a put from the caller to the entry that each of three hosts applies. Only with the feature `otel`.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tonic::{Request, Response, Status};

use super::harness::{Cluster, eventually};

/// A span as the collector got it: its trace, its name, its parent, and the process that told it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    trace: Vec<u8>,
    name: String,
    span: Vec<u8>,
    parent: Vec<u8>,
    instance: String,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<BTreeSet<Told>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource
                .resource
                .map(|known| known.attributes)
                .unwrap_or_default();
            let instance = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.instance.id")
                .and_then(|attribute| match attribute.value?.value? {
                    Value::StringValue(text) => Some(text),
                    _ => None,
                });
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.lock().unwrap().insert(Told {
                    trace: span.trace_id,
                    name: span.name,
                    span: span.span_id,
                    parent: span.parent_span_id,
                    instance: instance.clone().unwrap_or_default(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_a_put_to_three_hosts() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(serving);

    let mut cluster = Cluster::processes(3);
    for host in &mut cluster.hosts {
        host.environment = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint.clone()),
            // Spans are told every 100 ms.
            ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "100".to_owned()),
        ];
        host.start("");
    }
    cluster.init(1).await;
    cluster.wait_until_settled(1).await;
    let put = Command::new(env!("CARGO_BIN_EXE_godwit"))
        .args([
            "--connect",
            &cluster.hosts[0].address,
            "kv",
            "put",
            "key",
            "value",
        ])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .output()
        .unwrap();
    assert!(put.status.success(), "{put:?}");

    let addresses: BTreeSet<String> = cluster.hosts.iter().map(|host| host.address.clone()).collect();
    eventually("the trace is whole", || async {
        let told = collector.0.lock().unwrap().clone();
        let root = told.iter().find(|span| span.name == "kv put");
        let root = root.ok_or("no root yet")?;
        let children = |name: &str| -> BTreeSet<String> {
            told.iter()
                .filter(|span| span.name == name && span.trace == root.trace && span.parent == root.span)
                .map(|span| span.instance.clone())
                .collect()
        };
        match (children("serve").len(), children("apply") == addresses) {
            (1, true) => Ok(()),
            other => Err(format!("{other:?}: {told:?}")),
        }
    })
    .await;
}
