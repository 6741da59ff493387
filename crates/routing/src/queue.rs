//! Who is next when there is no room: fair between tenants, urgent before patient, and nobody for ever.
//!
//! Each class of urgency is a lane. A lane is due by its class and by how long it has passed a tenant over: who was not served
//! for long enough comes before what is more urgent and has just come. A long queue that moves is not urgent: by the
//! age of its tickets, one tenant's flood would come before everybody's urgent requests. Within a lane tenants take turns
//! in proportion to their weights (virtual time: a ticket moves its tenant's clock by its cost over its weight).
//!
//! The queue is bounded. When it is full, the tenant that takes most of it gives up a place to one that takes less.
//! Pure: time is handed in.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use domain::{Priority, ProjectId, Share};
use tokio::time::Instant;

/// The order in which lanes are served, all else equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A stream that lost its worker: somebody reads it already.
    Continuation,
    /// Requests of this priority.
    New(Priority),
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 4] = [
        Self::Continuation,
        Self::New(Priority::Interactive),
        Self::New(Priority::Standard),
        Self::New(Priority::Batch),
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::New(priority) => priority.name(),
        }
    }

    /// Its place in [`Lane::ALL`].
    pub const fn at(self) -> usize {
        match self {
            Self::Continuation => 0,
            Self::New(Priority::Interactive) => 1,
            Self::New(Priority::Standard) => 2,
            Self::New(Priority::Batch) => 3,
        }
    }
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) lane: Lane,
    pub(crate) share: Share,
    /// How much it asks for, in tokens.
    pub(crate) cost: u64,
    pub(crate) since: Instant,
    /// Its tenant's clock when it is served, and when one of that was served before; known once it was taken.
    tag: u128,
    before: Option<Instant>,
}

impl Ticket {
    pub(crate) const fn new(id: u64, lane: Lane, share: Share, cost: u64, since: Instant) -> Self {
        Self { id, lane, share, cost, since, tag: 0, before: None }
    }

    fn length(&self) -> u128 {
        u128::from(self.cost.max(1)) * SCALE / u128::from(self.share.weight.max(1))
    }
}

/// What became of a ticket that was to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    /// It waits.
    Waits,
    /// It waits in the place of this one, which does not any more.
    InPlaceOf(u64),
    /// There is no place for it.
    Refused,
}

/// The queue.
pub(crate) struct FairQueue {
    max: usize,
    aging: Duration,
    lanes: [LaneQueue; 4],
    /// How many tickets each tenant has here.
    held: HashMap<ProjectId, usize>,
    len: usize,
}

#[derive(Default)]
struct LaneQueue {
    flows: HashMap<ProjectId, Flow>,
    /// Tenants that wait, by the clock of their first ticket.
    order: BTreeSet<(u128, ProjectId)>,
    /// How many tickets wait.
    len: usize,
    /// The lane's own clock: where the last one served stood.
    now: u128,
}

#[derive(Default)]
struct Flow {
    tickets: VecDeque<Ticket>,
    /// The clock of the first of them.
    tag: u128,
    /// When one of them was last served.
    served: Option<Instant>,
}

impl Flow {
    /// Since when its tenant is passed over.
    fn waits_since(&self) -> Option<Instant> {
        let came = self.tickets.front()?.since;
        Some(self.served.map_or(came, |served| served.max(came)))
    }
}

impl FairQueue {
    pub(crate) fn new(max: usize, aging: Duration) -> Self {
        Self { max, aging, lanes: Default::default(), held: HashMap::new(), len: 0 }
    }

    /// From now on so many may wait; those that wait already keep their places.
    pub(crate) const fn reconfigure(&mut self, max: usize, aging: Duration) {
        (self.max, self.aging) = (max, aging);
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tickets in one lane.
    pub(crate) fn len_of(&self, lane: Lane) -> usize {
        self.lanes[lane.at()].len
    }

    /// Tickets that would be served before this one if it came now: those that are more urgent, and of the same urgency
    /// those whose turn comes before. A flood of one tenant is not before another one's first ticket.
    pub(crate) fn ahead_of(&self, ticket: &Ticket) -> usize {
        let at = ticket.lane.at();
        let urgent: usize = self.lanes[..at].iter().map(|lane| lane.len).sum();
        urgent + self.lanes[at].ahead_of(ticket)
    }

    pub(crate) fn push(&mut self, ticket: Ticket) -> Queued {
        let mut queued = Queued::Waits;
        if self.len >= self.max {
            let Some(out) = self.to_give_way(ticket.share.tenant) else { return Queued::Refused };
            self.remove(out);
            queued = Queued::InPlaceOf(out.id);
        }
        self.count(ticket.share.tenant, 1);
        self.lanes[ticket.lane.at()].push_back(ticket);
        queued
    }

    /// Takes whoever is next.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Ticket> {
        let due = |(at, lane): (usize, &LaneQueue)| {
            let waits_since = lane.flows.values().filter_map(Flow::waits_since).min()?;
            // A continuation is due before everything else, however old that is.
            let due = (at > 0).then(|| waits_since + self.aging * at as u32);
            Some((due, at))
        };
        let (_, at) = self.lanes.iter().enumerate().filter_map(due).min()?;
        let ticket = self.lanes[at].take(now)?;
        self.count(ticket.share.tenant, -1);
        Some(ticket)
    }

    /// Gives one that was taken its place back.
    pub(crate) fn put_back(&mut self, ticket: Ticket) {
        self.count(ticket.share.tenant, 1);
        self.lanes[ticket.lane.at()].put_back(ticket);
    }

    /// Takes out one that waits no more.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> bool {
        let removed = self.lanes[ticket.lane.at()].remove(ticket);
        if removed {
            self.count(ticket.share.tenant, -1);
        }
        removed
    }

    fn count(&mut self, tenant: ProjectId, by: isize) {
        self.len = self.len.saturating_add_signed(by);
        let held = self.held.entry(tenant).or_default();
        *held = held.saturating_add_signed(by);
        if *held == 0 {
            self.held.remove(&tenant);
        }
    }

    /// The last ticket of whoever takes most places, if that is more than `tenant` would.
    fn to_give_way(&self, tenant: ProjectId) -> Option<Ticket> {
        let own = self.held.get(&tenant).copied().unwrap_or(0);
        let (greedy, held) = self.held.iter().max_by_key(|(id, held)| (**held, **id))?;
        if *held <= own + 1 {
            return None;
        }
        // What runs already is not thrown away for what has not begun.
        let mut lanes = self.lanes[1..].iter().rev();
        lanes.find_map(|lane| lane.flows.get(greedy)?.tickets.back()).copied()
    }
}

impl LaneQueue {
    fn ahead_of(&self, ticket: &Ticket) -> usize {
        let own = self.flows.get(&ticket.share.tenant);
        let own_tag = own.map_or(self.now, |flow| {
            let waiting: u128 = flow.tickets.iter().map(Ticket::length).sum();
            flow.tag.max(self.now) + waiting
        });
        let before = |(tenant, flow): (&ProjectId, &Flow)| {
            let mut tag = flow.tag;
            let turns = flow.tickets.iter().take_while(|other| {
                let comes_before = *tenant == ticket.share.tenant || tag <= own_tag;
                tag += other.length();
                comes_before
            });
            turns.count()
        };
        self.flows.iter().map(before).sum()
    }

    fn push_back(&mut self, ticket: Ticket) {
        let tenant = ticket.share.tenant;
        self.len += 1;
        let flow = self.flows.entry(tenant).or_default();
        if flow.tickets.is_empty() {
            // Who was away has saved nothing up.
            flow.tag = flow.tag.max(self.now);
            self.order.insert((flow.tag, tenant));
        }
        flow.tickets.push_back(ticket);
    }

    fn take(&mut self, now: Instant) -> Option<Ticket> {
        let (tag, tenant) = self.order.pop_first()?;
        let flow = self.flows.get_mut(&tenant)?;
        let mut ticket = flow.tickets.pop_front()?;
        (ticket.tag, ticket.before) = (tag, flow.served.replace(now));
        self.now = self.now.max(tag);
        flow.tag = tag + ticket.length();
        if !flow.tickets.is_empty() {
            self.order.insert((flow.tag, tenant));
        }
        self.len -= 1;
        self.forget_absent();
        Some(ticket)
    }

    fn put_back(&mut self, ticket: Ticket) {
        let tenant = ticket.share.tenant;
        self.len += 1;
        let flow = self.flows.entry(tenant).or_default();
        self.order.remove(&(flow.tag, tenant));
        if flow.tickets.is_empty() {
            flow.tag = ticket.tag + ticket.length();
        }
        // The clock goes back by what was not served after all.
        flow.tag = flow.tag.saturating_sub(ticket.length());
        flow.served = ticket.before;
        // Several may come back, in any order, and stand among themselves as they came.
        let before = flow.tickets.iter().take_while(|other| other.id < ticket.id).count();
        flow.tickets.insert(before, ticket);
        self.order.insert((flow.tag, tenant));
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        let tenant = ticket.share.tenant;
        let Some(flow) = self.flows.get_mut(&tenant) else { return false };
        let Some(at) = flow.tickets.iter().position(|waiting| waiting.id == ticket.id) else {
            return false;
        };
        flow.tickets.remove(at);
        if flow.tickets.is_empty() {
            self.order.remove(&(flow.tag, tenant));
        }
        self.len -= 1;
        self.forget_absent();
        true
    }

    /// Clocks of tenants that have nothing here and are not ahead of the lane's say nothing.
    fn forget_absent(&mut self) {
        if self.flows.len() > 2 * self.order.len() + FORGET_FROM {
            let now = self.now;
            self.flows.retain(|_, flow| !flow.tickets.is_empty() || flow.tag > now);
        }
        if self.len == 0 {
            self.flows.clear();
            self.now = 0;
        }
    }
}

/// Parts of a token that a clock can tell.
const SCALE: u128 = 1 << 20;
const FORGET_FROM: usize = 64;

#[cfg(test)]
mod tests;
