//! The implementations, each against every behaviour.

use std::sync::Arc;
use std::time::Duration;

use domain::{Capacity, NanoUsd, Rent, Secret};
use engine::EngineConfig;
use proto::{GrpcWorker, ScriptedWorker, Worker, WorkerServer};
use tokio::net::TcpListener;
use worker::{LocalWorker, ModelSource};

use crate::conformance::{self, Subject};

/// One test per behaviour for the implementation that `$subject` makes.
macro_rules! conforms {
    ($name:ident, $subject:expr, [$($behaviour:ident),* $(,)?]) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $behaviour() {
                    conformance::$behaviour($subject.await).await;
                }
            )*
        }
    };
}

macro_rules! conforms_in_all {
    ($name:ident, $subject:expr) => {
        conforms!(
            $name,
            $subject,
            [
                a_sequence_produces_what_was_asked_for,
                the_same_start_gives_the_same_tokens,
                a_sequence_goes_on_where_another_one_stopped,
                a_sequence_waits_when_its_allowance_is_used_up,
                a_stopped_sequence_ends_with_the_reason_it_was_given,
                a_dropped_sequence_frees_its_place,
                a_dropped_sequence_that_waits_for_its_allowance_frees_its_place,
                a_full_worker_refuses_and_has_room_again,
                a_draining_worker_finishes_what_it_has_and_takes_nothing,
                what_can_never_run_is_refused,
                a_worker_tells_what_it_serves,
                the_workers_time_adds_up,
                the_time_of_a_sequence_that_nobody_reads_is_abandoned,
                a_waived_sequence_ends_and_its_time_is_the_hedges,
                a_sequence_that_is_waived_while_it_runs_ends_at_once,
                catching_up_with_another_worker_is_not_billed,
                a_change_of_price_is_pushed_at_once,
                a_worker_is_the_same_incarnation_as_long_as_it_lives,
            ]
        );
    };
}

conforms_in_all!(scripted, async { scripted() });
conforms_in_all!(scripted_over_a_socket, over_a_socket(scripted()));
conforms_in_all!(engine_in_process, async { local().0 });
conforms_in_all!(engine_over_pipes, async { over_pipes() });
conforms_in_all!(engine_over_a_socket, over_a_socket(local().0));

/// What only a worker with a model of language can do.
macro_rules! keeps_formats {
    ($name:ident, $subject:expr) => {
        conforms!(
            $name,
            $subject,
            [
                a_structured_sequence_goes_on_at_every_token,
                a_format_that_cannot_be_compiled_is_the_clients_mistake,
                a_format_without_a_way_out_is_the_clients_mistake,
            ]
        );
    };
}

keeps_formats!(formats_in_process, async { local().0 });
keeps_formats!(formats_over_pipes, async { over_pipes() });
keeps_formats!(formats_over_a_socket, over_a_socket(local().0));

fn scripted() -> Subject {
    let worker = ScriptedWorker::of_some_model(6).paced(Duration::from_millis(1));
    let model = worker.info().digest.clone();
    Subject { worker: Arc::new(worker), model, capacity: 6 }
}

pub(crate) fn local() -> (Subject, Arc<LocalWorker>) {
    let config = EngineConfig { max_sequences: 4, max_waiting: 2, ..EngineConfig::default() };
    let rent = Rent::new(NanoUsd::from_dollars(1), Capacity::OnDemand).unwrap();
    let worker = LocalWorker::start("demo", &ModelSource::Demo, config, rent, &mut |_| {});
    let worker = Arc::new(worker.unwrap());
    let model = worker.info().digest.clone();
    (Subject { worker: Arc::clone(&worker) as _, model, capacity: 6 }, worker)
}

fn over_pipes() -> Subject {
    let (subject, worker) = local();
    Subject { worker: worker.over_pipes(), ..subject }
}

pub(crate) async fn over_a_socket(subject: Subject) -> Subject {
    let worker = served(Arc::clone(&subject.worker), None).await;
    Subject { worker: Arc::new(worker), ..subject }
}

async fn served(worker: Arc<dyn Worker>, shown: Option<&str>) -> GrpcWorker {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let expected = Secret::new("right".to_owned());
    let token = shown.map(|token| Secret::new(token.to_owned()));
    let server = WorkerServer::new(worker, token.is_some().then_some(expected));
    tokio::spawn(server.serve(listener, std::future::pending()));
    GrpcWorker::new(&address, token.as_ref()).unwrap()
}

#[tokio::test]
async fn workers_that_start_anew_are_told_apart() {
    for subjects in [[scripted(), scripted()], [local().0, local().0]] {
        let [first, second] = subjects;
        assert_ne!(conformance::incarnation(&first).await, conformance::incarnation(&second).await);
    }
}

#[tokio::test]
async fn a_worker_answers_only_who_shows_its_token() {
    let Subject { worker, model, .. } = scripted();

    let right = served(Arc::clone(&worker), Some("right")).await;
    let wrong = served(worker, Some("wrong")).await;

    assert!(right.model_files(&model).await.is_ok());
    let refused = wrong.model_files(&model).await.unwrap_err().to_string();
    assert!(refused.contains("token"), "{refused}");
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);

    let worker = GrpcWorker::new(&address, None).unwrap();

    let error = worker.drain(None).await.unwrap_err();
    assert!(matches!(error, proto::WorkerError::Unreachable(_)), "{error}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    assert!(GrpcWorker::new("not an address", None).is_err());
}
