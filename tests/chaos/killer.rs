//! Kills one process after the other, and starts each again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use system_tests::{Fleet, Process};
use tokio::time::Instant;

/// Owns the processes while they are killed.
pub(crate) struct Killer {
    fleet: Fleet,
    random: fastrand::Rng,
    kills: BTreeMap<String, u32>,
}

/// Who is killed next.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Gateway,
    Worker(usize),
}

impl Killer {
    pub(crate) const fn new(fleet: Fleet, random: fastrand::Rng) -> Self {
        Self { fleet, random, kills: BTreeMap::new() }
    }

    /// Kills and restarts for `length`, and returns how often whom. In the end everything runs.
    pub(crate) async fn kill_for(
        &mut self,
        length: Duration,
    ) -> anyhow::Result<BTreeMap<String, u32>> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            // Not to wait for anything: so that there is something to kill again.
            let calm = Duration::from_millis(self.random.u64(100..1500));
            tokio::time::sleep(calm).await;
            let victim = self.choose();
            self.kill(victim).await?;
            // Sometimes the other worker too, so that nobody is left for a while.
            if let Victim::Worker(at) = victim
                && self.random.u8(..4) == 0
            {
                self.kill(Victim::Worker(1 - at)).await?;
                self.restart(Victim::Worker(1 - at)).await?;
            }
            self.restart(victim).await?;
        }
        self.fleet.gateway.ready().await?;
        for victim in [Victim::Gateway, Victim::Worker(0), Victim::Worker(1)] {
            check_sane(self.process(victim))?;
        }
        Ok(std::mem::take(&mut self.kills))
    }

    pub(crate) fn into_fleet(self) -> Fleet {
        self.fleet
    }

    fn choose(&mut self) -> Victim {
        match self.random.usize(..5) {
            0 => Victim::Gateway,
            number => Victim::Worker(number % 2),
        }
    }

    async fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        let process = self.process(victim);
        process.kill().await?;
        check_sane(process)?;
        let name = match victim {
            Victim::Gateway => "gateway".to_owned(),
            Victim::Worker(at) => format!("worker {at}"),
        };
        *self.kills.entry(name).or_default() += 1;
        Ok(())
    }

    async fn restart(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::Gateway => self.fleet.gateway.restart().await,
            Victim::Worker(at) => self.fleet.workers[at].restart().await,
        }
    }

    fn process(&mut self, victim: Victim) -> &mut Process {
        match victim {
            Victim::Gateway => self.fleet.gateway.process(),
            Victim::Worker(at) => self.fleet.worker(at),
        }
    }
}

fn check_sane(process: &Process) -> anyhow::Result<()> {
    let log = process.stderr();
    ensure!(!log.contains("panicked"), "a process panicked:\n{log}");
    Ok(())
}
