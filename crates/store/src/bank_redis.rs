//! The bank in Redis: for gateways that share quotas.
//!
//! Each operation is one script, so it happens as a whole or not at all, by the server's clock. All keys of an
//! organization have one hash tag, so a cluster keeps them together. The arithmetic is that of `bank_book.rs`.
//!
//! What Redis says is believed only as long as it comes from one life of one server process: after a restart or
//! a failover its memory may be old or gone, and it is told everything anew. Who may hold what is known from the
//! database, where a gateway signs in before it draws for an organization the first time; everybody who signed
//! in is called, and until all have spoken or their time to live has passed, nothing is given.
//!
//! Redis must not evict keys: run it with `maxmemory-policy noeviction`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use admission::bank::{AccountId, AccountKind, Bank, BankError, Draw, Drawn, Founding, Standing};
use async_trait::async_trait;
use domain::{Clock, GatewayId, OrganizationId, Timestamp};
use redis::{Script, ScriptInvocation};

use crate::bank_memory::each_account_once;
use crate::database::Database;
use crate::redis_link::{LinkSettings, RedisAddressError, RedisLink};

/// How long the bank is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisBankSettings {
    /// Longest wait for a connection. Paid by one request, at most once in a cool-down.
    pub connect_deadline: Duration,
    /// Longest wait for an answer.
    pub response_deadline: Duration,
    /// How long a Redis that failed is left alone.
    pub cool_down: Duration,
}

impl Default for RedisBankSettings {
    fn default() -> Self {
        Self {
            connect_deadline: DEFAULT_CONNECT_DEADLINE,
            response_deadline: DEFAULT_RESPONSE_DEADLINE,
            cool_down: DEFAULT_COOL_DOWN,
        }
    }
}

/// Adds up what gateways take, in Redis.
pub struct RedisBank {
    gateway: GatewayId,
    link: RedisLink,
    database: Database,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

/// What this gateway knows of the others.
#[derive(Default)]
struct Known {
    /// Organizations it has signed in for.
    joined: HashSet<OrganizationId>,
    /// Since when the database has been answering without a pause.
    greeting_since: Option<Timestamp>,
    greeted_at: Option<Timestamp>,
    /// Recoveries it was called for, and those it has answered.
    called: HashMap<OrganizationId, Timestamp>,
    answered: HashMap<OrganizationId, Timestamp>,
    /// Organizations it held quota of before it started, and has not said since that it does not.
    left_behind: Option<HashSet<OrganizationId>>,
}

impl RedisBank {
    /// A bank at `address`, for this gateway. Does not connect: the first message does.
    pub fn new(
        address: &str,
        gateway: GatewayId,
        database: Database,
        clock: Arc<dyn Clock>,
        settings: RedisBankSettings,
    ) -> Result<Self, RedisAddressError> {
        let RedisBankSettings { connect_deadline, response_deadline, cool_down } = settings;
        let deadlines = LinkSettings { connect_deadline, response_deadline, cool_down };
        let link = RedisLink::new(address, "bank of quotas", deadlines)?;
        Ok(Self { gateway, link, database, clock, known: Mutex::default() })
    }

    /// Tells other gateways that this one is here, and hears whom it is to tell what it has. Runs until dropped.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(GREETING_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.greet().await {
                tracing::debug!(error = ?error, "other gateways not greeted");
            }
        }
    }

    /// Does what [`Self::run`] does, once.
    pub async fn greet(&self) -> Result<(), admission::StoreError> {
        let now = self.clock.now();
        let called = self.database.greet(self.gateway, now).await?;
        if self.with_known(|known| known.left_behind.is_none()) {
            let memberships = self.database.memberships(self.gateway).await?;
            self.with_known(|known| {
                let mut left = memberships;
                left.retain(|organization| !known.joined.contains(organization));
                known.left_behind = Some(left.into_iter().collect());
            });
        }
        self.with_known(|known| {
            let recently = known.greeted_at.is_some_and(|at| now.since(at) < GREETING_GAP);
            if !recently {
                known.greeting_since = Some(now);
            }
            known.greeted_at = Some(now);
            known.called = called.into_iter().collect();
            known.answered.retain(|organization, _| known.called.contains_key(organization));
        });
        Ok(())
    }

    async fn ask(&self, draw: &Draw) -> Result<Reply, BankError> {
        self.sign_in(draw.organization).await?;
        let reply: Vec<String> = self.invoke(&draw_call(&DRAW, draw)).await?;
        Reply::parse(&reply, draw)
    }

    /// Before anything of an organization is held: else nobody would wait for us when memory is lost.
    async fn sign_in(&self, organization: OrganizationId) -> Result<(), BankError> {
        if self.with_known(|known| known.joined.contains(&organization)) {
            return Ok(());
        }
        let first = self.database.join(organization, self.gateway).await.map_err(failed)?;
        if first {
            // Nobody holds anything of it: there is nobody to wait for.
            self.begin_epoch(organization, &[], Duration::ZERO).await?;
        }
        self.with_known(|known| known.joined.insert(organization));
        Ok(())
    }

    /// The bank's memory is not what it was: begins anew with whoever may hold something.
    async fn recover(&self, draw: &Draw) -> Result<(), BankError> {
        let now = self.clock.now();
        let steady = self.with_known(|known| {
            known.greeting_since.is_some_and(|since| now.since(since) >= STEADY)
                && known.greeted_at.is_some_and(|at| now.since(at) < GREETING_GAP)
        });
        let members = self.database.members(draw.organization).await.map_err(failed)?;
        let others = members.iter().any(|member| member.gateway != self.gateway);
        if others && !steady {
            // After a pause of the database, living gateways look dead until they have greeted again.
            return Err(failed("waiting for other gateways to be heard of"));
        }
        let mut waited = Vec::new();
        for member in members {
            let lasts_until = member.seen_at.plus(GREETING_GAP + draw.time_to_live);
            if lasts_until > now {
                waited.push((member.gateway, lasts_until.since(now)));
            } else if member.gateway != self.gateway {
                self.database.leave(draw.organization, member.gateway).await.map_err(failed)?;
            }
        }
        tracing::warn!(
            organization = %draw.organization,
            gateways = waited.len(),
            "redis was restarted or replaced; quotas are told anew"
        );
        self.database.call_members(draw.organization, now).await.map_err(failed)?;
        self.begin_epoch(draw.organization, &waited, draw.time_to_live).await
    }

    async fn begin_epoch(
        &self,
        organization: OrganizationId,
        waited: &[(GatewayId, Duration)],
        time_to_live: Duration,
    ) -> Result<(), BankError> {
        let call = lose_call(&LOSE, organization, waited, time_to_live);
        self.invoke::<String>(&call).await.map(drop)
    }

    async fn invoke<T: redis::FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, BankError> {
        self.link.invoke(call).await.map_err(failed)
    }

    fn with_known<T>(&self, use_it: impl FnOnce(&mut Known) -> T) -> T {
        use_it(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Bank for RedisBank {
    async fn draw(&self, draw: &Draw) -> Result<Drawn, BankError> {
        each_account_once(draw)?;
        let drawn = match self.ask(draw).await? {
            Reply::Drawn(drawn) => drawn,
            Reply::Lost => {
                self.recover(draw).await?;
                match self.ask(draw).await? {
                    Reply::Drawn(drawn) => drawn,
                    Reply::Lost => return Err(failed("redis was replaced again meanwhile")),
                }
            }
        };
        if draw.complete {
            self.with_known(|known| {
                if let Some(since) = known.called.get(&draw.organization) {
                    known.answered.insert(draw.organization, *since);
                }
                if let Some(left) = &mut known.left_behind {
                    left.remove(&draw.organization);
                }
            });
        }
        Ok(drawn)
    }

    async fn found(
        &self,
        organization: OrganizationId,
        foundings: &[Founding],
    ) -> Result<(), BankError> {
        let call = found_call(&FOUND, organization, foundings);
        self.invoke::<String>(&call).await.map(drop)
    }

    fn callers(&self) -> Vec<OrganizationId> {
        self.with_known(|known| {
            let open = known.called.iter().filter(|(organization, since)| {
                known.answered.get(organization).is_none_or(|answered| answered < since)
            });
            let left = known.left_behind.iter().flatten();
            open.map(|(organization, _)| organization).chain(left).copied().collect()
        })
    }
}

/// What the drawing script said.
enum Reply {
    Drawn(Drawn),
    Lost,
}

impl Reply {
    fn parse(words: &[String], draw: &Draw) -> Result<Self, BankError> {
        let unreadable = || failed(format!("redis answered {words:?}"));
        let (first, rest) = words.split_first().ok_or_else(unreadable)?;
        let drawn = match first.as_str() {
            "LOST" => return Ok(Self::Lost),
            "OUTDATED" => Some(Drawn::Outdated),
            "RECOVERING" => rest
                .first()
                .and_then(|text| text.parse().ok())
                .map(|millis| Drawn::Recovering { retry_in: Duration::from_millis(millis) }),
            "UNKNOWN" => {
                let indices: Option<Vec<usize>> =
                    rest.iter().map(|text| text.parse().ok()).collect();
                indices.map(Drawn::Unknown)
            }
            "STANDINGS" => standings(rest, draw.wishes.len()),
            _ => None,
        };
        drawn.map(Self::Drawn).ok_or_else(unreadable)
    }
}

fn standings(words: &[String], wishes: usize) -> Option<Drawn> {
    let [granted, called_in, figures @ ..] = words else { return None };
    let standing = |figures: &[String]| {
        let [taken, left, spare_elsewhere, wait_nanos] = figures else { return None };
        Some(Standing {
            taken: taken.parse().ok()?,
            left: left.parse().ok()?,
            spare_elsewhere: spare_elsewhere.parse().ok()?,
            wait_nanos: wait_nanos.parse().ok()?,
        })
    };
    let standings: Vec<Standing> = figures.chunks(4).map(standing).collect::<Option<_>>()?;
    (standings.len() == wishes).then_some(Drawn::Standings {
        granted: granted == "1",
        standings,
        called_in: called_in == "1",
    })
}

fn draw_call<'s>(script: &'s Script, draw: &Draw) -> ScriptInvocation<'s> {
    let Draw { gateway, number, organization, complete, wishes, time_to_live } = draw;
    let mut call = script.prepare_invoke();
    for part in ["book", "gateways", "calls"] {
        call.key(key(*organization, part));
    }
    call.arg(gateway.to_string()).arg(*number).arg(u8::from(*complete));
    call.arg(millis(*time_to_live)).arg(millis(KEEP.max(*time_to_live * 4)));
    for wish in wishes {
        call.key(account_key(*organization, wish.account));
        let (kind, bound) = match wish.kind {
            AccountKind::Pool { capacity } => ("P", capacity),
            AccountKind::Slots { capacity } => ("S", capacity),
            AccountKind::Rate { per_minute } => ("R", per_minute),
        };
        call.arg(kind).arg(bound.max(0)).arg(wish.spent.max(0));
        if kind == "R" {
            call.arg(wish.has).arg(wish.want).arg(wish.least);
        } else {
            call.arg(wish.has.max(0)).arg(wish.want.max(0)).arg(wish.least.max(0));
        }
    }
    call
}

fn found_call<'s>(
    script: &'s Script,
    organization: OrganizationId,
    foundings: &[Founding],
) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    call.key(key(organization, "book")).key(key(organization, "gateways"));
    call.arg(millis(KEEP));
    for founding in foundings {
        call.key(account_key(organization, founding.account));
        call.arg(founding.spent.len());
        for (gateway, spent) in &founding.spent {
            call.arg(gateway.to_string()).arg(*spent.max(&0));
        }
    }
    call
}

fn lose_call<'s>(
    script: &'s Script,
    organization: OrganizationId,
    waited: &[(GatewayId, Duration)],
    time_to_live: Duration,
) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    for part in ["book", "gateways", "calls"] {
        call.key(key(organization, part));
    }
    call.arg(millis(KEEP)).arg(millis(time_to_live));
    for (gateway, time) in waited {
        call.arg(gateway.to_string()).arg(millis(*time));
    }
    call
}

/// A key of an organization's book. The number is the layout of keys and values.
fn key(organization: OrganizationId, part: &str) -> String {
    format!("tollgate:bank:1:{{{organization}}}:{part}")
}

fn account_key(organization: OrganizationId, account: AccountId) -> String {
    key(organization, &format!("a:{account}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BankError {
    BankError(error.into())
}

static DRAW: LazyLock<Script> = LazyLock::new(|| Script::new(DRAW_TEXT));
static FOUND: LazyLock<Script> = LazyLock::new(|| Script::new(FOUND_TEXT));
static LOSE: LazyLock<Script> = LazyLock::new(|| Script::new(LOSE_TEXT));

const DRAW_TEXT: &str =
    concat!(include_str!("bank_redis/arithmetic.lua"), include_str!("bank_redis/draw.lua"));
const FOUND_TEXT: &str =
    concat!(include_str!("bank_redis/arithmetic.lua"), include_str!("bank_redis/found.lua"));
const LOSE_TEXT: &str =
    concat!(include_str!("bank_redis/arithmetic.lua"), include_str!("bank_redis/lose.lua"));

/// How long Redis keeps what nobody speaks of any more. Every gateway speaks of what it holds far more often.
const KEEP: Duration = Duration::from_hours(24);

/// A name look-up, a handshake and one exchange, across zones.
const DEFAULT_CONNECT_DEADLINE: Duration = Duration::from_millis(100);

/// A draw is asked for once a second, not by every request; one that is slower than this waits for nothing good.
const DEFAULT_RESPONSE_DEADLINE: Duration = Duration::from_millis(50);

const DEFAULT_COOL_DOWN: Duration = Duration::from_millis(500);

/// How often a gateway says that it is here.
const GREETING_INTERVAL: Duration = Duration::from_secs(2);

/// A gateway that was not seen for so long has died, or cannot reach the database.
const GREETING_GAP: Duration = Duration::from_secs(10);

/// After so long without a pause every living gateway has greeted.
const STEADY: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
