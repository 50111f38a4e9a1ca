//! A gRPC connection: unary calls and streams over HTTP/2.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use super::message::Unframe;

/// What the server may send ahead, per stream and per connection: enough that flow control never waits.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Paths of the calls.
pub(crate) const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(crate) const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub(crate) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(crate) const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Channel {
    send: SendRequest<Bytes>,
    address: SocketAddr,
}

/// What a stream answers.
pub(crate) struct Inbox {
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Channel {
    /// Connects. The connection lives on the runtime until its last clone is gone.
    ///
    /// # Errors
    /// When there is no server, or it speaks no HTTP/2.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Channel> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_reset_streams(0)
            .handshake(socket)
            .await?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told of the failure.
            let _ = connection.await;
        });
        Ok(Channel { send, address })
    }

    fn request(&self, path: &str) -> anyhow::Result<Request<()>> {
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        Ok(request.body(())?)
    }

    /// One framed request, one message in answer.
    ///
    /// # Errors
    /// When the call fails; the text is the server's.
    pub(crate) async fn unary(&self, path: &str, request: Vec<u8>) -> anyhow::Result<Bytes> {
        let (mut out, inbox) = self.stream(path).await?;
        out.send_data(request.into(), true)?;
        let mut inbox = inbox;
        let (mut unframe, mut answer) = (Unframe::default(), None);
        while let Some(chunk) = inbox.next().await? {
            unframe.take(&chunk, |message| {
                answer = Some(Bytes::copy_from_slice(message));
                Ok(())
            })?;
        }
        answer.with_context(|| format!("{path} was answered with nothing"))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When the connection has failed.
    pub(crate) async fn stream(&self, path: &str) -> anyhow::Result<(SendStream<Bytes>, Inbox)> {
        let mut send = self.send.clone().ready().await?;
        let (response, out) = send.send_request(self.request(path)?, false)?;
        Ok((out, Inbox { response: Some(response), body: None }))
    }
}

impl Inbox {
    /// The next bytes; `None` at a good end.
    ///
    /// # Errors
    /// When the call has failed; the text is the server's.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        // In place, so that a caller may stop waiting and come back.
        if let Some(response) = self.response.as_mut() {
            let response = response.await.map(Response::into_parts);
            self.response = None;
            let (head, body) = response?;
            check(&head.headers)?;
            self.body = Some(body);
        }
        let body = self.body.as_mut().context("the call has failed before")?;
        match body.data().await {
            Some(chunk) => {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                Ok(Some(chunk))
            }
            None => {
                let trailers = body.trailers().await?;
                check(&trailers.unwrap_or_default())?;
                Ok(None)
            }
        }
    }
}

/// An error when these headers bring a status other than OK.
fn check(headers: &HeaderMap) -> anyhow::Result<()> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status") {
        Some(status) if status != "0" => {
            bail!("gRPC status {status}: {}", text("grpc-message").unwrap_or_default())
        }
        _ => Ok(()),
    }
}
