//! Reports what routing and drain policies cost, by simulated fleets of several sizes: how we plan past one machine.
//!
//! Every row is one run over the same arrivals and the same evictions. `simulate [WORKERS...]` plays fleets of these sizes
//! instead of the usual ones.

mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    let sizes: Result<Vec<usize>, _> = std::env::args().skip(1).map(|size| size.parse()).collect();
    let written = sizes.map_err(anyhow::Error::from).and_then(|sizes| report::write(&sizes));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
