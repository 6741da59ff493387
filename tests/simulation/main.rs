//! Whole fleets in one thread, with a seed: what no real clock and no real network can repeat.
//!
//! A failure prints its seed; `TOLLGATE_SIMULATION_SEED` plays it again, and
//! `TOLLGATE_SIMULATION_OPERATIONS` sets how many operations a run has.

mod money;
mod scenarios;
