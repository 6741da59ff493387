//! One HTTP request and its reply, over Pingora's HTTP/1.1 or HTTP/2 session.
//!
//! Everything that knows bytes on the wire is here: bounds on head and body, credentials, JSON and
//! server-sent events, and noticing that the client has left.

use bytes::{Bytes, BytesMut};
use domain::{ErrorKind, RequestId};
use http::{Method, Version, header};
use pingora_core::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use serde_json::Value;
use std::fmt::Display;
use std::time::Duration;

use crate::endpoints::Ending;
use crate::failure::{Failure, RateShown, RateUnit, appearance};
use admission::RateState;

/// A request being replied to.
pub(crate) struct Reply {
    session: ServerSession,
    request: RequestId,
    status: Option<u16>,
    streaming: bool,
    body_read: bool,
    headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub(crate) fn new(mut session: ServerSession, request: RequestId) -> Self {
        session.set_read_timeout(Some(READ_TIMEOUT));
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        // A client may send its next request early; that is no sign that it left.
        session.set_pipelining_enabled(true);
        let status = None;
        let headers = Vec::new();
        Self { session, request, status, streaming: false, body_read: false, headers }
    }

    /// Tells a client whose request could not even be read, and closes the connection.
    pub(crate) async fn refuse(session: ServerSession, request: RequestId, failure: &Failure) {
        let mut reply = Self::new(session, request);
        reply.session.set_keepalive(None);
        reply.body_read = true;
        reply.fail(failure).await;
    }

    pub(crate) const fn request(&self) -> RequestId {
        self.request
    }

    pub(crate) fn method(&self) -> &Method {
        &self.session.req_header().method
    }

    pub(crate) fn path(&self) -> &str {
        self.session.req_header().uri.path()
    }

    /// The status sent, if one was.
    pub(crate) const fn status(&self) -> Option<u16> {
        self.status
    }

    /// Refuses a head larger than `max_bytes`.
    pub(crate) fn check_head(&self, max_bytes: usize) -> Result<(), Failure> {
        let head = self.session.req_header();
        let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
        let bytes = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        if target + bytes.sum::<usize>() <= max_bytes {
            return Ok(());
        }
        let message = format!("the request's headers are larger than {max_bytes} bytes");
        Err(Failure::of(ErrorKind::HeadTooLarge, message))
    }

    /// The key that was sent, if one was.
    pub(crate) fn credentials(&self) -> Option<&str> {
        let value = self.session.get_header(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    }

    /// The whole body, if it has at most `max_bytes` bytes.
    pub(crate) async fn body(&mut self, max_bytes: usize) -> Result<Bytes, Failure> {
        let too_large = || {
            let message = format!("the body is larger than {max_bytes} bytes");
            Failure::of(ErrorKind::BodyTooLarge, message)
        };
        if self.announced_length().is_some_and(|length| length > max_bytes as u64) {
            return Err(too_large());
        }
        if self.session.get_header(header::EXPECT).is_some() {
            self.session.write_continue_response().await.map_err(|_| Failure::client_gone())?;
        }
        let mut body = BytesMut::new();
        while let Some(part) =
            self.session.read_request_body().await.map_err(|error| body_not_read(error.etype()))?
        {
            if body.len() + part.len() > max_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        self.body_read = true;
        Ok(body.freeze())
    }

    fn announced_length(&self) -> Option<u64> {
        self.session.get_header(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Resolves when the client has left; never, while it waits for its reply.
    pub(crate) async fn gone(&mut self) -> Failure {
        loop {
            // After the body, this waits for the connection or the stream to be closed.
            match self.session.read_body_or_idle(self.body_read).await {
                Ok(Some(_)) => {}
                Ok(None) => self.body_read = true,
                Err(_) => return Failure::client_gone(),
            }
        }
    }

    /// Adds a header to the reply, which has not begun.
    pub(crate) fn header(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.push((name, value.into()));
    }

    /// Adds the headers that tell what the answer came to.
    pub(crate) fn costs(&mut self, end: &Ending) {
        let Ending { usage, charge, .. } = end;
        self.header("x-tollgate-charge-nano-usd", charge.charge.nanos().to_string());
        self.header("x-tollgate-cost-nano-usd", charge.cost.nanos().to_string());
        self.header("x-tollgate-gpu-nanos", usage.gpu.nanos().to_string());
    }

    /// Adds the headers that tell how a rate stands, in the form of `OpenAI`'s API.
    pub(crate) fn rate(&mut self, unit: RateUnit, state: &RateState) {
        let names = match unit {
            RateUnit::Requests => REQUEST_RATE_HEADERS,
            RateUnit::Tokens => TOKEN_RATE_HEADERS,
        };
        let values =
            [state.limit.to_string(), state.remaining.to_string(), short_time(state.reset_in)];
        for (name, value) in names.into_iter().zip(values) {
            self.header(name, value);
        }
    }

    /// One header of the request, if it is there once and is text.
    pub(crate) fn request_header(&self, name: &str) -> Option<&str> {
        self.session.get_header(name)?.to_str().ok()
    }

    /// Sends a whole JSON reply; `value` is a value, or its text.
    pub(crate) async fn json(
        &mut self,
        status: u16,
        value: &(impl Display + Sync),
    ) -> Result<(), Failure> {
        let body = Bytes::from(value.to_string());
        let mut head = self.head(status)?;
        set(&mut head, "content-type", "application/json")?;
        set(&mut head, "content-length", &body.len().to_string())?;
        self.send_head(head).await?;
        self.send(body, true).await
    }

    /// Begins a reply of server-sent events.
    pub(crate) async fn begin_events(&mut self) -> Result<(), Failure> {
        let mut head = self.head(200)?;
        set(&mut head, "content-type", "text/event-stream; charset=utf-8")?;
        set(&mut head, "cache-control", "no-cache")?;
        set(&mut head, "x-accel-buffering", "no")?;
        if self.session.req_header().version == Version::HTTP_11 {
            set(&mut head, "transfer-encoding", "chunked")?;
        }
        self.send_head(head).await?;
        self.streaming = true;
        Ok(())
    }

    /// Sends one event.
    pub(crate) async fn event(&mut self, value: &Value) -> Result<(), Failure> {
        self.send(Bytes::from(format!("data: {value}\n\n")), false).await
    }

    /// Sends several events in one write.
    pub(crate) async fn last_events(&mut self, values: &[Value]) -> Result<(), Failure> {
        let mut events: Vec<String> =
            values.iter().map(|value| format!("data: {value}\n\n")).collect();
        events.push("data: [DONE]\n\n".to_owned());
        self.send(Bytes::from(events.concat()), true).await
    }

    /// Tells the client that the connection lives.
    pub(crate) async fn ping(&mut self) -> Result<(), Failure> {
        self.send(Bytes::from_static(b": ping\n\n"), false).await
    }

    /// Tells the client what failed, in whatever form the reply still has room for.
    pub(crate) async fn fail(&mut self, failure: &Failure) {
        let told = if failure.kind() == ErrorKind::ClientGone {
            self.session.set_keepalive(None);
            self.status = self.status.or(Some(appearance(failure.kind()).status));
            Ok(())
        } else if self.streaming {
            // No [DONE] follows: the stream did not end well.
            let event = format!("data: {}\n\n", failure.body(self.request));
            self.session.set_keepalive(None);
            self.send(Bytes::from(event), true).await
        } else {
            self.fail_whole(failure).await
        };
        if told.is_err() {
            tracing::debug!(request = %self.request, "client left before it was told of a failure");
        }
    }

    async fn fail_whole(&mut self, failure: &Failure) -> Result<(), Failure> {
        if !self.body_read {
            self.session.set_keepalive(None);
        }
        if let Some(retry_in) = failure.retry_in() {
            let millis = retry_in.as_millis();
            self.header("retry-after", millis.div_ceil(1000).to_string());
            self.header("retry-after-ms", millis.to_string());
        }
        if let Some(RateShown { unit, state }) = failure.rate() {
            self.rate(*unit, state);
        }
        if failure.retry_is_useless() {
            self.header("x-should-retry", "false");
        }
        let body = failure.body(self.request);
        self.json(appearance(failure.kind()).status, &body).await?;
        if !self.body_read {
            // A client that still sends its body reads the reply only if we take the rest.
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.session.drain_request_body()).await;
        }
        Ok(())
    }

    /// Hands the connection back for the client's next request, if it can be used again.
    pub(crate) async fn finish(self) -> Option<ReusedHttpStream> {
        let settings = HttpPersistentSettings::for_session(&self.session);
        let reusable = self.session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }

    fn head(&self, status: u16) -> Result<ResponseHeader, Failure> {
        let mut head = ResponseHeader::build(status, None).map_err(Failure::internal)?;
        set(&mut head, "x-request-id", &self.request.to_string())?;
        for (name, value) in &self.headers {
            set(&mut head, name, value)?;
        }
        Ok(head)
    }

    async fn send_head(&mut self, head: ResponseHeader) -> Result<(), Failure> {
        self.status = Some(head.status.as_u16());
        let sent = self.session.write_response_header(Box::new(head)).await;
        sent.map_err(|_| Failure::client_gone())
    }

    async fn send(&mut self, bytes: Bytes, end: bool) -> Result<(), Failure> {
        let sent = self.session.write_response_body(bytes, end).await;
        sent.map_err(|_| Failure::client_gone())
    }
}

/// A time as `OpenAI`'s headers write it: `17ms`, `1.5s`, `6m0s`.
fn short_time(time: Duration) -> String {
    let millis = time.as_millis();
    match (millis / 60_000, millis % 60_000) {
        (0, millis @ 0..1000) => format!("{millis}ms"),
        (0, millis) => format!("{}s", millis as f64 / 1e3),
        (minutes, millis) => format!("{minutes}m{}s", millis / 1000),
    }
}

fn set(head: &mut ResponseHeader, name: &'static str, value: &str) -> Result<(), Failure> {
    head.insert_header(name, value).map_err(Failure::internal)
}

fn body_not_read(error: &pingora_core::ErrorType) -> Failure {
    use pingora_core::ErrorType::{ConnectionClosed, ReadTimedout};
    match error {
        ReadTimedout => Failure::of(ErrorKind::RequestTimeout, "the body did not arrive in time"),
        ConnectionClosed => Failure::client_gone(),
        _ => Failure::of(ErrorKind::InvalidRequest, "the body could not be read"),
    }
}

const REQUEST_RATE_HEADERS: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKEN_RATE_HEADERS: [&str; 3] =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
/// A client that sends nothing for so long is not coming back.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_of_openai_read_them() {
        let written = |millis| short_time(Duration::from_millis(millis));
        assert_eq!(written(17), "17ms");
        assert_eq!(written(1_500), "1.5s");
        assert_eq!(written(360_999), "6m0s");
    }
}
