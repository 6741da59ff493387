//! The standard health service, as orchestrators ask it.

use std::sync::Arc;

use domain::Secret;
use proto::{ScriptedWorker, WorkerServer};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn a_worker_says_that_it_serves_to_whoever_asks_without_a_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let token = Some(Secret::new("nobody knows it".to_owned()));
    tokio::spawn(
        WorkerServer::new(Arc::new(ScriptedWorker::of_some_model(6)), token)
            .serve(listener, std::future::pending()),
    );
    let channel = Endpoint::new(address).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);

    for service in ["", "tollgate.worker.v1.Worker"] {
        let question = HealthCheckRequest { service: service.to_owned() };
        let said = health.check(question).await.unwrap().into_inner();
        assert_eq!(said.status(), ServingStatus::Serving, "`{service}`");
    }
    let question = HealthCheckRequest { service: "somebody else".to_owned() };
    assert_eq!(health.check(question).await.unwrap_err().code(), tonic::Code::NotFound);
}
