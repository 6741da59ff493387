//! A run from its beginning to its end: machines come and go, faults happen when they are due, clients arrive, and
//! somebody looks again and again whether anything is as it must not be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{ModelDigest, ModelInfo, ModelName};
use proto::Worker;
use routing::{Router, RouterSettings};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client;
use crate::machine::{Machine, Nature};
use crate::outcome::{Ended, Outcome, Worked};
use crate::trace::Arrival;
use crate::worker::{Leave, Link, Remote, SimulatedWorker};

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The machines at the beginning, by their nature.
    pub natures: Vec<Nature>,
    /// What each machine can do.
    pub machine: Machine,
    /// How the router behaves.
    pub router: RouterSettings,
    /// How a machine that gets a notice leaves.
    pub leave: Leave,
    /// Who comes, in order.
    pub arrivals: Vec<Arrival>,
    /// What goes wrong, and when, in order.
    pub faults: Vec<(Duration, Fault)>,
}

/// Something that goes wrong with one of the machines, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its machine goes, after a notice or without one; another one comes, if it is said when.
    Evict {
        /// Which.
        worker: usize,
        /// How long before it is told.
        notice: Option<Duration>,
        /// How long after it was told, or went, another one comes.
        replaced_in: Option<Duration>,
    },
    /// Its process stops for a while, and nobody is told.
    Freeze {
        /// Which.
        worker: usize,
        /// For how long.
        time: Duration,
    },
    /// Nothing comes through for a while, and nobody is told; it goes on computing.
    Silence {
        /// Which.
        worker: usize,
        /// For how long.
        time: Duration,
    },
    /// It cannot be reached for a while, and everything that ran ends; it goes on computing.
    Cut {
        /// Which.
        worker: usize,
        /// For how long.
        time: Duration,
    },
}

/// Plays a scenario under a stopped clock, on this thread.
pub fn simulate(scenario: &Scenario) -> std::io::Result<Outcome> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(run(scenario)))
}

/// The model that all machines serve.
pub(crate) fn model() -> ModelInfo {
    ModelInfo {
        name: ModelName::new("simulated"),
        digest: ModelDigest::new("5100"),
        context_length: 1 << 20,
        vocabulary: 50_000,
        stop_tokens: Vec::new(),
        weights: "none".to_owned(),
        kind: domain::ModelKind::Text,
    }
}

struct Fleet {
    router: Arc<Router>,
    /// Every machine that there was.
    workers: Mutex<Vec<Arc<SimulatedWorker>>>,
    machine: Machine,
    leave: Leave,
    max_queued: usize,
    violations: Mutex<Vec<String>>,
}

async fn run(scenario: &Scenario) -> Outcome {
    let began = Instant::now();
    let fleet = Arc::new(Fleet {
        router: Router::new([], scenario.router.clone()),
        workers: Mutex::default(),
        machine: scenario.machine.clone(),
        leave: scenario.leave,
        max_queued: scenario.router.max_queued,
        violations: Mutex::default(),
    });
    for nature in &scenario.natures {
        fleet.join(*nature);
    }
    let following = fleet.router.follow();
    // Everybody is known, and no longer new.
    tokio::time::sleep(scenario.router.slow_start + Duration::from_secs(1)).await;
    let zero = Instant::now();

    let mut others = JoinSet::new();
    others.spawn(Arc::clone(&fleet).watch());
    for (at, fault) in &scenario.faults {
        let (fleet, at, fault) = (Arc::clone(&fleet), zero + *at, *fault);
        others.spawn(async move {
            tokio::time::sleep_until(at).await;
            fleet.happen(fault).await;
        });
    }
    let mut clients = JoinSet::new();
    let mut ended: Vec<Option<Ended>> = vec![None; scenario.arrivals.len()];
    for (number, arrival) in scenario.arrivals.iter().enumerate() {
        tokio::time::sleep_until(zero + arrival.at).await;
        let (asked, arrival) = (Arc::clone(&fleet), arrival.clone());
        clients.spawn(async move { (number, asked.ask(number, &arrival).await) });
        while let Some(answered) = clients.try_join_next() {
            note(&fleet, &mut ended, answered);
        }
    }
    let all = async {
        while let Some(answered) = clients.join_next().await {
            note(&fleet, &mut ended, answered);
        }
    };
    if tokio::time::timeout(LONGEST_TAIL, all).await.is_err() {
        fleet.complain("requests that were accepted did not end".to_owned());
    }
    fleet.settle().await;
    drop((others, following));
    fleet.outcome(ended, began.elapsed())
}

fn note(
    fleet: &Fleet,
    ended: &mut [Option<Ended>],
    answered: Result<(usize, Ended), tokio::task::JoinError>,
) {
    match answered {
        Ok((number, answer)) => ended[number] = Some(answer),
        Err(error) => fleet.complain(format!("a client broke: {error}")),
    }
}

impl Fleet {
    fn join(&self, nature: Nature) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let number = workers.len();
        let machine = (self.machine.clone(), nature);
        let worker = SimulatedWorker::start(number as u128 + 1, machine, model(), self.leave);
        workers.push(Arc::clone(&worker));
        drop(workers);
        self.router.join(name(number), Arc::new(Remote(worker)) as Arc<dyn Worker>);
    }

    fn workers(&self) -> Vec<Arc<SimulatedWorker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn complain(&self, complaint: String) {
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.len() < MAX_COMPLAINTS {
            violations.push(complaint);
        }
    }

    async fn ask(&self, number: usize, arrival: &Arrival) -> Ended {
        let (ended, complaints) = client::ask(&self.router, number, arrival).await;
        for complaint in complaints {
            self.complain(complaint);
        }
        if let Some(failure) = &ended.failure {
            let honest = |worker: &Arc<SimulatedWorker>| worker.nature() == Nature::Honest;
            let idle = self.workers().iter().any(|worker| honest(worker) && worker.is_idle());
            if idle {
                self.complain(format!(
                    "request {number} failed beside an idle machine: {failure:?}"
                ));
            }
        }
        ended
    }

    async fn happen(&self, fault: Fault) {
        let worker = |at: usize| self.workers().get(at).cloned();
        match fault {
            Fault::Evict { worker: at, notice, replaced_in } => {
                let Some(worker) = worker(at).filter(|worker| worker.is_there()) else { return };
                let comes = async {
                    if let Some(replaced_in) = replaced_in {
                        tokio::time::sleep(replaced_in).await;
                        self.join(worker.nature());
                    }
                };
                tokio::join!(self.evict(at, &worker, notice), comes);
            }
            Fault::Freeze { worker: at, time } => {
                let Some(worker) = worker(at) else { return };
                worker.freeze(time);
                worker.set_link(Link::Silent);
                tokio::time::sleep(time).await;
                worker.set_link(Link::Up);
            }
            Fault::Silence { worker: at, time } | Fault::Cut { worker: at, time } => {
                let Some(worker) = worker(at) else { return };
                let silent = matches!(fault, Fault::Silence { .. });
                worker.set_link(if silent { Link::Silent } else { Link::Broken });
                tokio::time::sleep(time).await;
                worker.set_link(Link::Up);
            }
        }
    }

    async fn evict(&self, at: usize, worker: &SimulatedWorker, notice: Option<Duration>) {
        if let Some(notice) = notice {
            let told = self.router.drain(&name(at), Some(notice)).await;
            if !matches!(told, Some(Ok(()))) {
                self.complain(format!("{} cannot be told to leave: {told:?}", name(at)));
            }
            tokio::time::sleep(notice).await;
        }
        worker.die();
        self.router.leave(&name(at));
    }

    /// Looks again and again whether everything is within its bounds.
    async fn watch(self: Arc<Self>) {
        loop {
            for (at, worker) in self.workers().iter().enumerate() {
                if let Some(complaint) = worker.complaint() {
                    self.complain(format!("{} has {complaint}", name(at)));
                }
            }
            let figures = self.router.figures();
            for (_, lanes) in &figures.queued {
                // Streams that lost their worker are never sent away.
                let new: usize = lanes[1..].iter().sum();
                if new > self.max_queued {
                    self.complain(format!("{new} requests wait in a queue"));
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Lets machines notice that nobody reads any more, and then nothing may be left.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_mins(2)).await;
        for (at, worker) in self.workers().iter().enumerate() {
            let (sequences, blocks) = worker.occupied();
            if sequences > 0 || (blocks > 0 && worker.is_there()) {
                self.complain(format!("{} keeps {sequences} sequences, {blocks} blocks", name(at)));
            }
        }
        let figures = self.router.figures();
        for worker in figures.workers.iter().filter(|worker| worker.in_flight > 0) {
            self.complain(format!("the router counts {} on {}", worker.in_flight, worker.name));
        }
        if figures.queued.iter().any(|(_, lanes)| lanes.iter().sum::<usize>() > 0) {
            self.complain("the queue is not empty".to_owned());
        }
    }

    fn outcome(&self, ended: Vec<Option<Ended>>, took: Duration) -> Outcome {
        let workers = self.workers();
        let worked = workers.iter().enumerate().map(|(at, worker)| Worked {
            name: name(at),
            nature: worker.nature(),
            books: worker.books(),
        });
        let went_on = self.router.figures().went_on;
        Outcome {
            ended: ended.into_iter().flatten().collect(),
            worked: worked.collect(),
            violations: self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            went_on: went_on.iter().map(|(cause, count)| (cause.name(), *count)).collect(),
            took,
        }
    }
}

fn name(at: usize) -> String {
    format!("http://worker-{at}:50051")
}

const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// After the last arrival.
const LONGEST_TAIL: Duration = Duration::from_hours(1);
const MAX_COMPLAINTS: usize = 20;
