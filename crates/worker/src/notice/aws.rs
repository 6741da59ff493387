//! The instance metadata service of AWS, version 2: asked every few seconds with a token of its own.
//!
//! A spot machine is told about two minutes before it goes. Earlier, or instead, a recommendation to rebalance
//! may come: that says that the risk is high, for many machines of a kind at a time, and nothing of when.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::Clock;
use http::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::metadata::{AskError, Metadata};
use super::rounds::Rounds;
use super::{Notice, NoticeSource};

/// The instance metadata service.
pub(crate) struct Aws {
    metadata: Metadata,
    clock: Arc<dyn Clock>,
    /// The token, and when to ask for another one.
    token: Option<(String, Instant)>,
    advised: bool,
    /// The notice that was told last.
    told: Option<Action>,
    rounds: Rounds,
}

/// What is going to be done to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Action {
    action: String,
    time: String,
}

impl Aws {
    pub(crate) fn new(metadata: Metadata, every: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            metadata,
            clock,
            token: None,
            advised: false,
            told: None,
            rounds: Rounds::new("aws", every),
        }
    }

    async fn look(&mut self) -> Result<Option<Notice>, AskError> {
        if let Some(text) = self.read(INSTANCE_ACTION).await? {
            let action: Action = serde_json::from_str(&text)
                .map_err(|error| AskError::Meaning(format!("{INSTANCE_ACTION}: {error}")))?;
            if self.told.as_ref() == Some(&action) {
                return Ok(None);
            }
            let notice = Notice::Leave(Some(self.left(&action)?));
            self.told = Some(action);
            return Ok(Some(notice));
        }
        if !self.advised && self.read(REBALANCE).await?.is_some() {
            self.advised = true;
            return Ok(Some(Notice::Advice));
        }
        Ok(None)
    }

    /// How long the machine stays.
    fn left(&self, action: &Action) -> Result<Duration, AskError> {
        // Whoever hibernates it begins at once, whatever the time says.
        if action.action == "hibernate" {
            return Ok(Duration::ZERO);
        }
        let at = action.time.parse::<jiff::Timestamp>();
        let at = at.map_err(|error| AskError::Meaning(format!("`{}`: {error}", action.time)))?;
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        Ok(domain::Timestamp::from_millis(millis).since(self.clock.now()))
    }

    /// What stands at `path`; `None` if nothing does.
    async fn read(&mut self, path: &str) -> Result<Option<String>, AskError> {
        for _ in 0..2 {
            let token = self.token().await?;
            let request = Request::get(path).header("x-aws-ec2-metadata-token", token);
            let answer = self.metadata.ask(request, String::new(), LIMIT).await?;
            match answer.status {
                StatusCode::NOT_FOUND => return Ok(None),
                // The token ended before its time: once more, with a new one.
                StatusCode::UNAUTHORIZED => self.token = None,
                _ => return answer.success().map(|answer| Some(answer.body)),
            }
        }
        Err(AskError::Status(StatusCode::UNAUTHORIZED))
    }

    async fn token(&mut self) -> Result<String, AskError> {
        if let Some((token, until)) = &self.token
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let request = Request::put("/latest/api/token")
            .header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE.as_secs());
        let answer = self.metadata.ask(request, String::new(), LIMIT).await?.success()?;
        let token = answer.body.trim().to_owned();
        self.token = Some((token.clone(), Instant::now() + TOKEN_LIFE / 2));
        Ok(token)
    }
}

#[async_trait]
impl NoticeSource for Aws {
    fn name(&self) -> &'static str {
        "aws"
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
}

const INSTANCE_ACTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const TOKEN_LIFE: Duration = Duration::from_hours(1);
const LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::super::fake::{Asked, Fake};
    use super::*;
    use domain::{ManualClock, Timestamp};

    const EVERY: Duration = Duration::from_secs(5);

    /// A service that wants its token on every question, and forgets tokens when told to.
    fn answers(action: Option<&'static str>, rebalance: bool) -> impl Fn(&Asked) -> (u16, String) {
        let seen = std::sync::atomic::AtomicU32::new(0);
        move |asked| {
            use std::sync::atomic::Ordering::SeqCst;
            if asked.method == "PUT" && asked.path == "/latest/api/token" {
                let ttl = asked.header("x-aws-ec2-metadata-token-ttl-seconds");
                let right = ttl.and_then(|ttl| ttl.parse().ok());
                return match right {
                    Some(1..=21_600_u32) => (200, format!("token-{}", seen.fetch_add(1, SeqCst))),
                    _ => (400, String::new()),
                };
            }
            // Only the second token is good: the first one ended before its time.
            if asked.header("x-aws-ec2-metadata-token").as_deref() != Some("token-1") {
                return (401, "<h1>401 - Unauthorized</h1>".to_owned());
            }
            match (asked.path.as_str(), action, rebalance) {
                (INSTANCE_ACTION, Some(action), _) => (200, action.to_owned()),
                (REBALANCE, _, true) => {
                    (200, r#"{"noticeTime":"2020-10-27T08:22:00Z"}"#.to_owned())
                }
                _ => (404, "<h1>404 - Not Found</h1>".to_owned()),
            }
        }
    }

    fn aws(fake: &Fake, now: &str) -> Aws {
        let now: jiff::Timestamp = now.parse().unwrap();
        let clock = ManualClock::at(Timestamp::from_millis(now.as_millisecond() as u64));
        Aws::new(fake.metadata(), EVERY, Arc::new(clock))
    }

    #[tokio::test(start_paused = true)]
    async fn an_action_says_how_long_the_machine_stays_and_is_told_once() {
        let action = r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#;
        let fake = Fake::start(answers(Some(action), false));
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");

        assert_eq!(aws.next().await, Notice::Leave(Some(Duration::from_mins(2))));

        assert!(tokio::time::timeout(EVERY * 20, aws.next()).await.is_err(), "that is no news");
        assert_eq!(fake.asked("/latest/api/token"), 2, "the token is renewed once, and kept");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_as_long_as_there_is_nothing() {
        let fake = Fake::start(answers(None, false));
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");

        assert!(tokio::time::timeout(EVERY * 10 + EVERY / 2, aws.next()).await.is_err());

        // At the beginning and then every five seconds, and once more for the token that was refused.
        assert_eq!(fake.asked(INSTANCE_ACTION), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_it_ends() {
        let fake = Fake::start(answers(None, false));
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");
        assert!(tokio::time::timeout(TOKEN_LIFE * 2 / 3, aws.next()).await.is_err());

        assert!(fake.asked("/latest/api/token") > 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recommendation_is_advice_and_told_once() {
        let fake = Fake::start(answers(None, true));
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");

        assert_eq!(aws.next().await, Notice::Advice);
        assert!(tokio::time::timeout(EVERY * 10, aws.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn hibernation_begins_at_once() {
        let action = r#"{"action":"hibernate","time":"2017-09-18T08:22:00Z"}"#;
        let fake = Fake::start(answers(Some(action), true));
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");

        assert_eq!(aws.next().await, Notice::Leave(Some(Duration::ZERO)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_fails_is_asked_more_seldom_and_again_when_it_answers() {
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (told, good) = (Arc::clone(&broken), answers(None, true));
        let fake = Fake::start(move |asked| {
            if told.load(std::sync::atomic::Ordering::SeqCst) {
                return (500, String::new());
            }
            good(asked)
        });
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");
        assert!(tokio::time::timeout(Duration::from_secs(100), aws.next()).await.is_err());
        let asked = fake.asked("/latest/api/token");
        assert!((5..15).contains(&asked), "{asked}");

        broken.store(false, std::sync::atomic::Ordering::SeqCst);

        assert_eq!(aws.next().await, Notice::Advice);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_hangs_is_given_up_and_asked_again() {
        let fake = Fake::hanging();
        let mut aws = aws(&fake, "2017-09-18T08:20:00Z");

        assert!(tokio::time::timeout(Duration::from_mins(1), aws.next()).await.is_err());

        assert!(fake.asked("/latest/api/token") > 2);
    }
}
