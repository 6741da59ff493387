//! What a process must know of the worker it serves, whatever that one makes of a prompt.

use std::sync::Arc;

use async_trait::async_trait;
use domain::ModelInfo;
use proto::{GrpcWorker, Worker, WorkerServer};

use crate::cache::Connect;
use crate::local::LocalWorker;

/// A worker in this process, as whoever serves and empties it needs to know it.
#[async_trait]
pub trait Hosted: Worker {
    /// The model it serves.
    fn info(&self) -> &ModelInfo;

    /// Tells watchers that its machine may go some day: it takes work, and others are the better choice.
    fn warn(&self);

    /// From now on it reaches other workers like this. One that keeps nothing that others could give has no use for it.
    fn reach(&self, _connect: Box<Connect>) {}

    /// Resolves when it takes nothing new.
    async fn draining(&self);

    /// Resolves when nothing is on it that somebody could miss.
    async fn out(&self);
}

#[async_trait]
impl Hosted for LocalWorker {
    fn info(&self) -> &ModelInfo {
        Self::info(self)
    }

    fn warn(&self) {
        Self::warn(self);
    }

    fn reach(&self, connect: Box<Connect>) {
        Self::reach(self, connect);
    }

    async fn draining(&self) {
        Self::draining(self).await;
    }

    async fn out(&self) {
        Self::out(self).await;
    }
}

/// The same worker behind gRPC over pipes in memory, so that a single process takes the same path as many. Must be
/// called inside a tokio runtime; the server ends when the returned worker is dropped.
pub fn over_pipes(worker: Arc<dyn Worker>) -> Arc<dyn Worker> {
    let (accept, pipes) = tokio::sync::mpsc::channel(PIPES_WAITING);
    tokio::spawn(WorkerServer::new(worker, None).serve_in_memory(pipes));
    Arc::new(GrpcWorker::in_memory(accept))
}

const PIPES_WAITING: usize = 4;
