//! Runs an [`Encoder`] for many tenants: a queue, one thread, and its books.
//!
//! The next order is that of the tenant who has had the least of the machine's time for its weight, so one
//! who sends much waits behind itself. Texts of an order are embedded one by one, and an order nobody waits for
//! any more is left at the next text.
//!
//! Promise: every nanosecond of the thread has an owner ([`domain::Accounts`]).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use domain::{GpuTime, ModelFiles, ModelInfo, Share, Times, Usage};
use tokio::sync::{oneshot, watch};

use crate::encoder::Encoder;
use crate::ledger::Ledger;
use crate::ops::Pool;
use crate::shifts::{Shift, Shifts};
use crate::turns::Turns;
use crate::{EngineError, EngineState, Failure, Refusal};

/// A running encoder. Clones share one thread; dropping the last one ends it.
#[derive(Clone)]
pub struct Embedder(Arc<Handle>);

/// How much an embedder may hold.
#[derive(Clone, Copy, Debug)]
pub struct EmbedderConfig {
    /// Orders that may wait; more are refused.
    pub max_waiting: u32,
    /// Threads that compute.
    pub compute_threads: u32,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// One for each text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// What it used.
    pub usage: Usage,
}

/// An answer to come. Dropping it gives the order up; if the answer was not read, its time is written off.
pub struct Embedding {
    answer: oneshot::Receiver<Result<Vectors, Failure>>,
    shared: Arc<Shared>,
}

impl Embedding {
    /// Waits for the answer. Reading it accepts what it says was used.
    pub async fn wait(mut self) -> Result<Vectors, Failure> {
        (&mut self.answer).await.unwrap_or(Err(Failure::Stopped))
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(unread)) = self.answer.try_recv() {
            let mut queue = self.shared.lock();
            queue.abandoned += unread.usage.gpu;
            self.shared.bell.notify_one();
        }
    }
}

impl std::fmt::Debug for Embedding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedding").finish_non_exhaustive()
    }
}

struct Handle {
    shared: Arc<Shared>,
    info: ModelInfo,
    files: ModelFiles,
    state: watch::Receiver<EngineState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    max_waiting: usize,
}

#[derive(Default)]
struct Queue {
    orders: Turns<Order>,
    /// Tokens of those that wait.
    waiting_tokens: u64,
    /// Time an order takes, lately.
    order_time: Duration,
    /// Time a token takes, lately.
    token_time: Duration,
    /// Billed time that nobody read of, since the thread last looked.
    abandoned: GpuTime,
    draining: bool,
    closed: bool,
}

struct Order {
    texts: Vec<Arc<[u32]>>,
    share: Share,
    since: Instant,
    answer: oneshot::Sender<Result<Vectors, Failure>>,
}

impl Order {
    fn tokens(&self) -> u64 {
        self.texts.iter().map(|text| text.len() as u64).sum()
    }
}

impl Embedder {
    /// Starts the thread for `encoder`.
    pub fn start(encoder: Encoder, config: EmbedderConfig) -> Result<Self, EngineError> {
        Self::start_beside(&Shifts::default(), encoder, config)
    }

    /// The same beside other engines of this process, with which it takes turns.
    pub fn start_beside(
        shifts: &Shifts,
        encoder: Encoder,
        config: EmbedderConfig,
    ) -> Result<Self, EngineError> {
        let start = |error: std::io::Error| EngineError::Start(error.to_string());
        let pool = Pool::new(config.compute_threads.max(1)).map_err(start)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            bell: Condvar::new(),
            max_waiting: config.max_waiting as usize,
        });
        let (report, state) = watch::channel(EngineState::default());
        let (info, files) = (encoder.info().clone(), encoder.files().clone());
        let (ledger, shift) = (Ledger::new(), shifts.join());
        let worker = Thread { encoder, pool, shared: Arc::clone(&shared), ledger, report, shift };
        let thread = std::thread::Builder::new().name("engine-embed".to_owned());
        let thread = thread.spawn(move || worker.run()).map_err(start)?;
        let thread = Mutex::new(Some(thread));
        Ok(Self(Arc::new(Handle { shared, info, files, state, thread })))
    }

    /// Queues texts, or says why not. The answer comes when they are embedded; dropping it gives them up.
    pub fn submit(&self, texts: Vec<Arc<[u32]>>, share: Share) -> Result<Embedding, Refusal> {
        self.0.check(&texts)?;
        let mut queue = self.0.shared.lock();
        if queue.draining || queue.closed {
            return Err(Refusal::Draining);
        }
        if queue.orders.len() >= self.0.shared.max_waiting {
            let ahead = u32::try_from(queue.orders.len()).unwrap_or(u32::MAX);
            let retry_in =
                queue.order_time.saturating_mul(ahead).clamp(SHORTEST_HINT, LONGEST_HINT);
            return Err(Refusal::Full { retry_in });
        }
        let (answer, answered) = oneshot::channel();
        queue.push(Order { texts, share, since: Instant::now(), answer });
        self.0.shared.bell.notify_one();
        drop(queue);
        Ok(Embedding { answer: answered, shared: Arc::clone(&self.0.shared) })
    }

    /// The model.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// What turns text into its tokens.
    pub fn files(&self) -> &ModelFiles {
        &self.0.files
    }

    /// Reports: after every order.
    pub fn watch(&self) -> watch::Receiver<EngineState> {
        self.0.state.clone()
    }

    /// Ends the thread after the text that it embeds, and waits for it; orders that are not answered fail.
    pub fn shutdown(&self) {
        self.0.shut_down();
    }

    /// Takes no new orders from now on.
    pub fn drain(&self) {
        self.0.shared.lock().draining = true;
        self.0.shared.bell.notify_one();
    }
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder").field("info", &self.0.info).finish_non_exhaustive()
    }
}

impl Handle {
    fn check(&self, texts: &[Arc<[u32]>]) -> Result<(), Refusal> {
        for text in texts {
            if text.is_empty() {
                return Err(Refusal::Invalid("a text is empty".to_owned()));
            }
            let tokens = text.len() as u64;
            if tokens > u64::from(self.info.context_length) {
                return Err(Refusal::TooLong { tokens, max: self.info.context_length });
            }
            if let Some(id) = text.iter().find(|id| **id >= self.info.vocabulary) {
                let problem = format!("token id {id} is not below {}", self.info.vocabulary);
                return Err(Refusal::Invalid(problem));
            }
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Handle {
    fn shut_down(&self) {
        self.shared.lock().closed = true;
        self.shared.bell.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the embedding thread had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, order: Order) {
        self.waiting_tokens += order.tokens();
        self.orders.push(order.share, order);
    }

    /// The next order: of the tenant who had the least; of equals, the first by id.
    fn pop(&mut self) -> Option<Order> {
        let order = self.orders.pop(|_, _| true)?;
        self.waiting_tokens -= order.tokens();
        Some(order)
    }

    fn charge(&mut self, share: Share, time: GpuTime, tokens: u32) {
        let time = Duration::from_nanos(time.nanos());
        self.orders.charge(share, time);
        self.order_time = (self.order_time * 7 + time) / 8;
        if let Some(seen) = time.checked_div(tokens) {
            let known = if self.token_time.is_zero() { seen } else { self.token_time };
            self.token_time = (known * 7 + seen) / 8;
        }
    }
}

/// Everything the thread owns. Orders that it still holds when it ends fail.
struct Thread {
    encoder: Encoder,
    pool: Pool,
    shared: Arc<Shared>,
    ledger: Ledger,
    report: watch::Sender<EngineState>,
    shift: Shift,
}

impl Thread {
    fn run(mut self) {
        self.shift.take();
        self.ledger = Ledger::new();
        self.tell(0);
        while let Some(order) = self.next() {
            self.tell(order.tokens());
            self.serve(order);
            self.tell(0);
        }
        self.tell(0);
    }

    /// Waits for an order; `None` when nobody can send one any more.
    fn next(&mut self) -> Option<Order> {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.lock();
        loop {
            self.ledger.abandon(std::mem::take(&mut queue.abandoned));
            if queue.closed {
                let mut left = std::mem::take(&mut queue.orders);
                drop(queue);
                while let Some(order) = left.pop(|_, _| true) {
                    // Who has left does not care.
                    let _ = order.answer.send(Err(Failure::Stopped));
                }
                return None;
            }
            if let Some(order) = queue.pop() {
                return Some(order);
            }
            self.ledger.book_overhead();
            self.shift.tell(self.ledger.accounts(), self.ledger.mark());
            self.shift.rest();
            // Let go of before the turn is waited for: that may take as long as another engine's step.
            drop(shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner));
            self.shift.take();
            self.ledger.book_idle();
            queue = shared.lock();
        }
    }

    fn serve(&mut self, order: Order) {
        self.ledger.book_overhead();
        let waited = self.ledger.mark().saturating_duration_since(order.since).as_nanos();
        let mut usage = Usage::default();
        let mut vectors = Vec::with_capacity(order.texts.len());
        let mut failure = None;
        for text in &order.texts {
            if order.answer.is_closed() {
                break;
            }
            self.shift.let_others_go_first(&mut self.ledger);
            match self.encoder.embed(text, &self.pool) {
                Ok(vector) if vector.iter().all(|x| x.is_finite()) => vectors.push(vector),
                Ok(_) => failure = Some(Failure::NotANumber { position: 0 }),
                Err(error) => failure = Some(Failure::Forward(error.to_string())),
            }
            usage.gpu += self.ledger.book_requests();
            usage.prompt_tokens += text.len() as u32;
            if failure.is_some() {
                break;
            }
        }
        let queue = GpuTime::from_nanos(u64::try_from(waited).unwrap_or(u64::MAX));
        usage.times = Times { queue, prefill: usage.gpu, ..Times::default() };
        self.shared.lock().charge(order.share, usage.gpu, usage.prompt_tokens);
        let failed = failure.is_some();
        let answer = failure.map_or(Ok(Vectors { vectors, usage }), Err);
        // Who fails pays nothing, and nobody can be billed who has left.
        if order.answer.send(answer).is_err() || failed {
            self.ledger.abandon(usage.gpu);
        }
    }

    /// Reports how it stands; `running` tokens are being embedded.
    fn tell(&mut self, running: u64) {
        self.ledger.book_overhead();
        let report = {
            let queue = self.shared.lock();
            EngineState {
                running: u32::from(running > 0),
                waiting: u32::try_from(queue.orders.len()).unwrap_or(u32::MAX),
                waiting_tokens: queue.waiting_tokens + running,
                prompt_token_time: queue.token_time,
                draining: queue.draining,
                ..EngineState::default()
            }
        };
        self.shift.tell(self.ledger.accounts(), self.ledger.mark());
        self.report.send_replace(EngineState { accounts: self.ledger.accounts(), ..report });
    }
}

const SHORTEST_HINT: Duration = Duration::from_millis(20);
const LONGEST_HINT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::ProjectId;

    use super::*;

    fn order(tenant: ProjectId, weight: u32) -> Order {
        let share = Share { weight, ..Share::of(tenant) };
        Order { texts: Vec::new(), share, since: Instant::now(), answer: oneshot::channel().0 }
    }

    /// Serves `orders` orders of 100 ns each; how many of each tenant.
    fn serve(queue: &mut Queue, orders: usize) -> BTreeMap<ProjectId, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..orders {
            let order = queue.pop().unwrap();
            queue.charge(order.share, GpuTime::from_nanos(100), 1);
            *served.entry(order.share.tenant).or_default() += 1;
        }
        served
    }

    #[test]
    fn who_sends_much_waits_behind_itself() {
        let (flood, calm) = (ProjectId::from_u128(1), ProjectId::from_u128(2));
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.push(order(flood, 1)));
        serve(&mut queue, 20);
        (0..5).for_each(|_| queue.push(order(calm, 1)));

        let served = serve(&mut queue, 10);

        assert_eq!((served[&flood], served[&calm]), (5, 5));
    }

    #[test]
    fn weights_are_shares() {
        let (light, heavy) = (ProjectId::from_u128(1), ProjectId::from_u128(2));
        let mut queue = Queue::default();
        for _ in 0..100 {
            queue.push(order(light, 1));
            queue.push(order(heavy, 3));
        }

        let served = serve(&mut queue, 80);

        assert_eq!((served[&light], served[&heavy]), (20, 60));
    }

    #[test]
    fn who_was_away_has_saved_nothing_up() {
        let (steady, returning) = (ProjectId::from_u128(1), ProjectId::from_u128(2));
        let mut queue = Queue::default();
        queue.push(order(returning, 1));
        serve(&mut queue, 1);
        (0..100).for_each(|_| queue.push(order(steady, 1)));
        serve(&mut queue, 50);
        (0..50).for_each(|_| queue.push(order(returning, 1)));

        let served = serve(&mut queue, 20);

        assert!(served[&steady] >= 9, "{served:?}");
    }
}
