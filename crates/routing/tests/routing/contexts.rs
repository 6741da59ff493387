//! Workers of one model whose caches, and so their contexts, differ.

use std::sync::Arc;
use std::time::Duration;

use domain::{ErrorKind, FinishReason, ModelInfo};
use proto::ScriptedWorker;
use routing::{RouteError, RouterSettings};

use crate::{Fleet, files, info, job, read, undisturbed};

fn worker(context_length: u32, capacity: u32) -> Arc<ScriptedWorker> {
    let info = ModelInfo { context_length, ..info() };
    Arc::new(ScriptedWorker::new(info, files(), capacity))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_outgrows_its_worker_goes_on_where_there_is_more_context() {
    let fleet = Fleet::of(vec![worker(64, 1), worker(4096, 1)]).await;
    let large_is_taken = fleet.dispatch(&job(100)).await.unwrap();
    assert_eq!(large_is_taken.worker(), "w1", "it is sure to have room there");
    let mut answer = fleet.dispatch(&job(100)).await.unwrap();
    assert_eq!(answer.worker(), "w0", "better a small one than none");

    drop(large_is_taken);
    let (tokens, reason) = read(&mut answer).await.unwrap();

    assert_eq!(tokens, undisturbed(&fleet, 100));
    assert_eq!((reason, answer.worker()), (FinishReason::Length, "w1"));
    assert_eq!(answer.work().len(), 2, "each is paid for what it did");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_outgrows_its_worker_ends_there_if_nobody_has_room() {
    let fleet = Fleet::of(vec![worker(64, 1), worker(4096, 1)]).await;
    let _large_is_taken = fleet.dispatch(&job(100)).await.unwrap();
    let mut answer = fleet.dispatch(&job(100)).await.unwrap();

    let (tokens, reason) = read(&mut answer).await.unwrap();

    assert_eq!(tokens, undisturbed(&fleet, 61), "three tokens of its context are the prompt");
    assert_eq!(reason, FinishReason::Length);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_loses_its_worker_goes_on_only_where_it_fits() {
    let fleet = Fleet::of(vec![worker(64, 4), worker(4096, 4), worker(4096, 4)]).await;
    for at in [1, 2] {
        fleet.workers[at].break_next_after(80);
    }

    let mut answer = fleet.dispatch(&job(100)).await.unwrap();
    let (tokens, reason) = read(&mut answer).await.unwrap();

    assert_eq!(tokens, undisturbed(&fleet, 100));
    assert_eq!(reason, FinishReason::Length);
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_is_asked_only_where_it_fits() {
    let slow = Duration::from_secs(20);
    let large = |pace| {
        let info = ModelInfo { context_length: 4096, ..info() };
        Arc::new(ScriptedWorker::new(info, files(), 4).paced(pace))
    };
    let fleet = Fleet::of(vec![worker(2, 4), large(slow), large(Duration::ZERO)]).await;
    let hedge_after = Some(Duration::from_millis(100));
    fleet.router.reconfigure(RouterSettings { hedge_after, ..RouterSettings::default() });

    for _ in 0..2 {
        let mut answer = fleet.dispatch(&job(5)).await.unwrap();
        assert_ne!(answer.worker(), "w0");
        assert_eq!(read(&mut answer).await.unwrap().0, undisturbed(&fleet, 5));
        assert_eq!(answer.worker(), "w2", "by whichever way");
    }
}

#[tokio::test(start_paused = true)]
async fn workers_with_small_contexts_are_not_left_out_of_what_is_bounded_far_away() {
    let fleet = Fleet::of(vec![worker(2048, 4), worker(4096, 4)]).await;

    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(fleet.router.dispatch(&job(4093), 1).await.unwrap());
    }

    let on = |name| answers.iter().filter(|answer| answer.worker() == name).count();
    assert_eq!([on("w0"), on("w1")], [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_fits_nobody_is_the_clients_mistake_at_once() {
    let fleet = Fleet::of(vec![worker(2, 4), worker(3, 4)]).await;
    let began = tokio::time::Instant::now();

    let refused = fleet.dispatch(&job(1)).await.err().unwrap();

    assert_eq!(refused.kind(), ErrorKind::ContextLengthExceeded);
    assert!(matches!(refused, RouteError::Worker(_)), "{refused}");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_model_has_the_largest_context_of_the_workers_in_the_directory() {
    let fleet = Fleet::of(vec![worker(64, 4), worker(4096, 4)]).await;
    let context = || fleet.router.models().first().map(|served| served.info.context_length);
    assert_eq!(context(), Some(4096));
    fleet.workers[1].break_next_after(0);
    let lost = fleet.dispatch(&job(1)).await;
    assert_eq!(context(), Some(4096), "one that vanished may come back");
    drop(lost);

    fleet.router.leave("w1");

    assert_eq!(context(), Some(64));
    fleet.router.leave("w0");
    assert_eq!(context(), Some(64), "its clients wait for it");
}
