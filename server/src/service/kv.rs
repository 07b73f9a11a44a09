//! The key-value service: the SDK's stream, the unary call, the shard map.

use std::pin::Pin;

use client::proto::kv_server::{Kv, KvServer};
use client::proto::{
    ClientFrame, Code, Hello, Reply, ServerFrame, ShardMapReply, ShardMapRequest, UnaryRequest,
};
use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::exchange::{self, Caller};
use super::spread::InFlight;
use super::{reply, unary};
use crate::host::Host;

/// Serves keys and values.
#[derive(Clone)]
pub(crate) struct KvService {
    host: Host,
    in_flight: InFlight,
}

impl KvService {
    pub(crate) fn server(host: Host) -> KvServer<Self> {
        let limits = &host.config().limits;
        // A frame's limit, and room for what surrounds its requests; an answer holds at most a page of a scan.
        let frame_bytes = usize::try_from(limits.batch_bytes_max)
            .unwrap_or(usize::MAX)
            .saturating_add(64 << 10);
        let in_flight = InFlight::new(limits.in_flight_bytes_max);
        KvServer::new(Self { host, in_flight })
            .max_decoding_message_size(frame_bytes)
            .max_encoding_message_size(usize::MAX)
    }

    fn check(&self, hello: &Hello) -> Result<(), Status> {
        check_cluster(&self.host, hello)
    }

    fn caller(&self, hello: Hello) -> Caller {
        let origin = match hello.origin.is_empty() {
            true => self.host.config().zone.clone(),
            false => hello.origin,
        };
        Caller {
            origin_id: self.host.profiler().map(|profiler| profiler.origin(&origin)),
            origin,
            user: hello.user_id,
        }
    }
}

/// Whether a client means this cluster.
pub(super) fn check_cluster(host: &Host, hello: &Hello) -> Result<(), Status> {
    match host.cluster_id() {
        None => Err(Status::unavailable("this host belongs to no cluster yet")),
        Some(known) if hello.cluster_id.is_empty() || hello.cluster_id == known => Ok(()),
        Some(known) => Err(Status::permission_denied(format!(
            "this is cluster {known}, not {}",
            hello.cluster_id
        ))),
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<ServerFrame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<ClientFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let hello = first
            .hello
            .ok_or_else(|| Status::invalid_argument("the first frame must say hello"))?;
        self.check(&hello)?;
        let caller = self.caller(hello);
        let replies = exchange::start(
            self.host.clone(),
            self.in_flight.clone(),
            caller,
            first.requests,
            frames,
        );
        Ok(Response::new(replies))
    }

    async fn call(&self, request: Request<UnaryRequest>) -> Result<Response<Reply>, Status> {
        let request = request.into_inner();
        let hello = request.hello.unwrap_or_default();
        let Some(request) = request.request else {
            return Ok(Response::new(reply::error(0, Code::Invalid, "no request")));
        };
        match self.check(&hello) {
            Err(refused) if refused.code() == tonic::Code::PermissionDenied => {
                let reply = reply::error(request.id, Code::WrongCluster, refused.message());
                return Ok(Response::new(reply));
            }
            checked => checked?,
        }
        let caller = self.caller(hello);
        Ok(Response::new(
            unary::call(&self.host, &self.in_flight, &caller.into(), request).await,
        ))
    }

    async fn shard_map(&self, request: Request<ShardMapRequest>) -> Result<Response<ShardMapReply>, Status> {
        self.check(&Hello::default())?;
        Ok(Response::new(
            self.host.map().reply(request.into_inner().known_version),
        ))
    }
}
