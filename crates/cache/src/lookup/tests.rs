use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use domain::FinishReason;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::samples::sample_key;

/// Keeps everything, and counts what it is asked.
#[derive(Default)]
struct Shelf {
    name: &'static str,
    answers: Mutex<HashMap<CacheKey, CachedAnswer>>,
    asked: AtomicUsize,
}

impl Shelf {
    fn named(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, ..Self::default() })
    }

    fn kept(&self, key: &CacheKey) -> Option<CachedAnswer> {
        self.answers.lock().unwrap().get(key).cloned()
    }
}

#[async_trait]
impl Tier for Shelf {
    async fn find(&self, key: &CacheKey) -> Option<CachedAnswer> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.kept(key)
    }

    async fn store(&self, key: &CacheKey, answer: &CachedAnswer) {
        tokio::task::yield_now().await;
        self.answers.lock().unwrap().insert(*key, answer.clone());
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

/// Never gets anything stored.
struct Stuck;

#[async_trait]
impl Tier for Stuck {
    async fn find(&self, _key: &CacheKey) -> Option<CachedAnswer> {
        None
    }

    async fn store(&self, _key: &CacheKey, _answer: &CachedAnswer) {
        std::future::pending::<()>().await;
    }

    fn name(&self) -> &'static str {
        "stuck"
    }
}

fn answer(text: &str) -> CachedAnswer {
    CachedAnswer {
        text: text.to_owned(),
        finish: FinishReason::Stop,
        prompt_tokens: 3,
        completion_tokens: 2,
        reasoning_tokens: 1,
    }
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Lookup> + 'a>>;

fn ask(cache: &Cache) -> Waiting<'_> {
    Box::pin(cache.look_up(sample_key(1)))
}

/// Polls once; the cache has no tiers here, so the only thing to wait for is another request.
fn state(waiting: &mut Waiting<'_>) -> Option<Lookup> {
    match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lookup) => Some(lookup),
        Poll::Pending => None,
    }
}

fn leader(lookup: Option<Lookup>) -> Leader {
    match lookup {
        Some(Lookup::Miss(leader)) => leader,
        other => panic!("expected to lead, got {other:?}"),
    }
}

fn fill_at_once(leader: Leader, answer: CachedAnswer) {
    let mut filling = Box::pin(leader.fill(answer));
    assert!(filling.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_ask_at_once_one_computes() {
    let shelf = Shelf::named("shelf");
    let cache = Arc::new(Cache::new(vec![shelf.clone()]));
    let computed = Arc::new(AtomicUsize::new(0));

    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let (cache, computed) = (Arc::clone(&cache), Arc::clone(&computed));
        callers.spawn(async move {
            match cache.look_up(sample_key(1)).await {
                Lookup::Hit { answer, .. } => answer.text,
                Lookup::Miss(leader) => {
                    computed.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    leader.fill(answer("computed")).await;
                    "computed".to_owned()
                }
            }
        });
    }
    let texts = callers.join_all().await;

    assert!(texts.iter().all(|text| text == "computed"));
    assert_eq!(computed.load(Ordering::SeqCst), 1);
    assert_eq!(cache.flights.count(), 0);
}

#[test]
fn those_who_wait_get_the_answer_even_if_no_tier_keeps_it() {
    let cache = Cache::new(Vec::new());
    let first = leader(state(&mut ask(&cache)));
    let mut second = ask(&cache);
    assert!(state(&mut second).is_none(), "waits for the first");

    fill_at_once(first, answer("computed"));

    let Some(Lookup::Hit { answer, tier }) = state(&mut second) else { panic!("no hit") };
    assert_eq!((answer.text.as_str(), tier), ("computed", SHARED));
    drop(second);
    assert_eq!(cache.flights.count(), 0);
}

#[test]
fn while_an_answer_is_being_stored_all_who_ask_have_it() {
    let cache = Cache::new(Vec::new());
    let mut first = leader(state(&mut ask(&cache)));
    first.tiers = Arc::new([Arc::new(Stuck) as Arc<dyn Tier>]);
    let mut second = ask(&cache);
    assert!(state(&mut second).is_none());

    let mut filling = Box::pin(first.fill(answer("computed")));
    assert!(filling.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());

    assert!(matches!(state(&mut second), Some(Lookup::Hit { .. })), "one who waited");
    drop(second);
    assert!(matches!(state(&mut ask(&cache)), Some(Lookup::Hit { .. })), "one who came later");
    drop(filling);
    assert_eq!(cache.flights.count(), 0);
}

#[test]
fn a_leader_that_gives_up_is_followed_by_exactly_one() {
    let cache = Cache::new(Vec::new());
    let first = leader(state(&mut ask(&cache)));
    let mut waiting: Vec<Waiting> = (0..5).map(|_| ask(&cache)).collect();
    assert!(waiting.iter_mut().all(|one| state(one).is_none()));

    drop(first);
    let second = leader(state(&mut waiting.remove(0)));
    assert!(waiting.iter_mut().all(|one| state(one).is_none()), "one leads, the others wait on");

    fill_at_once(second, answer("computed"));
    assert!(waiting.iter_mut().all(|one| matches!(state(one), Some(Lookup::Hit { .. }))));
}

#[test]
fn an_answer_cut_short_is_neither_shared_nor_kept() {
    for finish in [FinishReason::Budget, FinishReason::Cancelled] {
        let shelf = Shelf::named("shelf");
        let cache = Cache::new(Vec::new());
        let mut first = leader(state(&mut ask(&cache)));
        first.tiers = Arc::new([shelf.clone() as Arc<dyn Tier>]);
        let mut second = ask(&cache);
        assert!(state(&mut second).is_none());

        fill_at_once(first, CachedAnswer { finish, ..answer("cut sh") });

        leader(state(&mut second));
        assert_eq!(shelf.kept(&sample_key(1)), None);
    }
}

#[test]
fn a_caller_that_leaves_while_waiting_leaves_nothing_behind() {
    let cache = Cache::new(Vec::new());
    let first = leader(state(&mut ask(&cache)));
    let mut waiting: Vec<Waiting> = (0..5).map(|_| ask(&cache)).collect();
    assert!(waiting.iter_mut().all(|one| state(one).is_none()));

    drop(first); // the turn is now on its way to the one that has waited longest
    drop(waiting.remove(0)); // who leaves without taking it

    leader(state(&mut waiting.remove(0)));
    drop(waiting);
    assert_eq!(cache.flights.count(), 0);
}

#[tokio::test]
async fn a_hit_in_a_later_tier_is_copied_to_the_earlier_ones() {
    let (near, far) = (Shelf::named("near"), Shelf::named("far"));
    let cache = Cache::new(vec![near.clone(), far.clone()]);
    far.store(&sample_key(1), &answer("known")).await;

    let from = |lookup| match lookup {
        Lookup::Hit { answer, tier } => (answer.text, tier),
        Lookup::Miss(_) => panic!("the far tier knows"),
    };
    assert_eq!(from(cache.look_up(sample_key(1)).await), ("known".to_owned(), "far"));
    assert_eq!(from(cache.look_up(sample_key(1)).await), ("known".to_owned(), "near"));

    assert_eq!(far.asked.load(Ordering::SeqCst), 1, "the near tier answered the second time");
}

#[tokio::test]
async fn what_a_leader_fills_is_kept_in_every_tier_for_its_project_alone() {
    let (near, far) = (Shelf::named("near"), Shelf::named("far"));
    let cache = Cache::new(vec![near.clone(), far.clone()]);

    let Lookup::Miss(leader) = cache.look_up(sample_key(1)).await else { panic!("a hit") };
    leader.fill(answer("computed")).await;

    for tier in [near, far] {
        assert_eq!(tier.kept(&sample_key(1)), Some(answer("computed")));
    }
    assert!(matches!(cache.look_up(sample_key(2)).await, Lookup::Miss(_)));
}

#[test]
fn another_project_does_not_wait() {
    let cache = Cache::new(Vec::new());
    let _ours = leader(state(&mut ask(&cache)));

    let mut theirs: Waiting = Box::pin(cache.look_up(sample_key(2)));

    leader(state(&mut theirs));
}

/// What can happen to requests for one key.
#[derive(Clone, Copy, Debug)]
enum Event {
    Comes,
    LeavesWaiting(usize),
    LeaderGivesUp,
    LeaderFills,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Comes),
        1 => (0..8_usize).prop_map(Event::LeavesWaiting),
        1 => Just(Event::LeaderGivesUp),
        1 => Just(Event::LeaderFills),
    ]
}

proptest! {
    /// Polled after every event, so a turn or an answer that got lost shows as a request that
    /// waits although nobody leads.
    #[test]
    fn whatever_happens_one_leads_while_any_wait(
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let cache = Cache::new(Vec::new());
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut leading: Option<Leader> = None;
        for event in events {
            match event {
                Event::Comes => waiting.push(ask(&cache)),
                Event::LeavesWaiting(index) if index < waiting.len() => drop(waiting.remove(index)),
                Event::LeavesWaiting(_) => {}
                Event::LeaderGivesUp => leading = None,
                Event::LeaderFills => {
                    if let Some(leader) = leading.take() {
                        fill_at_once(leader, answer("computed"));
                    }
                }
            }
            let mut still_waiting = Vec::new();
            for mut one in waiting {
                match state(&mut one) {
                    None => still_waiting.push(one),
                    Some(Lookup::Hit { .. }) => {}
                    Some(Lookup::Miss(leader)) => {
                        prop_assert!(leading.replace(leader).is_none(), "two lead");
                    }
                }
            }
            waiting = still_waiting;
            prop_assert!(waiting.is_empty() || leading.is_some(), "all wait for nobody");
            prop_assert_eq!(cache.flights.count(), usize::from(leading.is_some()));
        }
        drop((waiting, leading));
        prop_assert_eq!(cache.flights.count(), 0);
    }
}
