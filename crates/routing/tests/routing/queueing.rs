//! When nobody has room.

use std::sync::Arc;
use std::time::Duration;

use domain::{ErrorKind, Job, Priority, ProjectId, Share};
use proto::{ScriptedWorker, Worker};
use routing::{Router, RouterSettings};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{files, info, job, read};

async fn pool(
    capacity: u32,
    settings: RouterSettings,
) -> (Arc<Router>, Vec<AbortOnDropHandle<()>>) {
    let worker = ScriptedWorker::new(info(), files(), capacity).paced(Duration::from_millis(100));
    let router = Router::new([("w".to_owned(), Arc::new(worker) as Arc<dyn Worker>)], settings);
    let following = router.follow();
    while !router.is_ready() {
        router.changed().await;
    }
    (router, following)
}

fn of(tenant: ProjectId, weight: u32, priority: Priority) -> Job {
    job(1).shared_as(Share { tenant, weight, priority })
}

/// Sends `jobs` one after the other and tells in which order they ran.
async fn order(router: &Arc<Router>, jobs: Vec<(&'static str, Job)>) -> Vec<&'static str> {
    let (done, mut ended) = mpsc::channel(jobs.len().max(1));
    for (name, job) in jobs {
        let (router, done) = (Arc::clone(router), done.clone());
        tokio::spawn(async move {
            let mut answer = router.dispatch(&job, 1).await.unwrap();
            let _ = done.send(name).await;
            read(&mut answer).await.unwrap();
        });
        tokio::time::sleep(Duration::from_micros(10)).await;
    }
    drop(done);
    let mut order = Vec::new();
    while let Some(name) = ended.recv().await {
        order.push(name);
    }
    order
}

fn patient() -> RouterSettings {
    let patience = Duration::from_mins(10);
    RouterSettings { patience, aging: Duration::from_mins(1), ..RouterSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_tenant_does_not_make_another_wait_for_all_of_it() {
    let (router, _following) = pool(1, patient()).await;
    let (flood, other) = (ProjectId::generate(), ProjectId::generate());
    let mut jobs: Vec<_> = (0..50).map(|_| ("flood", of(flood, 1, Priority::Standard))).collect();
    jobs.push(("other", of(other, 1, Priority::Standard)));

    let order = order(&router, jobs).await;

    let at = order.iter().position(|name| *name == "other").unwrap();
    assert!(at <= 3, "{at} of the flood went before");
    assert_eq!(order.len(), 51);
}

#[tokio::test(start_paused = true)]
async fn urgent_requests_go_before_patient_ones() {
    let (router, _following) = pool(1, patient()).await;
    let tenant = ProjectId::generate();
    let mut jobs: Vec<_> = (0..20).map(|_| ("batch", of(tenant, 1, Priority::Batch))).collect();
    jobs.push(("urgent", of(tenant, 1, Priority::Interactive)));

    let order = order(&router, jobs).await;

    assert!(order.iter().position(|name| *name == "urgent").unwrap() <= 2, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_is_told_at_once_and_when_to_come_again() {
    let settings = RouterSettings { patience: Duration::from_secs(5), ..RouterSettings::default() };
    let (router, _following) = pool(1, settings).await;
    let mut waiting = Vec::new();
    // Each runs for a fifth of a second: the hundredth would wait for twenty.
    for _ in 0..100 {
        let router = Arc::clone(&router);
        waiting.push(tokio::spawn(async move {
            let mut answer = router.dispatch(&job(1), 1).await.ok()?;
            read(&mut answer).await.ok()
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;

    let asked = tokio::time::Instant::now();
    let refused = router.dispatch(&job(1), 1).await.err().unwrap();

    assert_eq!((refused.kind(), asked.elapsed()), (ErrorKind::Overloaded, Duration::ZERO));
    assert!(refused.retry_in().unwrap() > Duration::from_secs(5), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_worker_of_a_pool_that_was_scaled_to_nothing() {
    let router = Router::new([], RouterSettings::default());
    let _following = router.follow();
    let waiting = tokio::spawn({
        let router = Arc::clone(&router);
        async move { router.dispatch(&job(1), 1).await.map(|answer| answer.worker().to_owned()) }
    });
    tokio::time::sleep(Duration::from_secs(8)).await;

    router.join("late".to_owned(), Arc::new(ScriptedWorker::new(info(), files(), 1)));

    assert_eq!(waiting.await.unwrap().unwrap(), "late");
}

#[tokio::test(start_paused = true)]
#[expect(clippy::print_stdout, reason = "the figure is what one looks for")]
async fn a_decision_over_a_thousand_workers_places_every_request_evenly() {
    let worker = |at: u32| {
        let worker: Arc<dyn Worker> = Arc::new(ScriptedWorker::new(info(), files(), 4));
        (format!("w{at}"), worker)
    };
    let router = Router::new((0..1_000).map(worker), RouterSettings::default());
    let _following = router.follow();
    while router.workers().iter().any(|(_, state)| state.is_none()) {
        router.changed().await;
    }

    let began = std::time::Instant::now();
    let mut answers = Vec::new();
    for _ in 0..2_000 {
        answers.push(router.dispatch(&job(2), 1).await.unwrap());
    }
    println!("{:?} for each of 2000 decisions over 1000 workers", began.elapsed() / 2_000);

    let most = router.figures().workers.iter().map(|worker| worker.in_flight).max();
    assert_eq!(most, Some(2));
}
