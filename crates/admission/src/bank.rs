//! The port to the bank: what all gateways together may use, and how much of it each one has taken.
//!
//! A gateway does not ask the bank for every request. It takes a *slice* of each quota ahead of need,
//! hands it out locally, and brings the rest back. The bank only adds up.
//!
//! Every message says absolute figures ("of this account I have taken so much in all, and so much of
//! it is spent"), carries a number that grows, and names the gateway. So a message that comes twice
//! or late changes nothing, and one that is lost is made good by the next.
//!
//! All accounts of one message belong to one organization, so that a clustered store can keep them
//! together and change them in one step.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use domain::{GatewayId, OrganizationId, RuleId, ScopeId, Timestamp};
use serde::{Deserialize, Serialize};

/// Names one counter: a rule, at the scope where it counts, in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId {
    /// Where.
    pub scope: ScopeId,
    /// Which budget or limit.
    pub rule: RuleId,
    /// The first moment of the window; zero for what has none.
    pub window: Timestamp,
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.scope, self.rule, self.window.millis())
    }
}

/// How an account works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountKind {
    /// A budget: what is spent is gone. The unit is the budget's own (nano-dollars, tokens,
    /// nanoseconds of GPU time).
    Pool {
        /// The most that all gateways together may take.
        capacity: i64,
    },
    /// Places for running requests: what is given back can be taken again.
    Slots {
        /// The most that all gateways together may take.
        capacity: i64,
    },
    /// A rate: refills evenly, `per_minute` a minute, and holds a minute's worth at most (GCRA, the
    /// generic cell rate algorithm of ITU-T I.371, with a burst of one minute).
    Rate {
        /// Units per minute.
        per_minute: i64,
    },
}

/// What a gateway says and wants of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Which one.
    pub account: AccountId,
    /// How it works, as this gateway knows it.
    pub kind: AccountKind,
    /// `Pool`: what this gateway has spent in this window, all restarts included. Others: zero.
    pub spent: i64,
    /// `Pool`, `Slots`: what this gateway has taken in all, as it was last told; after a restart, or
    /// when its time to live has passed, what is spent. `Rate`: units it was given within the last
    /// minute, less what it gave back. Only a bank that lost its memory believes it.
    pub has: i64,
    /// `Pool`, `Slots`: what this gateway wants to have taken in all (spent, held and spare); less than
    /// before gives the difference back. `Rate`: units to take now; negative gives back.
    pub want: i64,
    /// The least of `want` that is of use (so in all, or units now, as `want` is); if there is less,
    /// nothing beyond what it has is given.
    pub least: i64,
}

/// What the bank says of one account, in the order of the wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// `Pool`, `Slots`: what this gateway has taken in all now. `Rate`: units given now.
    pub taken: i64,
    /// `Pool`, `Slots`: what nobody has taken. `Rate`: what could still be taken now.
    pub left: i64,
    /// `Pool`, `Slots`: what other gateways have taken and not spent, so far as they said.
    pub spare_elsewhere: i64,
    /// `Rate`: nanoseconds until `least` units could be taken (after what this message took); zero if
    /// they can, [`Standing::NEVER`] if a minute does not hold so many.
    pub wait_nanos: u64,
}

impl Standing {
    /// The wait for more than a minute holds.
    pub const NEVER: u64 = i64::MAX.cast_unsigned();
}

/// One message to the bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Who asks.
    pub gateway: GatewayId,
    /// Grows with every message of this gateway about this organization.
    pub number: u64,
    /// Whose accounts.
    pub organization: OrganizationId,
    /// The wishes name every account of which this gateway has anything: what it had of others is given
    /// back. So says the first message after a start, and the answer to [`Drawn::Recovering`].
    pub complete: bool,
    /// What for: each account at most once.
    pub wishes: Vec<Wish>,
    /// How long what is taken stays taken if nothing more is heard from this gateway. Long enough for
    /// every request it runs to end.
    pub time_to_live: Duration,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Every wish was looked at, and either all of them got at least their least, or (`granted` is
    /// false) none of them got more than it had. Giving back always works.
    Standings {
        /// Whether the wishes were granted.
        granted: bool,
        /// For each wish, in order.
        standings: Vec<Standing>,
        /// Another gateway was refused for want of what others hold in spare: give back what is not
        /// in use soon.
        called_in: bool,
    },
    /// The bank knows nothing yet of these accounts (each is an index into the wishes): it must be
    /// told, with [`Bank::found`], what was spent before.
    Unknown(Vec<usize>),
    /// The bank lost its memory and is told everything anew; it gives nothing until every gateway has
    /// said, in a message that is `complete`, what it has, or its time to live has passed.
    Recovering {
        /// When to ask again; zero for a gateway whose message was not `complete` and has to be.
        retry_in: Duration,
    },
    /// A later message of this gateway was here before.
    Outdated,
}

/// What every gateway has spent of an account so far, by the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Which one.
    pub account: AccountId,
    /// What each gateway has spent, from the ledger.
    pub spent: Vec<(GatewayId, i64)>,
}

/// The bank did not answer in time, or not at all.
#[derive(Debug, thiserror::Error)]
#[error("reach the bank of quotas")]
pub struct BankError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Adds up what gateways take.
///
/// Promises: the sum of what gateways have taken of a `Pool` or of `Slots` never exceeds its capacity
/// (unless the capacity was lowered below it; then nothing more is given); a rate never gives more than
/// it may; a message that comes twice, late or not at all breaks neither. All waits are bounded.
#[async_trait]
pub trait Bank: Send + Sync {
    /// Takes and gives back.
    async fn draw(&self, draw: &Draw) -> Result<Drawn, BankError>;

    /// Tells what was spent of accounts that the bank does not know. Telling it again changes nothing.
    async fn found(
        &self,
        organization: OrganizationId,
        foundings: &[Founding],
    ) -> Result<(), BankError>;

    /// Organizations of which this gateway is to say what it has, in a message that is `complete`: the bank
    /// lost its memory and waits for it, or keeps what this gateway had before it started.
    fn callers(&self) -> Vec<OrganizationId> {
        Vec::new()
    }
}
