//! The quota of a gateway among others: [`Slices`], with somebody to carry their messages.
//!
//! A request whose slices suffice waits for nothing. One that needs more sends a message to the bank and
//! waits for the answer, which has a deadline; messages about one organization go one after another, and
//! whoever waited for its turn looks again before it sends another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{Clock, HoldId, OrganizationId};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::StoreError;
use crate::bank::{Bank, Drawn, Founding};
use crate::claims::{Claim, Quantity};
use crate::quota::{Ask, Grant, Quota, Refusal};
use crate::slices::{Asked, Slices, Step, Wanted};

/// What was spent, by the books.
#[async_trait]
pub trait Books: Send + Sync {
    /// Waits until everything that this gateway has closed is in the books.
    async fn settle_up(&self) -> Result<(), StoreError>;

    /// What each gateway has spent of each claim's account, in order; everything that this gateway has
    /// closed is included.
    async fn spent(
        &self,
        organization: OrganizationId,
        claims: &[Claim],
    ) -> Result<Vec<Founding>, StoreError>;
}

/// Counters of one gateway, with the bank behind them.
pub struct SlicedQuota {
    slices: Mutex<Slices>,
    bank: Arc<dyn Bank>,
    books: Arc<dyn Books>,
    clock: Arc<dyn Clock>,
    /// One message about an organization at a time.
    lines: Mutex<HashMap<OrganizationId, Arc<AsyncMutex<()>>>>,
    began: Instant,
}

impl SlicedQuota {
    /// Slices of `bank`, with what was spent before in `books`.
    pub fn new(
        slices: Slices,
        bank: Arc<dyn Bank>,
        books: Arc<dyn Books>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (slices, lines) = (Mutex::new(slices), Mutex::default());
        Self { slices, bank, books, clock, lines, began: Instant::now() }
    }

    /// Tells the bank how things stand and gives back what lies idle, until it is dropped.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.state().await;
        }
    }

    /// Sends every statement that is due, once.
    pub async fn state(&self) {
        let callers = self.bank.callers();
        if !callers.is_empty()
            && let Err(error) = self.books.settle_up().await
        {
            // What it leaves out of a complete message is believed as far as the books have it.
            tracing::debug!(error = ?error, "bank not answered yet");
            return;
        }
        for organization in callers {
            let line = self.line(organization);
            let _turn = line.lock().await;
            self.with_slices(|slices| slices.called(organization));
            self.exchange(organization, None).await;
        }
        let now = self.now();
        let due: Vec<OrganizationId> = self.with_slices(|slices| {
            slices.forget_before(self.clock.now());
            let mut organizations = slices.organizations();
            organizations.retain(|organization| slices.is_due(*organization, now));
            organizations
        });
        self.lines()
            .retain(|organization, line| Arc::strong_count(line) > 1 || due.contains(organization));
        for organization in due {
            let line = self.line(organization);
            let _turn = line.lock().await;
            self.exchange(organization, None).await;
        }
    }

    /// Gives everything back that is not held, before this gateway goes away. What cannot be given back is
    /// kept for it until its time to live is over.
    pub async fn give_back(&self) {
        for organization in self.with_slices(|slices| slices.organizations()) {
            let line = self.line(organization);
            let _turn = line.lock().await;
            self.with_slices(|slices| slices.call_in(organization));
            if self.exchange(organization, None).await == Asked::Silent {
                return;
            }
        }
    }

    /// Sends one message; what the slices may make of the answer.
    async fn draw(&self, organization: OrganizationId, wanted: Wanted<'_>, began: u64) -> Asked {
        let line = self.line(organization);
        let _turn = line.lock().await;
        if self.with_slices(|slices| slices.was_answered_since(organization, began)) {
            return Asked::NotYet; // somebody asked meanwhile: look again first
        }
        self.exchange(organization, Some(wanted)).await
    }

    /// One message and its answer. The caller holds the organization's line.
    async fn exchange(&self, organization: OrganizationId, wanted: Option<Wanted<'_>>) -> Asked {
        for _ in 0..MAX_FOUNDINGS {
            let sent_at = self.now();
            let draw = self.with_slices(|slices| slices.draw(organization, wanted, sent_at));
            let Some(draw) = draw else { return Asked::Answered };
            let drawn = match self.bank.draw(&draw).await {
                Ok(drawn) => drawn,
                Err(error) => {
                    tracing::debug!(error = ?error, "bank silent");
                    return Asked::Silent;
                }
            };
            match &drawn {
                Drawn::Standings { .. } => {
                    self.with_slices(|slices| slices.apply(&draw, &drawn, (sent_at, self.now())));
                    return Asked::Answered;
                }
                Drawn::Outdated => {}
                Drawn::Recovering { retry_in } if retry_in.is_zero() => {
                    self.with_slices(|slices| slices.forgotten(organization));
                }
                Drawn::Recovering { .. } => return Asked::Silent,
                Drawn::Unknown(accounts) => {
                    let accounts: Vec<_> =
                        accounts.iter().filter_map(|at| draw.wishes.get(*at)).collect();
                    let known = self.with_slices(|slices| {
                        let of = |account| slices.claim(organization, account);
                        accounts.iter().filter_map(|wish| of(wish.account)).collect::<Vec<_>>()
                    });
                    if let Err(error) = self.found(organization, &known).await {
                        tracing::warn!(error = ?error, "bank not told what was spent before");
                        return Asked::Silent;
                    }
                }
            }
        }
        Asked::Silent
    }

    async fn found(
        &self,
        organization: OrganizationId,
        claims: &[Claim],
    ) -> Result<(), StoreError> {
        let foundings = self.books.spent(organization, claims).await?;
        let told = self.bank.found(organization, &foundings).await;
        told.map_err(|error| StoreError::new("found accounts", error))
    }

    /// Takes up accounts that this gateway has not used since it started.
    async fn learn(
        &self,
        organization: OrganizationId,
        claims: &[Claim],
    ) -> Result<(), StoreError> {
        let line = self.line(organization);
        let _turn = line.lock().await;
        let foundings = self.books.spent(organization, claims).await?;
        self.with_slices(|slices| {
            let own = slices.gateway();
            let spent: Vec<(Claim, i64)> = claims
                .iter()
                .zip(&foundings)
                .map(|(claim, founding)| {
                    let own = founding.spent.iter().find(|(gateway, _)| *gateway == own);
                    (claim.clone(), own.map_or(0, |(_, spent)| *spent))
                })
                .collect();
            slices.adopt(organization, &spent, self.now());
        });
        Ok(())
    }

    /// Does what `look` says must be done, until it says what became of it.
    async fn settle_on(
        &self,
        organization: OrganizationId,
        wanted: Wanted<'_>,
        look: impl Fn(&mut Slices, Asked, u64) -> Option<Step>,
    ) -> Result<Result<Grant, Refusal>, StoreError> {
        let began = self.now();
        let mut asked = Asked::NotYet;
        for round in 0..MAX_ROUNDS {
            let asking_since = if round == 0 { began } else { self.now() };
            let step = self.with_slices(|slices| look(slices, asked, self.now()));
            match step {
                None => return Err(StoreError::new("extend hold", "the hold is not open")),
                Some(Step::Granted(grant)) => return Ok(Ok(grant)),
                Some(Step::Refused(refusal)) => return Ok(Err(refusal)),
                Some(Step::Unavailable) => {
                    return Err(StoreError::new("hold budget", "the bank of quotas is silent"));
                }
                Some(Step::Learn(claims)) => {
                    self.learn(organization, &claims).await?;
                    asked = Asked::NotYet;
                }
                Some(Step::Draw) => {
                    asked = self.draw(organization, wanted, asking_since).await;
                }
                Some(Step::Wait) if round + 2 >= MAX_ROUNDS => asked = Asked::LastWord,
                Some(Step::Wait) => {
                    tokio::time::sleep(CALL_IN_PAUSE).await;
                    asked = self.draw(organization, wanted, self.now()).await;
                }
            }
        }
        Err(StoreError::new("hold quota", "others took it first, again and again"))
    }

    fn line(&self, organization: OrganizationId) -> Arc<AsyncMutex<()>> {
        Arc::clone(self.lines().entry(organization).or_default())
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<OrganizationId, Arc<AsyncMutex<()>>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_slices<T>(&self, use_it: impl FnOnce(&mut Slices) -> T) -> T {
        use_it(&mut self.slices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[async_trait]
impl Quota for SlicedQuota {
    async fn reserve(&self, ask: &Ask) -> Result<Result<Grant, Refusal>, StoreError> {
        let (least, most) = (&ask.least, &ask.most);
        let wanted = Wanted { claims: &ask.claims, least, most, begun: false };
        let look = |slices: &mut Slices, asked, now| Some(slices.reserve(ask, asked, now));
        self.settle_on(ask.organization, wanted, look).await
    }

    async fn extend(
        &self,
        hold: HoldId,
        least: &Quantity,
        most: &Quantity,
    ) -> Result<Result<Grant, Refusal>, StoreError> {
        let Some((organization, claims)) = self.with_slices(|slices| slices.claims_of(hold)) else {
            return Err(StoreError::new("extend hold", format!("{hold} is not open")));
        };
        let wanted = Wanted { claims: &claims, least, most, begun: true };
        let look = |slices: &mut Slices, asked, now| slices.extend(hold, (least, most), asked, now);
        self.settle_on(organization, wanted, look).await
    }

    async fn settle(&self, hold: HoldId, spent: &Quantity) -> Result<(), StoreError> {
        self.with_slices(|slices| slices.settle(hold, spent));
        Ok(())
    }

    async fn open_holds(&self) -> Result<usize, StoreError> {
        Ok(self.with_slices(|slices| slices.open_holds()))
    }

    fn left(&self, organization: OrganizationId, claims: &[Claim]) -> Vec<Option<i64>> {
        self.with_slices(|slices| slices.left(organization, claims))
    }
}

/// How often statements are looked for.
const TICK: Duration = Duration::from_millis(100);
/// What others hold in spare comes back within their next statement.
const CALL_IN_PAUSE: Duration = Duration::from_millis(25);
const MAX_ROUNDS: u32 = 24;
const MAX_FOUNDINGS: u32 = 4;
