//! What a flood of one tenant does to another, counted on the clock that only computing moves.

use super::*;

/// How a tenant sends its requests.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    /// So many at any time.
    Kept(usize),
    /// One after such a time, on average.
    Every(Duration),
}

struct Tenant {
    id: u128,
    traffic: Traffic,
    draw: u64,
    sent: u32,
    next: Instant,
    open: Vec<Open>,
    /// Time from submission to first token, of those that had one and did not come at the very beginning.
    first_tokens: Vec<Duration>,
}

struct Open {
    sequence: Sequence,
    submitted: Instant,
    begun: bool,
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Of the calm tenant's times to first token.
    p99: Duration,
    /// Tokens computed, of prompts and outputs.
    tokens_per_second: f64,
    took: Duration,
}

impl Traffic {
    fn times_ten(self) -> Self {
        match self {
            Self::Kept(count) => Self::Kept(count * 10),
            Self::Every(mean) => Self::Every(mean / 10),
        }
    }
}

impl Tenant {
    fn new(id: u128, traffic: Traffic, now: Instant) -> Self {
        let (open, first_tokens) = (Vec::new(), Vec::new());
        Self { id, traffic, draw: id as u64, sent: 0, next: now, open, first_tokens }
    }

    /// A number below `limit`.
    fn draw(&mut self, limit: u64) -> u64 {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(ODD);
        (self.draw >> 33) % limit
    }

    fn is_due(&self, now: Instant) -> bool {
        match self.traffic {
            Traffic::Kept(count) => self.open.len() < count,
            Traffic::Every(_) => self.next <= now,
        }
    }

    /// Sends what is due; what is refused does not come again.
    fn send(&mut self, driver: &Driver, tenant: u128) {
        while self.is_due(driver.now()) {
            let (prompt, output) = (20 + self.draw(160) as u32, 4 + self.draw(40) as u32);
            // No prompt begins like another: all of them have to be computed.
            self.sent += 1;
            let first = self.sent * 13 + self.id as u32 * 977;
            let prompt = (0..prompt).map(|at| 300 + (first + at * 7) % 3_000).collect();
            let submitted = match self.traffic {
                Traffic::Kept(_) => driver.now(),
                Traffic::Every(mean) => {
                    let due = self.next;
                    let uniform = (self.draw(1 << 30) + 1) as f64 / f64::from(1 << 30);
                    self.next += mean.mul_f64(-uniform.ln());
                    due
                }
            };
            if let Ok(sequence) = driver.submit(request(tenant, prompt, output)) {
                self.open.push(Open { sequence, submitted, begun: false });
            }
        }
    }

    fn read(&mut self, now: Instant, counts_from: Instant) {
        let first_tokens = &mut self.first_tokens;
        self.open.retain_mut(|open| {
            let (ids, end) = read(&mut open.sequence);
            if !ids.is_empty() && !std::mem::replace(&mut open.begun, true) {
                let counts = open.submitted >= counts_from;
                first_tokens.extend(counts.then_some(now - open.submitted));
            }
            end.is_none()
        });
    }
}

/// A calm tenant beside another.
#[derive(Clone, Copy, Debug)]
struct Load {
    calm: Traffic,
    other: Traffic,
    /// Else all is as if of one tenant: first come, first served.
    fair: bool,
    until: Until,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    /// The calm tenant had so many first tokens.
    Requests(usize),
    Time(Duration),
}

impl Load {
    fn run(self, mut driver: Driver) -> Outcome {
        let began = driver.now();
        let mut tenants = [Tenant::new(1, self.calm, began), Tenant::new(2, self.other, began)];
        while match self.until {
            Until::Requests(count) => tenants[0].first_tokens.len() < count,
            Until::Time(time) => driver.now() - began < time,
        } {
            for tenant in &mut tenants {
                let id = if self.fair { tenant.id } else { 1 };
                tenant.send(&driver, id);
            }
            if driver.is_empty() {
                let next = tenants.iter().map(|tenant| tenant.next).min().unwrap();
                *driver.clock.lock().unwrap() = next;
                continue;
            }
            driver.steps.pass();
            let now = driver.now();
            for tenant in &mut tenants {
                tenant.read(now, began + RAMP);
            }
        }
        let [calm, _other] = tenants;
        let mut times = calm.first_tokens;
        times.sort_unstable();
        let p99 = times[(times.len() - 1) * 99 / 100];
        let took = driver.now() - began;
        let busy = Duration::from_nanos(driver.accounts().requests.nanos());
        let fixed = STEP_TIME * driver.steps.steps as u32;
        let tokens = (busy.as_secs_f64() - fixed.as_secs_f64()) / TOKEN_TIME.as_secs_f64();
        Outcome { p99, tokens_per_second: tokens / took.as_secs_f64(), took }
    }
}

fn config() -> EngineConfig {
    EngineConfig { max_sequences: 32, compute_threads: 1, lookup: false, ..EngineConfig::default() }
}

/// How a neighbour that sends ten times as much compares with one that sends as much: the p99 of the calm
/// tenant's first tokens, and the throughput beside that of first come, first served.
#[expect(clippy::print_stdout, reason = "the figures are worth more than that they are in bounds")]
fn compare(calm: Traffic, requests: usize, driver: impl Fn() -> Driver) -> (f64, f64) {
    let until = Until::Requests(requests);
    let equal = Load { calm, other: calm, fair: true, until }.run(driver());
    let flood = Load { calm, other: calm.times_ten(), fair: true, until }.run(driver());
    let until = Until::Time(flood.took);
    let unfair = Load { calm, other: calm.times_ten(), fair: false, until }.run(driver());
    println!("{calm:?}\n  equal  {equal:?}\n  flood  {flood:?}\n  unfair {unfair:?}");
    assert!(unfair.p99 > equal.p99 * 3, "the flood is one: {unfair:?}");
    let moved = flood.p99.as_secs_f64() / equal.p99.as_secs_f64();
    (moved, flood.tokens_per_second / unfair.tokens_per_second)
}

fn with_weights() -> Driver {
    Driver::new(config(), Box::new(|_, _| Ok(())))
}

#[test]
fn a_flood_hardly_moves_the_first_tokens_of_another_tenant_and_costs_no_throughput() {
    for calm in [Traffic::Kept(8), Traffic::Every(Duration::from_millis(160))] {
        let (moved, throughput) = compare(calm, 60, with_weights);
        assert!(moved < 1.2, "by {moved}");
        assert!(throughput >= 0.95, "{throughput}");
    }
}

#[test]
fn neither_does_it_when_the_other_tenant_takes_all_of_its_share() {
    let (moved, throughput) = compare(Traffic::Kept(16), 1_000, || Driver::hollow(config()));
    assert!(moved < 1.2, "by {moved}");
    assert!(throughput >= 0.95, "{throughput}");
}

/// Beside an equal neighbour the machine has idle moments, short steps and free places; beside a flood it has none.
#[test]
fn nor_when_requests_come_by_chance_to_a_machine_that_would_be_half_idle() {
    for every in [80, 100, 120, 160, 200, 300] {
        let calm = Traffic::Every(Duration::from_millis(every));
        let (moved, throughput) = compare(calm, 1_000, || Driver::hollow(config()));
        assert!(moved < 1.2, "by {moved} at one in {every} ms");
        assert!(throughput >= 0.95, "{throughput} at one in {every} ms");
    }
}

/// A long prompt of somebody who has had nothing holds up the streams of somebody who had much, for some steps in a row.
#[test]
fn who_is_far_ahead_sits_out_four_steps_at_most() {
    let mut driver = Driver::hollow(config());
    let mut streams: Vec<Sequence> =
        (0..4).map(|at| driver.submit(request(2, vec![300 + at], 2_000)).unwrap()).collect();
    while driver.accounts().requests < GpuTime::from_nanos(600_000_000) {
        driver.steps.pass();
    }
    for stream in &mut streams {
        read(stream);
    }
    let prompt: Vec<u32> = (0..900).map(|at| 300 + at * 7 % 3_000).collect();
    let mut calm = driver.submit(request(1, prompt, 1)).unwrap();
    let (mut longest, mut without, mut steps) = (0, 0, 0);
    while read(&mut calm).0.is_empty() {
        driver.steps.pass();
        steps += 1;
        let moved = streams.iter_mut().all(|stream| !read(stream).0.is_empty());
        without = if moved { 0 } else { without + 1 };
        longest = longest.max(without);
    }
    assert_eq!((steps, longest), (900_u32.div_ceil(config().prefill_chunk), 4));
}

const ODD: u64 = 1_442_695_040_888_963_407;
/// A load is itself only after a while.
const RAMP: Duration = Duration::from_secs(2);
