//! The worker link over TLS: who is believed, who is refused, and what happens when files change.

mod authority;
mod health;
mod identity;
mod waiving;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::{ModelDigest, Secret};
use futures_util::StreamExt as _;
use proto::{
    ClientCredentials, ClientFiles, ConnectError, GrpcWorker, ScriptedWorker, ServerCredentials,
    ServerFiles, Worker, WorkerServer,
};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, Files};

#[tokio::test]
async fn a_worker_and_a_gateway_that_know_each_other_talk() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;

    let gateway = gateway(port, files.gateway());

    assert_eq!(ask(&gateway).await, Ok(()));
}

#[tokio::test]
async fn a_gateway_without_a_certificate_is_refused() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;

    let refused = ask(&gateway(port, files.nobody())).await.unwrap_err();

    assert!(refused.contains("CertificateRequired"), "{refused}");
}

#[tokio::test]
async fn a_gateway_with_a_certificate_of_another_authority_is_refused() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;

    files.shows("gateway", &Authority::named("gateways").signs("gateway"));

    let refused = ask(&gateway(port, files.gateway())).await.unwrap_err();
    assert!(refused.contains("alert"), "{refused}");
}

#[tokio::test]
async fn a_worker_with_a_certificate_of_another_authority_is_not_believed() {
    let files = Files::new();
    files.shows("worker", &Authority::named("workers").signs("localhost"));
    let port = served(files.mutual(), None).await;

    let refused = ask(&gateway(port, files.gateway())).await.unwrap_err();

    assert!(refused.contains("agree on TLS with localhost:"), "{refused}");
    assert!(refused.contains("invalid peer certificate"), "{refused}");
}

#[tokio::test]
async fn a_worker_with_a_certificate_for_another_name_is_believed_only_if_that_is_expected() {
    let files = Files::new();
    files.shows("worker", &files.workers.signs("tollgate-worker"));
    let port = served(files.mutual(), None).await;
    let address = format!("https://127.0.0.1:{port}");
    let named = |name: Option<&str>| {
        let credentials = Arc::new(ClientCredentials::open(files.gateway(), name).unwrap());
        GrpcWorker::secured(&address, None, &credentials).unwrap()
    };

    let refused = ask(&named(None)).await.unwrap_err();

    assert!(refused.contains("not valid for name") && refused.contains("127.0.0.1"), "{refused}");
    assert_eq!(ask(&named(Some("tollgate-worker"))).await, Ok(()));
}

#[tokio::test]
async fn a_token_tells_gateways_apart_where_no_certificate_is_asked_for() {
    let files = Files::new();
    let port = served(files.one_sided(), Some("right")).await;
    let credentials = Arc::new(ClientCredentials::open(files.nobody(), None).unwrap());
    let address = format!("https://localhost:{port}");
    let shows = |token: &str| {
        let token = Secret::new(token.to_owned());
        GrpcWorker::secured(&address, Some(&token), &credentials).unwrap()
    };

    assert_eq!(ask(&shows("right")).await, Ok(()));
    assert!(ask(&shows("wrong")).await.unwrap_err().contains("token"));
}

#[tokio::test]
async fn nobody_is_served_without_tls_where_there_is_tls() {
    let files = Files::new();
    let port = served(files.one_sided(), None).await;

    let plain = GrpcWorker::new(&format!("http://localhost:{port}"), None).unwrap();

    assert!(ask(&plain).await.is_err());
}

#[tokio::test]
async fn an_address_says_whether_it_is_reached_over_tls() {
    let files = Files::new();
    let credentials = Arc::new(ClientCredentials::open(files.gateway(), None).unwrap());

    let without = GrpcWorker::new("https://localhost:1", None);
    let with = GrpcWorker::secured("http://localhost:1", None, &credentials);

    assert!(matches!(without, Err(ConnectError::NoCredentials { .. })));
    assert!(matches!(with, Err(ConnectError::Plaintext { .. })));
}

#[tokio::test]
async fn who_connects_and_says_nothing_holds_nobody_up() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(("localhost", port)).await.unwrap());
    }

    assert_eq!(ask(&gateway(port, files.gateway())).await, Ok(()));
}

#[tokio::test]
async fn new_files_count_for_new_connections_and_open_ones_stay() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;
    let known = gateway(port, files.gateway());
    assert_eq!(ask(&known).await, Ok(()));

    let (workers, gateways) = (Authority::named("new workers"), Authority::named("new gateways"));
    files.trusts("gateways", &gateways);
    files.shows("worker", &workers.signs("localhost"));
    assert_eq!(ask(&gateway(port, files.gateway())).await, Ok(()), "it is too early to look");
    files.trusts("workers", &workers);
    files.shows("gateway", &gateways.signs("gateway"));
    ten_seconds_pass().await;

    assert_eq!(ask(&gateway(port, files.gateway())).await, Ok(()), "both are new");
    assert_eq!(ask(&known).await, Ok(()), "an open connection stays");
    let refreshed = concurrently(&known).await;
    assert_eq!(refreshed, [Ok(()), Ok(()), Ok(())], "its further connections are new ones");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_ones_in_force() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;
    for (name, text) in [
        ("worker.crt", "no certificate"),
        ("gateways.roots", ""),
        // The key of another certificate.
        ("worker.key", &rcgen::KeyPair::generate().unwrap().serialize_pem()),
    ] {
        let before = files.read(name);
        files.write(name, text);
        ten_seconds_pass().await;
        assert_eq!(ask(&gateway(port, files.gateway())).await, Ok(()), "{name}");
        files.write(name, &before);
    }

    files.remove("worker.crt");
    ten_seconds_pass().await;
    assert_eq!(ask(&gateway(port, files.gateway())).await, Ok(()), "no file at all");
}

#[tokio::test]
async fn files_that_were_mended_count_again() {
    let files = Files::new();
    let port = served(files.mutual(), None).await;
    files.write("gateways.roots", "half of a");
    ten_seconds_pass().await;
    assert_eq!(ask(&gateway(port, files.gateway())).await, Ok(()));

    files.trusts("gateways", &Authority::named("others"));
    ten_seconds_pass().await;

    assert!(ask(&gateway(port, files.gateway())).await.is_err());
}

#[test]
fn what_is_wrong_with_files_is_told_by_their_name() {
    let files = Files::new();
    for (name, text) in [
        ("worker.crt", ""),
        ("worker.key", "-----BEGIN NONSENSE-----\n-----END NONSENSE-----\n"),
        ("gateways.roots", "x"),
    ] {
        let before = files.read(name);
        files.write(name, text);
        let told = ServerCredentials::open(files.mutual()).unwrap_err().to_string();
        assert!(told.contains(name), "{told}");
        files.write(name, &before);
    }
    files.remove("workers.roots");
    let told = ClientCredentials::open(files.gateway(), None).unwrap_err().to_string();
    assert!(told.contains("workers.roots"), "{told}");
}

#[tokio::test]
async fn calls_that_run_at_a_time_share_a_few_connections() {
    let files = Files::new();
    let worker = served(files.mutual(), None).await;
    let (port, connections) = counted(worker).await;
    let gateway = gateway(port, files.gateway());

    for _ in 0..5 {
        ask(&gateway).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1, "one call at a time needs no second one");

    let mut watching = Vec::new();
    for _ in 0..12 {
        let mut states = gateway.watch().await.unwrap();
        states.next().await.unwrap();
        watching.push(states);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 4, "twelve calls share four");
}

/// The port of a worker that is served with what is in `files`.
async fn served(files: ServerFiles, token: Option<&str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let credentials = Arc::new(ServerCredentials::open(files).unwrap());
    let token = token.map(|token| Secret::new(token.to_owned()));
    let server =
        WorkerServer::new(Arc::new(ScriptedWorker::of_some_model(6)), token).secured(credentials);
    tokio::spawn(server.serve(listener, std::future::pending()));
    port
}

/// A way to the worker at `port` that counts connections.
async fn counted(port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("localhost", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (near, connections)
}

/// A gateway's client of the worker at `port`, with what is in `files`.
fn gateway(port: u16, files: ClientFiles) -> GrpcWorker {
    let credentials = Arc::new(ClientCredentials::open(files, None).unwrap());
    GrpcWorker::secured(&format!("https://localhost:{port}"), None, &credentials).unwrap()
}

/// One question, or why it was not answered.
async fn ask(worker: &GrpcWorker) -> Result<(), String> {
    let asked = worker.model_files(&ModelDigest::new("abc")).await;
    asked.map(drop).map_err(|error| error.to_string())
}

/// Three calls at a time.
async fn concurrently(worker: &GrpcWorker) -> [Result<(), String>; 3] {
    let watch = async || match worker.watch().await {
        Ok(states) => Ok(states),
        Err(error) => Err(error.to_string()),
    };
    let watching = [watch().await, watch().await, watch().await];
    watching.map(|watching| watching.map(drop))
}

/// Files are looked at again after this.
async fn ten_seconds_pass() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
}
