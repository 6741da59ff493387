//! Workers that come and go, and what they do for those that follow them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::{BlockNames, CacheSalt, GpuTime, Usage};
use futures_util::{StreamExt, stream};
use proto::{Event, ScriptedWorker, Worker, WorkerError};
use routing::{Directory, DnsDirectory, Piece, Resolve, Roster, Router, RouterSettings};
use tokio::sync::Notify;

use crate::actor::Actor;
use crate::{files, info, job, read};

#[derive(Clone, Default)]
struct Names(Arc<Mutex<Option<Vec<u8>>>>);

impl Names {
    fn are(&self, hosts: Option<&[u8]>) {
        *self.0.lock().unwrap() = hosts.map(<[u8]>::to_vec);
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, _: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        let hosts = self.0.lock().unwrap().clone();
        let hosts = hosts.ok_or(std::io::ErrorKind::NotFound)?;
        Ok(hosts.iter().map(|host| SocketAddr::from(([10, 0, 0, *host], port))).collect())
    }
}

fn names(router: &Router) -> Vec<String> {
    router.workers().into_iter().map(|(name, _)| name).collect()
}

#[tokio::test(start_paused = true)]
async fn workers_come_and_go_as_a_name_says_and_keep_what_runs() {
    let dns = Names::default();
    dns.are(Some(&[1]));
    let directory = DnsDirectory::new("http://workers:50051", dns.clone()).unwrap();
    let router = Router::new([], RouterSettings::default());
    let _following = router.follow();
    let connect = Box::new(|_: &str| {
        let pace = Duration::from_millis(500);
        Some(Arc::new(ScriptedWorker::new(info(), files(), 4).paced(pace)) as Arc<dyn Worker>)
    });
    let directories = [Arc::new(directory) as Arc<dyn Directory>];
    let roster = Roster::new(directories, connect, Duration::from_secs(5));
    let asking = Arc::clone(&router);
    let _asking = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        roster.run(&asking).await;
    }));
    let mut answer = router.dispatch(&job(60), 60).await.unwrap();
    assert_eq!(answer.worker(), "http://10.0.0.1:50051");

    dns.are(None);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(names(&router), ["http://10.0.0.1:50051"], "a silent name server takes nobody out");
    dns.are(Some(&[2]));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let next = router.dispatch(&job(1), 1).await.unwrap();
    assert_eq!(next.worker(), "http://10.0.0.2:50051");
    drop(next);

    let (tokens, _) = read(&mut answer).await.unwrap();
    assert_eq!((tokens.len(), answer.worker()), (60, "http://10.0.0.1:50051"));
    drop(answer);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(names(&router), ["http://10.0.0.2:50051"]);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_worker_hands_over_to_one_that_has_its_blocks() {
    let honest = ScriptedWorker::new(info(), files(), 1);
    let expected: Vec<u32> = (0..4).map(|at| honest.token(&[1, 2, 3], at)).collect();
    let go = Arc::new(Notify::new());
    let (first, rest) = (expected[..2].to_vec(), expected.clone());
    let leave = Arc::clone(&go);
    let actor = move |_name: &'static str| {
        let (first, rest, leave) = (first.clone(), rest.clone(), Arc::clone(&leave));
        Actor::new(move |start| {
            let known = start.generated.len();
            let event = |first: usize, ids: &[u32]| Event::Tokens {
                first: first as u32,
                ids: ids.to_vec(),
                gpu: GpuTime::ZERO,
                logprobs: Vec::new(),
                cached: 0,
            };
            let end = if known == 0 {
                Event::HandedOver { usage: Usage::default() }
            } else {
                let reason = domain::FinishReason::Length;
                Event::Finished { reason, usage: Usage::default() }
            };
            let (tokens, wait) = if known == 0 {
                (event(0, &first), Some(Arc::clone(&leave)))
            } else {
                (event(known, &rest[known..]), None)
            };
            let last = stream::once(async move {
                if let Some(wait) = wait {
                    wait.notified().await;
                }
                end
            });
            Ok(stream::iter([tokens]).chain(last).boxed())
        })
    };
    let actors = [actor("a"), actor("b")];
    let named = actors.iter().zip(["http://a:1", "http://b:1"]);
    let named = named.map(|(actor, name)| (name.to_owned(), Arc::clone(actor) as Arc<dyn Worker>));
    let router = Router::new(named, RouterSettings::default());
    let _following = router.follow();
    while router.workers().iter().any(|(_, state)| state.is_none()) {
        router.changed().await;
    }
    let mut answer = router.dispatch(&job(4), 4).await.unwrap();
    let at = usize::from(answer.worker() == "http://b:1");
    assert!(matches!(answer.next().await.unwrap(), Piece::Tokens { .. }));

    actors[at].leave_in(Duration::from_secs(30));
    let (told, other) = (Arc::clone(&go), Arc::clone(&actors[1 - at]));
    tokio::spawn(async move {
        while other.fetched.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        told.notify_one();
    });
    let (rest, _) = read(&mut answer).await.unwrap();

    assert_eq!(rest, expected[2..]);
    assert_eq!(answer.worker(), ["http://b:1", "http://a:1"][at]);
    let orders = actors[1 - at].fetched.lock().unwrap().clone();
    assert_eq!(orders[0].from, ["http://a:1", "http://b:1"][at]);
    assert_eq!(orders[0].tokens.len(), 5, "the prompt and what was generated");
}

#[tokio::test(start_paused = true)]
async fn prompts_go_where_their_prefix_is() {
    let job = job(1);
    let salt = CacheSalt::of(job.share().tenant);
    let held = BlockNames::new(job.digest(), salt, 1).all(job.prompt());
    let play = |start: &proto::Start| {
        crate::actor::then_silence({
            let first = start.generated.len() as u32;
            vec![Event::Tokens {
                first,
                ids: vec![1],
                gpu: GpuTime::ZERO,
                logprobs: Vec::new(),
                cached: 0,
            }]
        })
    };
    let slow = |actor: &Actor| {
        actor.state.send_modify(|state| state.prompt_token_time = Duration::from_millis(10));
    };
    let mut named = Vec::new();
    for at in 0..20 {
        let mut actor = Arc::into_inner(Actor::new(play)).unwrap();
        if at == 13 {
            actor.holds = held.iter().map(domain::BlockHash::short).collect();
        }
        slow(&actor);
        named.push((format!("w{at}"), Arc::new(actor) as Arc<dyn Worker>));
    }
    let router = Router::new(named, RouterSettings::default());
    let _following = router.follow();
    // Long enough for everybody to have said what they hold.
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert_eq!(router.dispatch(&job, 1).await.unwrap().worker(), "w13");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_lost_a_sequence_is_asked_how_it_is_though_it_has_nothing_to_push() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let actor = Actor::new(move |_| {
        let lost = Event::lost(WorkerError::Unreachable("the stream broke".to_owned()));
        let reason = domain::FinishReason::Length;
        let finished = Event::Finished { reason, usage: Usage::default() };
        let breaks = first.swap(false, std::sync::atomic::Ordering::SeqCst);
        let tokens = Event::Tokens {
            first: 0,
            ids: vec![7],
            gpu: GpuTime::ZERO,
            logprobs: Vec::new(),
            cached: 0,
        };
        let events = if breaks { vec![lost] } else { vec![tokens, finished] };
        Ok(stream::iter(events).boxed())
    });
    let router =
        Router::new([("w".to_owned(), actor as Arc<dyn Worker>)], RouterSettings::default());
    let _following = router.follow();
    while !router.is_ready() {
        router.changed().await;
    }

    let mut answer = router.dispatch(&job(1), 1).await.unwrap();

    assert_eq!(read(&mut answer).await.unwrap().0, [7]);
}

#[tokio::test(start_paused = true)]
async fn what_a_cache_held_counts_though_the_worker_that_had_it_vanishes() {
    let actor = Actor::new(|start| {
        let known = start.generated.len() as u32;
        let cached = if known == 0 { 2 } else { 1 };
        let tokens = Event::Tokens {
            first: known,
            ids: vec![7],
            gpu: GpuTime::ZERO,
            logprobs: Vec::new(),
            cached,
        };
        let end = if known == 0 {
            Event::lost(WorkerError::Unreachable("it vanished".to_owned()))
        } else {
            let usage = Usage { cached_tokens: 3, ..Usage::default() };
            Event::Finished { reason: domain::FinishReason::Length, usage }
        };
        Ok(stream::iter([tokens, end]).boxed())
    });
    let router =
        Router::new([("w".to_owned(), actor as Arc<dyn Worker>)], RouterSettings::default());
    let _following = router.follow();
    while !router.is_ready() {
        router.changed().await;
    }

    let mut answer = router.dispatch(&job(2), 2).await.unwrap();

    assert_eq!(read(&mut answer).await.unwrap().0, [7, 7]);
    assert_eq!(
        answer.used().usage.cached_tokens,
        2,
        "what the second one found it had computed again"
    );
}
