//! How this gateway reaches workers: the token that it shows them, and TLS where they are reached over it.

use std::sync::Arc;

use domain::Secret;
use proto::{ClientCredentials, ConnectError, GrpcWorker, Worker};

use crate::config::{GatewaySettings, WorkerTls};
use crate::server::{GatewayError, read_token};

/// What is shown to workers, and how they are known.
pub(crate) struct WorkerLink {
    token: Option<Secret<String>>,
    credentials: Option<Arc<ClientCredentials>>,
}

impl WorkerLink {
    /// As `settings` say; reads the files they name.
    pub(crate) fn open(settings: &GatewaySettings) -> Result<Self, GatewayError> {
        let token = settings.worker_token_file.as_deref().map(read_token).transpose()?;
        let open = |WorkerTls { files, server_name }: &WorkerTls| {
            ClientCredentials::open(files.clone(), server_name.as_deref()).map(Arc::new)
        };
        let credentials = settings.worker_tls.as_ref().map(open).transpose();
        let credentials = credentials.map_err(ConnectError::from)?;
        Ok(Self { token, credentials })
    }

    /// The worker at an address that somebody wrote down: over TLS if it says `https`.
    pub(crate) fn worker(&self, address: &str) -> Result<Arc<dyn Worker>, ConnectError> {
        let reached = GrpcWorker::reached(address, self.token.as_ref(), self.credentials.as_ref());
        Ok(Arc::new(reached?))
    }

    /// The worker at an address that a directory told: over TLS if there is any, because whoever can write there
    /// could have us show prompts and the token to everybody else.
    pub(crate) fn found(&self, address: &str) -> Result<Arc<dyn Worker>, ConnectError> {
        match &self.credentials {
            Some(credentials) => {
                let secured = GrpcWorker::secured(address, self.token.as_ref(), credentials);
                Ok(Arc::new(secured?))
            }
            None => self.worker(address),
        }
    }
}
