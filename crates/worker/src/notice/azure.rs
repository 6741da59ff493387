//! Scheduled Events of Azure: a document of what is going to be done to a group of machines.
//!
//! Only events that name this machine and end it count. Once everything is handed over they are asked to start,
//! so that nobody waits for their time: a preempted machine costs until it goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::Clock;
use http::Request;
use serde::Deserialize;
use serde_json::json;

use super::metadata::{AskError, Metadata};
use super::rounds::Rounds;
use super::{Notice, NoticeSource};

/// Scheduled Events.
pub(crate) struct Azure {
    metadata: Metadata,
    every: Duration,
    /// What events call this machine.
    machine: Option<String>,
    clock: Arc<dyn Clock>,
    /// The document that was read last.
    incarnation: Option<i64>,
    /// Ids of events that were told of, and whether they had started.
    told: BTreeSet<(String, bool)>,
    rounds: Rounds,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    document_incarnation: i64,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    #[serde(rename = "EventId")]
    id: String,
    #[serde(rename = "EventType")]
    kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(rename = "EventStatus")]
    status: String,
    #[serde(default)]
    not_before: String,
}

impl Event {
    fn has_started(&self) -> bool {
        self.status == "Started"
    }
}

impl Azure {
    pub(crate) fn new(
        metadata: Metadata,
        every: Duration,
        machine: Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            metadata,
            every,
            machine,
            clock,
            incarnation: None,
            told: BTreeSet::new(),
            rounds: Rounds::new("azure", every),
        }
    }

    async fn look(&mut self) -> Result<Option<Notice>, AskError> {
        let machine = self.machine().await?;
        // The first question switches the service on, which takes minutes.
        let limit = if self.incarnation.is_none() { FIRST_LIMIT } else { LIMIT };
        let request = Request::get(EVENTS).header("metadata", "true");
        let answer = self.metadata.ask(request, String::new(), limit).await?.success()?;
        let document: Document = serde_json::from_str(&answer.body)
            .map_err(|error| AskError::Meaning(error.to_string()))?;
        if self.incarnation == Some(document.document_incarnation) {
            return Ok(None);
        }
        let concerns = |event: &&Event| {
            ENDING.contains(&event.kind.as_str()) && event.resources.contains(&machine)
        };
        let mut soonest: Option<Duration> = None;
        let mut news = Vec::new();
        for event in document.events.iter().filter(concerns) {
            let key = (event.id.clone(), event.has_started());
            if !self.told.contains(&key) {
                let left = self.left(event)?;
                soonest = Some(soonest.map_or(left, |other| other.min(left)));
                news.push(key);
            }
        }
        self.told.extend(news);
        self.incarnation = Some(document.document_incarnation);
        Ok(soonest.map(|left| Notice::Leave(Some(left))))
    }

    fn left(&self, event: &Event) -> Result<Duration, AskError> {
        if event.has_started() {
            return Ok(Duration::ZERO);
        }
        let at = jiff::fmt::rfc2822::parse(&event.not_before)
            .map_err(|error| AskError::Meaning(format!("`{}`: {error}", event.not_before)))?;
        let millis = u64::try_from(at.timestamp().as_millisecond()).unwrap_or(0);
        Ok(domain::Timestamp::from_millis(millis).since(self.clock.now()))
    }

    async fn machine(&mut self) -> Result<String, AskError> {
        if let Some(machine) = &self.machine {
            return Ok(machine.clone());
        }
        let request = Request::get(NAME).header("metadata", "true");
        let answer = self.metadata.ask(request, String::new(), LIMIT).await?.success()?;
        let machine = answer.body.trim().to_owned();
        self.machine = Some(machine.clone());
        Ok(machine)
    }

    async fn acknowledge(&self) -> Result<(), AskError> {
        let waiting = self.told.iter().filter(|(_, started)| !started);
        let starts: Vec<_> = waiting.map(|(id, _)| json!({ "EventId": id })).collect();
        if starts.is_empty() {
            return Ok(());
        }
        let request = Request::post(EVENTS)
            .header("metadata", "true")
            .header(http::header::CONTENT_TYPE, "application/json");
        let body = json!({ "StartRequests": starts }).to_string();
        self.metadata.ask(request, body, LIMIT).await?.success()?;
        tracing::info!(events = starts.len(), "events may start");
        Ok(())
    }
}

#[async_trait]
impl NoticeSource for Azure {
    fn name(&self) -> &'static str {
        "azure"
    }

    async fn next(&mut self) -> Notice {
        loop {
            self.rounds.turn().await;
            let looked = self.look().await;
            if let Some(Some(notice)) = self.rounds.heard(looked) {
                return notice;
            }
        }
    }

    async fn release(&mut self) {
        for _ in 0..MAX_ACKNOWLEDGEMENTS {
            let Err(error) = self.acknowledge().await else { return };
            tracing::warn!(error = %error, "events were not told that they may start");
            tokio::time::sleep(self.every).await;
        }
    }
}

const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const NAME: &str = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
/// A frozen machine goes on after some seconds; after these it does not.
const ENDING: &[&str] = &["Preempt", "Terminate", "Redeploy", "Reboot"];
const FIRST_LIMIT: Duration = Duration::from_secs(150);
const LIMIT: Duration = Duration::from_secs(5);
/// Without it the events start when their time comes.
const MAX_ACKNOWLEDGEMENTS: usize = 3;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use domain::{ManualClock, Timestamp};
    use serde_json::Value;

    use super::super::fake::{Asked, Fake};
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    type Documents = Arc<Mutex<Value>>;

    fn event(id: &str, kind: &str, machine: &str) -> Value {
        json!({
            "EventId": id, "EventType": kind, "ResourceType": "VirtualMachine",
            "Resources": [machine], "EventStatus": "Scheduled",
            "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT", "Description": "", "EventSource": "Platform",
            "DurationInSeconds": -1,
        })
    }

    fn document(incarnation: i64, events: &[Value]) -> Value {
        json!({ "DocumentIncarnation": incarnation, "Events": events })
    }

    /// Answers as the service does; an acknowledged event starts.
    fn service(documents: Documents) -> impl Fn(&Asked) -> (u16, String) {
        move |asked| {
            if asked.header("metadata").as_deref() != Some("true") {
                return (400, String::new());
            }
            let mut document = documents.lock().unwrap();
            match (asked.method.as_str(), asked.path.as_str()) {
                ("GET", NAME) => (200, "vm0".to_owned()),
                ("GET", EVENTS) => (200, document.to_string()),
                ("POST", EVENTS) => {
                    let started: Value = serde_json::from_str(&asked.body).unwrap();
                    for event in document["Events"].as_array_mut().unwrap() {
                        let starts = started["StartRequests"].as_array().unwrap();
                        if starts.iter().any(|start| start["EventId"] == event["EventId"]) {
                            event["EventStatus"] = "Started".into();
                        }
                    }
                    (200, String::new())
                }
                _ => (404, String::new()),
            }
        }
    }

    fn azure(first: Value) -> (Fake, Documents, Azure) {
        let documents = Arc::new(Mutex::new(first));
        let fake = Fake::start(service(Arc::clone(&documents)));
        let now: jiff::Timestamp = "2016-09-19T18:29:17Z".parse().unwrap();
        let clock = ManualClock::at(Timestamp::from_millis(now.as_millisecond() as u64));
        let azure = Azure::new(fake.metadata(), EVERY, None, Arc::new(clock));
        (fake, documents, azure)
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_of_this_machine_is_told_once_and_may_start_once_everything_is_out() {
        let (_fake, documents, mut azure) = azure(document(1, &[]));
        assert!(tokio::time::timeout(EVERY * 5, azure.next()).await.is_err());
        let events = [event("mine", "Preempt", "vm0"), event("theirs", "Preempt", "vm1")];
        *documents.lock().unwrap() = document(2, &events);

        assert_eq!(azure.next().await, Notice::Leave(Some(Duration::from_secs(30))));
        assert!(tokio::time::timeout(EVERY * 5, azure.next()).await.is_err(), "that is no news");
        azure.release().await;

        let document = documents.lock().unwrap().clone();
        assert_eq!(document["Events"][0]["EventStatus"], "Started");
        assert_eq!(document["Events"][1]["EventStatus"], "Scheduled", "not ours to start");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_this_machine_is_no_notice() {
        let events = [event("a", "Freeze", "vm0"), event("b", "Terminate", "vm1")];
        let (_fake, _documents, mut azure) = azure(document(1, &events));

        assert!(tokio::time::timeout(EVERY * 20, azure.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_has_started_leaves_no_time() {
        let mut started = event("a", "Redeploy", "vm0");
        (started["EventStatus"], started["NotBefore"]) = ("Started".into(), "".into());
        let (_fake, _documents, mut azure) = azure(document(7, &[started]));

        assert_eq!(azure.next().await, Notice::Leave(Some(Duration::ZERO)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_that_is_known_is_not_looked_at_again() {
        let (_fake, documents, mut azure) = azure(document(1, &[]));
        assert!(tokio::time::timeout(EVERY * 3, azure.next()).await.is_err());
        *documents.lock().unwrap() = document(1, &[event("a", "Preempt", "vm0")]);
        assert!(tokio::time::timeout(EVERY * 3, azure.next()).await.is_err());

        documents.lock().unwrap()["DocumentIncarnation"] = 2.into();

        assert_eq!(azure.next().await, Notice::Leave(Some(Duration::from_secs(30))));
    }
}
