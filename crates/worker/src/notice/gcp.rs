//! The metadata server of Google Cloud: one question that hangs until the answer changes.
//!
//! A machine that is preempted goes half a minute after that is said; nothing says it more exactly.

use std::time::Duration;

use async_trait::async_trait;
use http::Request;

use super::metadata::{AskError, Metadata};
use super::rounds::Rounds;
use super::{Notice, NoticeSource};

/// The metadata server.
pub(crate) struct Gcp {
    metadata: Metadata,
    /// Names the answer that is known; absent before the first.
    etag: Option<String>,
    told: bool,
    rounds: Rounds,
}

impl Gcp {
    pub(crate) fn new(metadata: Metadata) -> Self {
        Self { metadata, etag: None, told: false, rounds: Rounds::new("gcp", PAUSE) }
    }

    /// Whether the machine is preempted; asked again, it answers when that changes, or after a while.
    async fn preempted(&mut self) -> Result<bool, AskError> {
        let hang = self.etag.as_ref().map(|etag| {
            format!("?wait_for_change=true&timeout_sec={}&last_etag={etag}", HANG.as_secs())
        });
        let limit = if hang.is_some() { HANG + LIMIT } else { LIMIT };
        let request = Request::get(format!("{PREEMPTED}{}", hang.unwrap_or_default()))
            .header("metadata-flavor", "Google");
        let answer = self.metadata.ask(request, String::new(), limit).await?.success()?;
        // Whoever else answers at this address (a captive portal, say) does not know that it has to say this.
        if answer.header("metadata-flavor") != Some("Google") {
            return Err(AskError::Meaning(
                "it is not a metadata server of Google Cloud".to_owned(),
            ));
        }
        let preempted = match answer.body.trim() {
            "TRUE" => true,
            "FALSE" => false,
            other => return Err(AskError::Meaning(format!("`{other}` is neither TRUE nor FALSE"))),
        };
        self.etag = answer.header("etag").map(str::to_owned);
        Ok(preempted)
    }
}

#[async_trait]
impl NoticeSource for Gcp {
    fn name(&self) -> &'static str {
        "gcp"
    }

    async fn next(&mut self) -> Notice {
        loop {
            if self.told {
                // It stays preempted until it is gone.
                return std::future::pending().await;
            }
            self.rounds.turn().await;
            let preempted = self.preempted().await;
            if self.rounds.heard(preempted) == Some(true) {
                self.told = true;
                return Notice::Leave(Some(STAYS));
            }
        }
    }
}

const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";
/// From the notice to the end of the machine.
const STAYS: Duration = Duration::from_secs(30);
/// How long a question may hang.
const HANG: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_secs(5);
/// Between two questions, so that a server that does not let them hang is not asked without pause.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use axum::Router;
    use axum::extract::{Query, State};
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::get;
    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::super::fake::Fake;
    use super::*;

    /// Lets questions hang as the real one does: until the value is another than `last_etag` names.
    async fn preempted(
        State(value): State<watch::Receiver<&'static str>>,
        Query(asked): Query<HashMap<String, String>>,
        headers: HeaderMap,
    ) -> (StatusCode, [(&'static str, String); 2], String) {
        let mut value = value;
        let etag = |value: &str| format!("etag-of-{value}");
        if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            let nothing = [("etag", String::new()), ("metadata-flavor", String::new())];
            return (StatusCode::FORBIDDEN, nothing, String::new());
        }
        if asked.get("wait_for_change").is_some_and(|wait| wait == "true") {
            let limit = Duration::from_secs(asked["timeout_sec"].parse().unwrap());
            let known = asked["last_etag"].clone();
            let changed = value.wait_for(|value| etag(value) != known);
            let _ = tokio::time::timeout(limit, changed).await;
        }
        let value = *value.borrow();
        let headers = [("etag", etag(value)), ("metadata-flavor", "Google".to_owned())];
        (StatusCode::OK, headers, value.to_owned())
    }

    fn fake() -> (Fake, watch::Sender<&'static str>) {
        let (sender, value) = watch::channel("FALSE");
        (Fake::serve(Router::new().route(PREEMPTED, get(preempted)).with_state(value)), sender)
    }

    #[tokio::test(start_paused = true)]
    async fn preemption_is_known_the_moment_it_is_told() {
        let (fake, value) = fake();
        let mut gcp = Gcp::new(fake.metadata());
        assert!(tokio::time::timeout(HANG * 10, gcp.next()).await.is_err());
        assert!(fake.asked(PREEMPTED) <= 12, "questions hang: {}", fake.asked(PREEMPTED));

        let began = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE * 5).await;
            value.send_replace("TRUE");
            value.closed().await;
        });

        assert_eq!(gcp.next().await, Notice::Leave(Some(STAYS)));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert!(tokio::time::timeout(HANG * 10, gcp.next()).await.is_err(), "that is no news");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_preempted_already_is_told_at_once() {
        let (fake, value) = fake();
        value.send_replace("TRUE");
        let mut gcp = Gcp::new(fake.metadata());

        assert_eq!(gcp.next().await, Notice::Leave(Some(STAYS)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_somebody_else_is_none() {
        let fake = Fake::start(|_| (200, "TRUE".to_owned()));
        let mut gcp = Gcp::new(fake.metadata());

        assert!(tokio::time::timeout(HANG, gcp.next()).await.is_err());
    }
}
