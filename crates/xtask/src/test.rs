//! Runs every test there is, with everything the tests need.
//!
//! Decides what is in place before the first test: programs, client libraries, the product's binary and
//! Redis and PostgreSQL servers of our own, which tests find through the variables named here. Knows nothing of what
//! is tested.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{cargo, run, succeeds, target};
use crate::servers::PrivateServer;
use crate::{clients, packages};

pub(crate) fn test() -> anyhow::Result<()> {
    packages::ensure()?;
    // The whole workspace's features, as the tests have them, so that nothing is compiled twice.
    run(&mut cargo(&["build", "--workspace", "--bin", "tollgate"]))?;
    let surroundings = Surroundings {
        clients: clients::install()?,
        binary: target().join("debug/tollgate"),
        redis: PrivateServer::redis()?,
        postgres: PrivateServer::postgres()?,
    };

    if !succeeds(&mut cargo(&["nextest", "--version"])) {
        return run(&mut surroundings.tell(cargo(&["test", "--workspace", "--no-fail-fast"])));
    }
    run(&mut surroundings.tell(cargo(&["nextest", "run", "--workspace"])))?;
    // The one kind of test that nextest leaves out.
    run(&mut surroundings.tell(cargo(&["test", "--workspace", "--doc"])))
}

/// What surrounds the tests while they run. Ends the servers when dropped.
struct Surroundings {
    clients: PathBuf,
    binary: PathBuf,
    redis: PrivateServer,
    postgres: PrivateServer,
}

impl Surroundings {
    fn tell(&self, mut command: Command) -> Command {
        command
            .env("TOLLGATE_BIN", &self.binary)
            .env("TOLLGATE_CLIENTS", &self.clients)
            .env("TOLLGATE_TEST_REDIS", self.redis.redis_url())
            .env("TOLLGATE_TEST_POSTGRES", self.postgres.postgres_url());
        command
    }
}
